"""Which of the images that are given are new or changed, and which only moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from napari_cmrir.errors import InputError
from napari_cmrir.repository.catalogue import Catalogue, text
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.schema import ImageRow
from napari_cmrir.repository.sources import AnySource, size_and_time, stamp

__all__ = ["find_lost", "find_work"]


def find_work(catalogue: Catalogue, sources: Iterable[AnySource]) -> Iterator[tuple[int, AnySource]]:
    """Find what is to do, entering new and changed images into the catalogue.

    Parameters
    ----------
    catalogue : Catalogue
        Open to write, in a transaction.
    sources : iterable of Path, Source or Remote
        The images that shall be searchable.

    Yields
    ------
    (int, Path, Source or Remote)
        The number of each image that is not yet, or no longer, searchable, and where to read it.
    """
    vanished = _Vanished(catalogue)
    for source in sources:
        row = catalogue.find_file(source) if isinstance(source, Path) else catalogue.find_array(source.name)
        row = row or vanished.claim(source)
        if row is None:
            yield catalogue.add_image(**_names(catalogue, source)), source
        elif row.state == "pending" or row.state == "failed":
            catalogue.change_image(row.id, state="pending", reason=None, **_names(catalogue, source))
            yield row.id, source
        else:
            yield from _compare(catalogue, row, source)


def find_lost(catalogue: Catalogue, sources: Iterable[AnySource]) -> Iterator[tuple[int, AnySource]]:
    """Find searched images whose stored CoMIRs were deleted, and enter them again, within a transaction.

    This is how a damaged CoMIR is mended: delete its folder, as `verify` advises, and index its image again.

    Yields
    ------
    (int, Path, Source or Remote)
        The new number of each, and where to read it.
    """
    lost = [row for row in catalogue.images("indexed") if not (catalogue.folder / str(row.comir)).is_dir()]
    if not lost:
        return
    taken = {row.replaces for row in catalogue.images("pending", "represented", "failed")}
    by_place = {source if isinstance(source, Path) else source.name: source for source in sources}
    for row in lost:
        source = by_place.get(catalogue.resolve(row) or row.name)
        if source is not None and row.id not in taken:
            columns = {"relative_path": row.relative_path, "absolute_path": row.absolute_path}
            yield catalogue.add_image(row.name, replaces=row.id, **columns), source


def _compare(catalogue: Catalogue, row: ImageRow, source: AnySource) -> Iterator[tuple[int, AnySource]]:
    """Compare a represented or indexed image with what the catalogue remembers of it."""
    names = _names(catalogue, source)
    if (row.relative_path, row.absolute_path) != (names["relative_path"], names["absolute_path"]):
        catalogue.change_image(row.id, **names)
    if _changed(catalogue, row, source):
        if row.state == "indexed":
            yield catalogue.add_image(replaces=row.id, **names), source
        else:
            catalogue.change_image(row.id, state="pending")
            yield row.id, source
    elif row.state == "represented":
        yield row.id, source


def _changed(catalogue: Catalogue, row: ImageRow, source: AnySource) -> bool:
    try:
        now = stamp(source, thorough=False)
        if now.mtime_ns is not None and (now.n_bytes, now.mtime_ns) == (row.n_bytes, row.mtime_ns):
            return False
        now = stamp(source)
    except (OSError, InputError):
        return False  # gone since it was listed: what is stored of it stays
    if now.sha256 != row.sha256:
        return True
    catalogue.change_image(row.id, n_bytes=now.n_bytes, mtime_ns=now.mtime_ns)
    return False


def _names(catalogue: Catalogue, source: AnySource) -> dict[str, Any]:
    if isinstance(source, Path):
        relative = catalogue.relative_path(source)
        return {"name": text(Path(source.name)), "relative_path": relative, "absolute_path": text(source)}
    return {"name": source.name, "relative_path": None, "absolute_path": None}


class _Vanished:
    """Indexed files that are no longer where they were, to be claimed by files of the same content."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._by_size: dict[int, list[ImageRow]] | None = None

    def claim(self, source: AnySource) -> ImageRow | None:
        if not isinstance(source, Path):
            return None
        if self._by_size is None:
            self._by_size = self._find()
        try:
            candidates = self._by_size.get(size_and_time(source)[0], [])
            if not candidates:
                return None
            content = digest(source)
        except (OSError, InputError):
            return None
        row = next((row for row in candidates if row.sha256 == content), None)
        if row is not None:
            candidates.remove(row)
        return row

    def _find(self) -> dict[int, list[ImageRow]]:
        by_size: dict[int, list[ImageRow]] = {}
        for row in list(self._catalogue.images("represented", "indexed")):
            path = self._catalogue.resolve(row)
            if row.n_bytes is not None and path is not None and not path.exists():
                by_size.setdefault(row.n_bytes, []).append(row)
        return by_size
