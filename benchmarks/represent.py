"""Compute the CoMIR of an 834 x 834 px image: the package's tiramisu and unet, and a float32 tiramisu.

    python benchmarks/represent.py [--repeats 3] [--threads 2]

The network for comparison is the published one: a float32 module in evaluation mode, under ``torch.no_grad``.
The package's time is that of `represent`, from pixels to 8 bits. The share of the peak is that of the largest
matrix products that torch computes on this machine in the same number format, measured here.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch.nn import functional as F
from words_setting import Seconds, describe_machine, stopwatch

from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import represent
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import Tiramisu, UNet, build_network
from napari_cmrir.representations.devices import training_precision
from napari_cmrir.representations.training_settings import PRESETS

SIDE = 834


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    describe_machine()
    precision = training_precision(torch.device("cpu"))
    print(f"{arguments.threads} thread(s); represent computes in {precision}")
    pixels = sample_pair(0, SIDE).bf[..., 0]
    models = {preset: untrained(preset) for preset in ("paper", "fast")}
    plain = models["paper"].networks["BF"].float()
    batch = torch.from_numpy(models["paper"].intensities["BF"].apply(pixels))[None]
    batch = F.pad(batch, (0, -SIDE % plain.stride) * 2, mode="reflect")

    def published() -> torch.Tensor:
        with torch.no_grad():
            return plain(batch)[..., :SIDE, :SIDE].sigmoid().mul(255).round().byte()

    _, seconds = stopwatch(
        {
            "plain float32 tiramisu": published,
            "ours, tiramisu": lambda: run(represent(models["paper"], pixels, "BF", device="cpu")),
            "ours, default unet": lambda: run(represent(models["fast"], pixels, "BF", device="cpu")),
        },
        arguments.repeats,
    )
    peaks = {dtype: peak(dtype) for dtype in (torch.float32, precision)}
    work = {"plain float32 tiramisu": ("paper", torch.float32), "ours, tiramisu": ("paper", precision)}
    for name, taken in seconds.items():
        preset, dtype = work.get(name, ("fast", precision))
        rate = operations(models[preset].networks["BF"]) / taken.cpu
        share = rate / peaks[dtype]
        print(f"{name}: {taken}; {rate / 1e9:.0f} GFLOP/s, {share:.0%} of the peak in {dtype}")
    for name in ("ours, tiramisu", "ours, default unet"):
        print(f"{name}: {seconds['plain float32 tiramisu'].over(seconds[name])}")


def untrained(preset: str) -> ComirModel:
    torch.manual_seed(0)
    settings = PRESETS[preset]
    intensity = Intensity(low=(0.0,), high=(255.0,))
    scale = OutputScale((0.0,), (1.0,))
    networks = {m: build_network(settings, 1).eval() for m in ("SHG", "BF")}
    return ComirModel(
        ("SHG", "BF"), settings, dict.fromkeys(networks, intensity), networks, dict.fromkeys(networks, scale)
    )


def operations(network: Tiramisu | UNet) -> float:
    """Floating point operations of the convolutions for one image, multiplications and additions."""
    total = 0.0

    def count(module: torch.nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += 2.0 * out.numel() * module.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    network(torch.zeros(1, 1, network.stride, network.stride))
    for hook in hooks:
        hook.remove()
    last = network.final_conv if isinstance(network, Tiramisu) else network.head
    if not total:
        raise AssertionError(f"{last} was not run")
    padded = SIDE + -SIDE % network.stride
    return total * (padded / network.stride) ** 2


def peak(dtype: torch.dtype) -> float:
    """Operations a second of large matrix products."""
    a, b = (torch.rand(2048, 2048).to(dtype) for _ in range(2))
    _, taken = stopwatch({"product": partial(torch.mm, a, b)}, 5)
    best: Seconds = taken["product"]
    return 2 * 2048**3 / best.cpu


if __name__ == "__main__":
    main()
