"""The dock widget "Index images": make images of one modality searchable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats.base import dialog_pattern
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.copy_commands import CopyButton, Language, index_text
from napari_cmrir.napari.dock import ScrolledDock, SettingsForm, open_dock
from napari_cmrir.napari.form_fields import Folded, HelpButton, PathEdit, WrappedLabel, offer_modalities
from napari_cmrir.napari.image_table import ImageTable, KnownImage, read_images
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.summaries import FoundImages, KnownModalities, look_at_images, read_modalities
from napari_cmrir.repository.build import Estimate
from napari_cmrir.settings import ReadingSettings

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["IndexWidget"]

_WHAT = (
    "A repository is an index of images: a folder with the CoMIR of each, which is what the model makes of it"
    " and what Find region searches. The images stay where they are."
)
_REREAD = 5  # times as long as reading the table took, it is not read again while images are indexed


class IndexWidget(ScrolledDock):
    """Index a folder or files of one modality into a repository that can be searched.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that it is added to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.images = PathEdit(
            ["folder", "files"],
            "Images to index",
            "A folder with all it contains, or files; drop them here. Of a folder with files named"
            " *_<MODALITY>, only those of the modality are indexed.",
            dialog_pattern(),
        )
        self.model = PathEdit(
            ["file"],
            "Model file",
            "The model that represents the images; starter is the one that comes with the package",
            "CoMIR models (*.safetensors)",
        )
        self.modality = QComboBox()
        self.modality.setToolTip(
            "The modality of the images: one of the model's two; of the starter model, any"
        )
        self.output = PathEdit(
            ["save"],
            "Repository",
            "The repository to write (NAME.cmrir); an existing one gets the new images",
            "Repositories (*.cmrir)",
        )
        self.found = WrappedLabel("What will be indexed: the number of images, and how the first one is read")
        self.keep_glass = QCheckBox("Keep empty glass")
        self.keep_glass.setToolTip("Also search fields of large images in which no tissue is found")
        self._reading = SettingsForm(
            ReadingSettings, ["pixel_size"], missing={"pixel_size": "as the files say"}, parent=self
        )
        self.pixel_size: Any = self._reading.field("pixel_size")
        self.panel = JobPanel(
            "&Index",
            "Pa&use",
            "Index the images; an existing repository gets only new, changed and remaining images",
            "Pause; Index continues later with the remaining images, also after napari was closed",
        )
        self.panel.add_button(CopyButton("this indexing", self._write))
        self.panel.add_button(HelpButton("repositories"))
        self.speed = WrappedLabel("Estimated time and disk space, and images per minute")
        self.speed.hide()
        self.table = ImageTable()
        self.search = QPushButton("Search these images")
        self.search.setToolTip("Open Find region with this repository, to draw on the image that is open")
        self.search.setEnabled(False)
        self.verify = QPushButton("Verify")
        self.verify.setToolTip("Read the repository again and compare it with its checksums")
        self.prune = QPushButton("Prune")
        self.prune.setToolTip("Drop images whose files no longer exist")
        self.relocate = QPushButton("Relocate…")
        self.relocate.setToolTip("Choose the folder that moved images lie in now; nothing is computed again")
        self.failures = QPlainTextEdit()
        self.failures.setReadOnly(True)
        self.failures.setMaximumHeight(90)
        self.failures.setToolTip("Images that could not be indexed, and why")
        self.failures.hide()
        self._files, self._models, self._known = (
            DebouncedQuery(self),
            DebouncedQuery(self),
            DebouncedQuery(self),
        )
        self._asked = self._answered = 0.0
        self._is_reading = False
        self._since: tuple[float, float] | None = None
        self._expected = ""
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("Images", self.images)
        form.addRow("Model", self.model)
        form.addRow("Modality", self.modality)
        form.addRow("", self.found)
        form.addRow("Save as", self.output)
        seldom = QWidget()
        folded = QFormLayout(seldom)
        folded.setContentsMargins(0, 0, 0, 0)
        folded.addRow("Pixel size", self.pixel_size)
        folded.addRow("", self.keep_glass)
        upkeep = QHBoxLayout()
        upkeep.addWidget(self.verify)
        upkeep.addWidget(self.prune)
        upkeep.addWidget(self.relocate)
        layout = QVBoxLayout(self.content)
        what = WrappedLabel()
        what.setText(_WHAT)
        layout.addWidget(what)
        layout.addLayout(form)
        layout.addWidget(Folded("More settings", "Settings that are rarely needed", seldom))
        layout.addWidget(self.panel)
        layout.addWidget(self.speed)
        layout.addWidget(self.failures)
        layout.addWidget(self.table, 1)
        layout.addLayout(upkeep)
        layout.addWidget(self.search)
        self.make_reachable()

    def _connect(self) -> None:
        self.images.changed.connect(self._look)
        self.modality.currentTextChanged.connect(self._look)
        self.model.changed.connect(self._read_model)
        self._files.answered.connect(self._show_files)
        self._models.answered.connect(self._offer_modalities)
        self._models.refused.connect(self._show_model_refusal)
        self._known.answered.connect(self._show_images)
        self._known.refused.connect(lambda _: self._show_images(()))
        self.output.changed.connect(self._read_images)
        self.panel.start_requested.connect(self.index)
        self.panel.progressed.connect(self._show_speed)
        self.panel.progressed.connect(self._fill_table)
        self.panel.running_changed.connect(self._read_images)
        self.panel.stopped.connect(
            lambda: self.panel.tell("Paused; Index continues with the remaining images.")
        )
        self.search.clicked.connect(self.search_these)
        self.verify.clicked.connect(self.verify_repository)
        self.prune.clicked.connect(self.prune_repository)
        self.relocate.clicked.connect(self._ask_where)
        self.remember("index", images=self.images, output=self.output)
        self.session.model_changed.connect(self._propose_model)
        self.session.images_changed.connect(self._propose_images)
        self.remember("index", model=self.model)
        if self.session.images is not None:
            self._propose_images(self.session.images)
        if self.session.model is not None:
            self._propose_model(self.session.model)

    def index(self) -> None:
        """Start indexing with the settings of the fields."""
        try:
            job = partial(_index, *self._chosen())
        except InputError as error:
            self.panel.refuse(error)
            return
        self.failures.hide()
        self._since, self._expected = None, ""
        self.speed.hide()
        self.panel.run("Indexing images", job, self._show_indexed)

    def verify_repository(self) -> None:
        """Verify the repository, and list the damaged files."""
        self._keep_in_order("Verifying a repository", tasks.verify, self._show_verified)

    def prune_repository(self) -> None:
        """Drop images whose files no longer exist, and list them."""
        self._keep_in_order("Pruning a repository", tasks.prune, self._show_pruned)

    def relocate_images(self, folder: Path) -> None:
        """Look for moved images in a folder, by their content.

        Parameters
        ----------
        folder : Path
            Where they lie now, also in folders below it.
        """
        task = partial(tasks.relocate, folder=folder)
        self._keep_in_order("Looking for moved images", task, self._show_relocated)

    def _ask_where(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Where moved images lie now")
        if folder:
            self.relocate_images(Path(folder))

    def _show_relocated(self, names: str) -> None:
        self._list(names)
        found = len(names.splitlines())
        self.panel.tell(f"{found} moved image{'' if found == 1 else 's'} found; nothing is computed again.")
        self._read_images()

    def _chosen(self) -> tuple[list[Path], Path, str, Path, bool, float | None]:
        pixel_size = self._reading.value().pixel_size
        source = self._images(), self._model(), self.modality.currentText()
        return *source, self._output(), self.keep_glass.isChecked(), pixel_size

    def _keep_in_order(
        self, title: str, task: Callable[[Path], Job[str]], show: Callable[[str], None]
    ) -> None:
        try:
            folder = self._output()
        except InputError as error:
            self.panel.refuse(error)
            return
        self.panel.run(title, partial(in_worker_process, task, folder), show)

    def _show_verified(self, problems: str) -> None:
        self._list(problems)
        self.panel.tell("The repository is damaged; see below." if problems else "No file is damaged.")

    def _show_pruned(self, dropped: str) -> None:
        self._list(dropped)
        self.panel.tell(
            f"{len(dropped.splitlines())} images dropped"
            if dropped
            else "All images exist; none was dropped."
        )
        self.session.repository = self._output()

    def _list(self, lines: str) -> None:
        self.failures.setPlainText(lines)
        self.failures.setVisible(bool(lines))

    def _write(self, language: Language) -> Callable[[], str]:
        chosen = self._chosen()

        def text() -> str:
            _require_modality(*chosen[1:3])
            return index_text(language, *chosen)

        return text

    def _show_speed(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._since is None or progress.done < self._since[1]:
            self._since = now, progress.done
        seconds, done = now - self._since[0], progress.done - self._since[1]
        if isinstance(progress.preview, Estimate) and progress.preview.seconds is not None:
            self._expected = str(progress.preview)
        is_measured = progress.unit == "images" and seconds > 1 and done > 0
        speed = f"{60 * done / seconds:.0f} images a minute" if is_measured else ""
        if self._expected or speed:
            self.speed.setText("\n".join(filter(None, (self._expected, speed))))
            self.speed.show()

    def _read_images(self, *_: object) -> None:
        self._known.forget()
        self._is_reading = self.output.path is not None
        if self._is_reading:
            self._asked = time.monotonic()
            self._known.ask(partial(read_images, self._output()))

    def _fill_table(self, _: Progress) -> None:
        """Read again what is indexed, seldom enough for the reading not to count."""
        pause = _REREAD * (self._answered - self._asked)
        if not self._is_reading and time.monotonic() - self._answered > pause:
            self._read_images()

    def _show_images(self, images: Sequence[KnownImage]) -> None:
        self._is_reading, self._answered = False, time.monotonic()
        self.table.show_images(images)
        self.search.setEnabled(any(image.state == "indexed" for image in images))

    def search_these(self) -> None:
        """Open Find region with the repository of the table."""
        self.session.repository = self._output()
        open_dock(self.viewer, "find").begin(self.modality.currentText())

    def _images(self) -> list[Path]:
        if not self.images.paths:
            raise InputError("No images are chosen; choose a folder or files to index.")
        return self.images.paths

    def _model(self) -> Path:
        if self.model.path is None:
            raise InputError("No model is chosen; train or load one in the widget CoMIR model.")
        return self.model.path

    def _output(self) -> Path:
        path = self.output.path
        if path is None:
            raise InputError("No repository is chosen; choose where to write it.")
        return path if path.suffix == ".cmrir" else path.with_name(f"{path.name}.cmrir")

    def _show_indexed(self, indexed: tasks.Indexed) -> None:
        failed = len(indexed.failures)
        self.panel.tell(
            f"{indexed.images} image{'' if indexed.images == 1 else 's'} searchable"
            + (f", {failed} could not be indexed" if failed else "")
            + f": {indexed.path.name}"
        )
        lines = (f"{Path(name).name}: {reason}" for name, reason in indexed.failures.items())
        self._list("\n".join(lines))
        self.session.repository = indexed.path

    def _propose_images(self, folder: Path) -> None:
        """Propose a folder, and a new repository: one of earlier images may be of another model."""
        if self.images.path != folder:
            self.output.line.clear()
            self.images.set_paths(folder)

    def _propose_model(self, path: Path) -> None:
        self.model.set_paths(path)

    def _read_model(self) -> None:
        self._models.forget()
        if self.model.path is not None:
            self._models.ask(partial(read_modalities, self.model.path))

    def _offer_modalities(self, known: KnownModalities) -> None:
        offer_modalities(self.modality, known, otherwise=known.names[-1])

    def _show_model_refusal(self, reason: str) -> None:
        self.modality.clear()
        self.found.setText(reason)

    def _look(self) -> None:
        """Look for the images, and show their number or why there are none."""
        self._files.forget()
        self.found.setText("")
        paths = self.images.paths
        if paths:
            self._files.ask(partial(look_at_images, paths, self.modality.currentText() or None))

    def _show_files(self, files: FoundImages) -> None:
        self.found.setText(files.sentence)
        self.output.propose(files.repository)


def _index(
    images: list[Path], model: Path, modality: str, output: Path, keep_glass: bool, pixel_size: float | None
) -> Job[tasks.Indexed]:
    """Index images, or report why the model offers no modality."""
    _require_modality(model, modality)
    more = modality, output, keep_glass, pixel_size
    return (yield from in_worker_process(tasks.index, images, model, *more))


def _require_modality(model: Path, modality: str) -> None:
    if not modality:
        read_modalities(model)  # raises an InputError that explains what is wrong with the model
        raise InputError("No modality is chosen; choose which one the images are of.")
