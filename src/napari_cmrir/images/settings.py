"""Reading settings: which part of a file is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_cmrir.settings import Settings

__all__ = ["ReadingSettings"]

_Index = Annotated[int, Field(ge=0)]


class ReadingSettings(Settings):
    """Series, level, plane, time, channels and pixel size to read from a file.

    All numbers count from 0. `open_image` chooses values that are not set, and states its choice in
    `LazyImage.reading_note`.

    Examples
    --------
    >>> ReadingSettings(z="middle", channels=("DAPI", 2)).channels
    ('DAPI', 2)
    """

    series: _Index | None = Field(
        None, description="Series (image) of the file, counted from 0; by default the largest."
    )
    level: _Index | None = Field(
        None,
        description="Level of the pyramid, 0 the finest; by default the coarsest level that is no coarser"
        " than the model's pixel size, or the finest if a pixel size is unknown.",
    )
    z: _Index | Literal["max", "middle"] | None = Field(
        None,
        description="Plane of a stack, counted from 0; max: its maximum projection; middle: its middle plane;"
        " by default max for grey images and middle for RGB.",
    )
    t: _Index = Field(0, description="Point in time, counted from 0.")
    channels: tuple[_Index | str, ...] | None = Field(
        None,
        description="Numbers or names of the channels, in this order; by default all.",
        min_length=1,
    )
    pixel_size: float | None = Field(
        None,
        gt=0,
        json_schema_extra={"unit": "µm", "decimals": 4},
        description="Side of a pixel of the finest level, micrometres; by default the value in the file.",
    )
