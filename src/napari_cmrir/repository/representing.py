"""The task that makes CoMIRs of images.

A task is a batch of images that a thread or a process of any computer can do that sees the repository's
folder. It writes files whose names follow from what they are computed from, and never the catalogue: done
twice, or by two workers at once, it leaves the same files, and what a lost worker had written is used again.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.pyramids import open_level
from napari_cmrir.repository.recipe import Tools, token
from napari_cmrir.repository.sources import AnySource, Stamp, open_source, stamp
from napari_cmrir.repository.store import COMIRS
from napari_cmrir.repository.storing import store_comir

__all__ = ["Given", "represent_batch"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Noted = dict[str, Any]
"""What the catalogue shall note of an image: its state, and the columns that go with it."""


@dataclass(frozen=True)
class Given:
    """An image to represent: its number and name in the catalogue, and where to read it."""

    image_id: int
    name: str
    source: AnySource = field(repr=False)


def represent_batch(tools: Tools, batch: Sequence[Given]) -> Job[list[Noted]]:
    """Store the CoMIRs of images; one is written, and synced to the disk, while the next is computed.

    Returns
    -------
    list of dict
        What the catalogue shall note of each image: state ``represented`` and the columns that go with it,
        or ``failed`` and the reason why it cannot be used.
    """
    noted: list[Future[Noted]] = []
    with ThreadPoolExecutor(1, "writing") as writer:
        for position, image in enumerate(batch):
            message = f"CoMIR of {image.name}"
            yield Progress(position, len(batch), "images", message)
            job = _represent(tools, image, writer)
            noted.append((yield from _within(job, position, len(batch), message)))
            if position:
                noted[position - 1].result()  # one at most is kept waiting, and a full disk said at once
        return [future.result() for future in noted]


def _represent(tools: Tools, image: Given, writer: Executor) -> Job[Future[Noted]]:
    try:
        path, now = _place(tools, image)
        write = _nothing if path.is_dir() else (yield from _compute(tools, image, path, now))
        return writer.submit(_finish, write, path, now)
    except InputError as error:
        return writer.submit(dict, state="failed", reason=str(error))


def _place(tools: Tools, image: Given) -> tuple[Path, Stamp]:
    """Return where the CoMIR of an image as it is now belongs."""
    recipe = tools.recipe
    now = _readable(image.source, stamp, image.source)
    inputs = (now.sha256, recipe.fingerprint, recipe.settings.reading, recipe.settings.least_tissue)
    name = f"{image.image_id:08d}-{token(*inputs)}-{_plain(image.name)}.ome.zarr"
    return recipe.folder / COMIRS / name, now


def _compute(tools: Tools, given: Given, path: Path, now: Stamp) -> Job[Callable[[], None]]:
    recipe = tools.recipe
    pixel_size = tools.model.pixel_size
    reading = recipe.settings.reading
    with closing(_readable(given.source, open_source, given.source, reading, pixel_size)) as image:
        if image.assumption:
            warnings.warn(image.assumption, stacklevel=1)
        if image.choice:
            logger.info("%s: %s.", given.name, image.choice)
            yield Progress(0, None, "blocks", image.choice)
        return (
            yield from store_comir(
                path,
                image,
                tools.model,
                recipe.modality,
                recipe.settings,
                name=given.name,
                device=recipe.device,
                when_read=partial(_refuse_changed, given, now),
            )
        )


def _finish(write: Callable[[], None], path: Path, now: Stamp) -> Noted:
    write()
    _, height, width = open_level(path).shape
    return {
        "state": "represented",
        "reason": None,
        "comir": f"{COMIRS}/{path.name}",
        "comir_sha256": digest(path),
        "height": height,
        "width": width,
        "sha256": now.sha256,
        "n_bytes": now.n_bytes,
        "mtime_ns": now.mtime_ns,
    }


def _nothing() -> None:
    pass


def _refuse_changed(image: Given, before: Stamp) -> None:
    now = _readable(image.source, stamp, image.source, thorough=False)
    if (now.n_bytes, now.mtime_ns) != (before.n_bytes, before.mtime_ns):
        raise InputError(f"{image.name} changed while it was read; index it again when it is complete.")


def _readable(source: AnySource, read: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Say in one line why an image cannot be read: one such file must not stop the others."""
    try:
        return read(*arguments, **options)
    except InputError:
        raise
    except Exception as error:
        name = source if isinstance(source, Path) else source.name
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}; check the file and index again.") from error


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]


def _within(job: Job[Any], position: int, total: int, message: str) -> Job[Any]:
    """Run a job as the ``position``-th of ``total`` steps."""
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as end:
                return end.value
            share = min(1.0, progress.done / progress.total) if progress.total else 0.0
            detail = f"{message}: {progress.message}" if progress.unit == "blocks" else message
            yield Progress(position + share, total, "images", detail)
    finally:
        job.close()
