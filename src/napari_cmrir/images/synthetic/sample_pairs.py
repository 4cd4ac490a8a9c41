"""Generated tissue under two microscopes, for demonstrations and tests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.synthetic.sections import Tissue, grow_tissue, noise

__all__ = ["SamplePair", "sample_pair", "write_sample_folder"]

# Optical densities of red, green and blue per stain, varied per sample; their source is not recorded.
_HAEMATOXYLIN = (0.60, 0.74, 0.32)
_EOSIN = (0.07, 0.82, 0.48)


@dataclass(frozen=True, eq=False)
class SamplePair:
    """The same generated tissue in two modalities.

    Parameters
    ----------
    bf : ndarray, (y, x, 3), uint8
        Brightfield, stained with haematoxylin and eosin.
    shg : ndarray, (y, x, 1), uint16
        Second harmonic generation of the collagen, 12 bit.
    """

    bf: NDArray[np.uint8]
    shg: NDArray[np.uint16]


def sample_pair(seed: int, size: int | tuple[int, int] = 512) -> SamplePair:
    """Generate a tissue and image it in two modalities.

    Parameters
    ----------
    seed : int
        At least 0. Each seed gives another tissue and another stain; equal seeds give equal pixels.
    size : int or tuple of two int
        Side, or (height, width), in px, at least 64.

    Returns
    -------
    SamplePair
        Aligned pixel by pixel.

    Raises
    ------
    InputError
        If the size is below 64 px or the seed below 0.

    Examples
    --------
    >>> pair = sample_pair(3, (64, 96))
    >>> pair.bf.shape, pair.shg.shape
    ((64, 96, 3), (64, 96, 1))
    """
    shape = (size, size) if isinstance(size, int) else (size[0], size[1])
    if min(shape) < 64:
        raise InputError(f"Samples have at least 64 x 64 px, not {shape[0]} x {shape[1]}.")
    if seed < 0:
        raise InputError(f"A seed is 0 or above, not {seed}.")
    anatomy, stain, laser = (np.random.default_rng([seed, part]) for part in range(3))
    tissue = grow_tissue(anatomy, shape)
    return SamplePair(_brightfield(tissue, stain), _second_harmonic(tissue, laser))


def write_sample_folder(
    folder: str | os.PathLike[str],
    seeds: Iterable[int],
    size: int | tuple[int, int] = 512,
    modalities: tuple[str, str] = ("SHG", "BF"),
) -> list[Pair]:
    """Write generated pairs as TIFF files, such as ``sample-003_SHG.tif`` and ``sample-003_BF.tif``.

    Parameters
    ----------
    folder : path-like
        Created if missing; existing files of these names are replaced.
    seeds : iterable of int
        One pair per seed; see `sample_pair`.
    size : int or tuple of two int
        Side, or (height, width), in px, at least 64.
    modalities : tuple of two str
        SHG and BF in the order of the returned pairs.

    Returns
    -------
    list of Pair
        The files, in the order of the seeds.

    Raises
    ------
    InputError
        If a modality is neither SHG nor BF; see also `sample_pair`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_sample_folder(folder, [3], 64)[0].paths]
    ['sample-003_SHG.tif', 'sample-003_BF.tif']
    """
    if sorted(modalities) != ["BF", "SHG"]:
        raise InputError(f"Samples have the modalities SHG and BF, not {' and '.join(modalities)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = []
    for seed in seeds:
        sample, identifier = sample_pair(seed, size), f"sample-{seed:03d}"
        paths = {name: folder / f"{identifier}_{name}.tif" for name in ("SHG", "BF")}
        tifffile.imwrite(paths["SHG"], sample.shg[..., 0], compression="zlib", predictor=True)
        tifffile.imwrite(paths["BF"], sample.bf, photometric="rgb", compression="zlib", predictor=True)
        pairs.append(Pair(identifier, (paths[modalities[0]], paths[modalities[1]])))
    return pairs


def _brightfield(tissue: Tissue, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Compute the brightfield image of the stained section by Beer and Lambert's law."""
    shape = (tissue.collagen.shape[0], tissue.collagen.shape[1])
    eosin = (
        tissue.collagen * (0.30 + 0.32 * tissue.fibrils)
        + tissue.matrix * (0.06 + 0.12 * tissue.fibrils)
        + 0.24 * tissue.cytoplasm
        + 0.15 * tissue.nuclei
    )
    eosin *= (1 + 0.12 * noise(rng, shape, 50)) * (1 + 0.10 * noise(rng, shape, 1.2))
    haematoxylin = (
        1.35 * tissue.nuclei
        + tissue.cytoplasm * (0.20 + 0.06 * noise(rng, shape, 1.5))
        + 0.03 * tissue.matrix
    )
    strengths = rng.uniform((0.8, 0.7), (1.35, 1.3))
    stains = (np.array([_HAEMATOXYLIN, _EOSIN]) + rng.normal(0, 0.035, (2, 3))).clip(0.02)
    density = (np.dstack([haematoxylin, eosin]) * strengths) @ stains  # (y, x, 2) -> (y, x, 3)
    lamp = np.array([243, 241, 245]) * rng.uniform(0.82, 1.03) + rng.normal(0, 4, 3)
    light = gaussian_filter(lamp * np.exp(-density.clip(0)), (0.6, 0.6, 0))
    light += rng.normal(0, 1.8, light.shape)
    picture: NDArray[np.uint8] = np.rint(light).clip(0, 255).astype(np.uint8)
    return picture


def _second_harmonic(tissue: Tissue, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Compute the collagen's second harmonic image on a photon-counting detector with offset and noise."""
    shape = (tissue.collagen.shape[0], tissue.collagen.shape[1])
    speckle = np.exp(0.45 * noise(rng, shape, 1.0))
    signal = tissue.collagen**1.6 * (1 - 0.8 * tissue.nuclei) * (0.15 + tissue.fibrils**2) * speckle
    signal *= 0.06 + 0.94 * tissue.coherence
    photons = 4 + rng.uniform(250, 420) * gaussian_filter(signal, 0.6) + 1.5 * tissue.cytoplasm
    counts = 40 + 8 * rng.poisson(photons) + rng.normal(0, 6, shape)
    picture: NDArray[np.uint16] = np.rint(counts).clip(0, 4095).astype(np.uint16)
    return picture[..., np.newaxis]
