import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.bags import count_words
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.repository.build import build_repository, ensure_index
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings

SMALL = RepositorySettings(
    field_size=256,
    descriptor=DescriptorSettings(block_widths=(16, 32)),
    vocabulary=VocabularySettings(size=30, samples=2000, iterations=4),
)


def make_model(seed):
    """Make a model of two tiny untrained networks."""
    settings = TrainingSettings(widths=(4, 8), stem=1)
    networks, scales = {}, {}
    torch.manual_seed(seed)
    for modality in ("BF", "SHG"):
        networks[modality] = build_network(settings, 1).eval()
        with torch.inference_mode():
            output = networks[modality](torch.rand(1, 1, 64, 64))
        scales[modality] = OutputScale((float(output.mean()),), (float(output.std()),))
    intensities = dict.fromkeys(networks, Intensity(low=(0.0,), high=(255.0,)))
    return ComirModel(("BF", "SHG"), settings, intensities, networks, scales)


def write_image(path, seed, height=72, width=80):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    tifffile.imwrite(path, np.clip(128 + 500 * noise, 0, 255).astype(np.uint8))


def index(sources, model, path, settings=SMALL, on_progress=None, modality="BF"):
    """Index images, and their words."""
    job = build_repository(sources, model, modality, path, settings, indexes=("words",))
    return jobs.run(job, on_progress)


def rankings(repository):
    """Rank all fields by each, as names and exact scores."""
    jobs.run(ensure_index(repository, "words"))
    names = [repository.image_name(field) for field in range(len(repository))]
    ranked = []
    for field in range(len(repository)):
        features = describe(repository.comir(field), repository.descriptor_settings)
        bag = count_words(repository.vocabulary.assign(features.descriptors), len(repository.vocabulary))
        scores = repository.bag_index.scores(bag)
        ranked.append([(names[i], scores[i].tobytes()) for i in repository.bag_index.rank(bag)])
    return ranked


def run_python(code, *arguments):
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def model():
    return make_model(0)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(5):
        write_image(folder / f"core{seed}_BF.tif", seed)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory, model):
    """A repository of five images, to read only."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "images").mkdir()
    for seed in range(5):
        write_image(folder / "images" / f"core{seed}_BF.tif", seed)
    return index([folder / "images"], model, folder / "built.cmrir")


@pytest.fixture(scope="session", name="index")
def _index():
    return index


@pytest.fixture(scope="session", name="rankings")
def _rankings():
    return rankings


@pytest.fixture(scope="session", name="write_image")
def _write_image():
    return write_image


@pytest.fixture(scope="session", name="make_model")
def _make_model():
    return make_model


@pytest.fixture(scope="session", name="run_python")
def _run_python():
    return run_python


@pytest.fixture(scope="session", name="small")
def _small():
    return SMALL
