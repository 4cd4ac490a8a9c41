"""Published data sets: fetch one by its DOI, check it, and store it as pairs.

The data of the paper are those of Eliceiri, Li & Keikhosravi, "Multimodal biomedical dataset for evaluating
registration methods (patches from TMA cores)", Zenodo 2020, doi:10.5281/zenodo.3874362: brightfield (BF) and
second harmonic generation (SHG) images of tissue cores.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_write
from napari_cmrir.images.readers import IMAGE_SUFFIXES
from napari_cmrir.jobs import Job, Progress

if TYPE_CHECKING:
    from pooch import Pooch

__all__ = ["DATASETS", "Dataset", "PublishedData", "fetch_dataset", "place_image"]


@dataclass(frozen=True)
class PublishedData:
    """A record on Zenodo with image pairs.

    Checksums and the licence are the record's own: both are asked for when it is fetched.

    Parameters
    ----------
    doi : str
        Of the record.
    modalities : (str, str)
        As in the file names of the pairs.
    about : str
        Authors, title and what is shown.
    archives : str
        Beginning of the names of the files that are fetched; empty for all files of the record.
    """

    doi: str
    modalities: tuple[str, str]
    about: str
    archives: str = ""


_LU = (
    'Lu, Öfverstedt, Lindblad and Sladoje, "Datasets for evaluation of multimodal image registration", 2021: '
)
_LU_DOI = "10.5281/zenodo.5557568"

DATASETS = {
    "shg_bf": PublishedData(
        "10.5281/zenodo.3874362",
        ("SHG", "BF"),
        'Eliceiri, Li and Keikhosravi, "Multimodal biomedical dataset for evaluating registration methods'
        ' (patches from TMA cores)", 2020: tissue cores, the data of the paper.',
    ),
    "shg_bf_patches": PublishedData(
        _LU_DOI, ("SHG", "BF"), f"{_LU}patches of the same tissue cores, rotated and shifted.", "Eliceiri"
    ),
    "fluorescence_qpi": PublishedData(
        _LU_DOI, ("FLUO", "QPI"), f"{_LU}cells in fluorescence and quantitative phase imaging.", "Balvan"
    ),
    "nir_rgb": PublishedData(
        _LU_DOI,
        ("NIR", "RGB"),
        f"{_LU}aerial images; colours stored as blue, green, red.",
        "Zurich",
    ),
}
"""Public pairs by name. The archives of Lu and others are taken to be laid out as their repository
MultiRegEval describes; the record itself was not tried."""

DOWNLOADS, SOURCE = "downloads", "SOURCE.txt"

_CHUNK = 2**17  # bytes between two reports of progress: small ones slow down, large ones jump
_TIMEOUT = 30.0  # seconds without an answer after which a server counts as down
_NAME = r"^(?:(?P<before>[RT])_)?(?P<identifier>.+?)_(?P<modality>{})(?:_(?P<after>[RT]))?$"


@dataclass(frozen=True)
class Dataset:
    """A fetched data set.

    Parameters
    ----------
    folder : Path
        Holds a folder of pairs for each part of the data set.
    parts : dict
        Number of images by part, such as ``train``, ``validation1``, ``test`` and ``test-transformed``.
    unplaced : tuple of Path
        Files of the record without an image whose name states its modality.
    licence : str
        As the record states it, such as ``"cc-by-4.0"``; empty if it states none.
    """

    folder: Path
    parts: dict[str, int]
    unplaced: tuple[Path, ...]
    licence: str = ""


def fetch_dataset(
    folder: str | os.PathLike[str],
    name: str = "shg_bf",
    *,
    doi: str | None = None,
    server: str | None = None,
) -> Job[Dataset]:
    """Fetch a published data set, or its missing files.

    Every file of the record is downloaded, checked against the checksum that the record states and unpacked.
    An interrupted download continues at the point of interruption.

    Parameters
    ----------
    folder : path-like
        Folder of the data set; the published files stay in its subfolder ``downloads``. ``SOURCE.txt`` in it
        names the authors, the DOI and the licence.
    name : str
        One of `DATASETS`.
    doi : str, optional
        DOI of another record on Zenodo with the layout of this one, such as a newer version.
    server : str, optional
        Address of a server with Zenodo's interface to use instead, such as a mirror.

    Yields
    ------
    Progress
        In MB.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If there is no data set of this name, the server cannot be reached or answers with an error, a
        checksum differs, or the disk is full.

    Examples
    --------
    >>> from napari_cmrir import run
    >>> run(fetch_dataset("data", server="http://127.0.0.1:9"))
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: 127.0.0.1:9 cannot be reached; check the network and repeat the ...
    """
    import requests

    if name not in DATASETS:
        raise InputError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    data, folder = DATASETS[name], Path(folder)
    doi = doi or data.doi
    where = "zenodo.org" if server is None else server.split("//")[-1]
    yield Progress(0, None, "MB", f"Asking {where} for {doi}")
    try:
        pooch, licence = _registry(folder / DOWNLOADS, doi, server, data.archives)
        yield from _download_all(pooch, folder / DOWNLOADS)
        source = f"{data.about}\nhttps://doi.org/{doi}\nLicence: {licence or 'see there'}\n"
        atomic_write(folder / SOURCE, source.encode())
        return (yield from _lay_out(folder, sorted(pooch.registry), data.modalities, licence))
    except requests.exceptions.HTTPError as error:
        raise InputError(f"{where} answers {error}; try again later.") from error
    except requests.exceptions.RequestException as error:
        raise InputError(
            f"{where} cannot be reached; check the network and repeat the command: it continues where it"
            f" stopped. Or fetch https://doi.org/{doi} elsewhere, and unpack it to a folder of pairs."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}.") from error


def place_image(name: str, modalities: tuple[str, str] = ("SHG", "BF")) -> Path | None:
    """Compute the path of an image of the record in the data set.

    Names are ``<identifier>_<MODALITY>``, in the test set with R for the reference and T for the transformed
    image, before or after: ``R_1B_A1_SHG.tif``, ``T_1B_A1_BF.tif``. Or a folder A or B stands for the
    modality: ``fold1/patch_tlevel2/A/test/zh5_03_02_T.png``.

    Parameters
    ----------
    name : str
        Path of the image in its archive, with forward slashes.
    modalities : (str, str)
        What the folders A and B stand for.

    Returns
    -------
    Path or None
        Part of the data set and file name; ``None`` if it is no image whose name states its modality.

    Examples
    --------
    >>> place_image("TrainSet/1B_A2_SHG.tif").as_posix()
    'train/1B_A2_SHG.tif'
    >>> place_image("TestSet/T_1B_B10_BF.tif").as_posix()
    'test-transformed/1B_B10_BF.tif'
    >>> place_image("fold1/patch_tlevel2/A/test/zh5_03_02_T.png", ("NIR", "RGB")).as_posix()
    'fold1-patch_tlevel2-transformed/zh5_03_02_NIR.png'
    """
    path = PurePosixPath(name)
    lettered = [number for number, part in enumerate(path.parts[:-1]) if part in ("A", "B")]
    if lettered:
        number = lettered[-1]
        modality = modalities["AB".index(path.parts[number])]
        stem, _, kind = path.stem.rpartition("_")
        if kind not in ("R", "T"):
            return None
        path = PurePosixPath(*path.parts[:number], f"{kind}_{stem}_{modality}{path.suffix}")
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    match = re.match(_NAME.format("|".join(modalities)), path.stem, re.IGNORECASE)
    if hidden or match is None or path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    part = "-".join(_plain(folder) for folder in path.parts[:-1]) or "images"
    if (match["before"] or match["after"] or "").upper() == "T":
        part += "-transformed"
    return Path(part, f"{match['identifier']}_{match['modality'].upper()}{path.suffix.lower()}")


def _plain(folder: str) -> str:
    """Return the name of a part of the data set by its folder: ``TrainSet`` is ``train``."""
    plain = re.sub(r"[^\w-]+", "-", folder).strip("-.").lower()
    return re.sub(r"[_-]?set$", "", plain) or plain or "images"


def _registry(folder: Path, doi: str, server: str | None, archives: str) -> tuple[Pooch, str]:
    """Request the record's files, with their addresses and checksums, and its licence."""
    import pooch as pooch_
    import requests
    from pooch.downloaders import ZenodoRepository, doi_to_repository

    pooch_.get_logger().setLevel("WARNING")  # the job reports progress

    try:
        if server is None:
            repository = doi_to_repository(doi)
        else:
            record = doi.rpartition(".")[2]
            repository = ZenodoRepository(doi, f"{server.rstrip('/')}/records/{record}")
            repository.base_api_url = f"{server.rstrip('/')}/api/records"
        registry = pooch_.create(path=folder, base_url="", registry={})
        repository.populate_registry(registry)
        every = sorted(registry.registry)
        registry.registry = {name: registry.registry[name] for name in every if name.startswith(archives)}
        if not registry.registry:
            raise InputError(f"The record {doi} has no file {archives}*; it has {', '.join(every)}.")
        registry.urls = {name: repository.download_url(name) for name in registry.registry}
        licence = str(repository.api_response.get("metadata", {}).get("license", {}).get("id", ""))
    except (KeyError, TypeError, requests.exceptions.JSONDecodeError) as error:
        raise InputError(f"There is no record {doi} with files; check the DOI.") from error
    return registry, licence


def _download_all(pooch: Pooch, folder: Path) -> Job[None]:
    import requests

    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(pooch.registry)
    for position, name in enumerate(names, 1):
        _require_plain(name)
        message = f"{name} ({position} of {len(names)})"
        yield Progress(0, None, "MB", f"Checking {message}")
        if _is_whole(pooch, folder / name):
            continue
        partial = folder / f"{name}.part"
        with requests.Session() as session:
            yield from _download(session, pooch.get_url(name), partial, message)
        yield Progress(0, None, "MB", f"Checking {message}")
        _accept(pooch, name, partial)


def _download(session: Any, url: str, partial: Path, message: str) -> Job[None]:
    """Download a file; continue an earlier attempt if the server supports ranges."""
    there = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # the file is complete already
            return
        response.raise_for_status()
        if response.status_code != 206:
            there = 0
        length = response.headers.get("content-length")
        total = None if length is None else (there + int(length)) / 1e6
        with partial.open("ab" if there else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                there += len(chunk)
                yield Progress(there / 1e6, total, "MB", message)


def _accept(pooch: Pooch, name: str, partial: Path) -> None:
    """Move the download to pooch's place if its checksum is right."""

    def hand_over(url: str, output_file: str, pooch: Pooch) -> None:
        shutil.copyfile(partial, output_file)

    try:
        pooch.fetch(name, downloader=hand_over)
    except ValueError as error:
        raise InputError(
            f"The checksum of {name} differs from the published one; run the command again."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _is_whole(pooch: Pooch, path: Path) -> bool:
    import pooch as pooch_

    known = pooch.registry[path.name]
    algorithm = known.partition(":")[0] if ":" in known else "sha256"
    return path.exists() and pooch_.file_hash(str(path), alg=algorithm) == known.rpartition(":")[2]


def _require_plain(name: str) -> None:
    if name != PurePosixPath(name).name or name in ("", ".", ".."):
        raise InputError(f"The record holds a file named {name!r}, which cannot be stored.")


def _lay_out(folder: Path, names: list[str], modalities: tuple[str, str], licence: str) -> Job[Dataset]:
    """Unpack every image to its place."""
    parts: dict[str, int] = {}
    unplaced: list[Path] = []
    for name in names:
        path = folder / DOWNLOADS / name
        done = 0
        for done, (place, n_images) in enumerate(_unpack(folder, path, modalities), 1):
            yield Progress(done, n_images, "images", f"Unpacking {name}")
            parts[place.parts[0]] = parts.get(place.parts[0], 0) + 1
        if not done:
            unplaced.append(path)
    yield Progress(1, 1, "images", f"{sum(parts.values())} images in {folder}")
    return Dataset(folder, dict(sorted(parts.items())), tuple(unplaced), licence)


def _unpack(folder: Path, path: Path, modalities: tuple[str, str]) -> Iterator[tuple[Path, int]]:
    """Store an image, or all images of an archive; yield each path and the number of images."""
    if not zipfile.is_zipfile(path):
        place = place_image(path.name, modalities)
        if place is not None:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)
            yield place, 1
        return
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        images = [member for member in members if place_image(member.filename, modalities) is not None]
        shared = _shared_folders([member.filename for member in images])
        taken: set[Path] = set()
        for member in images:
            place = place_image("/".join(PurePosixPath(member.filename).parts[shared:]), modalities)
            while place in taken:
                place = Path(f"{place.parts[0]}-other", place.name)
            if place is not None:
                taken.add(place)
                _extract(archive, member, folder / place)
                yield place, len(images)


def _shared_folders(names: list[str]) -> int:
    """Count the outermost folders that all images of an archive lie in, except the last of each."""
    folders = [PurePosixPath(name).parts[:-2] for name in names]
    levels = zip(*folders, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, levels))


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.exists() and target.stat().st_size == member.file_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    with archive.open(member) as source, partial.open("wb") as file:
        shutil.copyfileobj(source, file)
    partial.replace(target)
