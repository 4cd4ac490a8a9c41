"""Forms that are made from settings models, with real widgets."""

import pytest
from qtpy.QtWidgets import QCheckBox

from napari_cmrir.napari.dock import SettingsForm
from napari_cmrir.representations.training_settings import PRESETS, TrainingSettings
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import ReadingSettings


@pytest.fixture
def form(qapp):
    return SettingsForm(SearchSettings, ["hits", "max_rotation", "mirror", "rerank"], {"hits": "Hits"})


def test_it_starts_with_the_defaults(form):
    assert form.value() == SearchSettings()


def test_what_is_entered_becomes_the_settings(form):
    form.field("hits").setValue(3)
    form.field("mirror").setChecked(True)
    form.field("rerank").setCurrentText("bow")
    assert form.value() == SearchSettings(hits=3, mirror=True, rerank="bow")
    assert form.value(SearchSettings(refine=7)).refine == 7


def test_bounds_units_tips_and_accessible_names_come_from_the_model(form):
    rotation = form.field("max_rotation")
    rotation.setValue(500)
    assert (rotation.value(), rotation.suffix()) == (180, "°")
    assert "180 is the full circle" in rotation.toolTip()
    assert form.field("hits").accessibleName() == "Hits"
    assert isinstance(form.field("mirror"), QCheckBox)


def test_settings_are_shown_and_a_change_is_told(form):
    told = []
    form.changed.connect(told.append)
    form.show(SearchSettings(hits=4, max_rotation=180))
    assert form.field("hits").value() == 4
    assert len(told) == 2


def test_a_setting_may_be_missing(qapp):
    form = SettingsForm(ReadingSettings, ["pixel_size"], missing={"pixel_size": "as the files say"})
    assert form.field("pixel_size").text() == "as the files say"
    assert form.value() == ReadingSettings()
    form.field("pixel_size").setValue(0.25)
    assert form.value() == ReadingSettings(pixel_size=0.25)
    form.show(ReadingSettings())
    assert form.value().pixel_size is None


def test_a_preset_fills_the_form_and_keeps_what_it_does_not_show(qapp):
    form = SettingsForm(TrainingSettings, ["steps", "seed"])
    form.show(PRESETS["paper"])
    form.field("seed").setValue(5)
    assert form.value(PRESETS["paper"]) == PRESETS["paper"].model_copy(update={"seed": 5})
