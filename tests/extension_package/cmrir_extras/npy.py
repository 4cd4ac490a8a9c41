"""An image format: NumPy's .npy files of (y, x) or (y, x, 3) arrays, memory mapped."""

import numpy as np

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.series import Level, Series, Stored


def open_npy(path):
    """Map a file; an array without two or three axes raises an error."""
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    axes = {2: "YX", 3: "YXS"}[pixels.ndim]
    return Stored(str(path), [Series([Level(pixels, axes)], is_rgb=axes == "YXS")])


NPY = ImageFormat(open_npy, magics=(b"\x93NUMPY",), suffixes=(".npy",))
