"""The settings of a registration: the rotations, sizes and overlaps that are tried."""

from __future__ import annotations

from pydantic import Field

from napari_cmrir.settings import Settings

__all__ = ["HIGH_PASS_PX", "RegistrationSettings"]

HIGH_PASS_PX = 16.0
"""Default standard deviation, in pixels of full resolution, of the neighbourhood whose mean is subtracted.

The default training minimises its loss on CoMIRs filtered so; a search compares the same frequencies.
"""


class RegistrationSettings(Settings):
    """How a query is registered with the images that it is compared with.

    A default that names no source is this package's own; `benchmarks/search_ablation.py` varies them.

    Examples
    --------
    >>> RegistrationSettings().max_rotation
    30.0
    """

    max_rotation: float = Field(
        30.0,
        ge=0,
        le=180,
        json_schema_extra={"unit": "°", "decimals": 0},
        description="Rotations looked for, in degrees either way; 180 is the full circle (paper: up to 30).",
    )
    rotation_step: float = Field(
        6.0, gt=0, le=45, description="Distance between the rotations tried first, in degrees."
    )
    mirror: bool = Field(
        False, description="Also try the query mirrored left to right: sections are mounted either way."
    )
    max_scale: float = Field(
        1.0,
        ge=1,
        le=2,
        description="Sizes looked for: the query shrunk and enlarged by up to this factor; 1 is its own"
        " only.",
    )
    scale_step: float = Field(
        1.06, gt=1, le=1.5, description="Ratio of the sizes that are tried, where max_scale is above 1."
    )
    min_overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the query that has to lie on a field; whole images may hang over the edge.",
    )
    refine: int = Field(
        30,
        ge=0,
        description="Fields whose pose is refined, the best at the coarse level of the registration; 0 keeps"
        " the coarse poses.",
    )
    fine_rescore: bool = Field(
        True,
        description="Add to the correlation of a refined pose how well the finest structures agree, in value"
        " and in direction.",
    )
