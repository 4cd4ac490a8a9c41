"""Training pairs: checks before training, and the split into training and validation."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import ArrayPair, Pair, pair_identifier
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.model_input import PixelSizes, at_one_range, read_at, survey_sizes
from napari_cmrir.representations.training_settings import TrainingSettings

__all__ = ["PairProblem", "Split", "check_pairs", "estimate_shift", "read_pairs", "split_pairs"]


_SATURATED_SHARE = 0.25  # share of pixels at the highest value above which a warning helps; not measured
_ENOUGH_PIXELS = 2**20  # pixels of all pairs below which a warning says that they are few; not measured
# `estimate_shift`: longest side in px of the images correlated, for speed; smallest shift reported, in these
# pixels; and smallest height of the peak in robust standard deviations. The last two trade missed shifts for
# false warnings; not measured beyond the seeds of tests/representations/test_pair_checks.py.
_COMPARED_SIDE = 512
_SMALLEST_SHIFT = 4
_CLEAR_PEAK = 8.0


@dataclass(frozen=True)
class PairProblem:
    """A problem of a pair, or of all pairs.

    Parameters
    ----------
    number : int
        Index of the pair; -1 for a problem of no pair or of all pairs.
    identifier : str
        Name of the pair; empty for a problem of all pairs.
    paths : tuple of Path
        Files concerned; empty for arrays.
    sentence : str
        What is wrong and what to do, with the names of the files.
    severity : {"fatal", "useless", "doubtful"}
        Training refuses to start, leaves the pair out, or continues.
    """

    number: int
    identifier: str
    paths: tuple[Path, ...]
    sentence: str
    severity: Literal["fatal", "useless", "doubtful"]


def check_pairs(pairs: Sequence[Pair | ArrayPair], *, alone: Sequence[Path] = ()) -> Job[list[PairProblem]]:
    """Find problems of pairs that would spoil a training.

    The checks find unreadable files, unequal sizes, duplicated images, constant and saturated images, pairs
    that are visibly shifted against each other, too few pixels, and images without a partner.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
        Arrays are ``(y, x)`` or ``(y, x, channel)``.
    alone : sequence of Path
        Images without a partner, as `unpaired_images` lists them.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    list of PairProblem
        In the order of the pairs.

    Examples
    --------
    >>> from napari_cmrir.jobs import run
    >>> noise = np.random.default_rng(0).random((1100, 1000))
    >>> [problem.sentence for problem in run(check_pairs([(noise, np.zeros((1100, 1000)))]))]
    ['The second image of pair 1 is constant (0 everywhere); the pair is left out.']
    """
    return (yield from read_pairs(pairs, alone=alone)).problems


class ReadPairs(NamedTuple):
    """Pairs that were read and checked.

    Parameters
    ----------
    images : list of (first, second)
        ``(y, x, channel)`` arrays; empty arrays for a pair that cannot be read.
    problems : list of PairProblem
    pixel_size : float or None
        Side of their pixels in micrometres, if it is known.
    ranges : list of two (float or None)
        The highest value that the images of either modality can hold, if it is known.
    """

    images: list[ArrayPair]
    problems: list[PairProblem]
    pixel_size: float | None
    ranges: list[float | None]


def read_pairs(pairs: Sequence[Pair | ArrayPair], *, alone: Sequence[Path] = ()) -> Job[ReadPairs]:
    """Read the pairs at one pixel size and each modality at one range, and check them as `check_pairs` does.

    Parameters
    ----------
    pairs, alone
        See `check_pairs`.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    ReadPairs
    """
    images: list[ArrayPair] = []
    problems: list[PairProblem] = []
    holders: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def note(number: int, severity: Literal["fatal", "useless", "doubtful"], sentence: str) -> None:
        pair = pairs[number]
        problems.append(PairProblem(number, pair_identifier(pair, number), _paths(pair), sentence, severity))

    yield Progress(0, len(pairs), "pairs", "Reading the pixel sizes of the pairs")
    sizes = survey_sizes(pairs)
    for number, sentence in sizes.doubts:
        note(number, "doubtful", sentence)
    for number, pair in enumerate(pairs):
        yield Progress(number, len(pairs), "pairs", "Reading and checking the pairs")
        try:
            read, doubt = _read(pair, sizes, number)
        except InputError as error:
            images.append((np.empty((0, 0, 1)), np.empty((0, 0, 1))))
            note(number, "fatal", str(error))
            continue
        images.append(read)
        yield Progress(number + 0.5, len(pairs), "pairs", "Reading and checking the pairs")
        for side in (0, 1):
            holders[_digest(read[side])].append((number, side))
        if doubt:
            note(number, "doubtful", doubt)
        for severity, sentence in _check_pair(read, [_name(pair, number, side) for side in (0, 1)]):
            note(number, severity, sentence)
    problems += _duplicates(pairs, list(holders.values()))
    problems += _too_few_pixels(images)
    names = [[_name(pair, number, side) for side in (0, 1)] for number, pair in enumerate(pairs)]
    left_out = {problem.number for problem in problems if problem.severity != "doubtful"}
    images, ranges, doubts = at_one_range(images, names, left_out)
    for number, sentence in doubts:
        note(number, "doubtful", sentence)
    for path in alone:
        sentence = f"{path} has no partner; it is left out."
        problems.append(PairProblem(-1, "", (path,), sentence, "doubtful"))
    return ReadPairs(images, problems, sizes.common, ranges)


def _read(pair: Pair | ArrayPair, sizes: PixelSizes, number: int) -> tuple[ArrayPair, str]:
    """Read a pair as (y, x, channel) arrays, with what is doubtful; refuse images of unequal size."""
    doubt = ""
    if isinstance(pair, Pair):
        files = pair.paths
        (first, second), doubt = read_at(pair, sizes.of_pair[number], sizes.common)
    else:
        files = None
        first, second = map(np.atleast_3d, pair)
    if first.shape[:2] != second.shape[:2]:
        (a, b), (c, d) = first.shape[:2], second.shape[:2]
        is_turned = (a, b) == (d, c)
        advice = (
            "one of them is turned by a quarter"
            if is_turned
            else "training needs pairs aligned pixel by pixel"
        )
        raise InputError(
            f"{files[0]} has {a} x {b} px but its partner {files[1]} has {c} x {d} px; {advice}."
            if files
            else f"The two images are not of equal size ({a} x {b} and {c} x {d} pixels); training needs"
            " pairs aligned pixel by pixel."
        )
    return (first, second), doubt


def _check_pair(
    images: ArrayPair, names: Sequence[str]
) -> list[tuple[Literal["fatal", "useless", "doubtful"], str]]:
    """Find the problems of one pair of images; give severity and sentence of each."""
    for image, name in zip(images, names, strict=True):
        finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
        if finite.size == 0 or finite.min() == finite.max():
            value = f"{finite.flat[0]:g} everywhere" if finite.size else "nothing but not-a-number"
            return [("useless", f"{name} is constant ({value}); the pair is left out.")]
    found: list[tuple[Literal["fatal", "useless", "doubtful"], str]] = []
    for image, name in zip(images, names, strict=True):
        share = _saturated_share(image)
        if share > _SATURATED_SHARE:
            found.append(
                ("doubtful", f"{name} is saturated: {share:.0%} of it has its highest value; expose it less.")
            )
    shift = estimate_shift(*images)
    if shift is not None:
        directions = (("down", "up"), ("right", "left"))
        moves = [f"{abs(v):.0f} px {words[v < 0]}" for v, words in zip(shift, directions, strict=True) if v]
        sentence = f"{names[1]} looks shifted against {names[0]} by {' and '.join(moves)}; align the pair."
        found.append(("doubtful", sentence))
    return found


def _saturated_share(image: NDArray[Any]) -> float:
    """Give the share of pixels at the image's highest value; 0 for colour images, whose glass is white."""
    if image.shape[2] > 1:
        return 0.0
    return float((image == np.nanmax(image)).mean())


def estimate_shift(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float] | None:
    """Estimate the shift of two images of one tissue against each other.

    The method is half-whitened phase correlation (Kuglin & Hines, "The phase correlation image alignment
    method", 1975) of the square root of the gradients' magnitude, at no more than 512 px a side. Borders of
    tissue lie at the same place in most modalities, independent of grey values. A shift is reported only if
    its peak exceeds the peaks of all other shifts and of shifts near zero.

    Parameters
    ----------
    first, second : (y, x) or (y, x, channel) array
        Equal height and width.

    Returns
    -------
    (float, float) or None
        Shift (down, right) of the second image against the first, in px, at most a quarter of the smaller
        side; ``None`` if the images are aligned or no peak is clear.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((20, 24)).repeat(10, 0).repeat(10, 1)
    >>> estimate_shift(image[20:, 10:], 1 - image[:-20, :-10])
    (20.0, 10.0)
    >>> estimate_shift(image, 1 - image) is None
    True
    """
    import scipy.fft

    step = max(1, -(-max(first.shape) // _COMPARED_SIDE))
    outlines = [_outlines(np.atleast_3d(image), step) for image in (first, second)]
    spectra = [scipy.fft.rfft2(outline) for outline in outlines]
    product = spectra[0].conj() * spectra[1]
    magnitude = np.abs(product)
    # Half-whitening: full whitening would raise noise at weak frequencies to the height of the signal.
    product /= np.sqrt(np.maximum(magnitude, 1e-3 * magnitude.max() + 1e-12))
    shape = outlines[0].shape
    correlation = np.fft.fftshift(scipy.fft.irfft2(product, s=shape))
    middle, reach = [side // 2 for side in shape], min(shape) // 4
    if reach <= _SMALLEST_SHIFT:
        return None
    window = correlation[tuple(slice(m - reach, m + reach + 1) for m in middle)]
    median = np.median(window)
    deviation = (
        1.4826 * np.median(np.abs(window - median)) + 1e-12
    )  # of a Gaussian, from the median deviation
    y, x = (int(i) - reach for i in np.unravel_index(window.argmax(), window.shape))
    near = slice(reach - _SMALLEST_SHIFT + 1, reach + _SMALLEST_SHIFT)
    peak, unshifted = (window.max() - median) / deviation, (window[near, near].max() - median) / deviation
    if peak < _CLEAR_PEAK or unshifted > 0.6 * peak:  # 0.6: not measured
        return None
    return float(y * step), float(x * step)


def _outlines(image: NDArray[Any], step: int) -> NDArray[np.float32]:
    """Draw where grey values change, for phase correlation, without local mean and faded at the borders."""
    from scipy import ndimage

    grey = np.nan_to_num(image.astype(np.float32).mean(2))
    height, width = (side // step for side in grey.shape)
    grey = grey[: height * step, : width * step].reshape(height, step, width, step).mean((1, 3))
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)
    change = np.sqrt(ndimage.gaussian_gradient_magnitude(grey, 1.5))
    change -= ndimage.gaussian_filter(change, 12)
    outlines: NDArray[np.float32] = (change - change.mean()) * np.outer(np.hanning(height), np.hanning(width))
    return outlines


def _duplicates(
    pairs: Sequence[Pair | ArrayPair], holders: Sequence[Sequence[tuple[int, int]]]
) -> list[PairProblem]:
    """Report images that occur more than once; ``holders`` lists the (pair, side) of each image."""
    problems = []
    for places in holders:
        if len(places) < 2:
            continue
        names = [_name(pairs[number], number, side) for number, side in places]
        paths = tuple(_paths(pairs[number])[side] for number, side in places if _paths(pairs[number]))
        numbers = [number for number, _ in places]
        same_pair = len(set(numbers)) < len(numbers)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        problems.append(
            PairProblem(
                numbers[0],
                pair_identifier(pairs[numbers[0]], numbers[0]),
                paths,
                f"{shown} hold the same image; "
                + ("a pair needs two modalities." if same_pair else "give every tissue once."),
                "fatal" if same_pair else "doubtful",
            )
        )
    return problems


def _too_few_pixels(images: Sequence[ArrayPair]) -> list[PairProblem]:
    """Warn if all pairs together are small."""
    pixels = sum(first.shape[0] * first.shape[1] for first, _ in images)
    if not images or pixels >= _ENOUGH_PIXELS:
        return []
    what = "1 pair" if len(images) == 1 else f"{len(images)} pairs"
    sentence = (
        f"{what} of {pixels / 1e6:.2f} megapixels in all are little to learn from; give ten pairs or more."
    )
    return [PairProblem(-1, "", (), sentence, "doubtful")]


def _digest(image: NDArray[Any]) -> str:
    head = str((image.shape, image.dtype)).encode()
    return hashlib.sha256(head + np.ascontiguousarray(image).tobytes()).hexdigest()


def _paths(pair: Pair | ArrayPair) -> tuple[Path, ...]:
    return pair.paths if isinstance(pair, Pair) else ()


def _name(pair: Pair | ArrayPair, number: int, side: int) -> str:
    if isinstance(pair, Pair):
        return str(pair.paths[side])
    return f"The {('first', 'second')[side]} image of pair {number + 1}"


# With fewer images each gives a strip: a whole image would take too much from training. Not measured.
_FEWEST_IMAGES = 4
_FEWEST_FIELDS = 4  # with fewer validation fields, retrieval says little; not measured
_SMALLEST_FIELD = 96  # px; the smallest side of `validation.RetrievalTest`
_TOO_SMALL = "The images are too few and too small to validate on; the last model is kept."


@dataclass(frozen=True)
class Split:
    """Image pairs for training and for validation.

    Parameters
    ----------
    training, validation : list of (first, second)
        ``(y, x, channel)`` arrays.
    held_out : tuple of int
        Indexes of the pairs that are held out whole.
    manner : str
        One sentence for the user on what is validated on.
    """

    training: list[ArrayPair]
    validation: list[ArrayPair]
    held_out: tuple[int, ...]
    manner: str


def split_pairs(images: Sequence[ArrayPair], settings: TrainingSettings) -> Split:
    """Hold out images for validation: whole images of four or more, else a strip of each.

    Parameters
    ----------
    images : sequence of (first, second)
        ``(y, x, channel)`` arrays, aligned.
    settings : TrainingSettings
        ``validation_share``, ``patch_size`` and ``seed`` are used.

    Returns
    -------
    Split
        Without validation if the images are too few and too small, or the share is 0.

    Examples
    --------
    >>> images = [(np.zeros((300, 200, 1)), np.zeros((300, 200, 3)))] * 8
    >>> split = split_pairs(images, TrainingSettings(validation_share=0.25))
    >>> len(split.training), len(split.validation), split.manner
    (6, 2, 'Two of 8 pairs are kept for validation.')
    >>> split = split_pairs([(np.zeros((900, 400, 1)), np.zeros((900, 400, 3)))], TrainingSettings())
    >>> split.training[0][0].shape, split.validation[0][1].shape
    ((765, 400, 1), (135, 400, 3))
    """
    share = settings.validation_share
    if share == 0:
        return Split(list(images), [], (), "Nothing is validated; the last model is kept.")
    whole = len(images) >= _FEWEST_IMAGES
    split = _by_image(images, share, settings.seed) if whole else _by_strip(images, settings)
    if sum(_fields(pair) for pair in split.validation) < _FEWEST_FIELDS:
        return Split(list(images), [], (), _TOO_SMALL)
    return split


def _fields(pair: ArrayPair) -> int:
    height, width = pair[0].shape[:2]
    return int((height // _SMALLEST_FIELD) * (width // _SMALLEST_FIELD))


def _by_image(images: Sequence[ArrayPair], share: float, seed: int) -> Split:
    count = max(1, round(share * len(images)))
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    held_out = tuple(sorted(chosen.tolist()))
    spelled = {1: "One", 2: "Two", 3: "Three"}.get(count, str(count))
    return Split(
        [pair for i, pair in enumerate(images) if i not in held_out],
        [images[i] for i in held_out],
        held_out,
        f"{spelled} of {len(images)} pairs {'is' if count == 1 else 'are'} kept for validation.",
    )


def _by_strip(images: Sequence[ArrayPair], settings: TrainingSettings) -> Split:
    parts = [_strip(pair, settings.validation_share, settings.patch_size) for pair in images]
    validation = [strip for _, strip in parts if strip is not None]
    return Split([kept for kept, _ in parts], validation, (), "A strip of each image is kept for validation.")


def _strip(pair: ArrayPair, share: float, patch_size: int) -> tuple[ArrayPair, ArrayPair | None]:
    """Cut a pair in two across its longer side; the second part is None if a part would be too small."""
    shape = pair[0].shape[:2]
    axis = int(shape[1] > shape[0])
    width = max(_SMALLEST_FIELD, round(share * shape[axis]))
    at = shape[axis] - width
    if at < max(patch_size, width) or min(shape) < _SMALLEST_FIELD:
        return pair, None
    (kept, strip), (other_kept, other_strip) = (np.split(image, [at], axis) for image in pair)
    return (kept, other_kept), (strip, other_strip)
