"""Which reader reads which of the written files right: values compared, ours against others.

    python benchmarks/readers.py [--markdown FILE]

The files and their pixels are those of tests/images/written_files.py. A reader is right where it gives the
pixels, in whatever order it keeps its axes, within the tolerance of a compression with loss; opacity may be
given as well. A reader that is not installed is left out of the table. The others are tifffile with
napari-tiff, bioio with its plugins for OME-TIFF, TIFF, imageio and OME-Zarr, and scikit-image.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def written_files() -> dict[str, Any]:
    """Load the table of files."""
    script = ROOT / "tests" / "images" / "written_files.py"
    spec = importlib.util.spec_from_file_location("written_files", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["written_files"] = module
    spec.loader.exec_module(module)
    files: dict[str, Any] = module.FILES
    return files


def _ours(path: Path) -> Any:
    from napari_cmrir import read_image

    return read_image(path)


def _napari_tiff(path: Path) -> Any:
    from napari_tiff.napari_tiff_reader import napari_get_reader

    reader = napari_get_reader(str(path))
    if reader is None:
        raise ValueError("no reader")
    layers = reader(str(path))
    planes = [np.asarray(layer[0]) for layer in layers]
    return planes[0] if len(planes) == 1 else np.stack(planes, -1)


def _bioio(path: Path) -> Any:
    from bioio import BioImage

    image = BioImage(path)
    return image.get_image_data("YXS" if "S" in image.dims.order else "YXC")


def _skimage(path: Path) -> Any:
    from skimage.io import imread

    return imread(path)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "napari-cmrir": ("napari_cmrir", _ours),
    "tifffile + napari-tiff": ("napari_tiff", _napari_tiff),
    "bioio": ("bioio", _bioio),
    "scikit-image": ("skimage", _skimage),
}


def judge(read: Callable[[Path], Any], path: Path, pixels: Any, tolerance: float) -> str:
    """Say whether a reader gives the pixels of a file: right, wrong or refused."""
    try:
        found = np.asarray(read(path))
    except Exception:  # readers raise all kinds
        return "refused"
    wanted = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    found = np.squeeze(found)
    if found.ndim == 3 and wanted.ndim == 3 and found.shape != wanted.shape:
        if found.shape[0] == wanted.shape[2] and found.shape[1:] == wanted.shape[:2]:
            found = np.moveaxis(found, 0, -1)
        elif found.shape[2] == 4 and wanted.shape[2] == 3:
            found = found[..., :3]  # with opacity
    if found.ndim == 3 and wanted.ndim == 2:
        found = found[..., 0]  # grey given as equal colours, or with opacity
    if found.dtype == bool:
        found = found * np.uint8(255)
    if found.shape != wanted.shape:
        return "wrong"
    largest = np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max()
    return "right" if largest <= tolerance else "wrong"


def main() -> None:
    """Read all files with all readers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    readers = {name: read for name, (module, read) in READERS.items() if importlib.util.find_spec(module)}
    files = written_files()
    rows = [["file", *readers]]
    with tempfile.TemporaryDirectory() as folder:
        for name, file in files.items():
            path = Path(folder, name)
            file.write(path)
            rows.append(
                [name, *(judge(read, path, file.pixels, file.tolerance) for read in readers.values())]
            )
    counts = [sum(row[at] == "right" for row in rows[1:]) for at in range(1, len(readers) + 1)]
    silent = [sum(row[at] == "wrong" for row in rows[1:]) for at in range(1, len(readers) + 1)]
    rows.append([f"right, of {len(files)}", *map(str, counts)])
    rows.append(["wrong without a word", *map(str, silent)])
    rows.insert(1, ["---"] * (len(readers) + 1))
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    print(text)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
