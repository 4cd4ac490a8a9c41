"""Keys of stored files: an equal key gives the same files; another key gives other files or a clear error."""

import random
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_index, build_repository
from napari_cmrir.repository.maintenance import verify_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.settings import changed_settings
from napari_cmrir.search.query import search
from napari_cmrir.settings import ReadingSettings


def stop_after(job, message):
    """Stop a job at the first progress whose message starts so."""
    for progress in job:
        if progress.message.startswith(message):
            job.close()
            return
    raise AssertionError(f"there was no {message!r}")


@pytest.fixture
def stacks(tmp_path):
    """Two images of two planes each, both unlike in the planes."""
    folder = tmp_path / "stacks"
    folder.mkdir()
    random_pixels = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        planes = random_pixels.integers(0, 256, (2, 96, 112), dtype=np.uint8)
        tifffile.imwrite(folder / f"{name}_BF.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    return folder


def test_other_reading_settings_after_a_stop_represent_again(stacks, model, tmp_path, small):
    path = tmp_path / "a.cmrir"
    first, second = (small.model_copy(update={"reading": ReadingSettings(z=plane)}) for plane in (0, 1))
    stop_after(build_repository([stacks], model, "BF", path, first), "CoMIR of c_BF.tif")
    assert list((path / "comirs").iterdir()), "a CoMIR of the first plane is stored"
    resumed = run(build_repository([stacks], model, "BF", path, second))
    afresh = run(build_repository([stacks], model, "BF", tmp_path / "b.cmrir", second))
    for field in range(3):
        np.testing.assert_array_equal(resumed.comir(field), afresh.comir(field))
    other = run(build_repository([stacks], model, "BF", tmp_path / "c.cmrir", first))
    assert not np.array_equal(resumed.comir(0), other.comir(0))


def test_another_pixel_size_after_a_stop_keeps_the_other_settings(folder, model, tmp_path, small):
    path = tmp_path / "a.cmrir"
    stop_after(build_repository([folder], model, "BF", path, small), "CoMIR of core3")
    changed = changed_settings(path, pixel_size=0.5)
    assert changed == small.model_copy(update={"reading": ReadingSettings(pixel_size=0.5)})


def test_another_size_of_fields_after_a_stop_cuts_a_slide_with_glass_anew(
    folder, model, tmp_path, small, write_image
):
    slide = tmp_path / "slide_BF.tif"
    write_image(slide, 3, 700, 900)
    pixels = tifffile.imread(slide)
    pixels[:, 450:] = 255  # glass
    tifffile.imwrite(slide, pixels)
    path, sources = tmp_path / "a.cmrir", [slide, folder / "core0_BF.tif"]
    stop_after(build_repository(sources, model, "BF", path, small), "CoMIR of core0")
    larger = small.model_copy(update={"field_size": 320})
    resumed = run(build_repository(sources, model, "BF", path, larger))
    afresh = run(build_repository(sources, model, "BF", tmp_path / "b.cmrir", larger))
    assert resumed.fields.tolist() == afresh.fields.tolist()
    for field in range(len(afresh)):
        np.testing.assert_array_equal(resumed.comir(field), afresh.comir(field))


def test_a_model_of_another_pixel_size_is_another_model(folder, model, tmp_path, index):
    coarse, fine = replace(model, pixel_size=1.0), replace(model, pixel_size=0.25)
    assert coarse.fingerprint != fine.fingerprint
    with pytest.warns(UserWarning, match="taken to have the model's"):
        index([folder], coarse, tmp_path / "a.cmrir")
    with pytest.raises(InputError, match=r"1 µm a pixel, and this model is of 0\.25 µm a pixel"):
        index([folder], fine, tmp_path / "a.cmrir", None)


def test_settings_of_words_may_change_until_words_are_learned(folder, model, tmp_path, small):
    path = tmp_path / "a.cmrir"
    run(build_repository([folder], model, "BF", path, small))
    more = small.model_copy(update={"vocabulary": small.vocabulary.model_copy(update={"size": 40})})
    run(build_repository([folder], model, "BF", path, more))
    run(build_index(path))
    assert len(open_repository(path).vocabulary) == 40
    with pytest.raises(InputError, match=r"other settings \(vocabulary\)"):
        run(build_repository([folder], model, "BF", path, small))
    with pytest.raises(InputError, match=r"other settings \(field_size\)"):
        run(build_repository([folder], model, "BF", path, more.model_copy(update={"field_size": 512})))


@pytest.mark.parametrize("seed", range(6))
def test_every_image_is_searchable_from_the_moment_it_is_published(
    folder, model, tmp_path, small, write_image, seed
):
    for number in range(5, 20):
        write_image(folder / f"core{number}_BF.tif", number)
    path, draw = tmp_path / "a.cmrir", random.Random(seed)
    job = build_repository([folder], model, "BF", path, small)
    for _ in range(draw.randrange(20, 60)):
        next(job, None)
    job.close()
    assert run(verify_repository(path)) == []
    try:
        repository = open_repository(path)
    except InputError:  # stopped within the first batch
        return
    assert len(repository) in (8, 16, 20)
    number = draw.randrange(len(repository))
    image = tifffile.imread(repository.image_path(number))
    result = run(search(repository, image, "BF"))
    assert result.hits[0].image == str(repository.image_path(number))
    assert result.hits[0].score > 0.8
