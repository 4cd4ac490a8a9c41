"""Jobs away from the window: progress, cancelling, refusals, faults, and what closing does."""

import threading

import pytest
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QApplication

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Progress
from napari_cmrir.napari.dock import Dock
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.shared_state import shared_state_of


class Record:
    """A job that can be watched: which threads it lived in, and how it ended."""

    def __init__(self, steps=None, error=None):
        self.steps, self.error = steps, error
        self.threads, self.closed_in, self.count = set(), None, 0

    def __call__(self):
        try:
            while self.steps is None or self.count < self.steps:
                self.threads.add(threading.current_thread())
                self.count += 1
                yield Progress(self.count, self.steps, "steps", "Working")
            if self.error is not None:
                raise self.error
            return self.count
        finally:
            self.closed_in = threading.current_thread()


@pytest.fixture
def panel(qtbot):
    panel = JobPanel("Go", "Stop", "Start", "Stop")
    qtbot.addWidget(panel)
    return panel


def test_the_result_arrives_in_the_windows_thread_and_the_work_is_done_in_another(panel, wait_for):
    job, results = Record(steps=5), []
    panel.run("Counting", job, lambda result: results.append((result, threading.current_thread())))
    assert panel.is_running
    assert not panel.start_button.isEnabled()
    wait_for(lambda: not panel.is_running)
    assert results == [(5, threading.main_thread())]
    assert threading.main_thread() not in job.threads
    assert panel.start_button.isEnabled()
    assert panel.bar.value() == panel.bar.maximum()


def test_progress_is_shown(panel, wait_for):
    def job():
        yield Progress(1, 4, "steps", "Working")
        while panel_seen["value"] is None:
            yield Progress(1, 4, "steps", "Working")
        return None

    panel_seen = {"value": None}
    panel.run("Counting", job, lambda _: None)
    wait_for(lambda: "1 of 4 steps · Working" in panel.message.text())
    panel_seen["value"] = panel.bar.value() / panel.bar.maximum()
    assert panel_seen["value"] == 0.25
    wait_for(lambda: not panel.is_running)


def test_the_remaining_time_only_falls(panel, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("napari_cmrir.napari.jobs.job_panel.time.monotonic", lambda: now[0])
    clock, left = panel._clock, []
    for second, done in enumerate((0, 10, 20, 30, 40, 41, 42, 60, 99)):  # slow for a while
        now[0] = 100.0 + second
        left.append(clock.left(Progress(done, 100, "steps", "")))
    assert left == ["", "", "", "7 s left", "6 s left", "6 s left", "6 s left", "5 s left", "0 s left"]
    now[0] += 1
    assert clock.left(Progress(0, 9, "fields", "")) == ""  # another unit begins anew


def test_the_bar_paints_nothing_while_it_is_set(qtbot, panel):
    class Paints(QObject):
        count = 0

        def eventFilter(self, _, event):  # noqa: N802
            self.count += event.type() == QEvent.Type.Paint
            return False

    qtbot.addWidget(panel)
    panel.show()
    qtbot.waitExposed(panel)
    paints = Paints()
    panel.bar.installEventFilter(paints)
    panel.bar.setValue(700)
    assert (panel.bar.value(), paints.count) == (700, 0)
    qtbot.waitUntil(lambda: paints.count > 0)


def test_a_stopped_job_is_closed_in_its_own_thread_and_gives_no_result(panel, wait_for):
    job, results = Record(), []
    panel.run("Counting", job, results.append)
    wait_for(lambda: job.count > 0)
    panel.stop()
    wait_for(lambda: not panel.is_running)
    assert job.closed_in in job.threads
    assert results == []
    assert panel.message.text() == "Stopped."


def test_bad_input_is_one_notification_and_no_traceback(panel, wait_for, notifications):
    panel.run("Counting", Record(steps=1, error=InputError("a.tif is no image.")), lambda _: None)
    wait_for(lambda: not panel.is_running)
    assert notifications == [("error", "a.tif is no image.")]
    assert panel.start_button.isEnabled()


def test_a_fault_is_raised_in_the_window(panel, wait_for, qtbot):
    with qtbot.captureExceptions() as raised:
        panel.run("Counting", Record(steps=1, error=ZeroDivisionError("fault")), lambda _: None)
        wait_for(lambda: not panel.is_running)
    assert [str(error) for _, error, _ in raised] == ["fault"]
    assert panel.message.text() == "Failed."
    assert panel.start_button.isEnabled()


def test_closing_a_dock_stops_its_job(viewer, wait_for):
    class Counting(Dock):
        def __init__(self, viewer):
            super().__init__(viewer)
            self.panel = JobPanel("Go", "Stop", "", "")
            self.panel.setParent(self)

    widget, job, results = Counting(viewer), Record(), []
    viewer.window.add_dock_widget(widget, name="Counting")
    widget.panel.run("Counting", job, results.append)
    wait_for(lambda: job.count > 0)
    viewer.window.remove_dock_widget(widget)
    wait_for(lambda: job.closed_in is not None)
    QApplication.processEvents()
    assert results == []
    assert not widget.panel.is_running


def test_deleting_the_widget_stops_its_job(wait_for):
    panel, job = JobPanel("Go", "Stop", "", ""), Record()
    panel.run("Counting", job, lambda _: None)
    wait_for(lambda: job.count > 0)
    panel.deleteLater()
    wait_for(lambda: job.closed_in is not None)


def test_only_the_last_question_is_answered(qtbot, wait_for):
    from qtpy.QtCore import QObject

    parent = QObject()
    inquiry, answers, refusals = DebouncedQuery(parent), [], []
    inquiry.answered.connect(answers.append)
    inquiry.refused.connect(refusals.append)
    for number in range(5):
        inquiry.ask(lambda number=number: number)
    wait_for(lambda: answers)
    assert answers == [4]

    def refuse():
        raise InputError("nothing there")

    inquiry.ask(refuse)
    wait_for(lambda: refusals)
    assert refusals == ["nothing there"]


def test_each_viewer_has_its_own_session(make_napari_viewer):
    from napari.utils._proxies import PublicOnlyProxy

    one, other = make_napari_viewer(strict_qt="raise"), make_napari_viewer(strict_qt="raise")
    assert shared_state_of(one) is shared_state_of(PublicOnlyProxy(one))
    assert shared_state_of(one) is not shared_state_of(other)
