"""Candidates for pairs: every image of a folder searched in the other, both ways."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.pairing.judgement import ComirImage
from napari_cmrir.registration.affine import Matrix
from napari_cmrir.repository.pyramids import open_level
from napari_cmrir.search.hits import affine_matrix
from napari_cmrir.search.query import search

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.search.settings import SearchSettings

__all__ = ["Answer", "Candidate", "Folder", "Journal", "Seen", "find_candidates"]

_LARGER = 1.5
"""An image of this many times the other's area is not searched whole in it: only its part that was hit is."""


@dataclass(frozen=True, eq=False)
class Seen:
    """An image as a search saw it in an image of the other folder.

    Parameters
    ----------
    image : str
        Path of the other image.
    score : float
        Of the search, in [-1, 1].
    confidence : float
        Of the search, in [0, 1].
    matrix : (3, 3) array
        From pixels of the image searched with to pixels of the other.
    box : (4, 2) array
        Corners in the other image, in its pixels.
    """

    image: str
    score: float
    confidence: float
    matrix: Matrix
    box: Matrix


@dataclass(frozen=True, eq=False)
class Answer:
    """What a search with an image found: its hits, or the reason why there are none."""

    hits: tuple[Seen, ...]
    error: str = ""

    def of(self, image: str) -> Seen | None:
        """What was found in an image, if anything."""
        return next((hit for hit in self.hits if hit.image == image), None)


@dataclass(frozen=True, eq=False)
class Candidate:
    """Two images that may show the same tissue.

    Parameters
    ----------
    first, second : str
        Their paths.
    forward : Seen or None
        The first as it was found in the second.
    backward : Seen or None
        The second, or its part that was hit, as it was found in the first.
    best_first, best_second : bool
        Whether the second is the best hit of the first, and the first of the second.
    """

    first: str
    second: str
    forward: Seen | None
    backward: Seen | None
    best_first: bool = False
    best_second: bool = False

    @property
    def poses(self) -> list[Matrix]:
        """The poses that were found, each from pixels of the first to pixels of the second."""
        found = [] if self.forward is None else [self.forward.matrix]
        if self.backward is not None:
            found.append(np.asarray(np.linalg.inv(self.backward.matrix), np.float64))
        return found


@dataclass(eq=False)
class Folder:
    """The images of one modality and the repository that they are indexed in.

    Parameters
    ----------
    modality : str
    repository : Repository
    """

    modality: str
    repository: Repository
    _fields: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in range(len(self.repository)):
            path = self.repository.image_path(row)
            self._fields.setdefault(self.repository.image_name(row) if path is None else str(path), row)

    @property
    def images(self) -> list[str]:
        """Paths of the images that can be searched."""
        return list(self._fields)

    def comir(self, image: str) -> ComirImage:
        """The CoMIR of an image, read where it is needed."""
        row = self._fields[image]
        return ComirImage(open_level(self.repository.comir_path(row)), self._step(row))

    def shape(self, image: str) -> tuple[int, int]:
        """Height and width of an image, in its pixels."""
        row = self._fields[image]
        _, height, width = open_level(self.repository.comir_path(row)).shape
        step = self._step(row)
        return round(height * step), round(width * step)

    def _step(self, row: int) -> float:
        """Pixels of an image per pixel of its CoMIR; refuse pixels that are not square."""
        step = self.repository.pixel_step(row)
        if isinstance(step, float):
            return step
        name = self.repository.image_name(row)
        raise InputError(f"{name} has pixels that are not square; resample it to square ones to pair it.")

    def area(self, image: str) -> float:
        """Pixels of the CoMIR of an image."""
        shape = open_level(self.repository.comir_path(self._fields[image])).shape
        return float(shape[1] * shape[2])


class Journal:
    """Answers of searches, kept in a file as they come: a search that was done is not done again.

    Parameters
    ----------
    path : Path
        The file, a line of JSON an answer. A last line that was not written whole is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers = dict(self._read())

    def get(self, key: str) -> Answer | None:
        """The answer of a search, if it was done."""
        return self._answers.get(key)

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer."""
        self._answers[key] = answer
        hits = [
            [hit.image, hit.score, hit.confidence, hit.matrix[:2].ravel().tolist(), hit.box.ravel().tolist()]
            for hit in answer.hits
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "hits": hits, "error": answer.error}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> Iterator[tuple[str, Answer]]:
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.exists() else []
        whole = lines[:-1]
        if lines and lines[-1]:  # the process was killed while it wrote
            self.path.write_text("".join(line + "\n" for line in whole), encoding="utf-8")
        for line in whole:
            kept = json.loads(line)
            hits = tuple(
                Seen(image, score, sure, _matrix(values), np.array(box).reshape(4, 2))
                for image, score, sure, values, box in kept["hits"]
            )
            yield kept["key"], Answer(hits, kept["error"])


def _matrix(values: Sequence[float]) -> Matrix:
    return np.vstack((np.array(values, np.float64).reshape(2, 3), [0.0, 0.0, 1.0]))


def find_candidates(
    first: Folder, second: Folder, journal: Journal, settings: SearchSettings
) -> Job[tuple[list[Candidate], dict[str, str]]]:
    """Search every image of both folders in the other folder.

    An image that is much larger than the other, such as a slide, is not searched whole: its part that was
    hit is.

    Parameters
    ----------
    first, second : Folder
    journal : Journal
        Of searches that were done before, and of these.
    settings : SearchSettings
        ``hits`` is the number of candidates that an image brings.

    Yields
    ------
    Progress
        In searches.

    Returns
    -------
    candidates : list of Candidate
        Every two images of which one was among the hits of the other.
    errors : dict
        Why an image could not be searched with, by its path.
    """
    images = [(0, image) for image in first.images] + [(1, image) for image in second.images]
    sides = (first, second)
    answers: dict[tuple[int, str], Answer] = {}
    for done, (side, image) in enumerate(images):
        yield Progress(done, len(images), "searches", f"Searching {Path(image).name}")
        job = _ask(sides[side], sides[1 - side], image, None, journal, settings)
        answers[side, image] = yield from step_of(job, done, len(images), "searches", partial(_told, image))
    found: dict[tuple[str, str], None] = {}
    for image in first.images:
        found.update(dict.fromkeys((image, hit.image) for hit in answers[0, image].hits))
    for image in second.images:
        found.update(dict.fromkeys((hit.image, image) for hit in answers[1, image].hits))
    candidates = []
    for one, other in found:
        forward, backward = answers[0, one].of(other), answers[1, other].of(one)
        best = [_is_best(answers[0, one], other), _is_best(answers[1, other], one)]
        larger = second.area(other) / first.area(one)
        if forward and not backward and larger > _LARGER:
            job = _ask(second, first, other, Region.from_corners(forward.box), journal, settings)
            part = yield from step_of(job, len(images) - 1, len(images), "searches")
            backward, best[1] = part.of(one), _is_best(part, one)
        elif backward and not forward and larger < 1 / _LARGER:
            job = _ask(first, second, one, Region.from_corners(backward.box), journal, settings)
            part = yield from step_of(job, len(images) - 1, len(images), "searches")
            forward, best[0] = part.of(other), _is_best(part, other)
        candidates.append(Candidate(one, other, forward, backward, *best))
    errors = {image: answer.error for (_, image), answer in answers.items() if answer.error}
    return candidates, errors


def _told(image: str, _: Progress) -> str:
    return f"Searching {Path(image).name}"


def _is_best(answer: Answer, image: str) -> bool:
    return bool(answer.hits) and answer.hits[0].image == image


def _ask(
    own: Folder,
    other: Folder,
    image: str,
    region: Region | None,
    journal: Journal,
    settings: SearchSettings,
) -> Job[Answer]:
    """Search an image, or a region of it, in the other folder, unless the journal knows the answer."""
    where = "" if region is None else f" {np.round(region.corners(), 1).tolist()}"
    key = f"{own.modality} {image}{where}"
    known = journal.get(key)
    if known is not None:
        return known
    reading = own.repository.reading
    job = search(other.repository, image, own.modality, region=region, reading=reading, settings=settings)
    try:
        result = yield from job
    except InputError as error:
        answer = Answer((), str(error))
    else:
        assert result.region is not None
        located = [hit for hit in result.hits if np.isfinite(hit.score)]
        answer = Answer(tuple(_seen(result.region, hit) for hit in located))
    journal.add(key, answer)
    return answer


def _seen(region: Region, hit: Hit) -> Seen:
    box: Any = hit.box
    return Seen(hit.image, hit.score, hit.confidence, affine_matrix(region, hit), box)
