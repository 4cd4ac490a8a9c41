import numpy as np
import pytest
import torch

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.descriptors import resnet
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
from napari_cmrir.evaluation.retrievers.imtdf import (
    OFFSETS,
    Imtdf,
    ImtdfSettings,
    co_occurrence,
    haralick,
    relieff,
    rotation_invariant,
    tchebichef,
    textures,
)
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

pytestmark = pytest.mark.core

BOTH = ("SHG", "BF")


def test_tchebichef_polynomials_are_orthonormal_and_as_published():
    for length in (512, 833):
        rows = tchebichef(20, length)
        assert np.abs(rows @ rows.T - np.eye(21)).max() < 1e-12
    np.testing.assert_allclose(tchebichef(3, 40)[1:, 0], [-0.267098, 0.327991, -0.359992], atol=5e-7)


def test_the_invariant_pair_is_that_of_the_eigenvalues():
    values = np.array([3.0, 1.0, 4.0, 2.0])
    np.testing.assert_allclose(rotation_invariant(values[:, None]).ravel(), [4, 2.5])
    rng = np.random.default_rng(0)
    for values in rng.normal(size=(20, 4)):
        shifted = np.stack([np.roll(values, -shift) for shift in range(4)], 1)
        e = np.sort(np.linalg.eigvalsh(shifted))
        np.testing.assert_allclose(rotation_invariant(values[:, None]).ravel(), [e[2], e[3] / 4], atol=1e-12)


def test_the_textures_are_those_of_a_loop_over_all_neighbours():
    levels = np.random.default_rng(1).integers(0, 256, (12, 17), dtype=np.uint8)
    for dy, dx in OFFSETS:
        counts = np.zeros((256, 256))
        for y in range(12):
            for x in range(17):
                if 0 <= y + dy < 12 and 0 <= x + dx < 17:
                    counts[levels[y, x], levels[y + dy, x + dx]] += 1
                    counts[levels[y + dy, x + dx], levels[y, x]] += 1
        np.testing.assert_allclose(co_occurrence(levels, (dy, dx)), counts / counts.sum())


def test_the_textures_are_those_of_mahotas():
    mahotas = pytest.importorskip("mahotas", reason="mahotas is not installed")
    levels = np.random.default_rng(2).integers(0, 256, (40, 50), dtype=np.uint8)
    theirs = mahotas.features.haralick(levels, use_x_minus_y_variance=True)
    theirs[:, [7, 8, 10]] *= np.log(2)  # log2 there
    theirs[:, 5] += 2  # grey levels are counted from 0 there
    order = [OFFSETS.index(offset) for offset in ((0, 1), (-1, -1), (-1, 0), (-1, 1))]
    ours = np.array([haralick(co_occurrence(levels, OFFSETS[number])) for number in order])
    np.testing.assert_allclose(ours[:, :11], theirs[:, :11], rtol=1e-8, atol=1e-10)


def test_quarter_turns_keep_the_invariant_textures():
    image = np.random.default_rng(3).random((64, 64)).cumsum(0)
    np.testing.assert_allclose(textures(np.rot90(image)), textures(image), rtol=1e-9, atol=1e-9)
    assert np.isfinite(textures(np.zeros((8, 8)))).all()


def test_relieff_ranks_a_planted_feature_first_among_50_of_40_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 4)
    features = rng.random((160, 50))
    features[:, 17] = labels + rng.normal(0, 0.1, 160)
    assert relieff(features, labels).argmax() == 17


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_sample_folder(tmp_path_factory.mktemp("pairs"), range(3), 96, BOTH)


def shallow(retriever):
    """Take colour means in place of ResNet50, which needs torchvision and its weights."""
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    retriever.__dict__["network"] = pool
    return retriever


def test_images_find_themselves_and_two_fits_choose_alike(pairs):
    settings = ImtdfSettings(copies=1)
    first, again = (shallow(Imtdf("unused", "cpu", settings=settings)) for _ in range(2))
    for retriever in (first, again):
        jobs.run(retriever.fit(pairs, BOTH))
    assert [len(kept) for kept in first.kept] == [21, 5, 2]
    assert all((one == other).all() for one, other in zip(first.kept, again.kept, strict=True))
    images = {pair.identifier: read_pair(pair)[1] for pair in pairs}
    jobs.run(first.index(images, "BF"))
    for name, image in images.items():
        scores = jobs.run(first.rank(image, "BF"))
        assert max(scores, key=scores.get) == name
    across = jobs.run(first.rank(read_pair(pairs[0])[0], "SHG"))
    assert set(across) == set(images)
    assert np.isfinite(list(across.values())).all()


def test_it_says_what_is_missing(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    retriever = RETRIEVERS["imtdf"]("unused", "cpu")
    with pytest.raises(InputError, match="fit it on training pairs first"):
        jobs.run(retriever.index({}, "BF"))
    with pytest.raises(InputError, match="give at least two"):
        jobs.run(retriever.fit([], BOTH))
    with pytest.raises(InputError, match=r"resnet50-0676ba61\.pth \(98 MB"):
        jobs.run(retriever.fit(pairs, BOTH))


def test_resnet50_gives_2048_values():
    try:
        resnet.torchvision_models()
    except InputError as missing:
        pytest.skip(str(missing))
    retriever = Imtdf("unused", "cpu", settings=ImtdfSettings(weights=resnet.RANDOM))
    blocks = retriever._blocks(np.zeros((40, 50, 3), np.uint8), "BF")
    assert [len(block) for block in blocks] == [21, 26, 2048]
