"""Hits, and the result of a search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.settings import ReadingSettings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.search.calibration import Evidence

__all__ = ["Hit", "SearchResult"]


@dataclass(frozen=True, eq=False)
class Hit:
    """A place in an image of the repository where the query's tissue may be.

    Parameters
    ----------
    rank : int
        1 is the best.
    image : str
        Path of the image, or the name of an array that was indexed.
    score : float
        Orders the hits. With registration: agreement of the registered CoMIRs (correlation and fine scores)
        times their overlap, in [-1, 1]. With ``rerank`` none or bow: cosine of the bags of words, in [0, 1].
    box : (4, 2) array
        Corners (y, x) of the query in the image's pixels: its top-left, top-right, bottom-right, bottom-left.
    rotation_degrees : float
        Counter-clockwise rotation, as seen on the screen, that takes the query to the hit.
    confidence : float
        Probability in [0, 1] that the image shows the query's tissue; see `calibration`.
    field : int
        Row of the repository's fields.
    scores : dict
        Score of every stage: ``"words"``, ``"bow"``, ``"registration"``.
    mirrored : bool
        Whether the query was mirrored left to right before it was rotated.
    scale : float
        Factor by which the query was enlarged.
    runner_up : float
        Score of the next best, different pose in the same field; -inf if there is none.
    reading : ReadingSettings
        How the image was read when it was indexed: `open_image` of `image` with it opens the pixels in which
        `box` lies.
    """

    rank: int
    image: str
    score: float
    box: NDArray[np.float64]
    rotation_degrees: float
    confidence: float
    field: int
    scores: dict[str, float]
    mirrored: bool = False
    scale: float = 1.0
    runner_up: float = -np.inf
    reading: ReadingSettings = dataclasses.field(default_factory=ReadingSettings)

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as the command line writes it to JSON."""
        reading = self.reading.model_dump(mode="json", exclude_defaults=True)
        return {
            "rank": self.rank,
            "image": self.image,
            "score": round(self.score, 6),
            "box": np.round(self.box, 3).tolist(),
            "rotation_degrees": round(self.rotation_degrees, 3),
            "confidence": round(self.confidence, 6),
            "mirrored": self.mirrored,
            "scale": round(self.scale, 6),
            **({"reading": reading} if reading else {}),
        }


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The ranked hits of one query.

    Parameters
    ----------
    hits : tuple of Hit
        Best first; at most one for each image, or for each field with the setting `per_field`.
    seconds : float
        Time taken.
    timings : dict
        Seconds of each stage by its name.
    comir : (channel, y, x) uint8 array
        The query's CoMIR, upright. Outside the outline it repeats the nearest pixel inside.
    mask : (y, x) bool array
        True where the query counts.
    shortlist : (n,) int array
        All re-ranked fields, best first: more than ``hits``, and several per image.
    ranking : (n,) int array
        The best field of every image, best image first; ``hits`` are the first of them.
    words : (n,) float array
        Cosine of the bags of words, of every field.
    screening : (n,) float array or None
        Correlation with the thumbnail of every field, if screening chose the shortlist.
    region : Region or None
        The query's region, in pixels of its image.
    evidence : Evidence or None
        Registration scores of every registered image.
    reliable : bool
        Whether the confidence of the first hit reaches ``reliable_from``. If not, or if the region
        is blank, the search reports "no reliable match".
    warnings : tuple of str
        Sentences for the user: reasons to doubt the query.
    assumptions : tuple of str
        The warnings that apply to every query of the image: unknown pixel sizes.
    """

    hits: tuple[Hit, ...]
    seconds: float
    timings: dict[str, float]
    comir: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    shortlist: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    ranking: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    words: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    region: Region | None = None
    evidence: Evidence | None = None
    reliable: bool = True
    warnings: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    screening: NDArray[np.float32] | None = None
