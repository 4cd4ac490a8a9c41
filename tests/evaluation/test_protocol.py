import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import wilson_interval
from napari_cmrir.evaluation.protocol import EvaluationRun, evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import Pair, find_pairs
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair


@pytest.mark.parametrize("rerank", ["none", "bow", "registration"])
def test_noise_is_found_as_often_as_chance_would(noise_model, pairs, measure, rerank):
    report = measure(noise_model, pairs, rerank=rerank, query="full", kinds=("cross",), hits=1)
    ranks = np.array([result.rank for result in report.results])
    n_fields = len(report.fields)
    assert (n_fields, len(ranks)) == (12, 4 * 12)
    assert ranks.min() >= 1
    assert ranks.max() <= n_fields
    for k in (1, 4, 8):
        low, high = wilson_interval(int((ranks <= k).sum()), len(ranks), 0.999)
        assert low <= k / n_fields <= high
    assert abs(ranks.mean() - (n_fields + 1) / 2) < 3.3 * n_fields / np.sqrt(12 * len(ranks))


@pytest.mark.parametrize("rerank", ["none", "registration"])
def test_a_modality_searched_with_itself_is_always_found(grey_model, pairs, measure, rerank):
    report = measure(grey_model, pairs, rerank=rerank, kinds=("within",), poses=("untransformed",))
    assert [str(condition) for condition, _ in report.conditions()] == [
        "SHG in SHG, full",
        "BF in BF, full",
        "SHG in SHG, patch",
        "BF in BF, patch",
    ]
    for summary in report.summaries():
        if rerank == "registration" or summary.condition.size == "full":
            assert summary.success[1].value == 1, summary.condition


def test_what_was_turned_and_shifted_is_found_where_it_was_cut(grey_model, pairs, measure):
    report = measure(
        grey_model, pairs, kinds=("within",), poses=("transformed",), query="full", rotation_step=10
    )
    for summary in report.summaries():
        assert summary.success[1].value > 0.9
        assert summary.median_corner_error < 1
        assert summary.within_width.value > 0.8
        assert summary.within_degrees.value > 0.9
    turned = [result.rotation_degrees for result in report.results]
    assert min(turned) < -15
    assert max(turned) > 15


def test_every_kind_of_query_is_asked_both_ways(report):
    conditions = [condition for condition, _ in report.conditions()]
    assert len(conditions) == len(set(conditions)) == 16
    assert str(conditions[0]) == "SHG(T) in BF, full"
    assert {
        (condition.query, condition.repository) for condition in conditions if condition.kind == "cross"
    } == {
        ("SHG", "BF"),
        ("BF", "SHG"),
    }
    names = [field.name for field in report.fields]
    for condition, results in report.conditions():
        assert [result.field for result in results] == names, condition


def test_several_patches_of_a_field_lie_in_it_and_in_both_modalities_alike(grey_model, pairs, measure):
    report = measure(
        grey_model, pairs[:2], kinds=("within",), query="patch", patches=4, patch_size=40, rotation_step=10
    )
    assert len(report.results) == 4 * 4 * len(report.fields)
    boxes = {}
    for result in report.results:
        box = np.array(result.box)
        field = next(field for field in report.fields if field.name == result.field)
        if result.number > 0:
            assert box.min() >= -0.5
            assert (box.max(0) <= [field.height - 0.5, field.width - 0.5]).all()
        boxes.setdefault((result.condition.pose, result.field, result.number), set()).add(result.box)
    assert {len(same) for same in boxes.values()} == {1}
    for field in report.fields:  # a field's patches lie at different places
        assert len({next(iter(boxes["transformed", field.name, n])) for n in range(4)}) == 4
    upright = [result for result in report.results if result.condition.pose == "untransformed"]
    assert all(result.rank == 1 for result in upright)
    assert np.mean([result.localisation.corner_error < 1 for result in upright]) > 0.9


def test_modalities_and_sizes_have_the_same_transform(report):
    of_field = {}
    for result in report.results:
        if result.condition.pose == "transformed":
            of_field.setdefault(result.field, set()).add(result.rotation_degrees)
            centre = np.mean(result.box, axis=0)
            of_field.setdefault((result.field, "centre"), []).append(centre)
    for name, values in of_field.items():
        if isinstance(name, tuple):
            np.testing.assert_allclose(values, [values[0]] * len(values), atol=0.01)
        else:
            assert len(values) == 1


def test_the_shortlist_and_the_registration_of_all_are_reported_beside(grey_model, pairs, measure):
    three = pairs[:3]
    both = measure(
        grey_model, three, rerank="registration", register_all=0, shortlist_by="words", shortlist=2,
        report_shortlist=True, kinds=("cross",), query="full",
    )  # fmt: skip
    words = measure(grey_model, three, rerank="none", kinds=("cross",), query="full")
    every = measure(grey_model, three, rerank="registration", kinds=("cross",), query="full")
    assert [r.shortlist_rank for r in both.results] == [r.rank for r in words.results]
    assert [r.exhaustive_rank for r in both.results] == [r.rank for r in every.results]
    assert [r.rank for r in both.results] != [r.rank for r in every.results]
    for summary, (_, results) in zip(both.summaries(), both.conditions(), strict=True):
        lost = [result for result in results if result.rank > 5]
        assert summary.lost["shortlist"] == sum(result.shortlist_rank > 2 for result in lost)
        assert summary.lost["shortlist"] + summary.lost["reranking"] == len(lost)
        assert summary.shortlist[10].count == len(results)


def test_repositories_that_are_kept_are_used_again(grey_model, pairs, measure, tmp_path):
    asked = {"query": "full", "kinds": ("cross",), "poses": ("untransformed",)}
    first = measure(grey_model, pairs[:2], tmp_path, **asked)
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("repositories/*/segments/*")}
    assert len(files) == 2
    again = measure(grey_model, pairs[:2], tmp_path, **asked)
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert len(list((tmp_path / "repositories").iterdir())) == 2
    assert [result.rank for result in again.results] == [result.rank for result in first.results]
    measure(grey_model, pairs[:3], tmp_path, **asked)
    assert len(list((tmp_path / "repositories").iterdir())) == 4


def test_identifiers_are_compared_whole(grey_model, pairs, measure, tmp_path):
    """A ready query of 1B_B1 that shows 1B_B10 finds 1B_B10, which is wrong."""
    folder, queries = tmp_path / "pairs", tmp_path / "queries"
    folder.mkdir()
    queries.mkdir()
    pixels = {}
    for identifier, pair in zip(("1B_B1", "1B_B10", "B1"), pairs, strict=False):
        for modality, image in zip(("SHG", "BF"), read_pair(pair), strict=True):
            pixels[identifier, modality] = image.squeeze()
            tifffile.imwrite(folder / f"{identifier}_{modality}.tif", image.squeeze())
    for modality in ("SHG", "BF"):
        tifffile.imwrite(queries / f"1B_B1_{modality}.tif", pixels["1B_B10", modality])
        tifffile.imwrite(queries / f"B1_{modality}.tif", pixels["B1", modality])
    report = measure(
        grey_model, find_pairs(folder, ("SHG", "BF")), queries=queries, field_size=1024,
        kinds=("within",), poses=("transformed",), query="full",
    )  # fmt: skip
    for _, (swapped, true) in report.conditions():
        assert (swapped.field, swapped.hits[0].image) == ("1B_B1", "1B_B10/0-0")
        assert swapped.rank > 1
        assert (true.field, true.hits[0].image, true.rank) == ("B1", "B1/0-0", 1)
        assert swapped.box is true.box is true.localisation is None


def test_a_query_without_a_pair_is_refused(grey_model, pairs, measure, tmp_path):
    tifffile.imwrite(tmp_path / "nobody_SHG.tif", np.zeros((80, 80), np.uint8))
    with pytest.raises(InputError, match=r"nobody_SHG\.tif belongs to no pair"):
        measure(grey_model, pairs[:1], queries=tmp_path)


def test_a_query_that_shows_nothing_is_not_found_and_does_not_stop_the_others(
    grey_model, pairs, measure, tmp_path
):
    shg, bf = read_pair(pairs[0])
    tifffile.imwrite(tmp_path / "a_BF.tif", bf)
    shg[:, : shg.shape[1] // 2 + 4] = 40
    tifffile.imwrite(tmp_path / "a_SHG.tif", shg.squeeze())
    asked = {"query": "full", "kinds": ("cross",), "poses": ("untransformed",), "hits": 1}
    report = measure(grey_model, [*find_pairs(tmp_path, ("SHG", "BF")), pairs[1]], field_size=64, **asked)
    lost = [(result.field, result.condition.query) for result in report.results if result.rank is None]
    assert lost == [("a/0-0", "SHG"), ("a/0-0", "BF")]
    assert "constant" in next(result for result in report.results if result.refusal is not None).refusal
    assert {modality: list(names) for modality, names in report.unindexed.items()} == {
        "BF": [],
        "SHG": ["a/0-0"],
    }
    assert len(report.results) == 8
    assert max(summary.p90_rank for summary in report.summaries()) > 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": []}, "no pair to evaluate on"),
        ({"modalities": ("SHG", "CT")}, "trained on SHG and BF, not on CT"),
        ({"descriptor": "orb"}, "There is no descriptor 'orb'"),
    ],
)
def test_bad_input_is_told_before_anything_is_computed(grey_model, changes, message):
    missing = [Pair("a", ("nothing_SHG.tif", "nothing_BF.tif"))]
    settings = EvaluationSettings()
    if "descriptor" in changes:
        described = settings.repository.descriptor.model_copy(update={"name": changes["descriptor"]})
        repository = settings.repository.model_copy(update={"descriptor": described})
        settings = settings.model_copy(update={"repository": repository})
    job = evaluate(
        grey_model, changes.get("pairs", missing), changes.get("modalities", ("SHG", "BF")), settings
    )
    with pytest.raises(InputError, match=message):
        next(job)


def test_progress_never_goes_back_and_ends_at_its_total(grey_model, pairs, small):
    settings = small.model_copy(update={"query": "full", "kinds": ("cross",), "poses": ("transformed",)})
    seen = list(evaluate(grey_model, pairs[:1], ("SHG", "BF"), settings))
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == 2 * 2 + 2 * 2


def test_pixels_that_are_not_square_are_resampled_before_queries_are_cut(grey_model, tmp_path):
    """Every second row is left out: pixels twice as high as wide, as the first file's tags say."""
    tissue = sample_pair(5, (96, 128))
    files = tmp_path / "a_SHG.tif", tmp_path / "a_BF.tif"
    flat = [pixels.reshape(48, 2, 128, -1).mean(1).astype(pixels.dtype) for pixels in (tissue.shg, tissue.bf)]
    tags = {"resolution": (2e4, 1e4), "resolutionunit": "CENTIMETER"}  # (x, y): 0.5 um wide, 1 um high
    tifffile.imwrite(files[0], flat[0][..., 0], **tags)
    tifffile.imwrite(files[1], flat[1], photometric="rgb")
    evaluation = EvaluationRun(grey_model, ("SHG", "BF"), EvaluationSettings(field_size=64), "cpu")
    evaluation.add(Pair("a", files))
    assert [evaluation.images[modality]["a"].shape for modality in ("SHG", "BF")] == [
        (96, 128, 1),
        (96, 128, 3),
    ]
    smooth = np.abs(evaluation.images["BF"]["a"].astype(float) - tissue.bf).mean()
    assert smooth < 0.5 * np.abs(tissue.bf.astype(float) - tissue.bf.mean((0, 1))).mean()
    assert len(evaluation.fields) == 2
