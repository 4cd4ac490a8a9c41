"""The model file: a saved model loads unchanged, and other files are refused."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.training.train import train
from napari_cmrir.representations.model_file import read_header


@pytest.fixture
def model_file(tmp_path, tissue_pairs, small_settings):
    path = tmp_path / "model.safetensors"
    run(train(tissue_pairs, ("SHG", "BF"), small_settings, output=path))
    return path


def test_a_saved_model_gives_the_same_comirs(tmp_path, model_file) -> None:
    model = load_model(model_file)
    model.save(tmp_path / "copy.safetensors")
    copy = load_model(tmp_path / "copy.safetensors")
    assert copy.fingerprint == model.fingerprint
    assert (copy.settings, copy.intensities, copy.scales) == (
        model.settings,
        model.intensities,
        model.scales,
    )
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_header_describes_the_model(model_file, small_settings) -> None:
    header = read_header(model_file)
    assert header["modalities"] == ["SHG", "BF"]
    assert header["settings"]["steps"] == small_settings.steps
    assert header["history"][-1]["step"] == small_settings.steps
    assert len(header["provenance"]["images_sha256"]) == 64


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95pickle", struct.pack("<Q", 2**40)])
def test_files_that_are_no_model_are_refused(tmp_path, content) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a model"):
        load_model(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not a model of napari-cmrir; give one that 'train' wrote"):
        load_model(tmp_path / "other.safetensors")


def rewrite(path, change) -> None:
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    ours = json.loads(header["__metadata__"]["napari-cmrir"])
    change(ours)
    header["__metadata__"]["napari-cmrir"] = json.dumps(ours)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])


def test_a_newer_format_is_refused(model_file) -> None:
    rewrite(model_file, lambda ours: ours.update(format=99))
    with pytest.raises(InputError, match="newer napari-cmrir"):
        load_model(model_file)


def test_a_damaged_header_is_refused(model_file) -> None:
    rewrite(model_file, lambda ours: ours["settings"].update(widths=[4, 4]))
    with pytest.raises(InputError, match="is damaged"):
        load_model(model_file)


def test_a_setting_of_a_newer_version_is_a_warning(model_file) -> None:
    before = load_model(model_file)
    rewrite(model_file, lambda ours: ours["settings"].update(attention="linear", settings_version=99))
    with pytest.warns(UserWarning, match=f"{model_file.name}.*attention"):
        model = load_model(model_file)
    assert (model.settings, model.fingerprint) == (before.settings, before.fingerprint)
