"""Whether a confidence is kept, and what calibrating makes of it."""

import json

import numpy as np
import pytest
import torch

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import brier, calibrate_on, calibration_error, judged, reliability
from napari_cmrir.evaluation.protocol import EvaluationRun
from napari_cmrir.evaluation.report.tables import evaluation_tables
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.calibration import Calibration, calibration_of, store_calibration
from napari_cmrir.search.query import search


def test_honest_confidences_have_no_calibration_error_and_boasting_ones_do():
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    right = rng.random(20_000) < confidence
    assert calibration_error(confidence, right) < 0.02
    boasting = np.sqrt(confidence)
    expected = (np.sqrt(confidence) - confidence).mean()
    assert calibration_error(boasting, right) == pytest.approx(expected, abs=0.02)
    assert brier(confidence, right) < brier(boasting, right)
    assert brier(confidence, right) == pytest.approx((confidence * (1 - confidence)).mean(), abs=0.01)
    assert sum(each.share.total for each in reliability(confidence, right)) == 20_000


def test_absent_tissue_is_as_if_it_were_not_searched(grey_model, pairs, measure, small, tmp_path):
    """The evidence of a query whose pair is left out equals that of a repository without the pair."""
    asked = {"query": "full", "kinds": ("within",), "poses": ("transformed",)}
    with_all = measure(grey_model, pairs[:3], **asked)
    evaluation_run = EvaluationRun(grey_model, ("SHG", "BF"), small.model_copy(update=asked), "cpu")
    for pair in pairs[1:3]:
        evaluation_run.add(pair)
    whole = EvaluationRun(grey_model, ("SHG", "BF"), small.model_copy(update=asked), "cpu")
    whole.add(pairs[0])
    condition = next(condition for condition in whole.conditions() if condition.query == "BF")
    repository = jobs.run(evaluation_run.build("BF", tmp_path))
    for query in whole.queries(condition):
        image = query.image
        result = jobs.run(search(repository, image.pixels, "BF", mask=image.mask, settings=small.search))
        recorded = next(r for r in with_all.results if r.condition == condition and r.field == query.name)
        first = int(repository.fields["image"][result.hits[0].field])
        assert recorded.not_in_repository == pytest.approx(result.evidence.features(first), abs=2e-6)
        assert recorded.not_in_repository_confidence == pytest.approx(result.hits[0].confidence, abs=2e-6)


def test_the_figures_are_those_of_the_queries(report):
    confidence, right, not_in_repository = judged(report.results)
    asked = [result for result in report.results if result.refusal is None]
    assert len(confidence) == 2 * len(asked)
    assert not_in_repository.sum() == len(asked)
    assert right.sum() == sum(result.rank == 1 for result in asked)
    table = evaluation_tables(report.summaries())["Confidence of the first hit"]
    assert len(table) == 1 + 16
    for summary, (_, results) in zip(report.summaries(), report.conditions(), strict=True):
        firsts = [result for result in results if result.rank == 1]
        sure = sum(result.hits[0].confidence >= 0.5 for result in firsts)
        share = summary.confidence.reliable_when_right
        assert (share.count, share.total) == (sure, len(firsts))
    json.dumps(report.as_dict(), allow_nan=False)


def test_calibrating_makes_the_confidence_of_these_queries_no_worse(report):
    fit = calibrate_on(report)
    chosen = [r for r in report.results if r.condition.kind == "cross" and r.condition.pose == "transformed"]
    assert fit.total == 2 * len(chosen)
    assert fit.right == sum(result.rank == 1 for result in chosen)
    features = np.array(
        [result.evidence for result in chosen] + [result.not_in_repository for result in chosen]
    )
    right = np.array([result.rank == 1 for result in chosen] + [False] * len(chosen))
    assert brier(fit.calibration.probability(features), right) <= fit.before[0] + 1e-9
    assert f"{fit.right} of them right" in str(fit)


def test_a_calibration_is_kept_with_a_model_and_a_repository(report, grey_model, tmp_path, small):
    torch.manual_seed(0)
    settings, networks, scales = TrainingSettings(widths=(4, 8)), {}, {}
    for name, intensity in grey_model.intensities.items():
        networks[name] = build_network(settings, intensity.channels).eval()
        with torch.inference_mode():
            raw = networks[name](torch.rand(1, intensity.channels, 64, 64))[0].flatten(1)
        scales[name] = OutputScale(tuple(raw.mean(1).tolist()), tuple((raw.std(1) / 4).tolist()))
    model = ComirModel(("SHG", "BF"), settings, grey_model.intensities, networks, scales)
    model.save(tmp_path / "model.safetensors")
    kept, other = Calibration(score=1.5, source="a test"), Calibration(score=2.5)
    store_calibration(tmp_path / "model.safetensors", kept)
    again = load_model(tmp_path / "model.safetensors")
    assert again.fingerprint == model.fingerprint
    source = Source("a", sample_pair(0, 128).bf)
    with jobs.run(build_repository([source], again, "BF", tmp_path / "a.cmrir", small.repository)):
        pass
    with open_repository(tmp_path / "a.cmrir") as repository:
        assert calibration_of(repository) == kept
    store_calibration(tmp_path / "a.cmrir", other)
    with open_repository(tmp_path / "a.cmrir") as repository:
        assert calibration_of(repository) == other
        assert repository.verify() == []
    (tmp_path / "a.cmrir" / "calibration.json").write_text("{}x")
    with (
        open_repository(tmp_path / "a.cmrir") as repository,
        pytest.raises(InputError, match="cannot be read; calibrate again"),
    ):
        calibration_of(repository)
    with pytest.raises(InputError):
        store_calibration(tmp_path, other)
