"""Review of pairs: given pairs checked with a model and corrected; found pairs accepted or rejected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.jobs import Job, Progress, run, step_of
from napari_cmrir.pairing.judgement import ComirImage, PoseEvidence, confidence, refine_pose
from napari_cmrir.pairing.pair_files import (
    TABLE,
    FoundPair,
    accepted_names,
    cut_pair,
    pair_paths,
    publish_pairs,
    read_table,
    write_pair,
)
from napari_cmrir.registration.affine import Matrix, box_difference, box_of, decompose, matrix_between
from napari_cmrir.registration.coarse_to_fine import register
from napari_cmrir.registration.prepared_query import PreparedQuery
from napari_cmrir.repository.pyramids import halve
from napari_cmrir.search.settings import PairingSettings
from napari_cmrir.settings import ReadingSettings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["PairFinding", "check_alignment", "correct_pairs", "decide", "pair_picture", "put_pair"]

Kind = Literal["aligned", "turned", "shifted", "other", "unclear"]

_ALIGNED = 0.015
"""Mean distance of the corners from where they should be, as a share of the diagonal, up to which partners
count as aligned: right poses were found within 0.006 (`benchmarks/pairing.py`, shg_bf/train)."""

_BORDER = 4.0
"""Pixels beyond a partner's border that a correction mirrors: a found pose is a pixel or two off, and a pair
that loses as much of a side of 512 px loses three of its four fields of 256 px in an evaluation."""

_TURNED = 3.0  # degrees from which on a partner is turned rather than shifted


@dataclass(frozen=True, eq=False)
class PairFinding:
    """What a model says of a given pair.

    Parameters
    ----------
    number : int
        Which of the pairs given.
    identifier : str
    kind : {"aligned", "turned", "shifted", "other", "unclear"}
        ``"other"``: the first shows the tissue of another pair's second image. ``"unclear"``: the model
        does not find the tissue of one in the other, which may be the model's fault.
    sentence : str
        For the user, with the names.
    confidence : float
        Probability in [0, 1] that the pose is right.
    matrix : (3, 3) array or None
        From pixels of the first to pixels of the second image in which its tissue was found.
    partner : int
        The pair whose second image shows the tissue of the first; -1 where it is not known.
    """

    number: int
    identifier: str
    kind: Kind
    sentence: str
    confidence: float
    matrix: Matrix | None
    partner: int


class _Comirs:
    """The CoMIRs of second images as fields of a registration."""

    def __init__(self, comirs: Sequence[NDArray[np.uint8]]) -> None:
        self.levels = [[comir] for comir in comirs]
        sides = [comir.shape[1:] for comir in comirs]
        self.fields: NDArray[np.void] = np.array(sides, dtype=np.int64).view(
            [("height", np.int64), ("width", np.int64)]
        )[:, 0]

    def comir(self, field: int, level: int = 0) -> NDArray[np.uint8]:
        """A CoMIR, each level half as large as the one before."""
        levels = self.levels[field]
        while len(levels) <= level:
            levels.append(halve(levels[-1]))
        return levels[level]


def check_alignment(
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    model: Representation,
    *,
    settings: PairingSettings | None = None,
) -> Job[list[PairFinding]]:
    """Look with a model whether the images of given pairs are aligned and show the same tissue.

    Partners that are not aligned are searched over the full circle in each other; a first image that is not
    found in its partner is searched in the partners of the others.

    Parameters
    ----------
    pairs : sequence of Pair
    modalities : (str, str)
        In the order of the pairs.
    model : Representation
        One that was not trained on these pairs, such as the starter model: a model that was trained on wrong
        pairs may have learnt them.
    settings : PairingSettings, optional
        Rotations, mirroring and sizes that are tried, and the least confidence.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    list of PairFinding
        In the order of the pairs.

    Raises
    ------
    InputError
        If an image cannot be read, or the model does not know a modality.
    """
    if not pairs:
        return []
    settings = settings or PairingSettings()
    comirs: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    total = 2 * len(pairs)
    for number, pair in enumerate(pairs):
        yield Progress(number, total, "pairs", f"Representing {pair.identifier}")
        for side, modality in enumerate(modalities):
            pixels = read_image(pair.paths[side], pair.reading)
            job = model.represent(pixels, modality, device=settings.device)
            comirs[side].append((yield from step_of(job, number, total, "pairs")))
    fields = _Comirs(comirs[1])
    found = []
    for number, pair in enumerate(pairs):
        yield Progress(len(pairs) + number, total, "pairs", f"Checking {pair.identifier}")
        checking = _check(number, pairs, comirs[0][number], fields, model, settings)
        found.append((yield from step_of(checking, len(pairs) + number, total, "pairs")))
    return found


def _check(
    number: int,
    pairs: Sequence[Pair],
    comir: NDArray[np.uint8],
    fields: _Comirs,
    model: Representation,
    settings: PairingSettings,
) -> Job[PairFinding]:
    pair, first = pairs[number], ComirImage(comir)
    as_given = refine_pose(
        first, ComirImage(fields.comir(number)), np.eye(3), model.comparison.high_pass_px, affine=False
    )
    if _is_sure(as_given, settings):
        return _finding(number, pair, number, pair, as_given, comir.shape[1:])
    others = [other for other in range(len(pairs)) if other != number]
    for candidates in ([number], others):
        if not candidates:
            continue
        posed = yield from _best(comir, fields, candidates, model, settings)
        sure = [(partner, evidence) for partner, evidence in posed if _is_sure(evidence, settings)]
        if sure:
            partner, evidence = max(sure, key=lambda one: confidence(one[1]))
            return _finding(number, pair, partner, pairs[partner], evidence, comir.shape[1:])
    names = [path.name for path in pair.paths]
    sentence = f"{names[0]} is not found in {names[1]}; look at the pair, as the model may be at fault."
    return PairFinding(number, pair.identifier, "unclear", sentence, confidence(as_given), None, -1)


def _is_sure(evidence: PoseEvidence, settings: PairingSettings) -> bool:
    return confidence(evidence) >= settings.least_confidence


def _best(
    comir: NDArray[np.uint8],
    fields: _Comirs,
    candidates: Sequence[int],
    model: Representation,
    settings: PairingSettings,
) -> Job[list[tuple[int, PoseEvidence]]]:
    """The refined poses of an image in the most likely candidates."""
    from napari_cmrir.representations.devices import choose_device

    shape = comir.shape[1:]
    mask = np.ones(shape, bool)
    device = choose_device(settings.device)
    found: list[tuple[float, int, Matrix]] = []
    for mirrored in (False, True) if settings.mirror else (False,):
        query = PreparedQuery(comir, mask, device, mirrored=mirrored, comparison=model.comparison)
        poses = yield from register(query, fields, candidates, settings)
        found += [
            (pose.score, field, matrix_between(box_of(shape), query.corners(pose)))
            for field, pose in poses.items()
            if np.isfinite(pose.score)
        ]
    found.sort(key=lambda one: -one[0])
    return [
        (
            field,
            refine_pose(
                ComirImage(comir),
                ComirImage(fields.comir(field)),
                matrix,
                model.comparison.high_pass_px,
                affine=False,
            ),
        )
        for _, field, matrix in found[: settings.candidates]
    ]


def _finding(
    number: int, pair: Pair, partner: int, owner: Pair, evidence: PoseEvidence, shape: tuple[int, ...]
) -> PairFinding:
    first, second = pair.paths[0].name, owner.paths[1].name
    kind: Kind = "aligned"
    sentence = f"{first} and {second} are aligned."
    parts = decompose(evidence.matrix)
    if partner != number:
        kind = "other"
        sentence = f"{first} shows the tissue of {second}, not that of {pair.paths[1].name}."
    elif box_difference(np.eye(3), evidence.matrix, shape) > _ALIGNED:
        centre = (np.array(shape) - 1) / 2
        down, right = evidence.matrix[:2, :2] @ centre + evidence.matrix[:2, 2] - centre
        by = f"{abs(down):.0f} px {'down' if down > 0 else 'up'} and {abs(right):.0f} px"
        by += " right" if right > 0 else " left"
        if abs(parts.rotation_degrees) > _TURNED or parts.mirrored:
            kind = "turned"
            mirrored = "mirrored and " if parts.mirrored else ""
            way = "counter-clockwise" if parts.rotation_degrees > 0 else "clockwise"
            turned = f"{abs(parts.rotation_degrees):.0f} degrees"
            turned += f" {way}" if abs(parts.rotation_degrees) < 179.5 else ""
            sentence = f"{second} is {mirrored}turned by {turned} against {first}, and shifted by {by}."
        else:
            kind, sentence = "shifted", f"{second} is shifted against {first} by {by}."
    sure = confidence(evidence)
    return PairFinding(number, pair.identifier, kind, sentence, sure, evidence.matrix, partner)


def correct_pairs(
    pairs: Sequence[Pair],
    findings: Sequence[PairFinding],
    modalities: tuple[str, str],
    out: str | os.PathLike[str],
) -> Job[list[str]]:
    """Write pairs to a new folder, with the partners as they were found.

    Turned and shifted partners are aligned and cut to the common area; a first image that shows the tissue of
    another partner gets that one, unless that pair has it already. Unclear pairs are written as given.

    Parameters
    ----------
    pairs : sequence of Pair
    findings : sequence of PairFinding
        Of `check_alignment`, one for each pair.
    modalities : (str, str)
    out : path-like
        A new or empty folder.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    list of str
        Identifiers of the pairs that are left out.

    Raises
    ------
    InputError
        If the folder holds anything.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder; give a new one for the corrected pairs.")
    owned = {one.partner for one in findings if one.kind in ("aligned", "turned", "shifted")}
    left_out = []
    for done, (pair, finding) in enumerate(zip(pairs, findings, strict=True)):
        yield Progress(done, len(pairs), "pairs", f"Writing {pair.identifier}")
        matrix, second = np.eye(3), pair.paths[1]
        if finding.kind == "other" and finding.partner in owned:
            left_out.append(pair.identifier)
            continue
        if finding.kind in ("turned", "shifted", "other") and finding.matrix is not None:
            matrix, second = finding.matrix, pairs[finding.partner].paths[1]
            owned.add(finding.partner)
        files = pair.paths[0], second
        write_pair(folder, pair.identifier, files, matrix, modalities, pair.reading, _BORDER)
    return left_out


_SQUARES = 4  # of the checkerboard along a side: each shows some structure, and borders enough to compare
_WINDOW = 1024  # px a side at most that a picture is made of, so that a pair of slides takes no longer


def decide(
    folder: str | os.PathLike[str],
    number: int,
    accepted: bool,
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
) -> list[FoundPair]:
    """Accept or reject one pair of a folder: write or remove its two files, and its row of the table.

    Parameters
    ----------
    folder : path-like
        A folder that `find_aligned_pairs` wrote.
    number : int
        Row of its table, from 0.
    accepted : bool
        Whether training shall read the pair.
    modalities : (str, str)
        Those of the search: the files of a pair end in them.
    reading : ReadingSettings, optional
        How the images are read.

    Returns
    -------
    list of FoundPair
        The table after the decision.

    Raises
    ------
    InputError
        If the pair has no pose, or an image cannot be read.
    """
    folder = Path(folder)
    pairs = read_table(folder)
    pair = pairs[number]
    if pair.matrix is None:
        raise InputError(f"{pair.first.name} has no partner with a pose; align the two by landmarks first.")
    reason = "accepted by the user" if accepted else "rejected by the user"
    changed = [*pairs]
    changed[number] = replace(pair, accepted=accepted, reason=reason)
    _publish(folder, pairs, changed, number, modalities, reading)
    return changed


def put_pair(
    folder: str | os.PathLike[str],
    pair: FoundPair,
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
) -> str:
    """Put an accepted pair into a folder of pairs, in place of what it holds of the same two images.

    Parameters
    ----------
    folder : path-like
        A folder that `find_aligned_pairs` wrote, or a new one.
    pair : FoundPair
        With a matrix, such as that of landmarks.
    modalities : (str, str)
    reading : ReadingSettings, optional
        How the images are read.

    Returns
    -------
    str
        The identifier of the pair.

    Raises
    ------
    InputError
        If an image cannot be read, they do not overlap, or the folder holds other files of these names.
    """
    folder = Path(folder)
    pairs = read_table(folder) if (folder / TABLE).is_file() else []
    same = [row for row, one in enumerate(pairs) if (one.first, one.second) == (pair.first, pair.second)]
    row = same[0] if same else len(pairs)
    changed = [*pairs]
    changed[row : row + 1] = [replace(pair, accepted=True)]
    name = accepted_names(changed, modalities)[row]
    if name not in accepted_names(pairs, modalities).values():
        for path in pair_paths(folder, name, modalities):
            if path.exists():
                raise InputError(f"{path} is there and in no {TABLE}; choose another folder for the pair.")
    _publish(folder, pairs, changed, row, modalities, reading)
    return name


def _publish(
    folder: Path,
    pairs: Sequence[FoundPair],
    changed: Sequence[FoundPair],
    number: int,
    modalities: tuple[str, str],
    reading: ReadingSettings | None,
) -> None:
    """Publish a table in which one row was changed; the files of the others stay."""
    before, after = (accepted_names(rows, modalities) for rows in (pairs, changed))
    kept = {name for row, name in after.items() if row != number and before.get(row) == name}
    run(publish_pairs(folder, changed, modalities, reading, kept))


def pair_picture(
    pair: FoundPair, side: int, reading: ReadingSettings | None = None
) -> NDArray[np.uint8] | None:
    """Make a picture of a pair: the first image, the second registered to it, and both in a checkerboard.

    Parameters
    ----------
    pair : FoundPair
    side : int
        Side of each of the three parts, px.
    reading : ReadingSettings, optional
        How the images are read.

    Returns
    -------
    (side, 3 * side, 3) uint8 array or None
        ``None`` if the pair has no pose, the images do not overlap in it, or one cannot be read.
    """
    import cv2

    if pair.matrix is None:
        return None
    try:
        with (
            closing(open_image(pair.first, reading)) as first,
            closing(open_image(pair.second, reading)) as second,
        ):
            middle, matrix = _middle(first, pair.matrix)
            cut = cut_pair(middle, second, matrix)[:2]
    except InputError:
        return None
    shown = [cv2.resize(_rgb8(pixels), (side, side), interpolation=cv2.INTER_AREA) for pixels in cut]
    squares = np.arange(side) * _SQUARES // side
    is_first = (squares[:, None] + squares) % 2 == 0
    picture: NDArray[np.uint8] = np.hstack([*shown, np.where(is_first[..., None], *shown)])
    return picture


def _middle(image: LazyImage, matrix: NDArray[np.float64]) -> tuple[LazyImage, NDArray[np.float64]]:
    """Return the middle of a large image, and the map from its pixels."""
    (height, width), window = image.shape[:2], _WINDOW
    y, x = max(0, (height - window) // 2), max(0, (width - window) // 2)
    move = np.array([[1.0, 0, y], [0, 1, x], [0, 0, 1]])
    return image.window(y, x, min(height, window), min(width, window)), matrix @ move


def _rgb8(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale an image (y, x, channel) between its 1st and 99th percentiles, as RGB."""
    colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
    low, high = np.percentile(colour, (1, 99))
    scaled = (colour.astype(np.float32) - low) / max(float(high - low), 1e-9)
    return np.asarray(255 * scaled.clip(0, 1), np.uint8)
