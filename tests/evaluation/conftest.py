import zlib

import numpy as np
import pytest
import torch

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.original import OriginalImages, fit_original
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.settings import SearchSettings

MODALITIES = ("SHG", "BF")

SMALL = EvaluationSettings(
    field_size=72,
    patch_size=48,
    ranks=(1, 5),
    hits=3,
    repository=RepositorySettings(
        field_size=256,
        descriptor=DescriptorSettings(block_widths=(16, 32)),
        vocabulary=VocabularySettings(size=200, samples=8000, iterations=4),
    ),
    search=SearchSettings(rotation_step=15),
)


class Noise(torch.nn.Module):
    """A network whose CoMIR says nothing of the image but whether it is the same one."""

    stride, halo = 1, 0

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, image):
        seed = zlib.crc32(image.numpy().tobytes())
        shape = (image.shape[0], 1, *image.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2) * 5


class GreyComir(OriginalImages):
    """The originals under the name of CoMIR, as a study of both would train a CoMIR else."""

    name = "comir"


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Six pairs, each of 1 x 2 fields of 72 px with 12 px or more to spare around them."""
    return write_sample_folder(tmp_path_factory.mktemp("pairs"), range(6), (96, 172), MODALITIES)


@pytest.fixture(scope="session")
def grey_model(pairs):
    """A model whose CoMIRs are the images themselves, grey."""
    pixels = [read_pair(pair) for pair in pairs]
    images = {modality: [pair[side] for pair in pixels] for side, modality in enumerate(MODALITIES)}
    grey = fit_original(images, MODALITIES)
    return GreyComir(grey.modalities, grey.intensities)


@pytest.fixture(scope="session")
def noise_model():
    return with_networks(lambda channels: Noise())


def with_networks(make):
    return ComirModel(
        MODALITIES,
        TrainingSettings(),
        {"SHG": Intensity(low=(0,), high=(4095,)), "BF": Intensity(low=(0,) * 3, high=(255,) * 3)},
        {"SHG": make(1), "BF": make(3)},
        {modality: OutputScale((0.0,), (1.0,)) for modality in MODALITIES},
    )


def measure(model, pairs, output=None, queries=None, **changes):
    """Evaluate with the small settings; changes of the search have its fields' names."""
    search = {name: changes.pop(name) for name in list(changes) if name in type(SMALL.search).model_fields}
    settings = SMALL.model_copy(update={**changes, "search": SMALL.search.model_copy(update=search)})
    return jobs.run(evaluate(model, pairs, MODALITIES, settings, output=output, queries=queries))


@pytest.fixture(scope="session", name="measure")
def _measure():
    return measure


@pytest.fixture(scope="session", name="small")
def _small():
    return SMALL


@pytest.fixture(scope="session")
def report(grey_model, pairs, tmp_path_factory):
    """An evaluation of everything, to look at only."""
    return measure(grey_model, pairs[:3], tmp_path_factory.mktemp("report"), report_shortlist=True)


@pytest.fixture
def coordinates():
    """An image that says where its pixels are: (y, x) at pixel (y, x)."""
    return np.stack(np.mgrid[:220, :260], axis=-1).astype(np.float32)
