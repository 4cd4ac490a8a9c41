"""A look at images before they are indexed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from napari_cmrir.errors import InputError

__all__ = ["describe_images"]


def describe_images(paths: Sequence[Path], modality: str | None) -> str:
    """Say how many images there are, and what is read of the first.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    modality : str or None
        Which images are taken of a folder with several modalities.

    Raises
    ------
    InputError
        As `images.readers.find_images`.
    """
    from napari_cmrir.images.readers import find_images, open_image

    found = find_images(paths, modality)
    count = f"{len(found)} image{'' if len(found) == 1 else 's'} found"
    try:
        with closing(open_image(found[0])) as first:
            height, width, channels = first.shape
            parts = [f"{height} x {width} px", f"{channels} channel{'' if channels == 1 else 's'}"]
            parts += [f"{first.pixel_size:g} µm a pixel"] if first.pixel_size else []
            parts += [first.choice] if first.choice else []
    except InputError as error:
        return f"{count}; {error}"
    which = "it has" if len(found) == 1 else "the first has"
    return f"{count}; {which} {', '.join(parts)}"
