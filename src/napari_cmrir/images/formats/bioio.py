"""Formats that an installed bioio and its plugins read, such as .czi, .nd2 and .lif."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_cmrir.images.metadata import pixel_size
from napari_cmrir.images.series import Level, Series, Stored

__all__ = ["open_with_bioio"]


def open_with_bioio(path: Path) -> Stored:
    """Open a file with whichever of bioio's plugins reads it.

    Raises
    ------
    Exception
        Whatever bioio raises for a file that none of its plugins reads.
    """
    from bioio import BioImage  # type: ignore[import-not-found,unused-ignore]

    image = BioImage(path)
    return Stored(str(path), [_series(image, scene) for scene in image.scenes])


def _series(image: Any, scene: str) -> Series:
    image.set_scene(scene)
    levels = []
    for resolution in image.resolution_levels:
        image.set_resolution_level(resolution)
        pixels, axes = image.dask_data, str(image.dims.order)
        levels.append(Level(_Computed(pixels), axes))
    image.set_resolution_level(0)
    sizes = image.physical_pixel_sizes
    levels[0] = Level(levels[0].pixels, levels[0].axes, pixel_size(sizes.Y, sizes.X))
    names = tuple(str(name) for name in image.channel_names or ())
    return Series(levels, names, is_rgb="S" in levels[0].axes)


class _Computed:
    """A dask array whose slices are computed at once."""

    def __init__(self, pixels: Any) -> None:
        self.shape = pixels.shape
        self._pixels = pixels

    def __getitem__(self, key: Any) -> Any:
        return self._pixels[key].compute(scheduler="synchronous")
