import numpy as np
import pytest
from scipy.ndimage import gaussian_filter


class Comirs:
    """CoMIRs in memory, of any sizes."""

    def __init__(self, images):
        self.images = images
        sizes = [image.shape[1:] for image in images]
        self.fields = np.array(sizes, dtype=[("height", "i8"), ("width", "i8")])

    def comir(self, field, level=0):
        image, side = self.images[field], 2**level
        height, width = (length // side * side for length in image.shape[1:])
        blocks = image[:, :height, :width].reshape(len(image), height // side, side, width // side, side)
        return blocks.mean((2, 4)).round().astype(np.uint8)


def texture(seed, size):
    noise = np.random.default_rng(seed).normal(size=(1, *size))
    smooth = sum(gaussian_filter(noise, (0, sigma, sigma)) * sigma for sigma in (2, 5))
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def comirs_of():
    """Make CoMIRs of textures of given sizes."""
    return lambda sizes: Comirs([texture(seed, size) for seed, size in enumerate(sizes)])
