"""CoMIRs stored block by block equal CoMIRs computed at once."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.images.lazy_image import lazy_array
from napari_cmrir.repository import comirs as storing
from napari_cmrir.repository import pyramids
from napari_cmrir.repository.build import Source
from napari_cmrir.repository.comirs import store_comir
from napari_cmrir.repository.pyramids import halve, open_level, read_notes
from napari_cmrir.repository.segments import cut_fields
from napari_cmrir.representations.base import represent
from napari_cmrir.settings import ReadingSettings


def _texture(height, width, seed=0):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(height, width)), 2)
    return np.clip(128 + 500 * noise, 0, 255).astype(np.uint8)[..., np.newaxis]


@pytest.fixture
def slide():
    """A slide of 1,500 x 2,000 px, glass but for tissue at 600 to 900 by 700 to 1,100."""
    pixels = np.random.default_rng(0).integers(240, 244, (1500, 2000, 1)).astype(np.uint8)
    pixels[600:900, 700:1100] = _texture(300, 400) // 2
    return pixels


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(storing, "SHARD_SIDE", 512)
    monkeypatch.setattr(pyramids, "SHARD_SIDE", 512)
    monkeypatch.setattr(pyramids, "BAND", 96)
    monkeypatch.setattr(storing, "PIECE", 256)
    monkeypatch.setattr(storing, "WHOLE_VALUES", 1000)


def _store(path, pixels, model, settings):
    job = store_comir(path, lazy_array(pixels), model, "BF", settings, name="a", device="cpu")
    write_the_rest = jobs.run(job)
    write_the_rest()


def _levels(path):
    for number in itertools.count():
        try:
            yield np.asarray(open_level(path, number))
        except InputError:
            return


@pytest.mark.parametrize("shape", [(900, 1301), (2000, 90), (513, 512)])
def test_blocks_meet_without_a_seam_and_halve_as_the_whole_does(small_blocks, tmp_path, model, small, shape):
    pixels = _texture(*shape)
    _store(tmp_path / "a", pixels, model, small)
    whole = jobs.run(represent(model, pixels, "BF", device="cpu"))
    levels = list(_levels(tmp_path / "a"))
    assert np.abs(levels[0].astype(int) - whole).max() <= 1
    for level, coarser in itertools.pairwise(levels):
        np.testing.assert_array_equal(coarser, halve(level))
    assert min(levels[-1].shape[1:]) < 128


def test_the_files_are_those_of_a_pyramid_written_at_once(small_blocks, tmp_path, model, small):
    _store(tmp_path / "a", _texture(700, 1000), model, small)
    pyramids.write_pyramid(tmp_path / "b", np.asarray(open_level(tmp_path / "a")), "a")
    contents = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("blocks", ["small_blocks", "tmp_path"])
def test_glass_is_left_out_and_tissue_is_as_it_would_be(request, blocks, slide, tmp_path, model, small):
    request.getfixturevalue(blocks)
    _store(tmp_path / "a", slide, model, small)
    fields = cut_fields(1500, 2000, small.field_size, small.field_overlap)
    kept = fields[read_notes(tmp_path / "a")["fields"]]
    shows = [slide[y : y + h, x : x + w].min() < 200 for y, x, h, w in fields.tolist()]
    assert 0 < len(kept) < len(fields) / 2
    assert len(kept) >= sum(shows)
    whole = jobs.run(represent(model, slide, "BF", device="cpu"))
    stored = np.asarray(open_level(tmp_path / "a"))
    for y, x, height, width in kept.tolist():
        area = (slice(None), slice(y, y + height), slice(x, x + width))
        assert np.abs(stored[area].astype(int) - whole[area]).max() <= 1
    assert (stored[:, :, 1700:] == 0).all() == (blocks == "small_blocks")


def test_only_tissue_is_indexed_unless_all_is_asked_for(slide, model, tmp_path, index, small):
    source = Source("slide", slide)
    with_tissue = index([source], model, tmp_path / "a.cmrir")
    everything = index([source], model, tmp_path / "b.cmrir", small.model_copy(update={"least_tissue": 0.0}))
    assert len(with_tissue) < len(everything)
    kept = {tuple(field) for field in with_tissue.fields[["y", "x"]].tolist()}
    assert (512, 704) in kept
    assert with_tissue.verify() == []


def test_a_slide_of_nothing_but_glass_is_reported(model, tmp_path, small):
    glass = np.full((600, 700, 1), 240, np.uint8)
    with pytest.raises(InputError, match=r"nothing but empty glass.*--keep-glass"):
        _store(tmp_path / "a", glass, model, small)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_read_to_its_end_leaves_nothing(small_blocks, tmp_path, model, small):
    class Torn:
        shape, ndim = (900, 1000, 1), 3

        def __getitem__(self, key):
            if key[0].stop > 800:
                raise OSError("torn")
            return _texture(900, 1000)[key]

    with pytest.raises(InputError, match="torn"):
        _store(tmp_path / "a", Torn(), model, small.model_copy(update={"least_tissue": 0.0}))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pieces(monkeypatch):
    """The pieces that are computed, in order."""
    computed = []
    represent_piece = storing._Strips._represent

    def noted(self, piece, part, strip):
        yield from represent_piece(self, piece, part, strip)
        computed.append(piece)

    monkeypatch.setattr(storing._Strips, "_represent", noted)
    return computed


@pytest.mark.parametrize(
    ("stop", "after"),
    [(GeneratorExit, 0), (GeneratorExit, 5), (KeyboardInterrupt, 1), (OSError("no space"), 9)],
)
def test_a_stopped_slide_continues_with_the_strip_at_which_it_was(
    small_blocks, tmp_path, model, small, pieces, stop, after
):
    pixels = _texture(1100, 1030)
    _store(tmp_path / "whole", pixels, model, small)
    expected = list(pieces)
    pieces.clear()
    path = tmp_path / "a"
    job = store_comir(path, lazy_array(pixels), model, "BF", small, name="a", device="cpu")
    while len(pieces) < after or not (tmp_path / "unfinished-a").is_dir():
        next(job)
    if stop is GeneratorExit:
        job.close()
    else:
        with pytest.raises(stop if isinstance(stop, type) else OSError):
            job.throw(stop)
    assert not path.exists()
    assert len(pieces) == after
    done = [progress.done for progress in _progress(path, pixels, model, small)]
    assert pieces == expected
    assert done == sorted(done)
    assert done[0] == sum(height * width for _, _, height, width in expected[:after])
    assert [one.name for one in tmp_path.iterdir() if one.name != "whole"] == ["a"]
    for level, other in zip(_levels(path), _levels(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(level, other)


def _progress(path, pixels, model, settings):
    job = store_comir(path, lazy_array(pixels), model, "BF", settings, name="a", device="cpu")
    return [progress for progress in job if progress.unit == "pixels" and progress.total]


def test_progress_is_in_pixels_and_says_how_long_the_rest_takes(small_blocks, tmp_path, model, small, slide):
    reported = _progress(tmp_path / "a", slide, model, small)
    assert {progress.total for progress in reported} == {reported[-1].done}
    assert reported[-1].total < slide.size / 3  # pieces with tissue alone
    messages = [progress.message for progress in reported if "megapixels" in progress.message]
    assert messages[0] == "0 of 1 megapixels"
    assert messages[-1].endswith("min left")


def test_torn_shards_of_a_killed_process_are_written_again(small_blocks, tmp_path, model, small):
    pixels = _texture(1100, 1030)
    path, unfinished = tmp_path / "a", tmp_path / "unfinished-a"
    job = store_comir(path, lazy_array(pixels), model, "BF", small, name="a", device="cpu")
    while not (unfinished / "0-0.written").is_file():
        next(job)
    job.close()
    torn = [file for file in (unfinished / "pyramid" / "0" / "c").rglob("*") if file.is_file()]
    assert len(torn) == 1
    torn[0].write_bytes(torn[0].read_bytes()[:100])
    (unfinished / "0-0.written").unlink()
    (unfinished / "pyramid" / "1" / "c" / "0" / "0").mkdir(parents=True)
    (unfinished / "pyramid" / "1" / "c" / "0" / "0" / "0").write_bytes(b"torn")
    _store(path, pixels, model, small)
    _store(tmp_path / "whole", pixels, model, small)
    for level, other in zip(_levels(path), _levels(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(level, other)


def test_another_process_at_the_same_slide_is_refused(small_blocks, tmp_path, model, small):
    pixels = _texture(1100, 1030)
    job = store_comir(tmp_path / "a", lazy_array(pixels), model, "BF", small, name="a", device="cpu")
    while not (tmp_path / "unfinished-a").is_dir():
        next(job)
    with pytest.raises(InputError, match="computed by another process"):
        _store(tmp_path / "a", pixels, model, small)
    jobs.run(job)
    assert (tmp_path / "a").is_dir()


def test_what_a_job_killed_at_its_very_end_left_is_removed(tmp_path):
    assert not storing.is_stored(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "unfinished-a").mkdir()
    assert storing.is_stored(tmp_path / "a")
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


def test_unfinished_work_on_other_content_of_an_image_is_removed(small_blocks, tmp_path, model, small):
    for name in ("unfinished-00000001-old", "unfinished-00000002-other"):
        (tmp_path / name).mkdir()
    _store(tmp_path / "00000001-new", _texture(1100, 1030), model, small)
    assert {one.name for one in tmp_path.iterdir()} == {"00000001-new", "unfinished-00000002-other"}


def test_images_of_another_pixel_size_are_indexed_at_the_models(model, tmp_path, index, small):
    fine = _texture(300, 360)
    settings = small.model_copy(update={"reading": ReadingSettings(z="middle")})
    tifffile.imwrite(tmp_path / "fine.tif", fine, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "unknown.tif", fine)
    model = _with_pixel_size(model, 1.0)
    with pytest.warns(UserWarning, match="taken to have the model's, 1 µm"):
        repository = index(
            [tmp_path / "fine.tif", tmp_path / "unknown.tif"], model, tmp_path / "a.cmrir", settings
        )
    shapes = {repository.image_name(field): repository.comir(field).shape for field in range(len(repository))}
    assert shapes["fine.tif"] == (1, 150, 180)
    assert repository.pixel_step(0) == 2.0
    assert read_notes(repository.comir_path(0))["read"] == "resampled from 0.5 to 1 µm pixels"
    assert repository.pixel_step(1) == 1.0


def _with_pixel_size(model, pixel_size):
    return replace(model, pixel_size=pixel_size)
