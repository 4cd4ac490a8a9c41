"""Export of hits to files: CSV, JSON, GeoJSON, transforms, and the registered crop as OME-TIFF."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut, window_of
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.search.hits import Hit, affine_matrix, as_csv, as_geojson, as_itk, as_json, write_hits
from napari_cmrir.settings import ReadingSettings

if TYPE_CHECKING:
    from napari_cmrir.napari.searches import Found

__all__ = [
    "EXPORTS",
    "ExportButton",
    "cut_from_file",
    "cut_upright",
    "write_csv",
    "write_geojson",
    "write_json",
    "write_records",
    "write_registered_crop",
]


def write_csv(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write a table with one row for each hit, as ``napari-cmrir query --csv`` does.

    Parameters
    ----------
    path : Path
        Where to.
    found : Found
        The hits.
    rank : int, optional
        Of no meaning here.
    """
    return _write(path, as_csv([(_name(found), found.result.hits)]))


def write_json(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write hits as ``napari-cmrir query --json`` does; the parameters are those of `write_csv`."""
    return _write(path, as_json([(_name(found), found.result)]))


def write_geojson(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write match boxes as GeoJSON for QuPath; the parameters are those of `write_csv`."""
    return _write(path, as_geojson([(_name(found), found.result.hits)]))


def write_transform(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write the transform from the query's image to the hit's as an ITK file; see `write_registered_crop`."""
    return _write(path, as_itk(affine_matrix(found.region, _hit(found, rank))))


def write_records(path: Path, query: str, records: Sequence[dict[str, Any]]) -> Path:
    """Write hits in the format of the file name: .csv, .geojson or .json.

    Parameters
    ----------
    path : Path
        Where to.
    query : str
        The name of the query.
    records : sequence of dict
        `Hit.as_dict` of each.

    Raises
    ------
    InputError
        The name ends otherwise, or the file cannot be written.
    """
    return write_hits(path, [(query, [_hit_of(record) for record in records])])


def write_registered_crop(path: Path, found: Found, rank: int | None = None) -> Path:
    """Write the registered hit and the region as two images of equal size in an OME-TIFF.

    Parameters
    ----------
    path : Path
        Where to.
    found : Found
        The hits.
    rank : int, optional
        Which one, by default the first.

    Raises
    ------
    InputError
        The hit's image cannot be read, or the file cannot be written.
    """
    import tifffile

    hit = _hit(found, rank)
    step = float(np.linalg.norm(hit.box[3] - hit.box[0])) / found.region.height
    crop = cut_from_file(hit.image, hit.box, round(step, 6), hit.reading)
    rows, columns = window_of(found.region, found.query.image.shape, 2)
    y, x = found.region.centre
    here = replace(found.region, centre=(y - rows.start, x - columns.start))
    region, _ = cut(found.query.image.read_window(rows, columns).pixels, here)
    units, size = found.query.placement.units, found.query.placement.pixel_size
    names = (f"{Path(hit.image).name}, registered", f"{found.query.image.name}, region")
    try:
        with tifffile.TiffWriter(path, ome=True) as file:
            for name, pixels in zip(names, (crop, region), strict=True):
                colour = pixels.shape[2] == 3
                shown = pixels if colour else np.moveaxis(pixels, -1, 0)
                metadata: dict[str, Any] = {"Name": name, "axes": "YXS" if colour else "CYX"}
                unit = _ome_unit(str(units[found.query.placement.plane.axes[0]]))
                if unit is not None:
                    metadata |= {
                        "PhysicalSizeY": round(float(size[0]), 9),
                        "PhysicalSizeX": round(float(size[1]), 9),
                        "PhysicalSizeYUnit": unit,
                        "PhysicalSizeXUnit": unit,
                    }
                photometric = "rgb" if colour else "minisblack"
                file.write(shown, photometric=photometric, metadata=metadata, compression="zlib")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    return path


def cut_from_file(
    path: str,
    box: NDArray[np.float64],
    pixel_step: float = 1.0,
    reading: ReadingSettings | None = None,
) -> NDArray[Any]:
    """Cut a match box out of an image file of any size, as `cut_upright`; read only its surroundings.

    Parameters
    ----------
    path : str
        The file.
    box : ndarray, (4, 2)
        The corners, as `Hit.box`.
    pixel_step : float
        Distance of the samples in px.
    reading : ReadingSettings, optional
        `Hit.reading`: which series, planes and channels.

    Returns
    -------
    ndarray, (height, width, channel)

    Raises
    ------
    InputError
        As `images.readers.open_image`.
    """
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.readers import open_image

    with closing(open_image(path, reading)) as image:
        low, high, size = box.min(axis=0), box.max(axis=0), np.array(image.shape[:2])
        beyond = max(0.0, -low.min(), (high - size).max())  # which is filled by what lies within
        top, left = np.maximum(np.floor(low - beyond - 2), 0).astype(int).tolist()
        bottom, right = np.minimum(np.ceil(high + beyond + 2), size).astype(int).tolist()
        pixels = plain_type(image[top:bottom, left:right])
    return cut_upright(pixels, box - (top, left), pixel_step)


def cut_upright(pixels: NDArray[Any], box: NDArray[np.float64], pixel_step: float = 1.0) -> NDArray[Any]:
    """Cut a match box out of an image in the query's orientation: upright, and mirrored if the query was.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        The image.
    box : ndarray, (4, 2)
        The corners, as `Hit.box`.
    pixel_step : float
        Distance of the samples in px.

    Returns
    -------
    ndarray, (height, width, channel)

    Examples
    --------
    >>> pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    >>> box = Region.whole((2, 3)).corners()
    >>> cut_upright(pixels, box[[1, 0, 3, 2]])[..., 0].tolist()
    [[2, 1, 0], [5, 4, 3]]
    """
    (right_y, right_x), (down_y, down_x) = box[1] - box[0], box[3] - box[0]
    mirrored = right_x * down_y - right_y * down_x < 0
    patch, _ = cut(pixels, Region.from_corners(box[[1, 0, 3, 2]] if mirrored else box), pixel_step=pixel_step)
    return patch[:, ::-1] if mirrored else patch


def _name(found: Found) -> str:
    return found.query.image.path or found.query.image.name


def _hit(found: Found, rank: int | None) -> Hit:
    return next(hit for hit in found.result.hits if hit.rank == (rank or 1))


def _hit_of(record: dict[str, Any]) -> Hit:
    """Read a hit from its record, which lacks the field and the scores of the stages."""
    names = ("rank", "image", "score", "rotation_degrees", "confidence", "mirrored", "scale")
    known = {name: record[name] for name in names if name in record}
    reading = ReadingSettings.model_validate(record.get("reading", {}))
    return Hit(**known, reading=reading, box=np.array(record["box"], dtype=np.float64), field=-1, scores={})


def _ome_unit(unit: str) -> str | None:
    names = {"micrometer": "µm", "nanometer": "nm", "millimeter": "mm"}
    return names.get(unit.replace("metre", "meter"))


def _write(path: Path, text: str) -> Path:
    from napari_cmrir.files import atomic_write

    try:
        atomic_write(Path(os.path.abspath(path)), text.encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another place.") from None
    return path


EXPORTS: dict[str, tuple[str, str, Callable[..., Path]]] = {
    "csv": ("Hits as CSV…", "hits.csv", write_csv),
    "json": ("Hits as JSON…", "hits.json", write_json),
    "geojson": ("Match boxes as GeoJSON…", "hits.geojson", write_geojson),
    "itk": ("Chosen hit's transform as ITK…", "to_hit.tfm", write_transform),
    "crop": ("Chosen hit, registered, as OME-TIFF…", "registered.ome.tif", write_registered_crop),
}
"""For each format: the menu's text, the proposed file name, and the function that writes it."""


class ExportButton(QPushButton):
    """Menu that exports the shown hits."""

    told = Signal(str)
    """Signal: a message for the user."""

    def __init__(self) -> None:
        super().__init__()
        self._found: Found | None = None
        self._rank: int | None = None
        self.setText("Export")
        self.setToolTip(
            "Write the hits, their boxes, or the chosen hit registered with the region, to a file"
        )
        self._menu = QMenu(self)
        for kind, (text, _, _) in EXPORTS.items():
            self._menu.addAction(text, partial(self._ask, kind))
        self._answers: Sequence[Found] = ()
        self._all = self._menu.addAction("Hits of all searches as CSV…", self._ask_for_all)
        self._all.setVisible(False)
        self.setMenu(self._menu)
        self._inquiry = DebouncedQuery(self, 0)
        self._inquiry.answered.connect(lambda path: self.told.emit(f"Written: {path}"))
        self._inquiry.refused.connect(show_error)

    def show_found(self, found: Found | None, rank: int | None) -> None:
        """Set the hits to export.

        Parameters
        ----------
        found : Found or None
            The hits.
        rank : int or None
            The chosen one.
        """
        self._found, self._rank = found, rank

    def show_answers(self, answers: Sequence[Found]) -> None:
        """Set the hits of several searches, to export together.

        Parameters
        ----------
        answers : sequence of Found
            Of each search.
        """
        self._answers = answers
        self._all.setVisible(len(answers) > 1)

    def export_all(self, path: Path) -> None:
        """Write the hits of all searches into one table, in another thread.

        Parameters
        ----------
        path : Path
            Where to.
        """
        named = [(found.query.name or _name(found), found.result.hits) for found in self._answers]
        self._inquiry.ask(lambda: _write(path, as_csv(named)))

    def _ask_for_all(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Hits of all searches as CSV", "hits.csv")
        if name:
            self.export_all(Path(name))

    def export(self, kind: str, path: Path) -> None:
        """Write a file in another thread.

        Parameters
        ----------
        kind : str
            A key of `EXPORTS`.
        path : Path
            Where to.
        """
        if self._found is not None:
            self._inquiry.ask(partial(EXPORTS[kind][2], path, self._found, self._rank))

    def _ask(self, kind: str) -> None:
        text, proposed, _ = EXPORTS[kind]
        name, _ = QFileDialog.getSaveFileName(self, text.rstrip("…"), proposed)
        if name:
            self.export(kind, Path(name))
