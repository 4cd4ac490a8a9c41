"""``napari-cmrir represent``: write the CoMIRs of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli.jobs import Failures, list_images, output_names
from napari_cmrir.cli.options import READING, Device, saying_what_is_read, settings_options
from napari_cmrir.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["represent"]


@settings_options(reading=READING)
def represent(
    model: Annotated[Path, typer.Argument(help="Model file, or starter.")],
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

    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.readers import image_stem, open_image
    from napari_cmrir.repository.pyramids import write_pyramid
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.base import represent as comir_of
    from napari_cmrir.representations.model_input import fit_to_model, other_modality, warn_of

    read_as = READING.settings(reading)
    loaded = load_model(model)
    loaded.require_modality(modality)
    failures = Failures()
    found = list_images(images, modality, other_modality(loaded, modality), failures)
    n_given = len(found) + len(failures.reasons)
    ending = "_CoMIR.ome.zarr" if pyramid else "_CoMIR.tif"
    targets = [output / f"{name}{ending}" for name in output_names(found, map(image_stem, found))]
    with saying_what_is_read():
        for path, target in zip(found, targets, strict=True):
            with failures.of(path):
                _refuse_other_source(target, path)
                with closing(open_image(path, read_as, pixel_size=loaded.pixel_size)) as image:
                    if image.assumption:
                        warnings.warn(image.assumption, stacklevel=1)
                    image, doubts = fit_to_model(image, loaded, modality)
                    warn_of(path.name, doubts)
                    if image.reading_note:
                        logging.getLogger("napari_cmrir").info("%s: %s.", path.name, image.reading_note)
                    pixels, pixel_size = plain_type(np.ascontiguousarray(image[:, :])), image.pixel_size
                job = comir_of(loaded, pixels, modality, device=device.value, rotations=rotations)
                comir = draw(job, path.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                notes: dict[str, Any] = {} if pixel_size is None else {"pixel_size": pixel_size}
                notes["source"] = str(path.absolute())
                if pyramid:
                    write_pyramid(target, comir, target.name.removesuffix(".ome.zarr"), notes)
                else:
                    _write_tiff(target, comir, notes)
                typer.echo(str(target))
    failures.end(n_given)


def _write_tiff(target: Path, comir: NDArray[np.uint8], notes: dict[str, Any]) -> None:
    """Write a CoMIR as TIFF, with its pixel size in the resolution tags."""
    import tifffile

    from napari_cmrir.files import atomic_path

    size: dict[str, Any] = {}
    if "pixel_size" in notes:
        per_centimetre = 1e4 / notes["pixel_size"]
        size = {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}
    with atomic_path(target) as partial:
        tifffile.imwrite(
            partial,
            comir[0] if len(comir) == 1 else comir,
            photometric="minisblack",
            metadata={"source": notes["source"]},
            **size,
        )


def _refuse_other_source(target: Path, path: Path) -> None:
    """Refuse to write over the CoMIR of another image."""
    from contextlib import suppress

    import tifffile

    from napari_cmrir.repository.pyramids import read_notes

    source = None
    with suppress(Exception):  # what is no CoMIR of ours is replaced, as the user asked for
        if target.is_dir():
            source = read_notes(target).get("source")
        elif target.is_file():
            with tifffile.TiffFile(target) as tiff:
                shaped: Any = tiff.shaped_metadata
                source = shaped[0].get("source") if shaped else None
    if source is not None and source != str(path.absolute()):
        raise InputError(f"{target} is the CoMIR of {source}; give {path} another folder to write to.")
