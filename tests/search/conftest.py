from pathlib import Path

import numpy as np
import pytest
import torch

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.training.train import train
from napari_cmrir.representations.training_settings import TrainingSettings


@pytest.fixture(scope="session")
def model():
    """A small model that has learnt generated tissue well enough to find it again."""
    pairs = [(pair.shg, pair.bf) for pair in (sample_pair(seed, 224) for seed in range(5))]
    settings = TrainingSettings(widths=(12, 24, 32), steps=90, patch_size=96, batch_size=10)
    return run(train(pairs, ("SHG", "BF"), settings))


class Identity(torch.nn.Module):
    """A network that gives the image itself."""

    stride, halo = 1, 0

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, image):
        return 4 * image - 2


@pytest.fixture(scope="session")
def identity_model():
    """Make a model of two modalities, A and B, whose CoMIRs are the images themselves."""

    def make(pixel_size=None):
        intensity, plain = Intensity(low=(0,), high=(255,)), OutputScale((0.0,), (1.0,))
        return ComirModel(
            ("A", "B"),
            TrainingSettings(),
            {"A": intensity, "B": intensity},
            {"A": Identity(), "B": Identity()},
            {"A": plain, "B": plain},
            pixel_size,
        )

    return make


@pytest.fixture(scope="module")
def one_thread():
    """Torch computes on one thread, as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def searched() -> dict[str, np.ndarray]:
    """Brightfield images by name; their SHG partners are `partners`."""
    return {f"tissue-{seed}": sample_pair(seed, 256).bf for seed in range(20, 26)}


@pytest.fixture(scope="session")
def partners() -> dict[str, np.ndarray]:
    return {f"tissue-{seed}": sample_pair(seed, 256).shg for seed in range(20, 26)}


@pytest.fixture(scope="session")
def repository(tmp_path_factory, model, searched):
    folder: Path = tmp_path_factory.mktemp("search") / "tissue.cmrir"
    sources = [Source(name, pixels) for name, pixels in searched.items()]
    small = RepositorySettings(vocabulary=VocabularySettings(size=300, samples=20_000, iterations=4))
    return run(build_repository(sources, model, "BF", folder, small))
