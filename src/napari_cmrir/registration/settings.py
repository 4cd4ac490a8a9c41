"""The settings of a registration: the rotations, sizes and overlaps that are tried."""

from __future__ import annotations

from pydantic import Field

from napari_cmrir.settings import Settings

__all__ = ["HIGH_PASS_PX", "RegistrationSettings"]

HIGH_PASS_PX = 16.0
"""Default standard deviation of the high pass, in pixels of full resolution.

Training minimises its loss on CoMIRs under this filter, so a search compares CoMIRs under the same filter.
The value 16 is not measured; a larger one keeps coarser structure, which agrees more often by chance.
"""


class RegistrationSettings(Settings):
    """How a query is registered with fields.

    A default whose description names no source is this package's own. `benchmarks/search_ablation.py`
    measures the search without rotations, with a doubled rotation step and without refinement.

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
        description="Largest rotation tried, in degrees either way; 180 is the full circle (paper: 30).",
    )
    rotation_step: float = Field(
        6.0, gt=0, le=45, description="Distance between the rotations of the coarse search, in degrees."
    )
    mirror: bool = Field(
        False,
        description="Also try the query mirrored left to right, for sections mounted upside down.",
    )
    max_scale: float = Field(
        1.0,
        ge=1,
        le=2,
        description="Largest factor by which the query is shrunk and enlarged; 1 tries its own size only.",
    )
    scale_step: float = Field(
        1.06, gt=1, le=1.5, description="Ratio of successive sizes, if max_scale is above 1."
    )
    min_overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Smallest share of the query that must lie on a field; the rest may hang over its edge.",
    )
    refine: int = Field(
        30,
        ge=0,
        description="Number of fields whose pose is refined, best coarse scores first; 0 keeps the coarse"
        " poses.",
    )
    fine_rescore: bool = Field(
        True,
        description="Average the correlation of a refined pose with two scores of the finest structures: the"
        " correlation of the 2 px band and the agreement of gradient directions.",
    )
