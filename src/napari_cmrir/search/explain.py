"""Why a hit was found: the two CoMIRs in one frame, their local agreement, and the words they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.search.hits import affine_matrix
from napari_cmrir.settings import HIGH_PASS_PX

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.hits import Hit, SearchResult

__all__ = ["Explanation", "SharedWords", "agreement_map", "explain", "frame_to_field", "resampled"]

_WINDOW = 8.0  # standard deviation of the neighbourhood, px: a smaller one is noisy, a larger one blurs
_FLAT = 1e-3  # share of an image's variance below which a neighbourhood counts as flat and gets 0


@dataclass(frozen=True, eq=False)
class SharedWords:
    """Visual words that the query and the hit's field share, one row for each feature of the query.

    Parameters
    ----------
    words : (n,) int array
        Index of the feature's word.
    points : (n, 2) array
        (y, x) of the feature in the query's frame.
    widths : (n,) array
        Side of the block that the feature describes, px.
    weights : (n,) array
        Share of the feature in the cosine of the bags of words. Their sum is that of the upright query.
    in_place : (n,) bool array
        Whether the field has the same word within half a block of the feature's place under the pose.
    """

    words: NDArray[np.int64]
    points: NDArray[np.float64]
    widths: NDArray[np.float64]
    weights: NDArray[np.float64]
    in_place: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Images that explain a hit, all in the upright frame of the query, at the pixel size of its image.

    Parameters
    ----------
    query : (channel, y, x) uint8 array
        The query's CoMIR.
    field : (channel, y, x) uint8 array
        The hit's CoMIR under the found pose; 0 beyond the field.
    mask : (y, x) bool array
        Where the query counts and the field reaches.
    agreement : (y, x) float32 array
        Local correlation of the two, in [-1, 1]; 0 outside the mask and where either is flat.
    affine : (3, 3) array
        Takes (y, x, 1) in this frame to pixels of the hit's image, as napari's ``affine``.
    shared_words : SharedWords or None
        ``None`` where the repository has no words.
    """

    query: NDArray[np.uint8]
    field: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    agreement: NDArray[np.float32]
    affine: NDArray[np.float64]
    shared_words: SharedWords | None


def explain(repository: Repository, result: SearchResult, hit: Hit) -> Explanation:
    """Explain why a hit was found.

    Parameters
    ----------
    repository : Repository
        The repository that was searched.
    result : SearchResult
        The result of the search.
    hit : Hit
        One of its hits.

    Returns
    -------
    Explanation
    """
    from napari_cmrir.images.geometry import Region

    affine = affine_matrix(Region.whole(result.mask.shape), hit)
    to_field = frame_to_field(repository, hit, result.mask.shape)
    comir = repository.comir(hit.field)
    field, reached = resampled(comir, to_field, result.mask.shape)
    mask = result.mask & reached
    return Explanation(
        query=result.comir,
        field=field,
        mask=mask,
        agreement=agreement_map(result.comir, field, mask, repository.model.comparison.high_pass_px),
        affine=affine,
        shared_words=_shared_words(repository, result, hit, comir, to_field)
        if repository.has_index("words")
        else None,
    )


def frame_to_field(repository: Repository, hit: Hit, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the transform from the query's frame to the CoMIR of a hit's field.

    Parameters
    ----------
    repository : Repository
    hit : Hit
    shape : (int, int)
        Of the query's CoMIR, (y, x).

    Returns
    -------
    (3, 3) array
        Takes (y, x, 1) in pixels of the query's CoMIR to pixels of the field's.
    """
    from napari_cmrir.images.geometry import Region

    y, x = repository.fields[["y", "x"]][hit.field].item()
    step = repository.pixel_step(hit.field)
    first = (step - 1) / 2 + np.array([y, x]) * step  # centre of the field's first pixel, in the image's
    per_row = np.array([*np.broadcast_to(step, 2), 1.0])[:, np.newaxis]
    to_field = np.array([[1, 0, -first[0]], [0, 1, -first[1]], [0, 0, 1]]) / per_row
    matrix: NDArray[np.float64] = to_field @ affine_matrix(Region.whole(shape), hit)
    return matrix


def resampled(
    image: NDArray[np.uint8], to_image: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Resample an image in another frame.

    Parameters
    ----------
    image : (channel, y, x) uint8 array
    to_image : (3, 3) array
        Takes (y, x, 1) of the frame to pixels of the image.
    shape : (int, int)
        Of the frame, (y, x).

    Returns
    -------
    resampled : (channel, *shape) uint8 array
        Bilinear samples; 0 beyond the image.
    reached : (*shape) bool array
        Where the frame lies on the image.
    """
    import cv2

    matrix = to_image[1::-1][:, [1, 0, 2]]  # OpenCV's order is (x, y)
    size = (shape[1], shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REPLICATE
    seen = np.stack([cv2.warpAffine(p, matrix, size, flags=flags, borderMode=border) for p in image])
    grid = np.indices(shape).reshape(2, -1)
    y, x = (to_image[:2, :2] @ grid + to_image[:2, 2:]).reshape(2, *shape)
    reached = (y > -0.5) & (x > -0.5) & (y < image.shape[1] - 0.5) & (x < image.shape[2] - 0.5)
    return seen * reached, reached


def agreement_map(
    one: NDArray[np.uint8],
    other: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    high_pass_px: float = HIGH_PASS_PX,
) -> NDArray[np.float32]:
    """Correlate two CoMIRs in the neighbourhood of every pixel.

    Zero-normalised correlation under a Gaussian window of 8 px standard deviation, of the detail that the
    registration compares, channels pooled; pixels outside the mask have no weight.

    Parameters
    ----------
    one, other : (channel, y, x) arrays
    mask : (y, x) bool array
    high_pass_px : float
        Standard deviation of the high pass before the comparison, in pixels; 0 for none.

    Returns
    -------
    (y, x) float32 array
        In [-1, 1]; 0 outside the mask and where either is flat.

    Examples
    --------
    >>> noise = np.random.default_rng(0).integers(0, 255, (1, 64, 64), np.uint8)
    >>> whole = np.ones((64, 64), bool)
    >>> float(agreement_map(noise, noise, whole).min().round(3))
    1.0
    >>> float(agreement_map(noise, 255 - noise, whole).max().round(3))
    -1.0
    """
    import torch

    from napari_cmrir.registration.correlation import high_pass

    counts = torch.from_numpy(mask).float()
    weight = counts.numpy()
    a, b = (
        high_pass(image[None], counts, high_pass_px)[0].numpy()
        for image in (torch.from_numpy(np.ascontiguousarray(comir)).float() for comir in (one, other))
    )
    total = np.maximum(_smooth(weight), 1e-6)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(_smooth(values * weight) / total)

    def covariance(u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(sum(mean(p * q) - mean(p) * mean(q) for p, q in zip(u, v, strict=True)))

    variances = [covariance(image, image) for image in (a, b)]
    flat = np.zeros(mask.shape, bool)
    for variance in variances:
        flat |= variance <= max(_FLAT * float(variance[mask].mean()) if mask.any() else 0.0, 1e-6)
    length = np.sqrt(np.maximum(variances[0] * variances[1], 1e-12))
    agreement = np.where(mask & ~flat, covariance(a, b) / length, 0)
    return np.clip(agreement, -1, 1).astype(np.float32)


def _smooth(values: NDArray[Any]) -> NDArray[np.float32]:
    import cv2

    smoothed: NDArray[np.float32] = cv2.GaussianBlur(
        values.astype(np.float32), (0, 0), _WINDOW, borderType=cv2.BORDER_CONSTANT
    )
    return smoothed


def _shared_words(
    repository: Repository,
    result: SearchResult,
    hit: Hit,
    comir: NDArray[np.uint8],
    to_field: NDArray[np.float64],
) -> SharedWords:
    from scipy.spatial import cKDTree

    from napari_cmrir.bag_of_words.bags import covered, encode_query
    from napari_cmrir.bag_of_words.descriptors.features import describe

    settings, vocabulary = repository.descriptor_settings, repository.vocabulary
    weighting = repository.settings.bags
    query_features = describe(result.comir, settings, None if result.mask.all() else result.mask)
    bag = encode_query(query_features, result.mask, vocabulary, weighting)
    kept = covered(query_features.points, result.mask, weighting.query_cover)
    all_points, words = (
        query_features.points[kept],
        vocabulary.assign(query_features.descriptors[kept]).astype(np.int64),
    )
    each = np.zeros(len(vocabulary))
    shared = repository.bag_index.votes(bag, hit.field)
    each[bag.words] = shared / np.maximum(bag.counts, 1)
    voted = (words >= 0) & (each[words] > 0)
    words, points, widths = words[voted], all_points[voted, :2].astype(np.float64), all_points[voted, 2]
    field_features = describe(comir, settings)
    field_words = vocabulary.assign(field_features.descriptors)
    there = points @ to_field[:2, :2].T + to_field[:2, 2]
    in_place = np.zeros(len(words), bool)
    for word in np.unique(words):
        mine, same = words == word, field_words == word
        if same.any():
            distance, _ = cKDTree(field_features.points[same, :2]).query(there[mine])
            in_place[mine] = distance <= widths[mine] / 2
    return SharedWords(words, points, widths.astype(float), each[words], in_place)
