"""Draw the pictures of *How a search works* and of the tutorials, and the moving picture of the home page.

    python docs/make_pictures.py [explanation] [tutorials] [tour] [moving]

All images are generated. ``docs/tour.py`` takes the screenshots beforehand: *tour* copies those that
the pages show, *moving* joins some to one animated picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import napari_cmrir as cmrir
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.search.explain import explain

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
SEARCHED, ANSWER, REGION = range(12), 4, cmrir.Region((192, 192), 180, 180, 15)
TOUR = Path(tempfile.gettempdir()) / "napari-cmrir-tour"
OF_FINDING = ("find-draw", "find-region", "find-registered", "find-explained", "find-no-match")
SHOWN = ("model-training", "index", *OF_FINDING)
FRAMES = {"find-draw": 1600, "find-region": 2200, "find-second": 1400, "find-registered": 1800}
"""Screenshots of the tour and the milliseconds that each is shown."""
WIDTH = 960  # px of the moving picture: legible, and below 1.5 MB


def main() -> None:
    """Draw what the arguments name, by default everything."""
    matplotlib.use("agg")
    parts = {
        "explanation": draw_explanation,
        "tutorials": draw_tutorials,
        "tour": take_from_tour,
        "moving": join_frames,
    }
    for name in sys.argv[1:] or parts:
        parts[name]()


def draw_explanation() -> None:
    """Search a part of an SHG image among twelve brightfield images, and draw what each stage sees."""
    os.chdir(tempfile.mkdtemp())
    pairs = write_sample_folder("pairs", SEARCHED, 384)
    model = cmrir.load_model("sample")
    repository = cmrir.run(cmrir.build_repository([p.paths[1] for p in pairs], model, "BF", "a.cmrir"))
    shg, bf = (cmrir.read_image(path) for path in pairs[ANSWER].paths)
    draw_comirs(model, shg, bf)
    everything = cmrir.SearchSettings(register_all=0, hits=12)
    result = cmrir.run(cmrir.query(repository, shg, "SHG", region=REGION, settings=everything))
    draw_screening(repository, result)
    draw_rotations(repository, shg)
    draw_agreement(repository, result, shg)


def draw_comirs(model: Any, shg: Any, bf: Any) -> None:
    """Both images of a pair, above their CoMIRs."""
    figure, axes = panels(2, 2, (6.4, 6.6))
    axes[0][0].imshow(shg[..., 0], cmap="gray", vmax=np.percentile(shg, 99))
    axes[0][1].imshow(bf)
    for column, (image, modality) in enumerate(((shg, "SHG"), (bf, "BF"))):
        axes[1][column].imshow(cmrir.run(cmrir.represent(model, image, modality))[0], cmap="magma")
        axes[0][column].set_title({"SHG": "second harmonic generation", "BF": "brightfield"}[modality])
        axes[1][column].set_title(f"its CoMIR, by the network of {modality}")
    save(figure, "works-comirs")


def draw_screening(repository: Any, result: Any) -> None:
    """The thumbnails of all fields, ordered by their correlation with the query."""
    figure, axes = panels(2, 6, (8.4, 3.3))
    order = np.argsort(-result.screening)
    for position, field in enumerate(order):
        each = axes[position // 6][position % 6]
        each.imshow(repository.thumbnails([int(field)])[0][0], cmap="magma")
        name = repository.image_name(int(field)).rpartition("/")[2]
        each.set_title(f"{name[7:10]}: {result.screening[field]:.2f}", fontsize=9)
    save(figure, "works-screening")


def draw_rotations(repository: Any, shg: Any) -> None:
    """The best score of the right field and of the best other field, by the rotation of the query."""
    turned = np.arange(-30, 31, 3)
    scores = []
    for degrees in turned:
        region = cmrir.Region(REGION.centre, REGION.height, REGION.width, float(degrees))
        only = cmrir.SearchSettings(max_rotation=0, hits=12)
        found = cmrir.run(cmrir.query(repository, shg, "SHG", region=region, settings=only)).hits
        right = next(hit.score for hit in found if f"sample-{ANSWER:03d}" in hit.image)
        scores.append((right, max(hit.score for hit in found if f"sample-{ANSWER:03d}" not in hit.image)))
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(turned, [one for one, _ in scores], "o-", label="the field with the tissue")
    axes.plot(turned, [other for _, other in scores], "s--", label="the best other field")
    axes.set_xlabel("rotation of the region (degrees); only upright poses are tried here")
    axes.set_ylabel("score")
    axes.legend()
    save(figure, "works-rotations")


def draw_agreement(repository: Any, result: Any, shg: Any) -> None:
    """Query, the hit's CoMIR in the pose found, and where the two agree."""
    best = result.hits[0]
    shown = explain(repository, result, best)
    figure, axes = panels(1, 3, (8.4, 3.1))
    axes[0][0].imshow(shown.query[0], cmap="magma")
    axes[0][0].set_title("CoMIR of the region")
    axes[0][1].imshow(shown.field[0], cmap="magma")
    axes[0][1].set_title(f"the hit's, turned by {-best.rotation_degrees:.0f}\u00b0")
    map_ = axes[0][2].imshow(shown.agreement, cmap="RdBu_r", vmin=-1, vmax=1)
    axes[0][2].set_title("local correlation")
    figure.colorbar(map_, ax=axes[0][2], shrink=0.8)
    save(figure, "works-agreement")


def panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """Make a figure of images without axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    return figure, axes


def save(figure: Figure, name: str) -> None:
    """Write a figure to docs/images."""
    path = IMAGES / f"{name}.png"
    figure.savefig(path, dpi=90, metadata={"Software": None})
    if "agreement" not in name:  # 256 colours would lose its colour bar
        shrink(path)


def shrink(path: Path) -> None:
    """Store a picture with 256 colours: a third of the size."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)
    print(path, path.stat().st_size)


def draw_tutorials() -> None:
    """Run the examples that draw a picture, and keep it."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        if "PICTURE" in path.read_text(encoding="utf-8"):
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "MPLBACKEND": "agg"}
                subprocess.run([sys.executable, path], cwd=folder, env=environment, check=True)
                target = IMAGES / f"{path.stem}.png"
                target.write_bytes((Path(folder) / target.name).read_bytes())
                shrink(target)


def take_from_tour() -> None:
    """Copy the screenshots that the pages show."""
    for name in SHOWN:
        target = IMAGES / f"{name}.png"
        target.write_bytes((TOUR / target.name).read_bytes())
        shrink(target)


def join_frames() -> None:
    """Join screenshots of the tour to one animated picture."""
    frames = []
    for name in FRAMES:
        with Image.open(TOUR / f"{name}.png") as image:
            height = round(image.height * WIDTH / image.width)
            frames.append(image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS))
    target = IMAGES / "search.webp"
    options = {"save_all": True, "append_images": frames[1:], "duration": list(FRAMES.values()), "loop": 0}
    frames[0].save(target, "WEBP", quality=80, method=6, **options)
    print(target, target.stat().st_size)


if __name__ == "__main__":
    main()
