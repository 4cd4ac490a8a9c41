"""Fitted values: one shipped file with the provenance of each value, read where the values are used."""

import json
from pathlib import Path

import numpy as np
import pytest

import napari_cmrir
from napari_cmrir import settings as module
from napari_cmrir.search.calibration import FEATURES, Calibration
from napari_cmrir.settings import FittedValues, fitted_values

FILE = Path(napari_cmrir.__file__).with_name("fitted_values.json")


def test_every_value_has_a_provenance():
    for subject, content in json.loads(FILE.read_text()).items():
        entry = fitted_values(subject)
        assert entry == FittedValues.model_validate(content)
        assert {"fitted_to", "date", "command", "meaning"} <= content.keys()


def test_the_default_confidence_is_the_shipped_one():
    shipped, default = fitted_values("confidence").values, Calibration()
    assert {name: getattr(default, name) for name in (*FEATURES, "intercept")} == shipped
    assert default.source == "shipped"


def test_a_change_of_the_file_changes_the_confidence(tmp_path, monkeypatch):
    """The code holds no copy of the coefficients."""
    content = json.loads(FILE.read_text())
    content["confidence"]["values"]["intercept"] = 5.0
    (tmp_path / "fitted_values.json").write_text(json.dumps(content))
    before = float(Calibration().probability(np.zeros(4)))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "settings.py"))
    module._read.cache_clear()
    try:
        assert Calibration().intercept == 5.0
        assert float(Calibration().probability(np.zeros(4))) > before + 0.5
    finally:
        module._read.cache_clear()


def test_a_subject_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="weather"):
        fitted_values("weather")
