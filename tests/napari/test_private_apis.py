"""What napari and superqt do not promise: each use has a public way that works alone."""

import re
import threading
from pathlib import Path

import napari
from napari.utils._proxies import PublicOnlyProxy  # what napari hands to a dock of a plugin

import napari_cmrir.napari
from napari_cmrir.napari.jobs.workers import ClosingWorker
from napari_cmrir.napari.shared_state import behind_proxy, current_if_same, shared_state_of


def test_a_proxy_leads_to_its_viewer_by_public_means_too(make_napari_viewer):
    other, viewer = make_napari_viewer(), make_napari_viewer()
    assert napari.current_viewer() is viewer
    proxy = PublicOnlyProxy(viewer)
    assert behind_proxy(proxy) is viewer
    assert current_if_same(proxy) is viewer
    assert behind_proxy(viewer) is viewer
    assert current_if_same(other) is other  # equal in all its values, and yet another viewer
    assert shared_state_of(proxy) is shared_state_of(viewer) is not shared_state_of(other)


def test_a_worker_closes_its_generator_where_it_is_stopped(qtbot):
    begun, closed, pace = [], [], threading.Event()

    def count():
        begun.append(threading.current_thread())
        try:
            while True:
                pace.wait(0.01)  # a flood of signals would meet slots that are being disconnected
                yield 1
        finally:
            closed.append(threading.current_thread())

    worker = ClosingWorker(count)
    worker.start()
    qtbot.waitUntil(lambda: bool(begun))
    worker.quit()
    qtbot.waitUntil(lambda: bool(closed))
    assert closed == begun != [threading.main_thread()]


def test_superqt_s_private_generator_is_not_used():
    files = Path(napari_cmrir.napari.__file__).parent.rglob("*.py")
    assert [file.name for file in files if re.search(r"\._gen\b", file.read_text(encoding="utf-8"))] == []
