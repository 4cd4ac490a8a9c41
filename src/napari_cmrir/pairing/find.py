"""Aligned pairs from two folders that are not aligned: search both ways, judge, cut, train, search again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_write, explain_disk_errors
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.readers import require_images
from napari_cmrir.jobs import Job, Preview, Progress, portion
from napari_cmrir.pairing.candidates import Candidate, Folder, Journal, find_candidates
from napari_cmrir.pairing.judgement import judge, one_partner_each
from napari_cmrir.pairing.pair_files import (
    TABLE,
    FoundPair,
    accepted_names,
    name_pairs,
    pair_paths,
    publish_pairs,
    read_table,
)
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.settings import PairingSettings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.settings import ReadingSettings

__all__ = ["FoundPairs", "PairingResult", "find_aligned_pairs"]

WORK = ".pairing"
"""Folder in the folder of pairs that keeps what an interrupted search has done."""

_FEWEST_PAIRS = 3  # that a model is trained on between two rounds

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class FoundPairs(Preview):
    """The pairs that are judged so far.

    Parameters
    ----------
    pairs : tuple of FoundPair
    """

    pairs: tuple[FoundPair, ...]


@dataclass(frozen=True, eq=False)
class PairingResult:
    """What was found.

    Parameters
    ----------
    folder : Path
        The folder of pairs; `find_pairs` finds the accepted ones there.
    pairs : tuple of FoundPair
        All candidates, accepted ones first.
    identifiers : tuple of str
        Of the accepted pairs, in their order.
    rounds : int
        Rounds of search that were done.
    notes : tuple of str
        Sentences for the user, such as on pairs that were dropped.
    failures : dict
        By path, why an image could not be used.
    """

    folder: Path
    pairs: tuple[FoundPair, ...]
    identifiers: tuple[str, ...]
    rounds: int
    notes: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> tuple[FoundPair, ...]:
        """The pairs that were accepted and cut."""
        return tuple(pair for pair in self.pairs if pair.accepted)


def find_aligned_pairs(
    first: PathLike | Sequence[PathLike],
    second: PathLike | Sequence[PathLike],
    modalities: tuple[str, str],
    model: Representation,
    out: PathLike,
    *,
    settings: PairingSettings | None = None,
    reading: ReadingSettings | None = None,
) -> Job[PairingResult]:
    """Find the images of two folders that show the same tissue, and cut them to aligned pairs.

    Every image is searched in the other folder, both ways. A pair is accepted where each is among the hits
    of the other, both searches give one pose, and the parts of the common area confirm it one by one. File
    names play no part. Further rounds train a model on the pairs found and search again with it.

    Parameters
    ----------
    first, second : path-like or sequence of path-like
        Folders or image files of each modality. Images may be parts of larger ones of the other folder.
    modalities : (str, str)
        Their names, as the model knows them.
    model : Representation
        The model that both are represented by.
    out : path-like
        Folder for ``<identifier>_<MODALITY>.tif`` and ``pairs.csv``. A job that is stopped keeps its work
        there; the same call goes on with it.
    settings : PairingSettings, optional
    reading : ReadingSettings, optional
        Series, level, planes and channels to read of every image.

    Yields
    ------
    Progress
        In percent, with `FoundPairs` as previews.

    Returns
    -------
    PairingResult

    Raises
    ------
    InputError
        If a folder holds no image that can be used, the model does not know a modality, or ``out`` holds
        images that no search for pairs wrote.

    Examples
    --------
    >>> from napari_cmrir.jobs import run
    >>> from napari_cmrir.representations.base import load_model
    >>> from napari_cmrir.representations.model_file import sample_model
    >>> run(find_aligned_pairs("nothing", "there", ("SHG", "BF"), load_model(sample_model()), "pairs"))
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: nothing does not exist; check the path.
    """
    settings = settings or PairingSettings()
    if len(modalities) != 2 or modalities[0] == modalities[1]:
        raise InputError(f"Give two different modalities, such as SHG and BF, not {list(modalities)}.")
    for modality in modalities:
        model.require_modality(modality)
    files = [
        require_images(_listed(side), name, other)
        for side, name, other in zip((first, second), modalities, modalities[::-1], strict=True)
    ]
    folder = Path(os.path.abspath(out))
    _require_ours(folder, modalities)
    sides = (_absolute(files[0]), _absolute(files[1]))
    work = folder / WORK
    with explain_disk_errors(folder):
        _begin(work, _key(sides, modalities, model, settings, reading))
    search = _Search(sides, modalities, folder, settings, reading)
    each, accepted, notes = 100 / settings.rounds, list[FoundPair](), list[str]()
    pairs: list[FoundPair] = []
    done = 0
    for number in range(settings.rounds):
        start = number * each
        middle = start
        if number:
            middle = start + each / 2
            model = yield from portion(search.train(number, model), start, middle)
        pairs, dropped = yield from portion(search.round(number, model, accepted), middle, start + each)
        done = number + 1
        notes += dropped
        known = {(pair.first, pair.second) for pair in accepted}
        accepted = [pair for pair in pairs if pair.accepted]
        if number and all((pair.first, pair.second) in known for pair in accepted):
            break
        if done < settings.rounds and len(accepted) < _FEWEST_PAIRS:
            notes.append(
                f"{len(accepted)} pairs are too few to train on; the search ends after round {done}."
            )
            break
    shutil.rmtree(work, ignore_errors=True)
    names = tuple(name_pairs(accepted, modalities))
    result = PairingResult(folder, tuple(pairs), names, done, tuple(notes), dict(search.failures))
    yield Progress(100, 100, "%", f"{len(accepted)} pairs found", FoundPairs(result.pairs))
    return result


@dataclass(frozen=True, eq=False)
class _Search:
    """One search for pairs: what is the same in all its rounds."""

    files: tuple[list[str], list[str]]
    modalities: tuple[str, str]
    folder: Path
    settings: PairingSettings
    reading: ReadingSettings | None
    failures: dict[str, str] = field(default_factory=dict)

    def round(
        self, number: int, model: Representation, before: Sequence[FoundPair]
    ) -> Job[tuple[list[FoundPair], list[str]]]:
        """Search and judge with one model, and publish the pairs; also sentences on those dropped."""
        work = self.folder / WORK / f"round-{number + 1}"
        folders, failures = [], dict[str, str]()
        for side, (start, stop) in enumerate(((0, 12), (12, 24))):
            building = self._index(side, model, work)
            found = yield from portion(building, start, stop)
            folders.append(found)
            failures.update(found.repository.failures)
        self.failures.update(failures)
        first, second = folders
        try:
            journal = Journal(work / "searches.jsonl")
            searching = find_candidates(first, second, journal, self.settings.search_settings())
            candidates, errors = yield from portion(searching, 24, 85)
            judging = self._judge(candidates, first, second, before, number)
            pairs, dropped = yield from portion(judging, 85, 95)
        finally:
            first.repository.close()
            second.repository.close()
        pairs += self._without_partner(pairs, failures | errors)
        pairs.sort(key=lambda pair: (not pair.accepted, -pair.confidence))
        publishing = publish_pairs(self.folder, pairs, self.modalities, self.reading)
        yield from portion(publishing, 95, 100)
        return pairs, dropped

    def train(self, number: int, model: Representation) -> Job[Representation]:
        """Train on the pairs that are published, or take the model that was trained on them before."""
        from napari_cmrir.representations.base import load_model, train
        from napari_cmrir.representations.training_settings import TrainingSettings

        output = self.folder / WORK / f"round-{number + 1}" / "model.safetensors"
        if output.is_file():
            return load_model(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        names = list(accepted_names(read_table(self.folder), self.modalities).values())
        paths = [pair_paths(self.folder, name, self.modalities) for name in names]
        found = [Pair(name, files) for name, files in zip(names, paths, strict=True)]
        job = train(
            found,
            self.modalities,
            TrainingSettings(steps=self.settings.training_steps),
            output=output,
            device=self.settings.device,
            resume=True,
            pixel_size=model.pixel_size,
        )
        trained: Representation = yield from job
        return trained

    def _index(self, side: int, model: Representation, work: Path) -> Job[Folder]:
        modality = self.modalities[side]
        path = work / f"{('first', 'second')[side]}.cmrir"
        settings = RepositorySettings(**({} if self.reading is None else {"reading": self.reading}))
        job = build_repository(self.files[side], model, modality, path, settings, device=self.settings.device)
        return Folder(modality, (yield from job))

    def _judge(
        self,
        candidates: Sequence[Candidate],
        first: Folder,
        second: Folder,
        before: Sequence[FoundPair],
        number: int,
    ) -> Job[tuple[list[FoundPair], list[str]]]:
        known = {(str(pair.first), str(pair.second)): pair.matrix for pair in before}
        asked = {(candidate.first, candidate.second): candidate for candidate in candidates}
        for one, other in known:  # also those that this round's search no longer finds
            asked.setdefault((one, other), Candidate(one, other, None, None))
        judged: list[FoundPair] = []
        for done, (both, candidate) in enumerate(asked.items()):
            message = f"Judging {Path(candidate.first).name}"
            yield Progress(done, len(asked), "candidates", message, FoundPairs(tuple(judged)))
            judged.append(judge(candidate, first, second, self.settings, known.get(both)))
        pairs = one_partner_each(judged, first, second)
        notes = []
        for position, pair in enumerate(pairs):
            if not pair.accepted and (str(pair.first), str(pair.second)) in known:
                reason = f"dropped in round {number + 1}: {pair.reason}"
                pairs[position] = replace(pair, reason=reason)
                notes.append(f"{pair.first.name} and {pair.second.name} were {reason}.")
        return pairs, notes

    @staticmethod
    def _without_partner(pairs: Iterable[FoundPair], reasons: dict[str, str]) -> list[FoundPair]:
        """Rows of images that could not be used."""
        used = {str(path) for pair in pairs for path in (pair.first, pair.second)}
        return [
            FoundPair(Path(path), Path(), False, 0.0, None, reason)
            for path, reason in reasons.items()
            if path not in used
        ]


def _listed(side: PathLike | Sequence[PathLike]) -> list[PathLike]:
    return [side] if isinstance(side, str | os.PathLike) else list(side)


def _absolute(files: Sequence[Path]) -> list[str]:
    return [os.path.abspath(file) for file in files]


def _require_ours(folder: Path, modalities: tuple[str, str]) -> None:
    """Refuse a folder with images that are not in its table: they would be taken for pairs."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the pairs.")
    accepted = [pair for pair in read_table(folder) if pair.accepted] if (folder / TABLE).exists() else []
    names = {f"{name}_{modality}.tif" for name in name_pairs(accepted, modalities) for modality in modalities}
    running = (folder / WORK).exists()
    strange = [path.name for path in folder.glob("*.tif") if path.name not in names]
    if strange and not running:
        raise InputError(
            f"{folder} holds {strange[0]}, which no search for pairs wrote; give an empty folder."
        )


def _key(
    sides: tuple[list[str], list[str]],
    modalities: tuple[str, str],
    model: Representation,
    settings: PairingSettings,
    reading: ReadingSettings | None,
) -> str:
    """What decides the answers; work that was kept under another key is not gone on with."""
    stats = [[(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in side] for side in sides]
    content = [
        stats,
        modalities,
        model.fingerprint,
        settings.model_dump(mode="json", exclude={"rounds"}),
        None if reading is None else reading.model_dump(mode="json"),
    ]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def _begin(work: Path, key: str) -> None:
    file = work / "key"
    if file.is_file() and file.read_text() == key:
        return
    shutil.rmtree(work, ignore_errors=True)
    atomic_write(file, key.encode())
