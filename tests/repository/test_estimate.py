"""The estimate of time and disk before indexing, for many images and for one large image."""

import re
from contextlib import closing

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_cmrir.jobs import run
from napari_cmrir.repository import build as estimate
from napari_cmrir.repository.build import Estimate, Source, build_repository


def _texture(height, width, seed=0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return np.clip(128 + 500 * noise, 0, 255).astype(np.uint8)[..., np.newaxis]


def _first_message(sources, model, path, settings):
    with closing(build_repository(sources, model, "BF", path, settings)) as job:
        first = next(job)
    assert isinstance(first.preview, Estimate)
    assert first.message == str(first.preview)
    return first.message


def test_a_few_small_images_are_counted(model, tmp_path, small):
    sources = [Source("a", _texture(300, 400))]
    assert _first_message(sources, model, tmp_path / "a.cmrir", small) == "1 images to index"


def test_one_large_image_is_estimated(model, tmp_path, small):
    large = np.tile(_texture(400, 400), (9, 10, 1))
    message = _first_message([Source("large", large)], model, tmp_path / "a.cmrir", small)
    assert re.fullmatch(r"1 images to index: about \d+ (seconds|minutes) and \d+ MB of .* GB free", message)


def test_images_that_cannot_be_read_are_counted_only(model, tmp_path, small):
    for number in range(3):
        (tmp_path / f"{number}.tif").write_text("no image")
    message = _first_message([tmp_path], model, tmp_path / "a.cmrir", small)
    assert message == "3 images to index"


def test_the_disk_space_is_about_the_estimate(model, tmp_path, small, monkeypatch):
    monkeypatch.setattr(estimate, "FEW_PIXELS", 0)
    sources = [Source(f"{seed}", _texture(600, 700, seed)) for seed in range(6)]
    messages = []
    run(build_repository(sources, model, "BF", tmp_path / "a.cmrir", small), messages.append)
    estimated = messages[0].preview.bytes
    files = [file for file in (tmp_path / "a.cmrir" / "comirs").rglob("*") if file.is_file()]
    assert 0.5 < estimated / sum(file.stat().st_size for file in files) < 2
