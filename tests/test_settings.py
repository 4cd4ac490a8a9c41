"""Stored settings: unknown settings are a warning, invalid settings are an error for the user."""

import importlib
import pkgutil
import warnings

import pytest
from pydantic import BaseModel, ValidationError

import napari_cmrir
from napari_cmrir.errors import InputError
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.settings import Settings, dump_settings, load_settings


def test_stored_settings_come_back_unchanged_and_without_a_warning():
    settings = RepositorySettings.paper()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_settings(RepositorySettings, dump_settings(settings)) == settings


def test_a_setting_of_a_newer_version_is_a_warning_at_any_depth():
    stored = dump_settings(RepositorySettings(field_size=512)) | {"settings_version": 99, "tiles": "hexagons"}
    stored["vocabulary"]["whitening"] = True
    with pytest.warns(UserWarning, match=r"a\.cmrir .*vocabulary\.whitening.*tiles|tiles.*vocabulary"):
        loaded = load_settings(RepositorySettings, stored, "a.cmrir")
    assert loaded == RepositorySettings(field_size=512)
    assert stored["vocabulary"]["whitening"], "the stored settings are not changed"


def test_a_value_of_a_newer_version_is_named():
    stored = dump_settings(TrainingSettings()) | {"settings_version": 99, "network": "mamba", "new": 1}
    with pytest.raises(InputError, match=r"m\.safetensors .*network.*update napari-cmrir"):
        load_settings(TrainingSettings, stored, "m.safetensors")


def test_code_that_names_an_unknown_setting_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainingSettings(step=3)


@pytest.mark.parametrize("stored", [None, [1, 2], "steps"])
def test_what_is_no_settings_is_refused_in_a_sentence(stored):
    with pytest.raises(InputError, match="holds no settings"):
        load_settings(TrainingSettings, stored)


def _settings_models() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(napari_cmrir.__path__, "napari_cmrir."):
        if module.name.endswith(("settings", "study")) and ".napari" not in module.name:
            importlib.import_module(module.name)
    found, todo = [], [Settings]
    while todo:
        found += todo[-1].__subclasses__()
        todo = todo[:-1] + todo[-1].__subclasses__()
    return [model for model in found if model.__name__ != "Example"]


@pytest.mark.parametrize("model", _settings_models(), ids=lambda model: model.__name__)
def test_every_setting_is_described(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []
