"""Pairs of mixed pixel sizes, bit depths and orientations: brought to one, or told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model, train
from napari_cmrir.representations.comir.training.pair_checks import read_pairs
from napari_cmrir.representations.model_input import fit_to_model

SHG_BF = ("SHG", "BF")


def _ome(path, pixels, size, unit="µm"):
    metadata = {"axes": "YXS"[: pixels.ndim], "PhysicalSizeX": size, "PhysicalSizeY": size}
    metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, ome=True, photometric=photometric, metadata=metadata)


def _pair(folder, number, size, *, side=200, change=lambda pixels: pixels):
    sample = sample_pair(number, side)
    _ome(folder / f"p{number}_BF.ome.tif", change(sample.bf), size)
    _ome(folder / f"p{number}_SHG.ome.tif", sample.shg[..., 0], size)


def _read(folder):
    found = run(read_pairs(find_pairs(folder, SHG_BF)))
    return found, " ".join(problem.sentence for problem in found.problems)


def test_the_model_takes_the_pixel_size_of_its_pairs(tmp_path):
    for number in range(3):
        _pair(tmp_path, number, 0.5)
    model = run(train(find_pairs(tmp_path, SHG_BF), SHG_BF, representation="original"))
    assert model.pixel_size == 0.5
    assert model.provenance["value_ranges"] == {"SHG": 65535.0, "BF": 255.0}
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").pixel_size == 0.5


def test_pairs_of_other_pixels_are_resampled_to_those_of_most(tmp_path):
    for number in range(3):
        _pair(tmp_path, number, 0.5)
    _pair(tmp_path, 3, 0.25, side=400)
    found, told = _read(tmp_path)
    assert found.pixel_size == 0.5
    assert [pair[0].shape[:2] for pair in found.images] == [(200, 200)] * 4
    assert "1 of 4 pairs (p3) have other pixels than the 0.5 µm of most; they are resampled" in told


def test_pairs_without_a_pixel_size_are_told(tmp_path):
    for number in range(2):
        _pair(tmp_path, number, 0.5)
    sample = sample_pair(5, 200)
    tifffile.imwrite(tmp_path / "p5_BF.tif", sample.bf, photometric="rgb")
    tifffile.imwrite(tmp_path / "p5_SHG.tif", sample.shg[..., 0])
    found, told = _read(tmp_path)
    assert found.pixel_size == 0.5
    assert "1 of 3 pairs (p5) have no known pixel size; they are taken to have the 0.5 µm" in told


@pytest.mark.parametrize("size", [5e-7, 1e5])
def test_a_size_that_cannot_be_right_is_told_and_not_used(tmp_path, size):
    _pair(tmp_path, 0, size)
    found, told = _read(tmp_path)
    assert found.pixel_size is None
    assert "which cannot be right and is not used; give the right one (--pixel-size" in told


def test_partners_that_are_equally_large_but_state_other_sizes_are_told(tmp_path):
    sample = sample_pair(0, 200)
    _ome(tmp_path / "p_BF.ome.tif", sample.bf, 0.5)
    _ome(tmp_path / "p_SHG.ome.tif", sample.shg[..., 0], 1.0)
    found, told = _read(tmp_path)
    assert found.pixel_size is None
    assert "but they are equally large; neither size is used" in told


def test_partners_of_other_sizes_and_other_pixels_are_resampled(tmp_path):
    sample = sample_pair(0, 400)
    _ome(tmp_path / "p_BF.ome.tif", sample.bf, 0.25)
    _ome(
        tmp_path / "p_SHG.ome.tif",
        cv2.resize(sample.shg[..., 0], (200, 200), interpolation=cv2.INTER_AREA),
        0.5,
    )
    found, _ = _read(tmp_path)
    assert found.pixel_size == 0.5
    assert [image.shape[:2] for image in found.images[0]] == [(200, 200)] * 2


def test_mixed_depths_of_one_modality_are_brought_to_the_deepest(tmp_path):
    _pair(tmp_path, 0, 0.5)
    _pair(tmp_path, 1, 0.5, change=lambda bf: bf.astype(np.uint16) * 257)
    _pair(tmp_path, 2, 0.5, change=lambda bf: (bf / 255).astype(np.float32))
    found, told = _read(tmp_path)
    assert found.ranges == [65535.0, 65535.0]
    for number, (_, bf) in enumerate(found.images):
        np.testing.assert_array_equal(bf, sample_pair(number, 200).bf.astype(np.uint16) * 257)
    assert "values of several ranges, 1 of 0 to 255" in told
    assert "p0_BF.ome.tif" in told


def test_an_image_turned_against_its_partner_is_told(tmp_path):
    sample = sample_pair(0, 200)
    turned = [(274, 3, 1, 3, True)]
    tifffile.imwrite(tmp_path / "p_BF.tif", sample.bf, photometric="rgb", extratags=turned)
    tifffile.imwrite(tmp_path / "p_SHG.tif", sample.shg[..., 0])
    _, told = _read(tmp_path)
    assert "p_BF.tif is turned as its orientation tag says" in told
    tifffile.imwrite(
        tmp_path / "p_BF.tif", sample.bf[:, :150], photometric="rgb", extratags=[(274, 3, 1, 6, True)]
    )
    tifffile.imwrite(tmp_path / "p_SHG.tif", sample.shg[:, :150, 0])
    _, told = _read(tmp_path)
    assert "one of them is turned by a quarter" in told


def test_channels_and_names_of_the_other_modality_are_doubted_or_refused(tmp_path):
    from contextlib import closing

    from napari_cmrir.images.readers import open_image

    _pair(tmp_path, 0, 0.5)
    model = run(train(find_pairs(tmp_path, SHG_BF), SHG_BF, representation="original"))
    tifffile.imwrite(tmp_path / "q_SHG.tif", np.zeros((40, 50), np.uint8))
    tifffile.imwrite(
        tmp_path / "four.tif", np.zeros((4, 40, 50), np.uint8), metadata={"axes": "CYX"}, ome=True
    )
    (tmp_path / "SHG").mkdir()
    tifffile.imwrite(tmp_path / "SHG" / "q.tif", np.zeros((40, 50, 3), np.uint8), photometric="rgb")
    with closing(open_image(tmp_path / "q_SHG.tif")) as image:
        name, channels = fit_to_model(image, model, "BF")[1]
        assert name == "its name ends with SHG, the model's other modality; check that it is BF"
        assert channels.startswith("it has 1 channel, but BF images have 3, and SHG images 1")
    with closing(open_image(tmp_path / "SHG" / "q.tif")) as image:
        assert "its folder is named SHG" in fit_to_model(image, model, "BF")[1][0]
    with (
        closing(open_image(tmp_path / "four.tif")) as image,
        pytest.raises(
            InputError, match=r"four\.tif has 4 channels .*SHG images have 1; choose one \(--channel"
        ),
    ):
        fit_to_model(image, model, "SHG")
