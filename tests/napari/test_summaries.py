"""Short texts on models of any representation."""

import numpy as np

import napari_cmrir as cmrir
from napari_cmrir.napari.summaries import KnownModalities, model_rows, read_modalities


def test_a_model_that_is_no_network_is_described(tmp_path):
    pair = np.arange(64, dtype=np.uint8).reshape(8, 8), np.zeros((8, 8, 3), np.uint8)
    path = tmp_path / "grey.safetensors"
    training = cmrir.train([pair], ("SHG", "BF"), representation="original", output=path, pixel_size=0.5)
    cmrir.run(training)
    assert read_modalities(path) == KnownModalities(("SHG", "BF"), channels={"SHG": 1, "BF": 1})
    rows = dict(model_rows(path))
    assert rows["Representation"] == "original"
    assert rows["Pixel size"] == "0.5 µm"
    assert "Network" not in rows
