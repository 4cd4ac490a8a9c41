"""Which images a TIFF holds: what OME-XML says of each, which file holds its pages, what is missing."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_cmrir.errors import InputError
from napari_cmrir.images.metadata import PixelSize, ome_size, ome_tree

if TYPE_CHECKING:
    import tifffile

__all__ = ["MissingPages", "OmeImage", "is_secondary", "ome_images", "open_series", "own_pages", "same_set"]

_SECONDARY = re.compile(r"(label|macro|thumbnail|overview|map|localizer)(\s+image)?", re.IGNORECASE)
"""Names of a slide's photographs: those of tifffile, Bio-Formats and the scanners."""

_STRUCTURED = (
    *("shaped", "lsm", "mmstack", "ome", "imagej", "ndtiff", "fluoview", "stk", "sis", "svs", "scn"),
    *("qpi", "ndpi", "bif", "avs", "eer", "philips", "scanimage", "nih", "mdgel"),
)
"""Kinds of TIFF whose metadata arrange the pages; without them each run of equal pages is a series."""


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of one image.

    Parameters
    ----------
    name : str
    pixel_size : (float, float) or None
    channel_names : tuple of str
    planes : dict
        File name (empty for the file itself) and page of each plane, as the key; its C, Z and T in words.
    """

    name: str
    pixel_size: PixelSize | None
    channel_names: tuple[str, ...]
    planes: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """Names of the files that hold its planes."""
        return sorted({file for file, _ in self.planes if file})


def ome_images(xml: str | None, file_name: str = "") -> list[OmeImage]:
    """Read what OME-XML says of each image; nothing where it is damaged.

    Parameters
    ----------
    xml : str or None
    file_name : str
        Name of the file that the XML is from: its planes are listed without one.

    Examples
    --------
    >>> xml = '<OME><Image Name="a"><Pixels PhysicalSizeX="0.5"><Channel Name="SHG"/></Pixels></Image></OME>'
    >>> ome_images(xml)
    [OmeImage(name='a', pixel_size=(0.5, 0.5), channel_names=('SHG',), planes={})]
    """
    root = ome_tree(xml)
    if root is None:
        return []
    own = root.get("UUID")
    found = []
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        channels = pixels.findall("{*}Channel")
        names = [channel.get("Name") or f"channel {number}" for number, channel in enumerate(channels)]
        planes: dict[tuple[str, int], str] = {}
        with suppress(ValueError):  # the pixels are read without the places of the planes
            planes = dict(_planes(pixels, own, file_name))
        found.append(OmeImage(image.get("Name") or "", ome_size(pixels.attrib), tuple(names), planes))
    return found


def _planes(
    pixels: ElementTree.Element, own: str | None, file_name: str
) -> Iterator[tuple[tuple[str, int], str]]:
    for data in pixels.iterfind("{*}TiffData"):
        count = int(data.get("PlaneCount") or data.get("NumPlanes") or (1 if "IFD" in data.attrib else 0))
        uuid = data.find("{*}UUID")
        file = "" if uuid is None else uuid.get("FileName", "")
        is_own = uuid is not None and own is not None and (uuid.text or "").strip() == own
        if is_own or file.lower() == file_name.lower():
            file = ""
        first = int(data.get("IFD", 0))
        at = ", ".join(f"{axis} {data.get(f'First{axis}', 0)}" for axis in "CZT")
        for number in range(max(count, 1)):
            yield (file, first + number), at


def open_series(path: Path) -> tuple[tifffile.TiffFile, list[Any], list[OmeImage | None]]:
    """Open a TIFF: its series, and what OME-XML says of each.

    Metadata that arrange the pages wrongly are left aside: then each run of equal pages is a series.

    Returns
    -------
    tiff : tifffile.TiffFile
        Open.
    series : list of tifffile.TiffPageSeries
    described : list of OmeImage or None
        One a series.

    Raises
    ------
    Exception
        Whatever tifffile raises for what is not a whole TIFF.
    """
    import tifffile

    tiff = tifffile.TiffFile(path)
    try:
        companion = _companion(tiff, path)
        if companion is not None:
            tiff.close()
            tiff = tifffile.TiffFile(path, omexml=companion)
        try:
            series = list(tiff.series)
        except MemoryError:
            raise
        except Exception:
            series = []
        is_foreign = tiff.is_ome and series and not any(own_pages(tiff, each) for each in series)
        if not series or is_foreign:
            tiff.close()
            tiff = tifffile.TiffFile(path, **{f"is_{kind}": False for kind in _STRUCTURED})
            series = list(tiff.series)
        described = _match(tiff, series)
    except BaseException:
        tiff.close()
        raise
    return tiff, series, described


def _companion(tiff: tifffile.TiffFile, path: Path) -> str | None:
    """Read the OME-XML of a companion file, where the file itself names one and it is there."""
    root = ome_tree(tiff.ome_metadata) if tiff.is_ome else None
    binary_only = None if root is None else root.find("{*}BinaryOnly")
    name = None if binary_only is None else binary_only.get("MetadataFile")
    if not name:
        return None
    beside = path.with_name(Path(name).name)
    if beside.suffix.lower() in (".tif", ".tiff", ".btf"):  # the set's first file has it
        with suppress(Exception):
            import tifffile

            with tifffile.TiffFile(beside) as first:
                return _with_uuid(first.ome_metadata, binary_only.get("UUID"), root.get("UUID"))  # type: ignore[union-attr]
        return None
    with suppress(OSError, UnicodeDecodeError):
        return _with_uuid(beside.read_text(encoding="utf-8"), None, root.get("UUID"))  # type: ignore[union-attr]
    return None


def _with_uuid(xml: str | None, theirs: str | None, own: str | None) -> str | None:
    """Give a set's OME-XML the identifier of one of its files: tifffile knows the file's planes by it."""
    root = ome_tree(xml)
    if root is None or not root.findall("{*}Image"):
        return None
    if own:
        root.set("UUID", own)
    else:
        root.attrib.pop("UUID", None)
    ElementTree.register_namespace("", root.tag.partition("}")[0].lstrip("{"))
    return ElementTree.tostring(root, encoding="unicode").strip()


def _match(tiff: tifffile.TiffFile, series: Sequence[Any]) -> list[OmeImage | None]:
    """Find the OME image of each series by its pages: tifffile leaves out images without pages."""
    images = ome_images(tiff.ome_metadata if tiff.is_ome else None, tiff.filename)
    if not images:
        return [None] * len(series)
    by_plane: dict[tuple[str, int], OmeImage] = {}
    for image in images:
        for plane in image.planes:
            by_plane.setdefault(plane, image)
    matched: list[OmeImage | None] = []
    for at, each in enumerate(series):
        pages = [page for page in each.pages if page is not None]
        plane = ("", 0)
        if pages:
            parent = pages[0].parent
            plane = ("" if _same_file(parent, tiff) else parent.filename, _number(pages[0]))
        described = by_plane.get(plane)
        if described is None and len(images) == len(series):
            described = images[at]
        matched.append(described)
    return matched


def _number(page: Any) -> int:
    index = page.index
    return int(index[0] if isinstance(index, tuple) else index)


def own_pages(tiff: tifffile.TiffFile, series: Any) -> list[int]:
    """List the places, in a series, of the pages that are in the file itself."""
    return [at for at, page in enumerate(series.pages) if page is not None and _same_file(page.parent, tiff)]


def _same_file(one: Any, other: Any) -> bool:
    return one is other or os.path.normcase(one.filehandle.path) == os.path.normcase(other.filehandle.path)


def is_secondary(series: Any) -> bool:
    """Tell a slide's label, macro photograph or thumbnail from its image.

    Parameters
    ----------
    series : tifffile.TiffPageSeries
    """
    if _SECONDARY.fullmatch((series.name or "").strip()):
        return True
    lines = str(series.keyframe.description or "").splitlines()
    return bool(lines and lines[0].startswith("Aperio") and re.match(r"(label|macro)\b", lines[-1].strip()))


def same_set(path: Path) -> frozenset[str]:
    """Name the files of a multi-file OME-TIFF whose planes make one image with this file's.

    Parameters
    ----------
    path : Path
        An OME-TIFF.

    Returns
    -------
    frozenset of str
        File names, this one's among them; empty where the file is an image of its own.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            xml = tiff.ome_metadata if tiff.is_ome else None
            companion = _companion(tiff, path)
    except Exception:  # the reason is said where the file is opened
        return frozenset()
    for image in ome_images(companion or xml, path.name):
        own = any(not file for file, _ in image.planes)
        if own and image.files:
            return frozenset((path.name, *image.files))
    return frozenset()


@dataclass(frozen=True)
class MissingPages:
    """Planes of a series that no file beside it holds.

    Parameters
    ----------
    name : str
        The file that was opened.
    shape : tuple of int
        Of the grid of pages.
    missing : frozenset of int
        Their places in it.
    cause : str
        The end of the sentence: which file is missing, and what to do.
    """

    name: str
    shape: tuple[int, ...]
    missing: frozenset[int]
    cause: str

    @classmethod
    def of(cls, tiff: tifffile.TiffFile, level: Any, image: OmeImage | None) -> MissingPages | None:
        """Look for the missing planes of a level; ``None`` where all are there."""
        pages = list(level.pages)
        lead = level.shape[: len(level.shape) - len(level.keyframe.shape)]
        if len(pages) != math.prod(lead):  # pages that lie one behind the other are listed by their first
            return None
        missing = frozenset(at for at, page in enumerate(pages) if page is None)
        if not missing:
            return None
        folder = Path(tiff.filehandle.dirname)
        absent = [name for name in (image.files if image else []) if not (folder / name).is_file()]
        cause = " that its metadata promise; copy the file again, or export it anew"
        if absent:
            names = f"{absent[0]} and {len(absent) - 1} more files" if len(absent) > 1 else absent[0]
            cause = f", which are in {names}; copy {'them' if len(absent) > 1 else 'it'} beside it"
        return cls(str(tiff.filehandle.path), tuple(lead), missing, cause)

    def refuse(self, key: tuple[Any, ...]) -> None:
        """Refuse a slice that needs one of them.

        Raises
        ------
        InputError
            Names the file that is missing.
        """
        import numpy as np

        grid = np.arange(math.prod(self.shape)).reshape(self.shape)
        wanted = grid[key[: len(self.shape)]] if self.shape else grid
        lacking = self.missing.intersection(np.atleast_1d(wanted).ravel().tolist())
        if lacking:
            count = math.prod(self.shape)
            raise InputError(f"{self.name} lacks {len(lacking)} of {count} planes{self.cause}.")
