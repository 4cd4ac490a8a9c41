"""``napari-cmrir represent``: write the CoMIRs of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_cmrir.cli.options import READING, Device, saying_what_is_read, settings_options

__all__ = ["represent"]


@settings_options(reading=READING)
def represent(
    model: Annotated[Path, typer.Argument(help="Model file.")],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    modality: Annotated[str, typer.Option(help="Modality of the images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for <name>_CoMIR.tif files.")],
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    rotations: Annotated[
        int | None,
        typer.Option(
            help="Rotations to average: 4 quarter turns, or 1 for none. As the model was trained for,"
            " unless given."
        ),
    ] = None,
    pyramid: Annotated[
        bool, typer.Option("--pyramid", help="Write <name>_CoMIR.ome.zarr pyramids instead of TIFF.")
    ] = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Write the CoMIRs of images as 8-bit TIFF files or OME-Zarr pyramids.

    Images of another known pixel size than the model's are resampled to it first, as `index` does.
    """
    import logging
    import warnings
    from contextlib import closing

    import numpy as np
    import tifffile

    from napari_cmrir.cli.progress import draw
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.readers import find_images, image_stem, open_image
    from napari_cmrir.repository.pyramids import write_pyramid
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.base import represent as comir_of

    read_as = READING.settings(reading)
    loaded = load_model(model)
    loaded.require_modality(modality)
    found = find_images(images, modality)
    for path in found:
        with saying_what_is_read(), closing(open_image(path, read_as, pixel_size=loaded.pixel_size)) as image:
            if image.assumption:
                warnings.warn(image.assumption, stacklevel=1)
            if image.reading_note:
                logging.getLogger("napari_cmrir").info("%s: %s.", path.name, image.reading_note)
            pixels, pixel_size = plain_type(np.ascontiguousarray(image[:, :])), image.pixel_size
        job = comir_of(loaded, pixels, modality, device=device.value, rotations=rotations)
        comir = draw(job, path.name)
        output.mkdir(parents=True, exist_ok=True)
        target = output / f"{image_stem(path)}_CoMIR{'.ome.zarr' if pyramid else '.tif'}"
        if pyramid:
            notes = {} if pixel_size is None else {"pixel_size": pixel_size}
            write_pyramid(target, comir, target.name.removesuffix(".ome.zarr"), notes)
            typer.echo(str(target))
            continue
        size: dict[str, Any] = {}
        if pixel_size is not None:
            size = {"resolution": (1e4 / pixel_size, 1e4 / pixel_size), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(target, comir[0] if len(comir) == 1 else comir, photometric="minisblack", **size)
        typer.echo(str(target))
