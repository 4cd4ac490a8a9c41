"""Confidence: evidence that a hit is right, and the logistic function that turns it into a probability."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_cmrir.errors import InputError
from napari_cmrir.settings import Settings, dump_settings, fitted_values, load_settings

if TYPE_CHECKING:
    from napari_cmrir.registration.prepared_query import Pose
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.hits import Hit

__all__ = [
    "FEATURES",
    "Calibration",
    "Evidence",
    "calibration_of",
    "confidences",
    "find_copies",
    "fit_calibration",
    "name_copies",
    "store_calibration",
    "suppress",
]


FEATURES = ("score", "relative_margin", "gumbel_margin", "relative_peak")
"""Features of a confidence, in the order of `Evidence.features`."""

_LEAST_SCORE = 0.02  # a lower one counts as this much where another is compared with it; not measured
_EULER = 0.5772156649  # Euler's constant: a Gumbel law's mean lies this many scales above its mode
_PRIOR_SCORES = fitted_values("wrong_score_prior").values


@dataclass(frozen=True, eq=False)
class Evidence:
    """Registration scores of every registered image, and of the further places of large ones.

    Parameters
    ----------
    images : (n,) int array
        Number of the image of each place; the first place of an image is its best.
    scores : (n,) float array
        Registration score of the place; finite.
    runner_ups : (n,) float array
        Score of the next best, different pose in the same field; -inf if there is none.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    runner_ups: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        poses: Mapping[int, Pose],
        images: NDArray[np.int64],
        boxes: Mapping[int, NDArray[np.float64]] | None = None,
    ) -> Evidence:
        """Collect the evidence of registered fields, whose images are given by field.

        With the boxes (4, 2) of the poses in their images, the best pose of every field counts, unless it is
        at a place of a better one (`suppress`): of one slide, the other places are evidence, too.

        Examples
        --------
        >>> from napari_cmrir.registration.prepared_query import Pose
        >>> scores = {0: 0.1, 1: 0.4, 2: 0.3}
        >>> poses = {field: Pose(score, 0, (9, 9), 0.05) for field, score in scores.items()}
        >>> Evidence.of(poses, np.array([7, 7, 8])).scores.tolist()
        [0.4, 0.3]
        >>> box = np.array([[0, 0], [0, 9], [9, 9], [9, 0]])
        >>> boxes = {0: box + 500, 1: box, 2: box}
        >>> Evidence.of(poses, np.array([7, 7, 8]), boxes).scores.tolist()
        [0.4, 0.1, 0.3]
        """
        of_image: dict[int, list[int]] = {}
        for field in sorted(poses):
            if np.isfinite(poses[field].score):
                of_image.setdefault(int(images[field]), []).append(field)
        numbers, places = [], []
        for image, fields in of_image.items():
            scores = np.array([poses[field].score for field in fields])
            kept = [int(scores.argmax())]
            if boxes is not None and len(fields) > 1:
                kept = suppress(np.stack([boxes[field] for field in fields]), scores)
            numbers += [image] * len(kept)
            places += [poses[fields[one]] for one in kept]
        return cls(
            np.array(numbers, np.int64),
            np.array([pose.score for pose in places], np.float64),
            np.array([pose.runner_up for pose in places], np.float64),
        )

    def without(self, images: Sequence[int] | NDArray[np.int64]) -> Evidence:
        """Return the evidence of a repository without some images."""
        kept = ~np.isin(self.images, images)
        return Evidence(self.images[kept], self.scores[kept], self.runner_ups[kept])

    def features(self, image: int) -> NDArray[np.float64] | None:
        """Compute the `FEATURES` of an image.

        Parameters
        ----------
        image : int
            Its number.

        Returns
        -------
        (4,) array or None
            Score; margin to the best score of another image or place, as a share of the score; Gumbel
            margin: negative natural logarithm of the number of wrong ones expected to score as high; and
            margin to the next best pose in the same field, as a share of the score. ``None`` if the image
            has no pose. Shares, because models differ in how high right images score.

        Examples
        --------
        >>> evidence = Evidence(np.arange(3), np.array([0.6, 0.1, 0.2]), np.array([0.3, 0.1, 0.1]))
        >>> evidence.features(0).round(2).tolist()
        [0.6, 0.67, 11.14, 0.5]
        """
        places = np.flatnonzero(self.images == image)
        if not len(places):
            return None
        score, runner_up = float(self.scores[places[0]]), float(self.runner_ups[places[0]])
        others = np.delete(self.scores, places[0])
        next_best = float(others.max()) if len(others) else _PRIOR_SCORES["mean"]
        below = runner_up if math.isfinite(runner_up) else _PRIOR_SCORES["mean"]
        margins = (score - np.array([next_best, below])) / max(score, _LEAST_SCORE)
        return np.array([score, margins[0], _gumbel_margin(score, others), margins[1]])


def confidences(
    evidence: Evidence,
    images: Sequence[int],
    calibration: Calibration,
    copies: Mapping[int, Collection[int]] | None = None,
) -> list[float]:
    """Compute the probability that each hit is the right image.

    At most one image is right, with its copies: the probability of another hit is at most one minus that of
    the first. A copy is no evidence against an image.

    Parameters
    ----------
    evidence : Evidence
        Evidence of all registered images.
    images : sequence of int
        Numbers of the hits' images, best first.
    calibration : Calibration
        Turns features into probabilities.
    copies : mapping of int to collection of int, optional
        Numbers of the images that hold the same pixels as an image.

    Returns
    -------
    list of float
        In [0, 1]; 0 for an image without a pose.
    """
    result: list[float] = []
    for image in images:
        same = [other for other in (copies or {}).get(image, ()) if other != image]
        features = evidence.without(same).features(image)
        confidence = 0.0 if features is None else float(calibration.probability(features))
        if result and image != images[0] and images[0] not in same:
            confidence = min(confidence, 1 - result[0])
        result.append(confidence)
    return result


def _gumbel_margin(score: float, others: NDArray[np.float64]) -> float:
    """Negative logarithm of the number of other images that are expected to score as high.

    The score of an image is the highest of many places and angles, so wrong images follow a Gumbel law. The
    law is fitted by moments to the scores of the other images and to a prior that counts as three images of
    a typical repository. Without the prior, a handful of images would give a confidence near 1.
    """
    if len(others) and score < others.max():
        others = np.delete(others, int(others.argmax()))  # the better one may be the right image
    prior, prior_count = _PRIOR_SCORES["mean"], _PRIOR_SCORES["count"]
    count = len(others) + prior_count
    mean = (others.sum() + prior_count * prior) / count
    squares = np.square(others - mean).sum() + prior_count * (
        _PRIOR_SCORES["deviation"] ** 2 + (prior - mean) ** 2
    )
    scale = math.sqrt(squares / count) * math.sqrt(6) / math.pi
    place = mean - _EULER * scale
    return float(np.clip((score - place) / scale - math.log(count), -5, 15))


_RANKED = 2000  # places that are told apart; those of lower scores are no evidence that is missed


def suppress(boxes: NDArray[np.float64], scores: NDArray[np.float64]) -> list[int]:
    """Choose the boxes that are no worse copies of others (non-maximum suppression), best first.

    A box gives way to a better one if its centre lies in the middle half of that one, along both axes.

    Parameters
    ----------
    boxes : (n, 4, 2) array
        Corners, as `Hit.box`.
    scores : (n,) array

    Returns
    -------
    list of int
        Numbers of the boxes.

    Examples
    --------
    >>> box = np.array([[0, 0], [0, 20], [10, 20], [10, 0]])
    >>> suppress(np.stack([box, box + [2, 4], box + [6, 0]]), np.array([0.5, 0.6, 0.4]))
    [1, 2]
    """
    centres = boxes.mean(axis=1)
    down, right = boxes[:, 3] - boxes[:, 0], boxes[:, 1] - boxes[:, 0]
    kept: list[int] = []
    order = np.argsort(-scores, kind="stable")
    for one in order[np.isfinite(scores[order])][:_RANKED].tolist():
        offset = centres[one] - centres[kept]
        covered = np.ones(len(kept), bool)
        for side in (down[kept], right[kept]):
            covered &= np.abs((offset * side).sum(1)) < (side * side).sum(1) / 4
        if not covered.any():
            kept.append(one)
    return kept


_TIED = 1e-3  # difference of scores up to which two images can be copies: the same pixels score the same


def find_copies(
    repository: Repository, chosen: Sequence[int], registered: Sequence[int], evidence: Evidence
) -> dict[int, set[int]]:
    """Find the images of the same pixels as each hit's, such as one image in two files.

    Only images of the same score are compared, by their CoMIRs.

    Parameters
    ----------
    repository : Repository
    chosen : sequence of int
        Fields of the hits.
    registered : sequence of int
        All fields with a pose.
    evidence : Evidence
        Of all registered images.

    Returns
    -------
    dict
        Numbers of the images, the hit's own among them, by the number of the hit's image.
    """
    numbers = repository.fields["image"]
    fields: dict[int, list[int]] = {}
    for field in registered:
        fields.setdefault(int(numbers[field]), []).append(field)
    images, first = np.unique(evidence.images, return_index=True)
    scores = dict(zip(images.tolist(), evidence.scores[first].tolist(), strict=True))
    copies: dict[int, set[int]] = {}
    for field in chosen:
        image = int(numbers[field])
        mine = scores.get(image, math.inf)
        tied = [one for one, score in scores.items() if one != image and abs(score - mine) < _TIED]
        copies[image] = {image} | {
            one for one in tied if any(_same_comir(repository, field, other) for other in fields[one])
        }
    return copies


def _same_comir(repository: Repository, field: int, other: int) -> bool:
    sides = [repository.fields[["height", "width", "y", "x"]][one].item() for one in (field, other)]
    if sides[0] != sides[1]:
        return False
    level = max(0, min(2, int(np.log2(max(1, min(sides[0][:2]) / 64)))))
    return bool(np.array_equal(repository.comir(field, level), repository.comir(other, level)))


def name_copies(
    hits: Sequence[Hit], repository: Repository, copies: Mapping[int, Collection[int]]
) -> tuple[str, ...]:
    """Name the hits that are copies of the first, in a sentence for the user."""
    numbers = repository.fields["image"]
    same = copies.get(int(numbers[hits[0].field]), ()) if hits else ()
    images = {int(numbers[hit.field]): hit.rank for hit in reversed(hits) if int(numbers[hit.field]) in same}
    ranks = [str(rank) for rank in sorted(images.values())]
    return (
        (f"Hits {', '.join(ranks[:-1])} and {ranks[-1]} are copies of one image.",) if len(ranks) > 1 else ()
    )


_FILE = "calibration.json"
_KEY = "calibration"
_PRIOR = 1.0  # inverse variance of the coefficients' prior: keeps them finite if scores separate all hits


def _shipped(name: str) -> float:
    return fitted_values("confidence").values[name]


class Calibration(Settings):
    """Coefficients of the probability that a first hit is right.

    The default coefficients are shipped with the package; `fitted_values` states their data. Half of
    those queries had no right answer in the repository: the confidence assumes the same share.

    Examples
    --------
    >>> high, low = Calibration().probability([[0.6, 0.7, 8, 0.5], [0.15, 0.05, 0, 0.05]])
    >>> bool(high > 0.95), bool(low < 0.5)
    (True, True)
    """

    score: float = Field(
        default_factory=partial(_shipped, "score"), ge=0, description="Per unit of the registration score."
    )
    relative_margin: float = Field(
        default_factory=partial(_shipped, "relative_margin"),
        ge=0,
        description="Per unit of the score's distance to the best other image, as a share of it.",
    )
    gumbel_margin: float = Field(
        default_factory=partial(_shipped, "gumbel_margin"),
        ge=0,
        description="Per unit of the negative logarithm of the expected number of images with such a score.",
    )
    relative_peak: float = Field(
        default_factory=partial(_shipped, "relative_peak"),
        ge=0,
        description="Per unit of the score's distance to the field's next best pose, as a share of it.",
    )
    intercept: float = Field(
        default_factory=partial(_shipped, "intercept"), description="Log odds if all features are 0."
    )
    queries: int = Field(0, ge=0, description="Number of queries of the fit; 0 for the shipped calibration.")
    source: str = Field("shipped", description="Data of the fit.")

    def probability(self, features: Any) -> NDArray[np.float64]:
        """Compute the probability that the first hit is right; features are (..., 4) in `FEATURES` order."""
        weights = np.array([getattr(self, name) for name in FEATURES])
        odds = np.asarray(features, float) @ weights + self.intercept
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -30, 30))))


def fit_calibration(features: NDArray[np.float64], right: NDArray[np.bool_], source: str = "") -> Calibration:
    """Fit a calibration to first hits that are known to be right or wrong.

    Logistic regression by maximum likelihood with a Gaussian prior on the standardised coefficients. No
    coefficient falls below 0: evidence for a hit never counts against it.

    Parameters
    ----------
    features : (n, 4) array
        `Evidence.features` of the first hits.
    right : (n,) bool array
        True where the hit is right.
    source : str
        Stored with the coefficients.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        If all are right or all are wrong, or there are fewer than ten.
    """
    from scipy.optimize import minimize

    features, right = np.asarray(features, float), np.asarray(right, bool)
    if len(features) < 10 or right.all() or not right.any():
        raise InputError(
            f"{len(features)} first hits, {int(right.sum())} of them right, cannot calibrate a confidence;"
            " evaluate on more pairs, so that there are right and wrong ones."
        )
    mean, deviation = features.mean(0), features.std(0)
    spread = np.where(deviation > 1e-6, deviation, 1.0)
    standard = np.where(deviation > 1e-6, (features - mean) / spread, 0.0)
    sign = np.where(right, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, intercept = parameters[:-1], parameters[-1]
        margin = sign * (standard @ weights + intercept)
        pull = -sign / (1 + np.exp(np.clip(margin, -500, 500)))
        value = np.logaddexp(0, -margin).sum() + 0.5 * _PRIOR * (weights @ weights)
        return float(value), np.append(standard.T @ pull + _PRIOR * weights, pull.sum())

    bounds = [(0, None)] * len(FEATURES) + [(None, None)]
    best = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    weights = best[:-1] / spread
    weights[deviation <= 1e-6] = 0.0
    values = {name: float(weight) for name, weight in zip(FEATURES, weights, strict=True)}
    return Calibration(
        **values, intercept=float(best[-1] - weights @ mean), queries=len(features), source=source
    )


def store_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Store a calibration in a repository, or in a model file for repositories without their own.

    Parameters
    ----------
    path : path-like
        Folder of the repository, or ``.safetensors`` file of the model. Repositories built with the model
        later inherit its calibration.
    calibration : Calibration

    Raises
    ------
    InputError
        If the path is neither.
    """
    from napari_cmrir.files import atomic_write
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.model_file import find_model

    path, named = find_model(path), path
    content = dump_settings(calibration)
    if path.is_dir():
        with open_repository(path):
            atomic_write(path / _FILE, (json.dumps(content, indent=1) + "\n").encode())
        return
    if path != Path(named):
        raise InputError(
            f"The model '{named}' comes with the package, for every collection; keep the calibration with a"
            " repository instead."
        )
    model = load_model(path)
    model.provenance[_KEY] = content
    model.save(path)


def calibration_of(repository: Repository) -> Calibration:
    """Find the calibration of a repository: its own, its model's, or the shipped one.

    Raises
    ------
    InputError
        If a stored calibration cannot be read.
    """
    own = repository.path / _FILE
    try:
        if own.is_file():
            return load_settings(Calibration, json.loads(own.read_bytes()), str(own))
        return load_settings(
            Calibration, repository.model.provenance.get(_KEY) or {}, f"The model in {repository.path}"
        )
    except ValueError:  # not JSON, not a mapping, or values out of bounds
        raise InputError(
            f"The calibration stored in {repository.path} cannot be read; calibrate again with 'evaluate"
            " --calibrate', or delete it."
        ) from None
