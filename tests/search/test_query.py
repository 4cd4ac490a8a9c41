"""The whole search on generated tissue: the right image, the right place, and clear refusals."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, corner_error, cut, rotation_difference
from napari_cmrir.jobs import run
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

pytestmark = pytest.mark.core


def test_a_turned_and_shifted_region_is_found_where_it_was_cut(repository, partners) -> None:
    errors = []
    for (name, shg), degrees in zip(partners.items(), (-25, -10, 5, 12, 20, 28), strict=True):
        place = Region((125, 131), 128, 120, degrees)
        query, _ = cut(shg, place)
        best = run(search(repository, query, "SHG")).hits[0]
        if best.image == name:
            errors.append((corner_error(best.box, place.corners()), best.rotation_degrees - degrees))
    assert len(errors) >= 5
    assert np.median([pixels for pixels, _ in errors]) < 3
    assert np.median(np.abs([degrees for _, degrees in errors])) < 2


def test_a_region_of_a_larger_image_gives_its_box(repository, partners) -> None:
    region = Region.from_rectangle(60, 40, 120, 140)
    best = run(search(repository, partners["tissue-21"], "SHG", region=region)).hits[0]
    assert best.image == "tissue-21"
    assert corner_error(best.box, region.corners()) < 4
    assert rotation_difference(best.rotation_degrees, 0) < 3


def test_only_what_the_mask_shows_counts(repository, partners) -> None:
    shg = partners["tissue-22"].copy()
    y, x = np.ogrid[:256, :256]
    mask = (y - 128) ** 2 + (x - 120) ** 2 < 80**2
    region = Region.from_rectangle(48, 40, 160, 160)
    result = run(search(repository, shg, "SHG", region=region, mask=mask))
    assert result.hits[0].image == "tissue-22"
    assert result.mask.mean() == pytest.approx(np.pi / 4, abs=0.03)


@pytest.mark.parametrize("rerank", ["none", "bow", "registration"])
def test_every_reranker_ranks_every_image_once_with_a_box(repository, partners, rerank) -> None:
    settings = SearchSettings(rerank=rerank, hits=20)
    result = run(search(repository, partners["tissue-20"][:128, :128], "SHG", settings=settings))
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4, 5, 6]
    assert sorted(hit.image for hit in result.hits) == sorted(partners)
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    for hit in result.hits:
        sides = np.linalg.norm(hit.box - np.roll(hit.box, -1, 0), axis=1)
        np.testing.assert_allclose(sides, 128, atol=0.01)
        assert 0 <= hit.confidence <= 1


def test_fewer_hits_are_the_first_of_more(repository, partners) -> None:
    query = partners["tissue-23"][40:200, 30:180]
    few, many = (run(search(repository, query, "SHG", settings=SearchSettings(hits=n))).hits for n in (2, 6))
    assert [hit.as_dict() for hit in few] == [hit.as_dict() for hit in many[:2]]


def test_the_modality_searched_finds_itself_exactly(repository, searched) -> None:
    best = run(search(repository, searched["tissue-24"], "BF")).hits[0]
    assert best.image == "tissue-24"
    # not 1 and 0 px: at the border the query's CoMIR saw the image mirrored; faint gradients do not vote
    assert best.score > 0.9
    assert corner_error(best.box, Region.whole((256, 256)).corners()) < 0.25


def test_progress_never_goes_back(repository, partners) -> None:
    shares = [p.done / p.total for p in search(repository, partners["tissue-20"], "SHG")]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region.from_rectangle(300, 300, 64, 64), "outside the image of 256 x 256"),
        (Region.from_rectangle(240, 240, 64, 64), "of the region lie inside the image"),
        (Region.from_rectangle(10, 10, 20, 64), "20 x 64 pixels, too small"),
    ],
)
def test_regions_that_cannot_be_found_are_refused(repository, partners, region, message) -> None:
    with pytest.raises(InputError, match=message):
        run(search(repository, partners["tissue-20"], "SHG", region=region))


def test_a_constant_region_is_refused(repository) -> None:
    with pytest.raises(InputError, match="has one constant value"):
        run(search(repository, np.full((100, 100), 7, np.uint16), "SHG"))


def test_an_unknown_modality_is_refused(repository, partners) -> None:
    with pytest.raises(InputError, match="trained on SHG and BF, not on CT"):
        run(search(repository, partners["tissue-20"], "CT"))


def test_a_mask_of_another_size_is_refused(repository, partners) -> None:
    with pytest.raises(InputError, match="mask of the image's size"):
        run(search(repository, partners["tissue-20"], "SHG", mask=np.ones((9, 9), bool)))
