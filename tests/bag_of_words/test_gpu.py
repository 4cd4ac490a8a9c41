import numpy as np
import pytest
import torch

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import Vocabulary, train_vocabulary

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("name", ["surf", "sift"])
@pytest.mark.parametrize("orientation", ["upright", "dominant"])
def test_descriptors_equal_those_of_the_cpu(name, orientation):
    image = np.random.default_rng(0).integers(0, 256, (2, 150, 130), dtype=np.uint8)
    settings = DescriptorSettings(name=name, orientation=orientation)
    here = describe(image, settings)
    there = describe(torch.from_numpy(image).cuda(), settings)
    cosines = (here.descriptors * there.descriptors).sum(axis=1)
    assert np.median(cosines) > 0.9999
    assert (cosines > 0.999).mean() > (0.999 if orientation == "upright" else 0.98)  # two peaks may be even


def test_words_equal_those_of_the_cpu():
    points = np.random.default_rng(1).normal(size=(9000, 64)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    vocabulary = Vocabulary(points[:500])
    there = vocabulary.assign(points, device="cuda")
    assert (there == vocabulary.assign(points, exact=True)).mean() > 0.999
    learned = jobs.run(train_vocabulary(points, VocabularySettings(size=100), device="cuda"))
    on_cpu = jobs.run(train_vocabulary(points, VocabularySettings(size=100)))
    assert learned.inertia == pytest.approx(on_cpu.inertia, rel=0.01)
