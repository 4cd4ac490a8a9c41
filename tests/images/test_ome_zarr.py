"""OME-Zarr at web addresses, and folders that are not a single image."""

import http.server
import threading
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import zarr

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats.ome_zarr import describe_zarr
from napari_cmrir.images.readers import find_images, open_image, read_image

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 70, 80), dtype=np.uint8)


def _write_image(group, pixels):
    group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 32, 32))[...] = pixels
    transformations = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    return {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


@pytest.fixture(scope="module", params=[2, 3])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zarr")
    group = zarr.create_group(folder / "a.ome.zarr", zarr_format=request.param)
    ome = _write_image(group, PIXELS)
    group.attrs.update({"ome": ome} if request.param == 3 else ome)
    return folder


class _Handler(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_):
        self.asked.append(self.path)


@pytest.fixture
def address(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _Handler.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_image_is_read_over_http_a_region_at_a_time(address):
    with closing(open_image(f"{address}/a.ome.zarr")) as image:
        assert image.shape == (70, 80, 2)
        assert image.pixel_size == 0.5
        np.testing.assert_array_equal(image[33:60, 70:], np.moveaxis(PIXELS, 0, -1)[33:60, 70:])
    chunks = {path for path in _Handler.asked if path[-1].isdigit()}
    assert len(chunks) == 2  # one a channel, of six each


def test_an_image_over_http_that_is_not_there_is_refused(address):
    with pytest.raises(InputError, match=r"nothing\.ome\.zarr is not an image that can be read"):
        open_image(f"{address}/nothing.ome.zarr")
    with pytest.raises(InputError, match="not an image that can be read"):
        open_image("http://127.0.0.1:9/a.ome.zarr")


def test_the_metadata_of_an_address_identify_a_changed_image(address, folder):
    before, n_bytes = describe_zarr(f"{address}/a.ome.zarr")
    assert n_bytes == PIXELS.nbytes
    assert describe_zarr(f"{address}/a.ome.zarr")[0] == before


def test_a_folder_of_zarrs_lists_them_and_does_not_look_inside(folder):
    assert find_images([folder]) == find_images([folder / "a.ome.zarr"]) == [folder / "a.ome.zarr"]


def test_of_a_converted_file_the_largest_series_is_read(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    root.attrs["ome"] = {"bioformats2raw.layout": 3, "version": "0.5"}
    for number, pixels in enumerate((PIXELS[:, ::4, ::4], PIXELS)):
        group = root.create_group(str(number))
        group.attrs["ome"] = _write_image(group, pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr"), np.moveaxis(PIXELS, 0, -1))
    with closing(open_image(tmp_path / "a.zarr")) as image:
        assert "series 1 of 2, the largest" in image.reading_note


def test_plates_and_other_groups_are_refused(tmp_path):
    zarr.create_group(tmp_path / "plate.zarr").attrs["ome"] = {"plate": {}, "version": "0.5"}
    zarr.create_group(tmp_path / "group.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="is a plate; give one of its images"):
        open_image(tmp_path / "plate.zarr")
    for name in ("group.zarr", "empty.zarr"):
        with pytest.raises(InputError, match="not an image that can be read"):
            open_image(tmp_path / name)
