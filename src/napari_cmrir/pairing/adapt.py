"""Adapt a repository's model to its own images: mine confident pairs, train on them, index again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.readers import open_image
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.pairing.find import find_aligned_pairs
from napari_cmrir.pairing.pair_files import FoundPair, pair_paths
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.settings import PairingSettings

if TYPE_CHECKING:
    from napari_cmrir.pairing.find import PairingResult
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.representations.training_settings import TrainingSettings
    from napari_cmrir.settings import ReadingSettings

__all__ = ["Adaptation", "adapt_model", "adaptation_settings", "mistaken_pairs"]

_FEWEST_PAIRS = 3  # as between two rounds of `find_aligned_pairs`
_STEPS = 400
_LEARNING_RATE = 5e-4  # a quarter of a training's from random weights, so that what was learnt is not lost
_VALIDATION = 0.15  # share of the pairs, the default of a training

AFRESH_FROM = 5
"""Pairs from which on a model from random weights is trained, too: fewer teach less than the starter knows of
roads, and are too few to tell by validation (docs/training.md, How many pairs)."""

WENT_ON, AFRESH = "went-on", "afresh"
"""Ways of training: from the weights of the model, or from random ones."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """An adapted model and what it was made from.

    Parameters
    ----------
    model : Representation
    path : Path
        Its file.
    repository : Path
        The images of the repository, indexed with it.
    pairs : PairingResult
        The pairs that were mined; the accepted ones were trained on.
    mistaken : dict
        By identifier of a pair, the pairs that the model before took it for.
    retrieved : dict
        By the way of training, the share of the validation queries that its model retrieves; the model of
        the highest share is kept.
    """

    model: Representation
    path: Path
    repository: Path
    pairs: PairingResult
    mistaken: dict[str, tuple[str, ...]]
    retrieved: dict[str, float]


def adaptation_settings(
    model: Representation, n_pairs: int, changes: Mapping[str, Any] | None = None
) -> dict[str, TrainingSettings]:
    """Return how a model is trained on a number of pairs.

    A training goes on from the model's weights, with the model's settings, for fewer steps and at a lower
    learning rate. In place of the starter, which was made of other images, a network of the default size is
    also trained from random weights if there are five pairs or more: it often learns more of them.

    Parameters
    ----------
    model : Representation
    n_pairs : int
    changes : mapping, optional
        Values by name, in place of the defaults.

    Returns
    -------
    dict
        Settings by the way of training.

    Raises
    ------
    InputError
        If the model has no weights to go on from.
    pydantic.ValidationError
        If a change is not valid.

    Examples
    --------
    >>> from napari_cmrir.representations.base import load_model
    >>> ways = adaptation_settings(load_model("starter"), 5)
    >>> {way: settings.steps for way, settings in ways.items()}
    {'went-on': 400, 'afresh': 1500}
    """
    from napari_cmrir.representations.comir.inference import AnyModalityModel
    from napari_cmrir.representations.comir.model import ComirModel
    from napari_cmrir.representations.training_settings import TrainingSettings

    if not isinstance(model, ComirModel | AnyModalityModel):
        raise InputError(f"A model of kind '{model.name}' has no networks to train on; adapt a CoMIR model.")
    shorter = {"steps": _STEPS, "learning_rate": _LEARNING_RATE, "validation_share": _VALIDATION}
    ways = {WENT_ON: dict(model.settings) | shorter}
    if isinstance(model, AnyModalityModel) and n_pairs >= AFRESH_FROM:
        ways[AFRESH] = dict(TrainingSettings())
    return {
        way: TrainingSettings.model_validate(values | dict(changes or {})) for way, values in ways.items()
    }


def mistaken_pairs(pairs: Sequence[FoundPair], identifiers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Find the accepted pairs that the search took for one another: the hard negatives of a training.

    Parameters
    ----------
    pairs : sequence of FoundPair
        All candidates, the accepted ones first; a rejected one is an image and a wrong hit of it.
    identifiers : sequence of str
        Of the accepted ones.

    Returns
    -------
    dict
        By identifier, the other pairs, both ways.

    Examples
    --------
    >>> def found(first, second, accepted):
    ...     return FoundPair(Path(first), Path(second), accepted, 0.9, None, "")
    >>> rows = [found("a", "1", True), found("b", "2", True), found("a", "2", False), found("c", "1", False)]
    >>> mistaken_pairs(rows, ["a", "b"])
    {'a': ('b',), 'b': ('a',)}
    """
    accepted = [pair for pair in pairs if pair.accepted]
    of_first = {pair.first: name for pair, name in zip(accepted, identifiers, strict=True)}
    of_second = {pair.second: name for pair, name in zip(accepted, identifiers, strict=True)}
    taken: dict[str, dict[str, None]] = {}
    for pair in pairs:
        one, other = of_first.get(pair.first), of_second.get(pair.second)
        if not pair.accepted and one and other and one != other:
            taken.setdefault(one, {})[other] = None
            taken.setdefault(other, {})[one] = None
    return {name: tuple(others) for name, others in taken.items()}


def adapt_model(
    repository: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modalities: tuple[str, str],
    output: str | os.PathLike[str],
    *,
    changes: Mapping[str, Any] | None = None,
    pairing: PairingSettings | None = None,
    reading: ReadingSettings | None = None,
    device: str = "auto",
    resume: bool = False,
) -> Job[Adaptation]:
    """Train a repository's model on pairs mined in the repository, and index its images again.

    The images of the repository are searched in those of the other modality and the other way round, as
    `find_aligned_pairs` does; only confident pairs are trained on. The training goes on from the model.
    Pairs that the model took for one another come into the same batches, as hard negatives. In place of the
    starter, a model is also trained from random weights if there are five pairs or more, and the one that
    retrieves more of the validation queries is kept. The repository is not changed.

    Parameters
    ----------
    repository : path-like
        ``NAME.cmrir``; its image files must still exist.
    images : path-like or sequence of path-like
        Folder or files of the other modality.
    modalities : (str, str)
        One of them is the repository's.
    output : path-like
        Model file to write. The pairs go to ``<stem>-pairs`` beside it, and the new repository to
        ``<stem>.cmrir``.
    changes : mapping, optional
        Settings of the training, by the names of `TrainingSettings`, in place of those of
        `adaptation_settings`. A training that goes on keeps the network of the model.
    pairing : PairingSettings, optional
    reading : ReadingSettings, optional
        How all images are read; by default as the repository reads its own.
    device : str
    resume : bool
        Continue an interrupted training of the same pairs.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    Adaptation

    Raises
    ------
    InputError
        If the repository is of another modality, none of its files exists, or fewer than three pairs are
        confident.
    pydantic.ValidationError
        If a change is not valid.
    """
    from napari_cmrir.representations.comir.training.train import Start, train

    target = Path(output)
    folder, indexed = target.with_name(f"{target.stem}-pairs"), target.with_suffix(".cmrir")
    yield Progress(0, 100, "%", "Opening the repository")
    with open_repository(repository) as opened:
        model, modality, kept = opened.model, opened.modality, opened.settings
        paths = {opened.image_path(field) for field in range(len(opened))}
    if indexed.resolve() == Path(repository).resolve():
        raise InputError(f"{indexed} would replace the repository itself; give the model another name.")
    if modality not in modalities:
        raise InputError(f"{repository} holds {modality} images; name {modality} among the modalities.")
    adaptation_settings(model, AFRESH_FROM, changes)  # refused before the search, not after it
    files = sorted(path for path in paths if path is not None and path.is_file())
    if not files:
        raise InputError(f"No image file of {repository} exists any more; index the images where they are.")
    first, second = (images, files) if modality == modalities[1] else (files, images)
    pairing = pairing or PairingSettings(device=device)
    read_as = reading or kept.reading
    finding = find_aligned_pairs(first, second, modalities, model, folder, settings=pairing, reading=read_as)
    result = yield from portion(finding, 0, 50)
    if len(result.accepted) < _FEWEST_PAIRS:
        raise InputError(
            f"{len(result.accepted)} confident pairs are too few to adapt to, {_FEWEST_PAIRS} are needed; add"
            f" images of both modalities, or make pairs by landmarks and train on them."
        )
    mistaken = mistaken_pairs(result.pairs, result.identifiers)
    pairs = [Pair(name, pair_paths(folder, name, modalities)) for name in result.identifiers]
    ways = adaptation_settings(model, len(pairs), changes)
    made = {way: target.with_name(f"{target.stem}-{way}.safetensors") for way in ways}
    models: dict[str, Representation] = {}
    for number, (way, settings) in enumerate(ways.items()):
        if resume and _is_trained_on(made[way], pairs):
            models[way] = load_model(made[way])
            continue
        job = train(
            pairs,
            modalities,
            settings.model_copy(update={"patch_size": _patch_size(pairs, settings.patch_size)}),
            output=made[way],
            device=device,
            resume=resume,
            pixel_size=model.pixel_size,
            start=Start(model, mistaken) if way == WENT_ON else None,
        )
        share = 40 / len(ways)
        models[way] = yield from portion(job, 50 + share * number, 50 + share * (number + 1))
    retrieved = {way: trained.score.get("retrieval", 0.0) for way, trained in models.items()}
    adapted = models[max(retrieved, key=lambda way: retrieved[way])]
    adapted.save(target)
    for path in made.values():
        path.unlink()
    yield from portion(_index(files, adapted, modality, indexed, kept, device), 90, 100)
    yield Progress(100, 100, "%", f"Adapted to {len(pairs)} pairs")
    return Adaptation(adapted, target, indexed, result, mistaken, retrieved)


def _is_trained_on(path: Path, pairs: Sequence[Pair]) -> bool:
    """Whether a model file is there that an interrupted job has made of these pairs."""
    if not path.exists():
        return False
    made_from = load_model(path).provenance
    return {*made_from["trained_on"], *made_from["validated_on"]} == {pair.identifier for pair in pairs}


def _index(
    files: Sequence[Path],
    model: Representation,
    modality: str,
    path: Path,
    settings: RepositorySettings,
    device: str,
) -> Job[None]:
    (yield from build_repository(files, model, modality, path, settings, device=device)).close()


def _patch_size(pairs: Sequence[Pair], wanted: int) -> int:
    """The side of a patch that fits into every pair: they are cut to what two images share."""
    smallest = wanted
    for pair in pairs:
        with closing(open_image(pair.paths[0])) as image:
            smallest = min(smallest, *image.shape[:2])
    return max(32, smallest // 16 * 16)
