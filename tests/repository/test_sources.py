"""OME-Zarr images as sources: in folders, and at addresses."""

import http.server
import threading
from functools import partial

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

from napari_cmrir.errors import InputError
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.sources import Remote, list_sources


def _write_zarr(path, seed, side=72):
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(side, 80)), 2)
    pixels = np.clip(128 + 500 * noise, 0, 255).astype(np.uint8)
    group = zarr.create_group(path, zarr_format=3, overwrite=True)
    group.create_array("0", shape=pixels.shape, dtype=np.uint8, chunks=(32, 32))[...] = pixels
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    transformations = [{"type": "scale", "scale": [1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def zarrs(tmp_path):
    folder = tmp_path / "zarrs"
    for seed in range(3):
        _write_zarr(folder / f"{seed}.ome.zarr", seed)
    return folder


@pytest.fixture
def address(zarrs):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(zarrs)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_zarr_folders_are_indexed_and_a_changed_one_again(zarrs, model, tmp_path, index):
    path = tmp_path / "a.cmrir"
    repository = index([zarrs], model, path)
    assert [repository.image_name(field) for field in range(3)] == [f"{seed}.ome.zarr" for seed in range(3)]
    assert repository.image_path(1) == zarrs / "1.ome.zarr"
    assert list(build_repository([zarrs], model, "BF", path)) == []
    _write_zarr(zarrs / "1.ome.zarr", 9, side=90)
    assert sorted(index([zarrs], model, path).fields["height"]) == [72, 72, 90]


def test_images_at_addresses_are_indexed_as_those_in_folders(zarrs, address, model, tmp_path, index):
    sources = [f"{address}/{seed}.ome.zarr" for seed in range(2)]
    remote = index([*sources, f"{address}/gone.ome.zarr"], model, tmp_path / "a.cmrir")
    assert [remote.image_name(field) for field in range(2)] == sources
    assert remote.image_path(0) is None
    assert list(remote.failures) == [f"{address}/gone.ome.zarr"]
    local = index([zarrs / "0.ome.zarr"], model, tmp_path / "b.cmrir")
    np.testing.assert_array_equal(remote.comir(0), local.comir(0))
    assert list(build_repository(sources, model, "BF", tmp_path / "a.cmrir")) == []
    _write_zarr(zarrs / "0.ome.zarr", 9, side=90)
    assert sorted(index(sources, model, tmp_path / "a.cmrir").fields["height"]) == [72, 90]


def test_an_address_stays_one_and_is_listed_once(zarrs):
    address = "https://example.org/a.ome.zarr"
    found = list_sources([address, zarrs / "0.ome.zarr", address], "BF")
    assert list(found.values()) == [Remote(address), zarrs / "0.ome.zarr"]


def test_what_is_stored_of_an_address_that_is_out_of_reach_stays(zarrs, model, tmp_path, index):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(zarrs)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    source = f"http://127.0.0.1:{server.server_port}/0.ome.zarr"
    index([source], model, tmp_path / "a.cmrir")
    server.shutdown()
    server.server_close()
    thread.join()
    assert list(build_repository([source], model, "BF", tmp_path / "a.cmrir")) == []
    with pytest.raises(InputError, match="could not be indexed"):
        index([source], model, tmp_path / "b.cmrir")
