"""From images to CoMIRs: tiles without a seam, turned with the image, 8 bits well used."""

import dask.array as da
import numpy as np
import pytest
import torch
import zarr

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import represent
from napari_cmrir.representations.comir import inference
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import UNet, build_network
from napari_cmrir.representations.comir.training.train import train
from napari_cmrir.representations.training_settings import PRESETS, TrainingSettings


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


@pytest.mark.parametrize("rotations", [1, 4])
@pytest.mark.parametrize("shape", [(300, 300), (301, 275)])
def test_tiles_leave_no_seam(model, monkeypatch, shape, rotations) -> None:
    pixels = sample_pair(10, 304).bf[: shape[0], : shape[1]]
    whole = run(represent(model, pixels, "BF", rotations=rotations))
    monkeypatch.setattr(inference, "_TILE", 96)
    tiled = run(represent(model, pixels, "BF", rotations=rotations))
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 1


def test_a_part_equals_that_part_of_the_whole(model) -> None:
    pixels = sample_pair(10, 304).bf[:301, :275]
    whole = run(represent(model, pixels, "BF"))
    part = run(represent(model, pixels, "BF", part=(103, 50, 111, 225)))
    assert part.shape == (1, 111, 225)
    assert np.abs(part.astype(int) - whole[:, 103:214, 50:]).max() <= 1


def test_the_model_decides_how_many_rotations_are_averaged(model) -> None:
    pixels = sample_pair(11, 96).bf
    assert model.settings.rotations == 4
    chosen = run(represent(model, pixels, "BF"))
    assert np.array_equal(chosen, run(represent(model, pixels, "BF", rotations=4)))
    assert not np.array_equal(chosen, run(represent(model, pixels, "BF", rotations=1)))


def test_the_comirs_of_a_pair_look_alike_and_turn_with_the_image(model) -> None:
    pair = sample_pair(11, 192)
    shg, bf = (run(represent(model, p, m))[0].astype(float) for p, m in ((pair.shg, "SHG"), (pair.bf, "BF")))
    turned = run(represent(model, np.rot90(pair.bf), "BF"))[0].astype(float)
    alike = np.corrcoef(shg.ravel(), bf.ravel())[0, 1]
    apart = np.corrcoef(shg.ravel(), np.rot90(bf, 2).ravel())[0, 1]
    assert alike > 0.4 > apart
    back = np.corrcoef(np.rot90(turned, -1).ravel(), bf.ravel())[0, 1]
    assert back > 0.6 > 0.3 > np.corrcoef(turned.ravel(), bf.ravel())[0, 1]


def test_comirs_use_most_of_the_8_bit_range(model) -> None:
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


@pytest.fixture(scope="module")
def tiramisu():
    """An untrained one, whose weak output is stretched over the grey levels."""
    torch.manual_seed(0)
    networks = {modality: build_network(PRESETS["paper"], 3) for modality in ("SHG", "BF")}
    for network in networks.values():
        network.train()(torch.rand(4, 3, 128, 128))  # some running means
        network.eval()
    with torch.inference_mode():
        raw = networks["BF"](torch.rand(1, 3, 128, 128))
    scale = OutputScale((float(raw.mean()),), (float(raw.std()),))
    intensity = Intensity(low=(0.0,) * 3, high=(255.0,) * 3)
    return ComirModel(
        ("SHG", "BF"),
        PRESETS["paper"],
        dict.fromkeys(networks, intensity),
        networks,
        dict.fromkeys(networks, scale),
    )


def test_tiles_of_a_tiramisu_leave_no_seam(tiramisu, monkeypatch) -> None:
    pixels = sample_pair(10, (96, 640)).bf
    whole = run(represent(tiramisu, pixels, "BF"))
    assert whole.std() > 20
    monkeypatch.setattr(inference, "_TILE", 128)
    tiled = run(represent(tiramisu, pixels, "BF"))
    assert np.abs(tiled.astype(int) - whole.astype(int)).max() <= 1


class Seen:
    """An image that remembers how large a part of it was asked for at once."""

    def __init__(self, pixels) -> None:
        self.pixels, self.largest = pixels, 0
        self.shape, self.dtype, self.ndim = pixels.shape, pixels.dtype, pixels.ndim

    def __getitem__(self, window):
        part = self.pixels[window]
        self.largest = max(self.largest, part.shape[0] * part.shape[1])
        return part


def test_a_dask_image_is_computed_tile_by_tile_into_a_zarr_array(model, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(inference, "_TILE", 64)
    pixels = sample_pair(14, (420, 380)).bf
    expected = run(represent(model, pixels, "BF"))
    seen = Seen(pixels)
    image = da.from_array(seen, chunks=(64, 64, 3), asarray=False, meta=pixels[:0, :0])
    out = zarr.create_array(tmp_path / "out.zarr", shape=(1, 420, 380), chunks=(1, 64, 64), dtype=np.uint8)
    assert run(represent(model, image, "BF", out=out)) is out
    assert np.array_equal(out[:], expected)
    halo = model.networks["BF"].halo
    read = Seen(pixels)
    run(represent(model, read, "BF", out=out))
    stride = model.networks["BF"].stride
    assert read.largest <= (64 + 2 * (halo + stride)) ** 2 < 420 * 380
    assert seen.largest <= 64 * 64


@pytest.mark.parametrize("shape", [(96, 130), (101, 77)])
def test_the_mean_over_four_rotations_turns_exactly_with_the_image(model, shape) -> None:
    pixels = sample_pair(15, 140).bf[: shape[0], : shape[1]]
    upright = run(represent(model, pixels, "BF", rotations=4))
    for turn in (1, 2, 3):
        turned = run(represent(model, np.rot90(pixels, turn), "BF", rotations=4))
        difference = np.abs(np.rot90(turned, -turn, (1, 2)).astype(int) - upright)
        assert difference.max() <= 1  # sums in another order round another way, now and then
        assert (difference > 0).mean() < 1e-3
    once, as_it_is = (run(represent(model, p, "BF", rotations=1)) for p in (np.rot90(pixels), pixels))
    assert np.abs(np.rot90(once, -1, (1, 2)).astype(int) - as_it_is).max() > 1


def test_another_number_of_rotations_is_refused(model) -> None:
    with pytest.raises(InputError, match="1 or 4 rotations, not 3"):
        run(represent(model, np.zeros((64, 64, 3), np.uint8), "BF", rotations=3))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_small_a_memory_makes_the_tiles_smaller(model, monkeypatch, error) -> None:
    pixels = sample_pair(16, 320).bf
    expected = run(represent(model, pixels, "BF"))
    forward, sizes = UNet.forward, []

    def limited(network, images):
        sizes.append(images.shape[-1])
        if images.shape[-1] > 256:
            raise error
        return forward(network, images)

    monkeypatch.setattr(UNet, "forward", limited)
    comir = run(represent(model, pixels, "BF"))
    assert sizes[0] == 320
    assert np.abs(comir.astype(int) - expected).max() <= 1


def test_a_memory_too_small_for_any_tile_ends_with_a_clear_error(model, monkeypatch) -> None:
    def full(network, images):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(UNet, "forward", full)
    with pytest.raises(InputError, match="does not hold a tile of 4 pixels a side"):
        run(represent(model, sample_pair(17, 128).bf, "BF"))
