"""What is read of a file that holds more than one plain image."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from napari_cmrir.settings import Settings

__all__ = ["ReadingSettings"]

_Index = Annotated[int, Field(ge=0)]


class ReadingSettings(Settings):
    """Which series, level, plane, time and channels are read, and at what pixel size.

    All count from 0. `open_image` chooses whatever is left out and states the choice in
    `LazyImage.reading_note`.

    Examples
    --------
    >>> ReadingSettings(z="middle", channels=("DAPI", 2)).channels
    ('DAPI', 2)
    """

    series: _Index | None = Field(
        None, description="Series (image of the file), 0 the first; by default the largest."
    )
    level: _Index | None = Field(
        None,
        description="Level of the pyramid, 0 the finest; by default the coarsest that is no coarser than the"
        " model's pixel size, and the finest where a pixel size is not known.",
    )
    z: _Index | Literal["max", "middle"] | None = Field(
        None,
        description="Plane of a stack, 0 the first, its maximum projection or its middle plane; by default"
        " the maximum of grey images and the middle of RGB.",
    )
    t: _Index = Field(0, description="Point in time, 0 the first.")
    channels: tuple[_Index | str, ...] | None = Field(
        None,
        description="Numbers or names of the channels, in the order wanted; by default all.",
        min_length=1,
    )
    pixel_size: float | None = Field(
        None,
        gt=0,
        json_schema_extra={"unit": "µm", "decimals": 4},
        description="Side of a pixel of the finest level, micrometres; by default as the file says.",
    )
