"""From images to CoMIRs: tiles without a seam, turned with the image, 8 bits well used."""

import numpy as np
import pytest

from napari_cmrir.comir import inference
from napari_cmrir.comir.inference import represent
from napari_cmrir.comir.settings import TrainingSettings
from napari_cmrir.comir.training import train
from napari_cmrir.images.samples import sample_pair
from napari_cmrir.jobs import run


@pytest.fixture(scope="module")
def model(tissue_pairs):
    settings = TrainingSettings(widths=(8, 16), steps=80, patch_size=64, batch_size=8)
    return run(train(tissue_pairs, ("SHG", "BF"), settings))


@pytest.mark.parametrize("shape", [(160, 160), (97, 133), (33, 200)])
def test_any_size_gives_a_comir_of_that_size(model, shape) -> None:
    pixels = sample_pair(9, 200).bf[: shape[0], : shape[1]]
    comir = run(represent(model, pixels, "BF"))
    assert comir.shape == (1, *shape)
    assert comir.dtype == np.uint8


def test_tiles_leave_no_seam(model, monkeypatch) -> None:
    pixels = sample_pair(10, 300).bf
    whole = run(represent(model, pixels, "BF"))
    monkeypatch.setattr(inference, "_TILE", 96)
    tiled = run(represent(model, pixels, "BF"))
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 1


def test_the_comirs_of_a_pair_look_alike_and_turn_with_the_image(model) -> None:
    pair = sample_pair(11, 192)
    shg, bf = (run(represent(model, p, m))[0].astype(float) for p, m in ((pair.shg, "SHG"), (pair.bf, "BF")))
    turned = run(represent(model, np.rot90(pair.bf), "BF"))[0].astype(float)
    alike = np.corrcoef(shg.ravel(), bf.ravel())[0, 1]
    apart = np.corrcoef(shg.ravel(), np.rot90(bf, 2).ravel())[0, 1]
    assert alike > 0.4 > apart
    back = np.corrcoef(np.rot90(turned, -1).ravel(), bf.ravel())[0, 1]
    assert back > 0.6 > 0.3 > np.corrcoef(turned.ravel(), bf.ravel())[0, 1]


def test_eight_bits_are_well_used(model) -> None:
    comir = run(represent(model, sample_pair(12, 192).shg, "SHG"))
    low, high = np.percentile(comir, (5, 95))
    assert high - low > 60


def test_outside_the_mask_the_comir_is_zero(model) -> None:
    pixels = sample_pair(13, 128).bf
    mask = np.zeros((128, 128), bool)
    mask[20:60, 30:90] = True
    comir = run(represent(model, pixels, "BF", mask=mask))
    assert not comir[:, ~mask].any()
    assert comir[:, mask].any()
