"""Settings of a search, and of pairing, which searches."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from napari_cmrir.settings import RegistrationSettings

__all__ = ["PairingSettings", "SearchSettings", "untried"]


class SearchSettings(RegistrationSettings):
    """Settings of a search.

    A default that names no source is this package's own choice. docs/searching.md gives the contribution of
    each stage (`benchmarks/search_ablation.py`, `benchmarks/screening_recall.py`).

    Examples
    --------
    >>> SearchSettings().rerank
    'registration'
    """

    rerank: Literal["none", "bow", "registration"] | str = Field(
        "registration",
        description="How the shortlist is ordered: none keeps the order of the bags of words; bow compares"
        " query-sized patches under a new vocabulary (the paper's Stage III); registration correlates the"
        " CoMIRs over rotations and shifts; or the name of a reranker that a package adds to `RERANKERS`. The"
        " box of a hit always comes from registration.",
    )
    hits: int = Field(10, ge=1, description="Largest number of hits.")
    shortlist: int = Field(
        30,
        ge=1,
        description="Number of fields that are re-ranked, the best by bag of words (paper: 15 or 30).",
    )
    register_all: int = Field(
        300,
        ge=0,
        description="Largest number of fields that are all registered, without a shortlist.",
    )
    shortlist_by: Literal["screening", "words"] = Field(
        "screening",
        description="How the fields to register are chosen in larger repositories: screening correlates the"
        " query with every field at an eighth or a quarter of the resolution; words takes the first"
        " `shortlist` fields by bag of words (paper). Other rerankers than registration always use words.",
    )
    n_screened: int = Field(
        300,
        ge=1,
        description="Number of fields that screening selects for registration; the best are then refined.",
    )
    effort: Literal["fast", "normal", "thorough"] = Field(
        "normal",
        description="How many fields are registered, in the order of screening: fast, as many as one second"
        " allows on this computer, but no more than `n_screened`; normal, `n_screened`, or the first 60 where"
        " these hold a match of a confidence of 0.99 or more; thorough, as many as ten seconds allow, but no"
        " fewer than `n_screened`.",
    )
    word_rotation_step: float = Field(
        15.0,
        ge=0,
        le=90,
        description="Degrees between the rotations of the query, up to max_rotation, whose words are compared"
        " for a shortlist; the best rotation counts. 0 compares the unrotated query only (paper).",
    )
    matcher: str = Field(
        "",
        description="Another method of registration that looks at the first hits again and orders them by its"
        " scores: the name of a matcher that a package adds to `MATCHERS`, or vismatch:NAME with the package"
        " vismatch. Empty: none.",
    )
    matched: int = Field(5, ge=1, le=100, description="Number of first hits that the matcher looks at.")
    match_on: Literal["comirs", "images"] = Field(
        "comirs",
        description="What the matcher compares: the CoMIRs, or the images themselves, for matchers that were"
        " trained across modalities.",
    )
    per_field: bool = Field(
        False, description="List every field of an image as a separate hit, not only the best one."
    )
    reliable_from: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Lowest confidence of the first hit that counts as a reliable match.",
    )
    bow_vocabulary: Literal["new", "repository"] = Field(
        "new",
        description="Words of rerank='bow': learnt from the shortlist's patches (paper), or the"
        " repository's (faster).",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")
    scheduler: str = Field(
        "",
        description="Address of a dask scheduler, such as tcp://host:8786, whose workers screen and register"
        " the fields; they see the repository under the same path. Empty: this computer.",
    )

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
    """Name the options that a search did not try and that could find a match.

    Parameters
    ----------
    settings : SearchSettings

    Returns
    -------
    str
        A sentence after a space; empty if all were tried.

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


_REGISTERED = 16
"""Images that each search registers, the best by screening. Among 30 infrared and 30 visible images
(vis_ir/train, an early starter model) screening had 18 of 20 partners among its first 12 in one direction,
and 19 of 20 in the other. To register all 30, each of its own size, took 2 GB."""


class PairingSettings(RegistrationSettings):
    """How two folders are searched for aligned pairs.

    A default that names no source is this package's own; `benchmarks/pairing.py` measures what it finds.

    Examples
    --------
    >>> PairingSettings().max_rotation
    180.0
    """

    max_rotation: float = Field(
        180.0,
        ge=0,
        le=180,
        json_schema_extra={"unit": "°", "decimals": 0},
        description="Rotations looked for, in degrees either way; 180 is the full circle.",
    )
    min_overlap: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of the smaller image that has to lie on the other; whole images may hang over the"
        " edge.",
    )
    refine: int = Field(
        8,
        ge=1,
        description="Images whose pose is refined in each search, the best at the coarse level.",
    )
    candidates: int = Field(
        3, ge=1, le=20, description="Partners of an image, the best of each search, that are looked at."
    )
    least_confidence: float = Field(
        0.95,
        ge=0.5,
        le=1,
        description="Confidence from which on a pair is accepted. Wrong pairs spoil a training; a missed pair"
        " costs little.",
    )
    affine: bool = Field(
        True, description="Refine a pose to an affine map, too, where it raises the correlation clearly."
    )
    smallest_side: int = Field(
        128,
        ge=64,
        description="Smallest side of the common area of a pair, px. The default training cuts patches of"
        " 128 px.",
    )
    rounds: int = Field(
        1,
        ge=1,
        le=10,
        description="Rounds of search at most: each one after the first trains a model on the pairs found and"
        " searches again with it, until nothing new is found.",
    )
    training_steps: int = Field(
        800, ge=1, description="Steps of the training between two rounds, on the pairs found so far."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")

    def search_settings(self) -> SearchSettings:
        """The settings of each query."""
        names = RegistrationSettings.model_fields
        shared = {name: getattr(self, name) for name in names}
        return SearchSettings(
            **shared,
            hits=self.candidates,
            register_all=_REGISTERED,
            n_screened=_REGISTERED,
            device=self.device,
        )
