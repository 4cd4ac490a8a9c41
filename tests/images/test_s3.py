"""OME-Zarr on s3: an open and a private bucket of a local server that imitates s3."""

import http.server
import threading
from contextlib import closing
from functools import partial
from http import HTTPStatus

import numpy as np
import pytest
import zarr

from napari_cmrir.errors import InputError
from napari_cmrir.images.readers import open_image

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 80), dtype=np.uint8)


class _Buckets(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD of objects; of the bucket ``private``, only to requests that are signed."""

    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_):
        self.asked.append(self.path)

    def send_head(self):
        if self.path.startswith("/private/") and "Authorization" not in self.headers:
            return self._refuse(HTTPStatus.FORBIDDEN, "AccessDenied")
        return super().send_head()

    def send_error(self, code, *_):
        self._refuse(code, "NoSuchKey")

    def list_directory(self, path):
        return self._refuse(HTTPStatus.NOT_FOUND, "NoSuchKey")

    def _refuse(self, status, code):
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def s3(tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    for bucket in ("open", "private"):
        group = zarr.create_group(tmp_path / bucket / "a.ome.zarr", zarr_format=3)
        group.create_array("0", shape=PIXELS.shape, dtype=np.uint8, chunks=(32, 32))[...] = PIXELS
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Buckets, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    _Buckets.asked.clear()
    yield
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("s3")
def test_an_open_bucket_is_read_by_region():
    with closing(open_image("s3://open/a.ome.zarr")) as image:
        assert image.pixel_size == 0.5
        np.testing.assert_array_equal(image[33:60, 70:][..., 0], PIXELS[33:60, 70:])
    assert {path for path in _Buckets.asked if "/c/" in path} == {"/open/a.ome.zarr/0/c/1/2"}


@pytest.mark.usefixtures("s3")
def test_a_private_bucket_is_read_with_the_environments_credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with closing(open_image("s3://private/a.ome.zarr")) as image:
        np.testing.assert_array_equal(image[:, :][..., 0], PIXELS)


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("address", "reason"),
    [("s3://open/nothing.ome.zarr", "NoSuchKey|No |group"), ("s3://private/a.ome.zarr", "credentials")],
)
def test_a_missing_or_private_image_is_reported(address, reason):
    with pytest.raises(InputError, match=f"{address} is not an image that can be read .*({reason})"):
        open_image(address)
