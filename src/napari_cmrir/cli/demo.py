"""``napari-cmrir demo``: the whole way on generated tissue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for what the demo makes.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generated tissue.")] = 0,
) -> None:
    """Train, index and query on generated tissue, and draw what was found (about three minutes)."""
    from napari_cmrir.errors import InputError

    raise InputError("The demo is not here yet.")
