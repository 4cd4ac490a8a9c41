"""A layer that napari opened from a file, and the file itself, give the same pixels."""

from __future__ import annotations

import napari_builtins.io as builtins
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers._source import layer_source

from napari_cmrir.images.readers import read_image
from napari_cmrir.napari.coordinates import ImageSnapshot

RAMP = np.tile(np.arange(96, dtype=np.uint8), (64, 1))
GREEN = np.zeros((3, 256), np.uint16)
GREEN[1] = np.arange(256) * 257
COLOURS = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
FOUR = np.dstack([RAMP, RAMP // 2, RAMP // 3, RAMP * 0])

FILES = {
    "min-is-white": (RAMP, {"photometric": "miniswhite"}),
    "min-is-white of 12 bits": (RAMP.astype(np.uint16), {"photometric": "miniswhite", "bitspersample": 12}),
    "palette": (RAMP, {"photometric": "palette", "colormap": COLOURS}),
    "pseudo-colour": (RAMP, {"photometric": "palette", "colormap": GREEN, "description": "ImageJ=1.53t\n"}),
    "bool": (RAMP > 50, {}),
    "CMYK": (FOUR, {"photometric": "separated"}),
    "RGBA": (FOUR, {"photometric": "rgb"}),
    "four channels": (FOUR, {"photometric": "minisblack", "planarconfig": "contig"}),
    "YCbCr": (FOUR[..., :3], {"photometric": "ycbcr", "extratags": [(530, 3, 2, (1, 1), True)]}),
    "grey": (RAMP, {}),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_layer_reads_as_its_file(tmp_path, kind):
    pixels, options = FILES[kind]
    path = str(tmp_path / "a.tif")
    tifffile.imwrite(path, pixels, **options)
    viewer = ViewerModel()
    with layer_source(path=path, reader_plugin="napari"):  # as napari does
        for layer in builtins.napari_get_reader(path)(path):
            viewer._add_layer_from_data(*layer)
    snapshot = ImageSnapshot.of(viewer.layers[0], viewer.dims)
    expected = read_image(path)
    assert snapshot.read().dtype == expected.dtype
    np.testing.assert_array_equal(snapshot.read(), expected)
    window = snapshot.read_window(slice(3, 20), slice(5, 40))
    np.testing.assert_array_equal(window.pixels, expected[3:20, 5:40])
