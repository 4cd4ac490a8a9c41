"""An image made ready for a model: modality, channels and range of values checked, pixels square."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cmrir.errors import ImageWarning, InputError
from napari_cmrir.images.file_names import ends_with, image_stem
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.value_range import at_full_scale, range_of_intensity, squared

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["fit_to_model", "model_range", "other_modality", "warn_of"]


def other_modality(model: Representation, modality: str) -> str:
    """Name the model's other modality."""
    return next(name for name in model.modalities if name != modality)


def model_range(model: Representation, modality: str) -> float | None:
    """Give the highest value that the training images of a modality could hold, where it was noted."""
    noted = model.provenance.get("value_ranges")
    value = noted.get(modality) if isinstance(noted, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def fit_to_model(
    image: LazyImage, model: Representation, modality: str, *, say_channels: bool = True
) -> tuple[LazyImage, list[str]]:
    """Bring an image to the pixels and values that a model takes, and say what is doubtful about it.

    Parameters
    ----------
    image : LazyImage
    model : Representation
    modality : str
        Which of its modalities the image is said to be.
    say_channels : bool
        Whether a grey image of a modality in colours is doubtful.

    Returns
    -------
    image : LazyImage
        The same object where nothing has to be changed.
    doubts : list of str
        Phrases without the image's name.

    Raises
    ------
    InputError
        The image has another number of channels than the model takes.
    """
    if model.takes_any_modality:  # it scales every image by its own values, and brings channels to one
        return squared(image), []
    doubts = _doubts_of_name(image.name, modality, other_modality(model, modality))
    of_channels = _doubts_of_channels(image, model, modality)
    doubts += of_channels if say_channels else []
    image = squared(image)
    wanted = range_of_intensity(model.intensities[modality].high, model_range(model, modality))
    image, doubt = at_full_scale(image, wanted)
    # A grey image of a modality in colours is doubted already: its range says nothing more.
    return image, doubts + ([doubt] if doubt and not of_channels else [])


def warn_of(name: str, doubts: list[str]) -> None:
    """Warn of what is doubtful about an image; the command line joins equal doubts of several images."""
    for doubt in doubts:
        warnings.warn(ImageWarning(Path(name).name, doubt), stacklevel=2)


def _doubts_of_name(name: str, modality: str, other: str) -> list[str]:
    stem, folder = image_stem(name), os.path.basename(os.path.dirname(name))
    by_stem = ends_with(stem, other) and not ends_with(stem, modality)
    by_folder = folder.lower() == other.lower() != modality.lower() and not ends_with(stem, modality)
    if not (by_stem or by_folder):
        return []
    where = "its name ends with" if by_stem else "its folder is named"
    return [f"{where} {other}, the model's other modality; check that it is {modality}"]


def _doubts_of_channels(image: LazyImage, model: Representation, modality: str) -> list[str]:
    other = other_modality(model, modality)
    have = image.shape[2]
    expected, others = (model.intensities[name].channels for name in (modality, other))
    if have == expected or (expected == 1 and have == 3):  # RGB of equal channels counts as grey
        return []
    if have == 1:
        also = f", and {other} images {others}" if others != expected else ""
        return [f"it has 1 channel, but {modality} images have {expected}{also}; check that it is {modality}"]
    names = ", ".join(image.channel_names)
    raise InputError(
        f"{image.name} has {have} channels ({names}), but {modality} images have {expected}; choose"
        f" {'one' if expected == 1 else expected} (--channel, in napari: Channels), or check the modality."
    )
