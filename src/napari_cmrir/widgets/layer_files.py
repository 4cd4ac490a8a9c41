"""Files that stand for image layers where an action is copied: the layer's own, or one written for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_cmrir.widgets.snapshot import ImageSnapshot

__all__ = ["file_of", "pairs_of"]


def file_of(image: ImageSnapshot, folder: Path) -> Path:
    """Find the file that holds an image layer's pixels, or write one.

    Parameters
    ----------
    image : ImageSnapshot
        The layer's plane. Where its file reads as other pixels, as a plane of a stack does, they are written.
    folder : Path
        Where to write.

    Returns
    -------
    Path
        `images.readers.read_image` reads the plane from it.

    Raises
    ------
    InputError
        The plane cannot be written so that it reads the same.
    """
    pixels = image.read()
    if image.path is not None and _reads_as(Path(image.path), pixels):
        return Path(image.path)
    return _written(pixels, folder, "image")


def pairs_of(first: ImageSnapshot, second: ImageSnapshot, modalities: tuple[str, str], folder: Path) -> Path:
    """Write two layers as a folder that holds one pair.

    Parameters
    ----------
    first, second : ImageSnapshot
        The layers.
    modalities : tuple of two str
        Their names.
    folder : Path
        Where to make the folder.

    Raises
    ------
    InputError
        As `file_of`.
    """
    pixels = [first.read(), second.read()]
    own = folder / f"pair-{_digest(*pixels)}"
    for one, modality in zip(pixels, modalities, strict=True):
        _write(one, own / f"layers_{modality}.tif")
    return own


def _written(pixels: NDArray[Any], folder: Path, name: str) -> Path:
    path = folder / f"{name}-{_digest(pixels)}.tif"
    _write(pixels, path)
    return path


def _write(pixels: NDArray[Any], path: Path) -> None:
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        colour = pixels.shape[2] == 3
        shown = pixels if colour else pixels.squeeze(axis=2)
        tifffile.imwrite(path, shown, photometric="rgb" if colour else "minisblack", compression="zlib")
    if not _reads_as(path, pixels):
        path.unlink()
        raise InputError(
            f"An image of {pixels.dtype} does not read back from a TIFF file as it is; make it 8 or 16 bit."
        )


def _reads_as(path: Path, pixels: NDArray[Any]) -> bool:
    import numpy as np

    from napari_cmrir.images.readers import read_image

    try:
        read = read_image(path)
    except InputError:
        return False
    return read.dtype == pixels.dtype and np.array_equal(read, pixels)


def _digest(*arrays: NDArray[Any]) -> str:
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
