"""The settings of a query."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from napari_cmrir.registration.settings import RegistrationSettings

__all__ = ["SearchSettings", "untried"]


class SearchSettings(RegistrationSettings):
    """How a query is answered.

    A default that names no source is this package's own; docs/searching.md measures what the stages are worth
    (`benchmarks/search_ablation.py`, `benchmarks/screening_recall.py`).

    Examples
    --------
    >>> SearchSettings().rerank
    'registration'
    """

    rerank: Literal["none", "bow", "registration"] | str = Field(
        "registration",
        description="How the shortlist is ordered: none keeps the order of the bags of words; bow compares"
        " query-sized patches under a new vocabulary (the paper's Stage III); registration correlates the"
        " CoMIRs over rotations and shifts; or the name of one in `RERANKERS` that a package adds. The box"
        " of a hit always comes from registration.",
    )
    hits: int = Field(10, ge=1, description="Images to return at most.")
    shortlist: int = Field(
        30, ge=1, description="Fields that are re-ranked, the best by bag of words (paper: 15 or 30)."
    )
    register_all: int = Field(
        300,
        ge=0,
        description="Repositories of up to this many fields are registered whole, without a shortlist.",
    )
    shortlist_by: Literal["screening", "words"] = Field(
        "screening",
        description="How the fields of larger ones that are registered are chosen: by correlating the query"
        " with every field at an eighth or a quarter of the resolution, or, the first `shortlist`, by bag of"
        " words (paper). What is not registered is always chosen by bag of words.",
    )
    n_screened: int = Field(
        300, ge=1, description="Fields that screening keeps to be registered; the best are then refined."
    )
    word_rotation_step: float = Field(
        15.0,
        ge=0,
        le=90,
        description="Distance between the rotations of the query, up to max_rotation, whose words a shortlist"
        " is chosen by, in degrees: the best counts. 0 counts the words of the query as it is (paper).",
    )
    per_field: bool = Field(
        False, description="Give every field of an image as a hit of its own, not the best one only."
    )
    reliable_from: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Confidence of the first hit from which on it counts as a reliable match.",
    )
    bow_vocabulary: Literal["new", "repository"] = Field(
        "new",
        description="Words that rerank='bow' counts: new ones of the shortlist's patches (paper), or the"
        " repository's own (quick).",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")

    @classmethod
    def paper(cls) -> Self:
        """Return the published search: 30 fields by bag of words, re-ranked by their patches' words."""
        return cls(
            rerank="bow",
            shortlist=30,
            register_all=0,
            shortlist_by="words",
            word_rotation_step=0.0,
            bow_vocabulary="new",
        )


def untried(settings: SearchSettings) -> str:
    """Say what a search leaves out that could bring a match.

    Parameters
    ----------
    settings : SearchSettings

    Returns
    -------
    str
        A sentence after a space; empty where nothing is left out.

    Examples
    --------
    >>> untried(SearchSettings())
    ' Not tried: rotations beyond 30°, the mirrored region, other sizes.'
    >>> untried(SearchSettings(max_rotation=180, mirror=True, max_scale=1.2))
    ''
    """
    parts = {
        f"rotations beyond {settings.max_rotation:g}°": settings.max_rotation < 180,
        "the mirrored region": not settings.mirror,
        "other sizes": settings.max_scale == 1,
    }
    left = ", ".join(name for name, is_left_out in parts.items() if is_left_out)
    return left and f" Not tried: {left}."
