"""Pairs by hand: the map that landmarks give, which landmark is wrong, and the pair cut with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import image_stem
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.readers import open_image
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.pairing.pair_files import FoundPair, name_pairs, write_pair
from napari_cmrir.registration.affine import Matrix, Motion, apply

if TYPE_CHECKING:
    from napari_cmrir.pairing.judgement import ComirImage, PoseEvidence
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.settings import ReadingSettings

__all__ = ["LandmarkFit", "LandmarkPair", "fit_landmarks", "pair_from_landmarks", "refine_landmarks"]

_FEWEST = {"similarity": 3, "affine": 3}
_FEWEST_JUDGED = {"similarity": 4, "affine": 6}  # of which one can be told to be wrong
_OUTLYING = 4.0
"""A landmark is an outlier where the map of the others misses it by this many times their own error. Of 1,000
random sets that scatter by 2 px within 500 px, a good landmark was marked in 2 % of four with a similarity,
in 3 % of six with an affine map and in under 1 % of larger sets; one 60 px off, in 89, 99 and 99 %."""

_LEAST_ERROR = 0.01  # of the landmarks' extent: what a click may be off, and the least own error assumed
_FLATTEST = 0.02  # ratio of the extents across and along; flatter landmarks lie on a line


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """The map that landmarks give.

    Parameters
    ----------
    matrix : (3, 3) array
        From pixels of the first image to pixels of the second; outliers do not count.
    residuals : (n,) array
        Distance in px of the second image between each landmark and where the map puts it.
    outliers : (n,) bool array
        Landmarks that the others contradict.
    """

    matrix: Matrix
    residuals: NDArray[np.float64]
    outliers: NDArray[np.bool_]

    @property
    def error(self) -> float:
        """Root mean square residual in px, without the outliers."""
        kept = self.residuals[~self.outliers]
        return float(np.sqrt(np.square(kept).mean()))


def fit_landmarks(
    first: ArrayLike, second: ArrayLike, motion: Motion = "similarity", *, find_outliers: bool = True
) -> LandmarkFit:
    """Fit a map to landmarks by least squares, without those that the others contradict.

    A similarity is found in closed form (Umeyama, IEEE TPAMI 13, 1991, doi:10.1109/34.88573), with or without
    mirroring, whichever fits better. Outliers are found one after the other: the landmark that the map of the
    others misses most, where it misses it by far more than it misses those.

    Parameters
    ----------
    first, second : array_like, (n, 2)
        (y, x) of three or more landmarks in pixels of each image, in the same order.
    motion : {"similarity", "affine"}
    find_outliers : bool
        From four landmarks on for a similarity, and six for an affine map.

    Returns
    -------
    LandmarkFit

    Raises
    ------
    InputError
        If there are fewer than three landmarks, unequally many, or all lie on a line.

    Examples
    --------
    >>> fit = fit_landmarks([[0, 0], [0, 10], [10, 0]], [[5, 0], [5, 20], [25, 0]])
    >>> fit.matrix[:, 2].round(6).tolist(), round(fit.error, 6)
    ([5.0, 0.0, 1.0], 0.0)
    """
    here, there = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if here.shape != there.shape or here.ndim != 2 or here.shape[1] != 2:
        raise InputError(
            f"{len(here)} landmarks in the first image and {len(there)} in the second; give as many in both."
        )
    if len(here) < _FEWEST[motion]:
        raise InputError(f"{len(here)} landmarks are too few; give {_FEWEST[motion]} or more.")
    if not (np.isfinite(here).all() and np.isfinite(there).all()):
        raise InputError("The positions of the landmarks have to be finite numbers.")
    for points, which in ((here, "first"), (there, "second")):
        lengths = np.linalg.svd(points - points.mean(0), compute_uv=False)
        if lengths[1] <= _FLATTEST * lengths[0]:
            raise InputError(f"The landmarks in the {which} image lie on a line; spread them over the image.")
    outliers = np.zeros(len(here), bool)
    while find_outliers and (~outliers).sum() >= _FEWEST_JUDGED[motion]:
        worst = _worst(here, there, np.flatnonzero(~outliers), motion)
        if worst is None:
            break
        outliers[worst] = True
    matrix = _fit(here[~outliers], there[~outliers], motion)
    residuals = np.linalg.norm(apply(matrix, here) - there, axis=1)
    return LandmarkFit(matrix, residuals, outliers)


def _worst(
    first: NDArray[np.float64], second: NDArray[np.float64], kept: NDArray[np.intp], motion: Motion
) -> int | None:
    """The landmark that the map of the others misses most, if it is an outlier."""
    ratios = []
    extent = float(np.linalg.norm(np.ptp(second[kept], axis=0)))
    for number in kept:
        others = kept[kept != number]
        lengths = np.linalg.svd(first[others] - first[others].mean(0), compute_uv=False)
        if lengths[1] <= _FLATTEST * lengths[0]:
            ratios.append(0.0)
            continue
        matrix = _fit(first[others], second[others], motion)
        missed = float(np.linalg.norm(apply(matrix, first[[number]]) - second[[number]]))
        own = np.linalg.norm(apply(matrix, first[others]) - second[others], axis=1)
        freedom = max(1, 2 * len(others) - (4 if motion == "similarity" else 6))
        error = float(np.sqrt(2 * np.square(own).sum() / freedom))
        ratios.append(missed / max(error, _LEAST_ERROR * extent))
    worst = int(np.argmax(ratios))
    return int(kept[worst]) if ratios[worst] > _OUTLYING else None


def _fit(first: NDArray[np.float64], second: NDArray[np.float64], motion: Motion) -> Matrix:
    matrix = np.eye(3)
    if motion == "affine":
        design = np.column_stack((first, np.ones(len(first))))
        solved, *_ = np.linalg.lstsq(design, second, rcond=None)
        matrix[:2] = solved.T
        return matrix
    fits = [_similarity(first, second, mirrored) for mirrored in (False, True)]
    errors = [float(np.square(apply(fit, first) - second).sum()) for fit in fits]
    return fits[1] if errors[1] < 0.5 * errors[0] else fits[0]


def _similarity(first: NDArray[np.float64], second: NDArray[np.float64], mirrored: bool) -> Matrix:
    """Umeyama's least squares, of one handedness."""
    from_centre, to_centre = first - first.mean(0), second - second.mean(0)
    left, lengths, right = np.linalg.svd(to_centre.T @ from_centre)
    handed = -1.0 if mirrored else 1.0
    sign = np.array([1.0, handed * np.sign(np.linalg.det(left @ right))])
    scale = float((lengths * sign).sum() / np.square(from_centre).sum())
    matrix = np.eye(3)
    matrix[:2, :2] = scale * (left * sign) @ right
    matrix[:2, 2] = second.mean(0) - matrix[:2, :2] @ first.mean(0)
    return matrix


@dataclass(frozen=True, eq=False)
class LandmarkPair:
    """A pair made from landmarks.

    Parameters
    ----------
    files : two Path
        The cut images.
    fit : LandmarkFit
        Of the landmarks, before any refinement.
    found : FoundPair
        The row of the table; its matrix is refined where a model was given.
    """

    files: tuple[Path, Path]
    fit: LandmarkFit
    found: FoundPair


def pair_from_landmarks(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    landmarks: tuple[ArrayLike, ArrayLike],
    modalities: tuple[str, str],
    out: str | os.PathLike[str],
    *,
    motion: Motion = "similarity",
    model: Representation | None = None,
    reading: ReadingSettings | None = None,
    device: str = "auto",
    identifier: str | None = None,
) -> Job[LandmarkPair]:
    """Cut an aligned pair from two images and landmarks on them.

    Parameters
    ----------
    first, second : path-like
        The images.
    landmarks : two array_like, (n, 2)
        (y, x) of three or more landmarks in pixels of each, in the same order.
    modalities : (str, str)
    out : path-like
        Folder for ``<identifier>_<MODALITY>.tif``.
    motion : {"similarity", "affine"}
    model : Representation, optional
        Refine the map by correlation of its CoMIRs.
    reading : ReadingSettings, optional
        How both images are read.
    device : str
        Where CoMIRs are computed.
    identifier : str, optional
        By default the name of the first image.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    LandmarkPair

    Raises
    ------
    InputError
        As `fit_landmarks`; or if an image cannot be read, or they do not overlap.
    """
    fit = fit_landmarks(*landmarks, motion)
    used = int((~fit.outliers).sum())
    reason = f"{used} landmarks, error {fit.error:.1f} px"
    if fit.outliers.any():
        numbers = ", ".join(str(number + 1) for number in np.flatnonzero(fit.outliers))
        reason += f"; without landmark {numbers}, which the others contradict"
    matrix = fit.matrix
    if model is not None:
        job = refine_landmarks((first, second), fit.matrix, modalities, model, motion, reading, device)
        refined = yield from portion(job, 0, 90)
        if refined is None:
            reason += "; not refined, as the correlation does not confirm them"
        else:
            matrix = refined.matrix
            reason += f"; refined by correlation, {refined.agreeing} of {refined.parts} parts agree"
    found = FoundPair(Path(first), Path(second), True, 1.0, matrix, reason)
    name = identifier or name_pairs([found], modalities)[0]
    yield Progress(90, 100, "%", f"Cutting {name}")
    files = write_pair(Path(out), name, (found.first, found.second), matrix, modalities, reading)
    yield Progress(100, 100, "%", f"{image_stem(first)} and {image_stem(second)} are a pair")
    return LandmarkPair(files, fit, found)


def refine_landmarks(
    paths: Sequence[str | os.PathLike[str]],
    matrix: Matrix,
    modalities: tuple[str, str],
    model: Representation,
    motion: Motion = "similarity",
    reading: ReadingSettings | None = None,
    device: str = "auto",
) -> Job[PoseEvidence | None]:
    """Refine the map of landmarks by correlation of the images' CoMIRs.

    Parameters
    ----------
    paths : two path-like
        The images.
    matrix : (3, 3) array
        From pixels of the first to pixels of the second.
    modalities : (str, str)
    model : Representation
    motion : {"similarity", "affine"}
    reading : ReadingSettings, optional
    device : str

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    PoseEvidence or None
        ``None`` where the parts of the common area do not confirm what the correlation finds.
    """
    from napari_cmrir.pairing.judgement import confidence, refine_pose

    comirs = []
    for number, (path, modality) in enumerate(zip(paths, modalities, strict=True)):
        job = _represented(path, modality, model, reading, device)
        comirs.append((yield from portion(job, 50 * number, 50 * number + 50)))
    evidence = refine_pose(
        comirs[0], comirs[1], matrix, model.comparison.high_pass_px, affine=motion == "affine"
    )
    return evidence if confidence(evidence) > 0.5 else None


def _represented(
    path: str | os.PathLike[str],
    modality: str,
    model: Representation,
    reading: ReadingSettings | None,
    device: str,
) -> Job[ComirImage]:
    """The CoMIR of an image, at the model's pixel size."""
    from napari_cmrir.pairing.judgement import ComirImage
    from napari_cmrir.representations.base import represent

    with closing(open_image(path, reading, pixel_size=model.pixel_size)) as image:
        pixels: NDArray[Any] = plain_type(np.ascontiguousarray(image[:, :]))
        step = image.downsample
    comir = yield from represent(model, pixels, modality, device=device)
    return ComirImage(comir, step)
