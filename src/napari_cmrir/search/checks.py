"""Checks of a query: refuse one that cannot be found, and warn of a doubtful one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.series import SAME_SIZE, require_plausible
from napari_cmrir.settings import fitted_values

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation

__all__ = [
    "check_content",
    "check_region",
    "check_size",
    "likeness_warnings",
    "pixel_step",
    "pixels_per_searched",
    "region_warnings",
    "searched_pixel_size",
    "shows_nothing",
    "size_warnings",
    "swap_warnings",
]

SMALLEST_SIDE = 32
"""Side of a region, px, below which it is refused."""

SURE_SIDE = 64
"""Side of a square, px. A region of a smaller area causes a warning: its hits are often wrong."""

NO_CONTRAST = fitted_values("contrast").values["least_deviation"]
"""Standard deviation of the scaled intensities, 4 x 4 px averaged, below which a region shows nothing."""

UNLIKE = fitted_values("likeness").values["largest_difference"]
"""Mean difference of the quantiles of two CoMIRs, of 255, above which a warning says that they are unlike."""

_LEAST_INSIDE = 0.5  # share of a region that must lie inside the image: most of it, not a corner
_BLOCK = 4  # px a side that are averaged before contrast is measured, to suppress noise
_SHARES = np.linspace(0.02, 0.98, 25)  # quantiles of two CoMIRs that are compared, without outliers
_COMPARED = 32  # fields that stand for a repository: more cost time at the first query
_KNOWN_QUANTILES: WeakKeyDictionary[Repository, NDArray[np.float64]] = WeakKeyDictionary()


def searched_pixel_size(repository: Repository) -> float | None:
    """Return the pixel size that queries are resampled to.

    Parameters
    ----------
    repository : Repository

    Returns
    -------
    float or None
        Micrometres: the model's; if it has none, that of some searched images, if they agree.
    """
    if repository.model.pixel_size is not None:
        return repository.model.pixel_size
    return repository.common_pixel_size


def pixel_step(
    repository: Repository, pixel_size: float | None, name: str = "The region's image"
) -> tuple[float, list[str]]:
    """Say how many pixels of a query's image make one of the images searched.

    Parameters
    ----------
    repository : Repository
    pixel_size : float or None
        Side of the pixels of the query's image, in micrometres, if it is known.
    name : str
        The image's, for messages.

    Returns
    -------
    step : float
        1 if either size is unknown, or both are equal.
    warnings : list of str
        A sentence if exactly one of them is unknown.

    Raises
    ------
    InputError
        If the pixel size is not above 0, or so far from that of the images searched that it must be wrong.
    """
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"A pixel size of {pixel_size:g} µm is not possible; give one above 0.")
    searched = searched_pixel_size(repository)
    if searched is not None and pixel_size is not None:
        require_plausible(name, pixel_size, searched)
    if searched is None and pixel_size is None:
        return 1.0, []
    if pixel_size is None:
        return 1.0, [
            "The pixel size of the region's image is unknown and assumed to be that of the searched images,"
            f" {searched:.3g} µm; enter it if it differs."
        ]
    if searched is None and (sizes := repository.pixel_sizes):
        return 1.0, [
            f"The images searched have pixels of {sizes[0]:.3g} to {sizes[-1]:.3g} µm, and the model states"
            f" no size to bring them to; images of other pixels than {pixel_size:.3g} µm are hardly found."
        ]
    if searched is None:
        return 1.0, [
            "The pixel size of the searched images is unknown and assumed to be that of the region's image,"
            f" {pixel_size:.3g} µm; hits are wrong if it differs."
        ]
    return pixels_per_searched(searched, pixel_size), []


def pixels_per_searched(searched: float | None, pixel_size: float | None) -> float:
    """Divide the searched pixel size by that of a query's image; 1 if one is unknown or they agree."""
    if searched is None or pixel_size is None:
        return 1.0
    step = searched / pixel_size
    return 1.0 if abs(step - 1) <= SAME_SIZE else step


def check_region(
    region: Region | None, shape: tuple[int, ...], mask: NDArray[np.bool_] | None, step: float = 1.0
) -> Region:
    """Check a region, and return it or the whole image.

    Parameters
    ----------
    region : Region or None
        The whole image if ``None``.
    shape : tuple of int
        (y, x) or (y, x, channel) of the image.
    mask : (y, x) bool array or None
    step : float
        Pixels of the image for one pixel of the searched images.

    Returns
    -------
    Region

    Raises
    ------
    InputError
        If the image has other axes, the mask another size, or the region is too small or lies outside.
    """
    if len(shape) not in (2, 3):
        raise InputError(
            f"The image has {len(shape)} dimensions; give one plane of (y, x) or (y, x, channel)."
        )
    height, width = shape[:2]
    if mask is not None and mask.shape != (height, width):
        raise InputError(
            f"The mask is of {' x '.join(map(str, mask.shape))} pixels but the image of {height} x {width};"
            " give a mask of the image's size."
        )
    region = region or Region.whole((height, width))
    least = SMALLEST_SIDE * step
    if min(region.height, region.width) < least:
        raise InputError(
            f"The region is {region.height:.0f} x {region.width:.0f} pixels, too small to be found;"
            f" draw one of at least {least:.0f} x {least:.0f}."
        )
    corners = region.corners()
    lowest, highest = corners.min(0), corners.max(0)
    if (highest < 0).any() or lowest[0] > height - 1 or lowest[1] > width - 1:
        raise InputError(
            f"The region lies outside the image of {height} x {width} pixels; draw it inside the image."
        )
    return region


def check_size(repository: Repository, region: Region, min_overlap: float) -> None:
    """Refuse a region that is too large for every field.

    Raises
    ------
    InputError
        If even the largest field covers less than the smallest overlap.
    """
    height, width = _largest(repository)
    area = region.height * region.width
    rows, columns = (
        min(side, limit)
        for side, limit in zip(sorted((region.height, region.width)), sorted((height, width)), strict=True)
    )
    if rows * columns < min_overlap * area:
        raise InputError(
            f"The region of {region.height:.0f} x {region.width:.0f} pixels is larger than all searched"
            f" fields (up to {height} x {width}); draw a smaller one, or index with a larger field size."
        )


def check_content(patch: NDArray[Any], counts: NDArray[np.bool_], *, outlined: bool) -> None:
    """Refuse a region that lies mostly outside the image or is of one constant value.

    Parameters
    ----------
    patch : (y, x, channel) array
        The region's pixels.
    counts : (y, x) bool array
        Pixels that count.
    outlined : bool
        Whether a mask was given, which may exclude any share of the region.

    Raises
    ------
    InputError
        If it does, with the reason.
    """
    if not outlined and counts.mean() < _LEAST_INSIDE:
        raise InputError(
            f"Only {counts.mean():.0%} of the region lie inside the image; draw it inside the image."
        )
    if not counts.any():
        raise InputError(
            "No pixel of the region lies in both the outline and the image; draw it over tissue."
        )
    if np.ptp(patch[counts].astype(np.float64), axis=0).max() == 0:
        raise InputError("The region has one constant value; draw it over tissue.")
    if counts.sum() < SMALLEST_SIDE**2 / 2:
        raise InputError(
            f"Only {counts.sum()} pixels of the region count, too few to be found; draw a larger outline, of"
            f" at least {SMALLEST_SIDE**2 // 2} pixels."
        )


def shows_nothing(
    model: Representation, modality: str, patch: NDArray[Any], counts: NDArray[np.bool_]
) -> bool:
    """Return whether a region has so little contrast that it shows only glass, background or noise.

    Parameters
    ----------
    model : Representation
        Its intensity scaling defines the unit of contrast.
    modality : str
    patch : (y, x, channel) array
        The region's pixels.
    counts : (y, x) bool array
        True for pixels that count.
    """
    scaled = model.intensities[modality].apply(patch)
    height, width = (side // _BLOCK * _BLOCK for side in counts.shape)
    shape = (height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    whole = counts[:height, :width].reshape(shape).all((1, 3))
    if not whole.any():
        return False
    means = scaled[:, :height, :width].reshape(-1, *shape).mean((2, 4))
    return bool(means[:, whole].std(1).max() < NO_CONTRAST)


def size_warnings(repository: Repository, region: Region, counts: NDArray[np.bool_]) -> list[str]:
    """Warn of a region that is small, or larger than all searched fields."""
    warnings = []
    if counts.sum() < SURE_SIDE**2:
        warnings.append(
            f"The region is small ({region.height:.0f} x {region.width:.0f} pixels, {counts.sum()} of them"
            f" count): hits of less than {SURE_SIDE} x {SURE_SIDE} pixels are often wrong; draw a larger one."
        )
    height, width = _largest(repository)
    if region.height * region.width > height * width:
        warnings.append(
            f"The region of {region.height:.0f} x {region.width:.0f} pixels is larger than all searched"
            f" fields (up to {height} x {width}): only a part of it can be found; check that the pixel"
            " sizes match."
        )
    return warnings


def swap_warnings(
    model: Representation, modality: str, patch: NDArray[Any], counts: NDArray[np.bool_]
) -> list[str]:
    """Warn of an image that looks like the model's other modality.

    Parameters
    ----------
    model : Representation
        Holds the channels and the intensities of both modalities.
    modality : str
        Modality of the image, as the user states.
    patch : (y, x, channel) array
        The region's pixels.
    counts : (y, x) bool array
        True for pixels that count.

    Returns
    -------
    list of str
        None or one sentence.
    """
    if model.takes_any_modality:
        return []
    other = next(name for name in model.modalities if name != modality)
    channels = patch.shape[2]
    expected, others = (model.intensities[name].channels for name in (modality, other))
    advice = f"check that it is {modality} and not {other}."
    if channels != expected and channels == others:
        return [
            f"The image has {channels} channel{'s' if channels > 1 else ''}, but {modality} images have"
            f" {expected} and {other} images {others}; {advice}"
        ]
    if _misfit(model, modality, patch[counts]) > 0.5 > 2 * _misfit(model, other, patch[counts]):
        return [f"The image's intensities do not fit {modality} images, but fit {other} images; {advice}"]
    return []


def likeness_warnings(repository: Repository, comir: NDArray[np.uint8], modality: str) -> list[str]:
    """Warn of a query whose CoMIR has other values than all searched images, as for a swapped modality.

    Parameters
    ----------
    repository : Repository
        The query is compared with a few of its fields, evenly spaced.
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    modality : str
        Modality of the query, as the user states.

    Returns
    -------
    list of str
        None or one sentence.
    """
    quantiles = np.quantile(comir, _SHARES)
    nearest = np.abs(_field_quantiles(repository) - quantiles).mean(1).min()
    if nearest <= UNLIKE:
        return []
    return [
        f"The region's CoMIR is unlike those of all searched images; check that the image is {modality}, and"
        " similar to the images that the model was trained on."
    ]


def _field_quantiles(repository: Repository) -> NDArray[np.float64]:
    """Quantiles of the CoMIRs of some fields, (fields, shares), computed once for each repository."""
    if repository not in _KNOWN_QUANTILES:
        chosen = np.unique(np.linspace(0, len(repository) - 1, _COMPARED).astype(int))
        side = np.minimum(repository.fields["height"], repository.fields["width"])
        rows = []
        for field in chosen.tolist():
            level = max(0, min(2, int(np.log2(max(1, side[field] / 64)))))
            rows.append(np.quantile(repository.comir(field, level), _SHARES))
        _KNOWN_QUANTILES[repository] = np.array(rows)
    return _KNOWN_QUANTILES[repository]


def _misfit(model: Representation, modality: str, values: NDArray[Any]) -> float:
    """Share of the pixels (n, channel) outside a modality's intensities; 1 if all are at the lower end."""
    intensity = model.intensities[modality]
    if values.shape[1] != intensity.channels:
        return 1.0
    low, high = np.array(intensity.low), np.array(intensity.high)
    scaled = (values.astype(np.float64) - low) / (high - low)
    if np.percentile(scaled, 99) < 0.02:
        return 1.0
    return float(((scaled < -0.02) | (scaled > 1.05)).mean())


def _largest(repository: Repository) -> tuple[int, int]:
    """Height and width of the field with the largest area."""
    fields = repository.fields
    best = int(np.argmax(fields["height"].astype(np.int64) * fields["width"]))
    return int(fields["height"][best]), int(fields["width"][best])


def region_warnings(
    repository: Repository,
    modality: str,
    region: Region,
    patch: NDArray[Any],
    counts: NDArray[np.bool_],
    blank: bool,
) -> tuple[str, ...]:
    """Warn of a region that is blank, small or large, or looks like the other modality.

    Parameters
    ----------
    repository : Repository
    modality : str
    region : Region
        In pixels of the searched images.
    patch : ndarray, (y, x, channel)
        Its pixels.
    counts : (y, x) bool array
        True where the region counts.
    blank : bool
        What `shows_nothing` says of it.
    """
    warnings = [
        f"The region shows hardly any contrast for {modality}, such as glass; draw it over"
        f" tissue, and check that the image is {modality}."
    ]
    return (
        *(warnings if blank else []),
        *size_warnings(repository, region, counts),
        *swap_warnings(repository.model, modality, patch, counts),
    )
