"""The long jobs of the docks, without Qt, and what the worker process keeps open between jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.jobs.worker_process import LastOpened

if TYPE_CHECKING:
    from napari_cmrir.images.discovery import PairFiles
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.images.lazy_image import ImageWindow
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.representations.comir.training.pair_checks import PairProblem
    from napari_cmrir.search.explain import Explanation
    from napari_cmrir.search.hits import Hit, SearchResult
    from napari_cmrir.search.settings import SearchSettings
    from napari_cmrir.settings import Settings

__all__ = [
    "MODELS",
    "REPOSITORIES",
    "Indexed",
    "LastOpened",
    "check",
    "explain",
    "find_places",
    "import_model",
    "index",
    "keep_best",
    "kept_model",
    "kept_repository",
    "pair",
    "prune",
    "refine",
    "relocate",
    "represent",
    "search",
    "search_file",
    "train",
    "verify",
]


@dataclass(frozen=True, eq=False)
class _LoadedModel:
    path: Path
    state: tuple[Any, ...]
    model: Representation


def _open_repository(path: Path) -> Repository:
    from napari_cmrir.repository.repository import open_repository

    return open_repository(path)


def _load_model(path: Path) -> _LoadedModel:
    from napari_cmrir.repository.repository import file_state
    from napari_cmrir.representations.base import load_model

    state = file_state(path)  # before reading, so that a later change is noticed
    return _LoadedModel(path, state, load_model(path))


def _is_same_file(loaded: _LoadedModel) -> bool:
    from napari_cmrir.repository.repository import file_state

    return file_state(loaded.path) == loaded.state


REPOSITORIES = LastOpened(
    _open_repository, lambda repository: repository.is_current(), lambda repository: repository.close()
)
MODELS = LastOpened(_load_model, _is_same_file, lambda loaded: None)


def kept_repository(path: Path) -> Repository:
    """Open a repository, or return the open one if nothing was published since.

    Parameters
    ----------
    path : Path
        The repository.

    Raises
    ------
    InputError
        As `repository.open_repository`.
    """
    return REPOSITORIES.get(path)


def kept_model(path: Path) -> Representation:
    """Load a model, or return the loaded one if its file is unchanged.

    Parameters
    ----------
    path : Path
        The model file.

    Raises
    ------
    InputError
        As `representations.comir.model.load_model`.
    """
    return MODELS.get(path).model


@dataclass(frozen=True)
class Indexed:
    """Result of indexing.

    Parameters
    ----------
    path : Path
        The repository.
    images : int
        Number of images that can be searched.
    failures : dict
        Why others could not be indexed, by file.
    """

    path: Path
    images: int
    failures: dict[str, str]


def train(
    pairs: PairFiles | Sequence[tuple[NDArray[Any], NDArray[Any]]],
    modalities: tuple[str, str],
    settings: Settings,
    output: Path,
    resume: bool,
    representation: str = "comir",
) -> Job[Path]:
    """Train a model, and return its file.

    Parameters
    ----------
    pairs : PairFiles or sequence of (first, second) arrays
        The files, or the images.
    modalities, settings, output, resume, representation
        As `representations.base.train`.
    """
    yield Progress(0, None, "pairs", "Starting")
    _make_room()
    from napari_cmrir.representations.base import train as train_model

    found = _found(pairs, modalities)
    yield from train_model(
        found, modalities, settings, representation=representation, output=output, resume=resume
    )
    return output


def keep_best(
    pairs: PairFiles | Sequence[tuple[NDArray[Any], NDArray[Any]]],
    modalities: tuple[str, str],
    settings: Settings,
    output: Path,
    representation: str = "comir",
) -> Job[Path]:
    """Make a model from the checkpoint of a stopped `train`, of the same arguments, and return its file."""
    yield Progress(0, None, "pairs", "Keeping the best so far")
    _make_room()
    from napari_cmrir.representations.base import REPRESENTATIONS

    keep = REPRESENTATIONS[representation].keep
    assert keep is not None  # the dock offers no kind without it
    yield from keep(_found(pairs, modalities), modalities, settings, output=output)
    return output


def _make_room() -> None:
    """Free the memory that searches have kept; training needs it."""
    REPOSITORIES.forget()
    MODELS.forget()


def _found(
    pairs: PairFiles | Sequence[tuple[NDArray[Any], NDArray[Any]]], modalities: tuple[str, str]
) -> Sequence[Any]:
    return pairs if isinstance(pairs, Sequence) else pairs.pairs(modalities)


def check(pairs: PairFiles, modalities: tuple[str, str]) -> Job[list[PairProblem]]:
    """Check pairs of files for problems that would spoil a training.

    The starter model then looks whether partners are turned, shifted, or of other tissue.

    Parameters
    ----------
    pairs : PairFiles
        The files.
    modalities : tuple of two str
        Their names.
    """
    from napari_cmrir.pairing.review import check_alignment
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.comir.training.pair_checks import PairProblem, check_pairs

    found, alone = pairs.pairs(modalities), pairs.alone(modalities)
    problems: list[PairProblem] = yield from check_pairs(found, alone=alone)
    unusable = {problem.number for problem in problems if problem.severity != "doubtful"}
    usable = [(number, one) for number, one in enumerate(found) if number not in unusable]
    job = check_alignment([one for _, one in usable], modalities, load_model("starter"))
    for (number, of), finding in zip(usable, (yield from job), strict=True):
        if finding.kind in ("turned", "shifted", "other"):
            problems = [one for one in problems if one.number != number or "shifted" not in one.sentence]
            problems.append(PairProblem(number, of.identifier, of.paths, finding.sentence, "doubtful"))
    return problems


def pair(first: Path, second: Path, modalities: tuple[str, str], output: Path) -> Job[int]:
    """Find the aligned pairs of two folders with the starter model, and return how many were accepted.

    Parameters
    ----------
    first, second : Path
        Folders of images.
    modalities : tuple of two str
        Their names.
    output : Path
        Folder for the pairs.
    """
    yield Progress(0, None, "images", "Starting")
    _make_room()
    from napari_cmrir.pairing.find import find_aligned_pairs
    from napari_cmrir.representations.base import load_model

    found = yield from find_aligned_pairs(first, second, modalities, load_model("starter"), output)
    return len(found.accepted)


def refine(
    images: tuple[Path, Path],
    matrix: NDArray[np.float64],
    modalities: tuple[str, str],
    model: Path,
    motion: Any,
) -> Job[tuple[NDArray[np.float64], int, int] | None]:
    """Refine the map of landmarks by correlation, and count the parts that agree, of all.

    Parameters
    ----------
    images, matrix, modalities, motion
        As `pairing.landmarks.refine_landmarks`.
    model : Path
        File, or name, of the model that both are represented by.
    """
    yield Progress(0, None, "images", "Loading the model")
    from napari_cmrir.pairing.landmarks import refine_landmarks

    job = refine_landmarks(images, matrix, modalities, kept_model(model), motion)
    refined = yield from job
    return None if refined is None else (refined.matrix, refined.agreeing, refined.parts)


def represent(model: Path, pixels: NDArray[Any], modality: str) -> Job[NDArray[np.uint8]]:
    """Compute the CoMIR of an image with a model file, as `representations.base.represent` does.

    Parameters
    ----------
    model : Path
        The file.
    pixels : ndarray, (y, x, channel)
        The image.
    modality : str
        Modality of the image.
    """
    yield Progress(0, None, "tiles", "Loading the model")
    from napari_cmrir.representations.base import represent

    comir: NDArray[np.uint8] = yield from represent(kept_model(model), pixels, modality)
    return comir


def import_model(checkpoint: Path, modalities: tuple[str, str], output: Path) -> Job[Path]:
    """Import a released checkpoint, and return the model file.

    Parameters
    ----------
    checkpoint : Path
        The file.
    modalities : tuple of two str
        Modalities of the checkpoint's training.
    output : Path
        The model file to write.
    """
    yield Progress(0, None, "", "Reading the checkpoint")
    from napari_cmrir.representations.comir.model import import_checkpoint

    import_checkpoint(checkpoint, modalities).save(output)
    return output


def index(
    images: Sequence[Path],
    model: Path,
    modality: str,
    output: Path,
    keep_glass: bool = False,
    pixel_size: float | None = None,
) -> Job[Indexed]:
    """Index images, and return the result.

    Parameters
    ----------
    images : sequence of Path
        Files and folders.
    model : Path
        The model file.
    modality : str
        Modality of the images.
    output : Path
        The repository.
    keep_glass : bool
        Whether fields that show no tissue are searched too.
    pixel_size : float or None
        Side of the images' pixels in micrometres; by default as the files say.
    """
    yield Progress(0, None, "images", "Loading the model")
    REPOSITORIES.forget()  # on some platforms an open file cannot be replaced
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.repository.settings import changed_settings
    from napari_cmrir.representations.base import load_model

    settings = changed_settings(output, keep_glass=keep_glass, pixel_size=pixel_size)
    repository = yield from build_repository(images, load_model(model), modality, output, settings)
    with repository:
        count = len(np.unique(repository.fields["image"]))
        return Indexed(output, count, repository.failures)


def verify(repository: Path) -> Job[str]:
    """Compare a repository with its checksums, and return the problems, one a line."""
    yield Progress(0, None, "files", "Reading the repository")
    REPOSITORIES.forget()  # on some platforms an open file cannot be replaced
    from napari_cmrir.repository.maintenance import verify_repository

    problems = yield from verify_repository(repository)
    return "\n".join(problems)


def prune(repository: Path) -> Job[str]:
    """Drop images whose files no longer exist, and return their paths, one a line."""
    yield Progress(0, None, "images", "Looking for the images")
    REPOSITORIES.forget()  # on some platforms an open file cannot be replaced
    from napari_cmrir.repository.maintenance import prune_repository

    dropped = yield from prune_repository(repository)
    return "\n".join(dropped)


def relocate(repository: Path, folder: Path) -> Job[str]:
    """Find images that have moved into a folder, and return their new paths, one a line."""
    yield Progress(0, None, "images", "Looking for the images")
    REPOSITORIES.forget()
    from napari_cmrir.repository.maintenance import open_to_change
    from napari_cmrir.repository.sources import relocate as relocate_in

    with open_to_change(repository) as catalogue, catalogue.transaction():
        return "\n".join(relocate_in(catalogue, folder))


def search(
    repository: Path,
    image: ImageWindow,
    modality: str,
    region: Region | None,
    polygon: NDArray[np.float64] | None,
    pixel_size: float | None,
    settings: SearchSettings,
    mask: tuple[tuple[int, int], NDArray[np.bool_]] | None = None,
) -> Job[SearchResult]:
    """Search a repository.

    Parameters
    ----------
    repository : Path
        The repository to search.
    image : ImageWindow
        What `search.query.window_read` says of the image.
    modality, region, polygon, pixel_size, settings
        As `search.query.search`.
    mask : tuple of (int, int) and (y, x) bool array, optional
        Pixels of the region that count, and where the first of them lies in the image. What is read of the
        image then is the image, so that no mask of a whole slide is needed.
    """
    yield Progress(0, None, "%", "Opening the repository")
    from napari_cmrir.search.query import search as search_in

    pixels, counts, given = image.image(), None, region
    if mask is not None and region is not None:
        (y, x), own = image.first, mask[1]
        pixels = replace(image, shape=image.pixels.shape[:2], first=(0, 0)).image()
        given = replace(region, centre=(region.centre[0] - y, region.centre[1] - x))
        counts = np.zeros(image.pixels.shape[:2], bool)
        top, left = mask[0][0] - y, mask[0][1] - x
        counts[top : top + own.shape[0], left : left + own.shape[1]] = own
    found = yield from search_in(
        kept_repository(repository),
        pixels,
        modality,
        region=given,
        polygon=polygon,
        mask=counts,
        pixel_size=pixel_size,
        settings=settings,
    )
    return found if counts is None else replace(found, region=region)


def search_file(repository: Path, image: Path, modality: str, settings: SearchSettings) -> Job[SearchResult]:
    """Search a repository for a whole image file; the parameters are those of `search.query.search`."""
    yield Progress(0, None, "%", "Opening the repository")
    from napari_cmrir.search.query import search as search_in

    return (yield from search_in(kept_repository(repository), image, modality, settings=settings))


def find_places(
    repository: Path, result: SearchResult, hit: Hit, settings: SearchSettings
) -> Job[tuple[Hit, ...]]:
    """Find all places of a hit's image; the parameters are those of `search.places.find_places`."""
    yield Progress(0, None, "%", "Opening the repository")
    from napari_cmrir.search.places import find_places as find_places_in

    opened = kept_repository(repository)
    _require_known(opened, hit)
    return (yield from find_places_in(opened, result, hit, settings))


def explain(repository: Path, result: SearchResult, hit: Hit) -> Job[Explanation]:
    """Compare a region with a hit, pixel by pixel.

    Parameters
    ----------
    repository : Path
        The repository of the hit.
    result : SearchResult
        The result of the search.
    hit : Hit
        One of its hits.

    Raises
    ------
    InputError
        The repository has changed since the search, or cannot be opened.
    """
    yield Progress(0, None, "", "Comparing the representations")
    from napari_cmrir.search.explain import explain as explain_hit

    opened = kept_repository(repository)
    _require_known(opened, hit)
    return explain_hit(opened, result, hit)


def _require_known(repository: Repository, hit: Hit) -> None:
    field = hit.field
    names = (
        (repository.image_name(field), str(repository.image_path(field))) if field < len(repository) else ()
    )
    if hit.image not in names:
        raise InputError(f"{Path(hit.image).name} has changed in the repository; search again.")
