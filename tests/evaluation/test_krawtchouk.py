import time
from math import comb

import numpy as np
import pytest

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.protocol import EvaluationRun
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS, compare_retrievers, grey
from napari_cmrir.evaluation.retrievers.krawtchouk import (
    Krawtchouk,
    KrawtchoukSettings,
    local_invariants,
    points_of_interest,
    polynomial_coefficients,
    weighted_polynomials,
)
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder

pytestmark = pytest.mark.core

BOTH = ("SHG", "BF")


def literal(image, y, x, frame):
    """The descriptor of one point as Sit and Kihara's toolkit computes it, step by step."""
    crop = image[y - frame // 2 : y + frame // 2, x - frame // 2 : x + frame // 2]
    ground = weighted_polynomials(0, frame - 1)[0]
    window = np.zeros((frame, frame))
    window[1:, 1:] = np.outer(ground, ground)[:-1, :-1]
    weighted = crop * window
    first, second = np.mgrid[:frame, :frame].astype(float)
    total = weighted.sum()
    first -= (weighted * first).sum() / total
    second -= (weighted * second).sum() / total
    mu20, mu02, mu11 = ((weighted * p).sum() for p in (first**2, second**2, first * second))
    theta = 0.5 * np.arctan2(2 * mu11, mu20 - mu02)
    a = (first * np.cos(theta) + second * np.sin(theta)) / np.sqrt(total) + (frame - 1) / 2
    b = (-first * np.sin(theta) + second * np.cos(theta)) / np.sqrt(total) + (frame - 1) / 2
    of_x = np.array([np.polynomial.polynomial.polyval(a, c) for c in polynomial_coefficients(frame - 1)])
    of_y = np.array([np.polynomial.polynomial.polyval(b, c) for c in polynomial_coefficients(frame - 1)])
    rho = [1 / comb(frame - 1, n) for n in range(4)]
    return [
        (weighted * of_x[n] * of_y[m]).sum() / total / np.sqrt(rho[n] * rho[m])
        for n, m in ((2, 0), (0, 2), (1, 2), (2, 1), (3, 0), (0, 3))
    ]


@pytest.fixture(scope="module")
def tissue():
    return grey(np.moveaxis(sample_pair(2, (96, 128)).bf, -1, 0) / 255)


def test_the_polynomials_are_orthonormal_to_order_20():
    for degree in (39, 599):
        rows = weighted_polynomials(20, degree)
        assert np.abs(rows @ rows.T - np.eye(21)).max() < 1e-12


def test_the_polynomials_are_the_hypergeometric_ones():
    x, degree = np.arange(40.0), 39
    table = polynomial_coefficients(degree)
    n2, n3 = degree * (degree - 1), degree * (degree - 1) * (degree - 2)
    third = [1, -6 / degree - 12 / n2 - 16 / n3, 12 / n2 + 24 / n3, -8 / n3]
    np.testing.assert_allclose(table[3], third, rtol=1e-13)
    ground = weighted_polynomials(3, degree)
    for n, norm in enumerate((1, 1 / degree, 2 / n2, 6 / n3)):
        plain = np.polynomial.polynomial.polyval(x, table[n]) * ground[0] / np.sqrt(norm)
        np.testing.assert_allclose(plain, ground[n], atol=1e-12)


def test_the_published_toolkits_values():
    y, x = np.mgrid[:40, :40]
    image = 0.5 + 0.4 * np.sin(y / 3) * np.cos(x / 5)
    values, theta = local_invariants(image, np.array([20]), np.array([20]), 40)
    expected = [-0.475007, -0.550024, -0.012200, 0.008725, -0.005252, 0.018933]
    np.testing.assert_allclose(values[0, 0], expected, atol=5e-7)
    assert theta[0, 0] == pytest.approx(0.698379, abs=5e-7)


def test_all_points_at_once_are_the_points_one_by_one(tissue):
    rows, columns, _ = points_of_interest(tissue, 40, 9)
    values, _ = local_invariants(tissue, rows, columns, 40)
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            np.testing.assert_allclose(values[i, j], literal(tissue, y, x, 40), rtol=0, atol=1e-9)


def test_the_test_of_variance_is_that_of_every_frame(tissue):
    rows, columns, varied = points_of_interest(tissue, 40, 5)
    assert (rows[0], rows[-1], columns[-1]) == (20, 75, 105)
    whole = tissue.var(ddof=1)
    frames = [[tissue[y - 20 : y + 20, x - 20 : x + 20].var(ddof=1) for x in columns] for y in rows]
    np.testing.assert_array_equal(varied, np.array(frames) >= whole)
    assert 0 < varied.mean() < 1


def test_half_a_turn_changes_the_sign_of_the_odd_orders(tissue):
    middle = np.array([40])  # the window's own middle is half a pixel on, at 40.5 of 82
    square = tissue[:82, :82]
    values, theta = local_invariants(square, middle, middle, 40)
    turned, again = local_invariants(square[::-1, ::-1], middle, middle, 40)
    np.testing.assert_allclose(turned[0, 0], values[0, 0] * [1, 1, -1, -1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(again, theta, atol=1e-4)


def test_brightness_changes_the_invariants(tissue):
    point = np.array([48])
    full, _ = local_invariants(tissue, point, point, 40)
    half, _ = local_invariants(tissue / 2, point, point, 40)
    assert abs(half[0, 0, 0] - full[0, 0, 0]) > 0.05


def test_a_published_image_takes_less_than_five_seconds():
    image = np.random.default_rng(0).random((834, 834))
    start = time.perf_counter()
    rows, columns, _ = points_of_interest(image, 40, 5)
    values, _ = local_invariants(image, rows, columns, 40)
    assert values.shape == (159, 159, 6)
    assert time.perf_counter() - start < 5


def test_black_has_no_point_and_no_answer():
    retriever = Krawtchouk("unused")
    black = np.zeros((64, 64, 1), np.uint8)
    jobs.run(retriever.index({"black": black, "tissue": sample_pair(0, 64).bf}, "BF"))
    assert set(retriever._images) == {1}
    assert jobs.run(retriever.rank(black, "SHG")) == {}
    with pytest.raises(InputError, match="smaller than the frame"):
        jobs.run(retriever.rank(black[:32], "SHG"))


@pytest.fixture(scope="module")
def indexed():
    retriever = Krawtchouk("unused", settings=KrawtchoukSettings(spacing=4))
    images = {f"tissue {seed}": sample_pair(seed, 128).bf for seed in range(4)}
    jobs.run(retriever.index(images, "BF"))
    return retriever, images


def test_a_place_on_the_grid_is_found_exactly(indexed):
    retriever, images = indexed
    image, number = images["tissue 2"], int(np.flatnonzero(retriever._images == 2)[9])
    y, x = retriever._points[number]
    whole = retriever.scaling.apply(image, "BF")
    assert whole.shape == (3, 128, 128)
    region = Region.from_rectangle(int(y) - 20, int(x) - 20, 40, 40)
    places = jobs.run(retriever.find_places(image, "BF", region=region))
    assert (places[0].image, places[0].y, places[0].x) == ("tissue 2", y, x)
    assert places[0].distance < 1e-20
    assert len(places) == 15
    for one in range(15):
        for other in range(one):
            same = places[one].image == places[other].image
            apart = max(abs(places[one].y - places[other].y), abs(places[one].x - places[other].x))
            assert not same or apart > 10
    scores = jobs.run(retriever.rank(image, "BF", region=region))
    assert max(scores, key=scores.get) == "tissue 2"


def test_votes_of_all_points_find_the_image(indexed):
    images = indexed[1]
    voting = Krawtchouk("unused", settings=KrawtchoukSettings(query_points="votes", spacing=4))
    jobs.run(voting.index(images, "BF"))
    for name, image in images.items():
        scores = jobs.run(voting.rank(image[24:, 16:], "BF"))
        assert max(scores, key=scores.get) == name


def test_it_is_compared_on_the_queries_of_an_evaluation(grey_model, tmp_path, small):
    pairs = write_sample_folder(tmp_path / "pairs", range(3), 128, BOTH)
    settings = small.model_copy(
        update={"field_size": 128, "query": "full", "kinds": ("within",), "poses": ("untransformed",)}
    )
    evaluation = EvaluationRun(grey_model, BOTH, settings, "cpu")
    for pair in pairs:
        evaluation.add(pair)
    plain = RETRIEVERS["2dkd"](tmp_path / "2dkd")
    jobs.run(plain.fit(pairs, BOTH))
    assert plain.scaling.ranges["BF"].high == (255.0,) * 3
    comirs = Krawtchouk(tmp_path / "2dkd", "cpu", model=grey_model)
    ranks = jobs.run(compare_retrievers({"2dkd": plain, "2dkd on CoMIR": comirs}, evaluation))
    for found in ranks.values():
        assert [len(answers) for answers in found.values()] == [3, 3]
        assert all(answer in (1, 2, 3, None) for answers in found.values() for answer in answers)


def test_a_range_is_chosen_for_images_of_more_than_8_bits(tmp_path):
    pairs = write_sample_folder(tmp_path, range(2), 64, BOTH)
    shg = read_pair(pairs[0])[0]
    for transform in ("linear", "log"):
        retriever = Krawtchouk("unused", settings=KrawtchoukSettings(transform=transform))
        jobs.run(retriever.fit(pairs, BOTH))
        intensity = retriever.scaling.ranges["SHG"]
        assert shg.dtype == np.uint16
        assert 0 < intensity.low[0] < intensity.high[0] < 4096
        scaled = retriever.scaling.apply(shg, "SHG")
        assert 0 <= scaled.min() < 0.1 < 0.9 < scaled.max() <= 1
