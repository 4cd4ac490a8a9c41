"""File, fingerprint and tiles of any representation, and the representation "original" end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.ndimage import uniform_filter
from typer.testing import CliRunner

from napari_cmrir.cli.main import app
from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations import base
from napari_cmrir.representations.base import load_model, represent, train
from napari_cmrir.representations.original import OriginalImages

pytestmark = pytest.mark.core

BYTES = Intensity(low=(0.0,), high=(255.0,))


class Blurred(OriginalImages):
    """Sees 3 pixels around each."""

    halo = 3

    def represent_tile(self, pixels, modality):
        return uniform_filter(pixels[None, ..., 0].astype(np.uint8), (1, 7, 7))


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (150, 170), dtype=np.uint8)


def test_tiles_have_no_seam(image, monkeypatch):
    model = Blurred(("A", "B"), {"A": BYTES, "B": BYTES})
    whole = run(represent(model, image, "A"))
    monkeypatch.setattr(base, "_TILE", 32)
    assert (run(represent(model, image, "A")) == whole).all()
    part = run(represent(model, image, "A", part=(40, 10, 70, 90)))
    assert (part == whole[:, 40:110, 10:100]).all()
    mask = np.zeros(image.shape, bool)
    mask[20:90, 30:140] = True
    out = np.full((1, *image.shape), 7, np.uint8)
    assert run(represent(model, image, "A", mask=mask, out=out)) is out
    assert (out == whole * mask).all()


def test_a_representation_without_a_mean_refuses_rotations(image):
    model = OriginalImages(("A", "B"), {"A": BYTES, "B": BYTES})
    with pytest.raises(InputError, match="'original' takes no mean over rotations"):
        run(represent(model, image, "A", rotations=4))
    with pytest.raises(InputError, match="not on C"):
        run(represent(model, image, "C"))


def test_the_fingerprint_holds_the_pixel_size(tissue_pairs, small_settings):
    short = small_settings.model_copy(update={"steps": 1})
    for settings, kind in ((None, "original"), (short, "comir")):
        job = train(tissue_pairs, ("SHG", "BF"), settings, representation=kind, pixel_size=0.25)
        model = run(job)
        fine = model.fingerprint
        model.pixel_size = 1.0
        assert model.fingerprint != fine, kind


def test_a_file_names_its_representation_and_one_that_names_none_is_a_comir(tmp_path, tissue_pairs, image):
    path = tmp_path / "model.safetensors"
    model = run(train(tissue_pairs, ("SHG", "BF"), representation="original", output=path, pixel_size=0.5))
    again = load_model(path)
    assert isinstance(again, OriginalImages)
    assert again == model
    assert again.fingerprint == model.fingerprint
    assert (run(represent(again, image, "SHG")) == run(represent(model, image, "SHG"))).all()
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["napari-cmrir"])
    assert header.pop("representation") == "original"
    save_file({}, path, metadata={"napari-cmrir": json.dumps(header)})
    with pytest.raises(InputError, match="is damaged"):  # it is read as a CoMIR, of which it has no settings
        load_model(path)
    save_file({}, path, metadata={"napari-cmrir": json.dumps({**header, "representation": "magic"})})
    with pytest.raises(
        InputError,
        match="no representation 'magic'; choose one of comir, comir-any, cyclegan, original, pix2pix",
    ):
        load_model(path)


def test_originals_are_trained_indexed_and_queried_by_the_command_line(tmp_path):
    pairs = tmp_path / "pairs"
    write_sample_folder(pairs, range(3), 160, ("SHG", "BF"))
    model, repository = tmp_path / "grey.safetensors", tmp_path / "grey.cmrir"
    found = tmp_path / "hits.json"
    for line in (
        f"train {pairs} --modalities BF SHG --representation original -o {model}",
        f"index {pairs} --model {model} --modality BF -o {repository}",
        f"query {repository} {pairs / (sorted(p.name for p in pairs.glob('*_BF.*'))[1])} --modality BF"
        f" --json {found}",
    ):
        answer = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
    query = json.loads(found.read_text())["queries"][0]
    best = query["hits"][0]
    assert best["image"] == query["image"]
    assert best["score"] > 0.98
    assert "original" in CliRunner().invoke(app, ["info", str(model)]).output
