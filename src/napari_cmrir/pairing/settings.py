"""The settings of a search for aligned pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_cmrir.registration.settings import RegistrationSettings
from napari_cmrir.search.settings import SearchSettings

__all__ = ["PairingSettings"]

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
