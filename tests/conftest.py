"""Which tests can be collected without napari and Qt, which run in one process, and a server of data sets."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile

WITHOUT = ("napari", "qtpy", "magicgui", "superqt", "PySide6", "PyQt6")

if find_spec("napari") is None:  # these modules import it, npe2 or ome-zarr, which a core environment lacks
    collect_ignore_glob = [
        "napari/*",
        "repository/test_pyramids.py",
        "repository/test_pyramids_in_napari.py",
        "test_packaging.py",
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-napari", action="store_true", help="fail where napari or Qt is installed")


def pytest_configure(config: pytest.Config) -> None:
    present = [name for name in WITHOUT if find_spec(name) is not None]
    if config.getoption("--no-napari") and present:
        raise pytest.UsageError(f"The core must be tested without {', '.join(present)}.")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process for their fixtures, and the windows for their display."""
    folder = Path(__file__).parent / "napari"
    for item in items:
        group = "napari" if folder in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def tiff(value, colours):
    buffer = io.BytesIO()
    pixels = np.full((300, 280, 3) if colours else (300, 280), value, np.uint8)
    tifffile.imwrite(buffer, pixels, photometric="rgb" if colours else "minisblack")
    return buffer.getvalue()


def archive():
    names = [
        *(f"BioData/TrainSet/1B_A{i}_{m}.tif" for i in (2, 5) for m in ("SHG", "BF")),
        *(f"BioData/TestSet/{t}_1B_B1_{m}.tif" for t in "RT" for m in ("SHG", "BF")),
        "BioData/TestSet/metadata.csv",
        "../evil_SHG.tif",
        "__MACOSX/TrainSet/._1B_A2_SHG.tif",
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for value, name in enumerate(names):
            file.writestr(name, tiff(value, name.endswith("_BF.tif")))
    return buffer.getvalue()


class Record(ThreadingHTTPServer):
    """A server with the interface of Zenodo that holds one record of one file."""

    tiff = staticmethod(tiff)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = archive()
        self.checksum = "md5:" + hashlib.md5(self.content).hexdigest()
        self.cut_after = None
        self.asked = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        if self.path == "/api/records/3874362":
            link = f"{server.address}/api/records/3874362/files/HighRes_Splits.zip/content"
            file = {"key": "HighRes_Splits.zip", "checksum": server.checksum, "links": {"self": link}}
            about = {"license": {"id": "cc-by-4.0"}}
            self.reply(200, json.dumps({"id": 3874362, "files": [file], "metadata": about}).encode())
        elif self.path == "/api/records/5557568":
            files = []
            for name in ("Zurich_patches.zip", "Balvan_patches.zip"):
                link = f"{server.address}/api/records/5557568/files/{name}/content"
                files.append({"key": name, "checksum": server.checksum, "links": {"self": link}})
            self.reply(200, json.dumps({"id": 5557568, "files": files, "metadata": {}}).encode())
        elif self.path.endswith("Zurich_patches.zip/content"):
            self.reply(200, server.content)
        elif self.path.endswith("HighRes_Splits.zip/content"):
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.reply(206 if start else 200, server.content[start:], server.cut_after)
        else:
            self.send_error(404)

    def reply(self, status, content, cut_after=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def record():
    with Record() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def two_workers():
    """A dask cluster of two workers of one thread each."""
    import dask
    from distributed import LocalCluster

    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
    )
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}), cluster:
        yield cluster


@pytest.fixture
def cluster(two_workers):
    """Both workers are there, also where the test before has killed one: its nanny starts another."""
    two_workers.wait_for_workers(2, timeout=60)
    return two_workers
