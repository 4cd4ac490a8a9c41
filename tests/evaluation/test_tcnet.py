import pytest
import torch

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.descriptors import resnet
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
from napari_cmrir.evaluation.retrievers.tcnet import Embedding, TcNet, TcNetSettings, triplet_loss
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

pytestmark = pytest.mark.core

BOTH = ("SHG", "BF")
SMALL = TcNetSettings(dimension=8, epochs=6, batch_size=2, side=48, crop=40, checkpoint_every=2)


class Shallow(TcNet):
    """TC-Net with a small backbone in place of DenseNet, for speed."""

    def make_network(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 7, 4), torch.nn.BatchNorm2d(12))
            return Embedding(backbone, 12, self.settings.dimension)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_sample_folder(tmp_path_factory.mktemp("pairs"), range(3), 64, BOTH)


def weights(retriever):
    return [value for network in retriever.networks.values() for value in network.state_dict().values()]


def test_a_triplet_beyond_the_margin_costs_nothing():
    a, p, n = torch.zeros(1, 1), torch.full((1, 1), 0.5), torch.full((1, 1), 0.8)
    assert float(triplet_loss(a, p, n, 0.3)) == 0
    assert float(triplet_loss(a, n, p, 0.3)) == pytest.approx(0.3 + 0.64 - 0.25)


def test_a_training_that_was_broken_off_ends_as_one_that_was_not(pairs, tmp_path):
    whole = Shallow(tmp_path / "whole", "cpu", settings=SMALL)
    jobs.run(whole.fit(pairs, BOTH))
    broken = Shallow(tmp_path / "broken", "cpu", settings=SMALL)
    job = broken.fit(pairs, BOTH)
    for progress in job:
        if (tmp_path / "broken" / "tcnet-SHG.pt").exists() and "loss" in progress.message:
            break
    job.close()
    again = Shallow(tmp_path / "broken", "cpu", settings=SMALL)
    jobs.run(again.fit(pairs, BOTH))
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(again), strict=True))


def test_images_are_ranked_by_the_network_of_the_querys_modality(pairs, tmp_path):
    retriever = Shallow(tmp_path, "cpu", settings=SMALL)
    with pytest.raises(InputError, match="fit it on training pairs first"):
        jobs.run(retriever.index({}, "BF"))
    jobs.run(retriever.fit(pairs, BOTH))
    images = {pair.identifier: read_pair(pair)[1] for pair in pairs}
    jobs.run(retriever.index(images, "BF"))
    for name, image in images.items():
        scores = jobs.run(retriever.rank(image, "BF"))
        assert max(scores, key=scores.get) == name
    assert set(jobs.run(retriever.rank(read_pair(pairs[0])[0], "SHG"))) == set(images)


def test_it_says_what_is_missing(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(InputError, match="at least two training pairs"):
        jobs.run(RETRIEVERS["tcnet"](tmp_path, "cpu").fit([], BOTH))
    with pytest.raises(InputError, match=r"densenet169-b2777c0a\.pth \(55 MB"):
        jobs.run(RETRIEVERS["tcnet"](tmp_path, "cpu").fit(pairs, BOTH))


def test_the_parameters_are_as_published(tmp_path):
    try:
        resnet.torchvision_models()
    except InputError as missing:
        pytest.skip(str(missing))
    for dimension, expected in ((1024, 14_189_440), (512, 13_336_960)):
        settings = TcNetSettings(dimension=dimension, weights=resnet.RANDOM)
        network = TcNet(tmp_path, "cpu", settings=settings).make_network()
        assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.slow
def test_the_real_network_learns_its_pairs(pairs, tmp_path):
    """The backbone of the fast preset, from random weights, which is enough to learn three pairs."""
    try:
        resnet.torchvision_models()
    except InputError as missing:
        pytest.skip(str(missing))
    settings = TcNetSettings(
        backbone="densenet121",
        weights=resnet.RANDOM,
        dimension=16,
        epochs=4,
        side=56,
        crop=48,
        softmax_weight=1.0,
        learning_rate=1e-3,
    )
    retriever = TcNet(tmp_path, "cpu", settings=settings)
    told = [progress.message for progress in retriever.fit(pairs, BOTH)]
    first, *_, last = [
        float(message.split()[-1]) for message in told if message.startswith("TC-Net, SHG anchors")
    ]
    assert last < first
    images = {pair.identifier: read_pair(pair)[1] for pair in pairs}
    jobs.run(retriever.index(images, "BF"))
    scores = jobs.run(retriever.rank(images[pairs[0].identifier], "BF"))
    assert max(scores, key=scores.get) == pairs[0].identifier
