"""``napari-cmrir demo``: train, index and query on generated tissue, and draw the hits as one picture."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress, portion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_cmrir.images.discovery import Pair
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.search.hits import Hit, SearchResult

    Picture = NDArray[np.uint8]

__all__ = ["NOTE", "FoundImage", "Plan", "Truth", "demo", "demonstrate", "draw_hits", "remove_own_files"]


NOTE = "demo.json"
_MAKER = "napari-cmrir demo"
_PARTS_OF_REPOSITORY = ("catalogue.", "model.", "indexes", "segments", "comirs", "writer.lock", ".")


def remove_own_files(folder: Path, names: Sequence[str], about: dict[str, Any]) -> None:
    """Remove the files of an earlier demo from a folder, and list the files of this demo in it.

    Parameters
    ----------
    folder : Path
        Created if it does not exist.
    names : sequence of str
        Files and repositories to be made, as paths in the folder.
    about : dict
        Further entries of the list.

    Raises
    ------
    InputError
        A file has the name of a demo's file but is not from a demo; nothing is removed then.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder with --out.")
    made = _noted(folder)
    foreign = [folder / name for name in names if name not in made and (folder / name).exists()]
    foreign += [entry for name in made for entry in _strangers(folder / name)]
    if foreign:
        raise InputError(f"{foreign[0]} is not from a demo; move it away or give another --out.")
    for name in made:
        _remove(folder, folder / name)
    note = {"made_by": _MAKER, **about, "files": list(names)}
    from napari_cmrir.files import atomic_write

    atomic_write(folder / NOTE, (json.dumps(note, indent=1) + "\n").encode())


def _noted(folder: Path) -> list[str]:
    """Names of all files that an earlier demo listed in the folder."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        names = [str(name) for name in note["files"] if note["made_by"] == _MAKER]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / NOTE} is not from a demo; give another --out.") from None
    root = folder.resolve()
    return [name for name in names if (folder / name).resolve().is_relative_to(root)]


def _strangers(path: Path) -> list[Path]:
    """Entries of a repository's folder that are not parts of a repository."""
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if not entry.name.startswith(_PARTS_OF_REPOSITORY)]


def _remove(folder: Path, path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent != folder:
        with contextlib.suppress(OSError):  # the folder holds other files
            path.parent.rmdir()


MODEL, REPOSITORY, QUERY = "model.safetensors", "tissue.cmrir", "query_SHG.tif"
HITS, PICTURE = "hits.json", "hits.png"
PAIRS, IMAGES, PARTNERS = "pairs", "images", "partners"
_SHOWN_HITS = 5


@dataclass(frozen=True, eq=False)
class FoundImage:
    """A hit, what to call its image, the image (y, x, channel) and the image's CoMIR (channel, y, x)."""

    hit: Hit
    name: str
    pixels: NDArray[Any]
    comir: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Truth:
    """The true place of the query: an image as `Hit.image` names it, the box (4, 2) in it, the rotation."""

    image: str
    box: NDArray[np.float64]
    rotation_degrees: float


@dataclass(frozen=True)
class Plan:
    """Sizes of the demo's images and training.

    Parameters
    ----------
    seed : int
        Seed of the tissue, the training and the query's place.
    training_pairs, searched_images : int
        Number of images of each kind.
    image_side, query_side : int
        In px.
    steps, widths : int, tuple of int
        Settings of the training, see `TrainingSettings`.
    words : int
        Largest number of visual words.
    """

    seed: int = 0
    training_pairs: int = 8
    searched_images: int = 16
    image_side: int = 512
    query_side: int = 160
    steps: int = 150
    widths: tuple[int, ...] = (16, 32, 64, 96)
    words: int = 1000


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the demo's files; replaces those of an earlier demo.")
    ] = Path("demo-output"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generated tissue.")] = 0,
) -> None:
    """Train, index and query on generated tissue, and draw the hits (a minute or two)."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.cli.query import print_hits
    from napari_cmrir.search.settings import SearchSettings

    try:
        result, truth = draw(demonstrate(out, Plan(seed=seed)), "Starting")
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command starts over.", err=True)
        raise
    height, width = result.comir.shape[1:]
    print_hits(f"{QUERY} ({height} x {width} px)", result, SearchSettings())
    typer.echo(judgement(result, truth))
    typer.echo(f"See {out / PICTURE}; the same folder has the model, the repository, the images and {HITS}.")


def demonstrate(out: Path, plan: Plan) -> Job[tuple[SearchResult, Truth]]:
    """Generate tissue, train, index, query and draw.

    Parameters
    ----------
    out : Path
        Folder of the demo. Files of an earlier demo are replaced, other files stay.
    plan : Plan
        Sizes and numbers.

    Yields
    ------
    Progress
        In percent of the whole.

    Returns
    -------
    SearchResult, Truth
        The hits, and the true place of the query.

    Raises
    ------
    InputError
        The folder holds files under the demo's names that no demo made, or cannot be written to.
    """
    import imagecodecs

    from napari_cmrir.files import atomic_write, explain_disk_errors
    from napari_cmrir.images.readers import read_image
    from napari_cmrir.search.hits import as_json
    from napari_cmrir.search.query import search

    with explain_disk_errors(out):
        remove_own_files(out, _names(plan), {"seed": plan.seed})
        pairs, images, truth = yield from portion(_generate(out, plan), 0, 10)
        model = yield from portion(_train(pairs, out, plan), 10, 75)
        repository = yield from portion(_index(images, model, out, plan), 75, 97)
        with repository:
            query = read_image(out / QUERY)
            result = yield from portion(search(repository, query, "SHG"), 97, 99)
            atomic_write(out / HITS, as_json([(str(out / QUERY), result)]).encode())
            yield Progress(99, 100, "%", "Drawing")
            atomic_write(
                out / PICTURE, bytes(imagecodecs.png_encode(_picture(query, result, repository, truth)))
            )
    return result, truth


def judgement(result: SearchResult, truth: Truth) -> str:
    """Say in one line whether the first hit is right, and how far off.

    Right is the true image with corners off by less than a tenth of the query's side on average.
    """
    from napari_cmrir.images.geometry import corner_error, rotation_difference

    true_name = Path(truth.image).name
    rank = next((hit.rank for hit in result.hits if hit.image == truth.image), None)
    if rank != 1:
        where = f"hit {rank}" if rank else "not among the hits"
        return f"Wrong: the query was cut out of the tissue of {true_name}, which is {where}."
    first = result.hits[0]
    off = corner_error(first.box, truth.box)
    degrees = rotation_difference(first.rotation_degrees, truth.rotation_degrees)
    verdict = "Right" if off < 0.1 * min(result.comir.shape[1:]) else "Right image, wrong place"
    return (
        f"{verdict}: the query was cut out of the tissue of {true_name}, rotated by"
        f" {truth.rotation_degrees:.1f}°; the first hit's corners are off by {off:.1f} px, its rotation by"
        f" {degrees:.1f}°."
    )


def _seeds(plan: Plan) -> tuple[range, range]:
    """Seeds of the training tissue and of the searched tissue."""
    total = plan.training_pairs + plan.searched_images
    first = plan.seed * total
    return range(first, first + plan.training_pairs), range(first + plan.training_pairs, first + total)


def _names(plan: Plan) -> list[str]:
    """Paths of the demo's files in its folder."""
    trained, searched = _seeds(plan)
    names = [f"{PAIRS}/sample-{seed:03d}_{modality}.tif" for seed in trained for modality in ("SHG", "BF")]
    names += [f"{IMAGES}/sample-{seed:03d}_{modality}.tif" for seed in searched for modality in ("SHG", "BF")]
    names += [f"{PARTNERS}/sample-{seed:03d}_SHG.tif" for seed in searched]
    return [*names, MODEL, REPOSITORY, QUERY, HITS, PICTURE]


def _generate(out: Path, plan: Plan) -> Job[tuple[list[Pair], list[Path], Truth]]:
    """Write the pairs, the images to search with their partners apart, and the query."""
    from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

    trained, searched = _seeds(plan)
    (out / PARTNERS).mkdir(exist_ok=True)
    pairs, images = [], []
    for done, seed in enumerate((*trained, *searched)):
        yield Progress(done, len(trained) + len(searched), "images", "Generating tissue")
        folder = PAIRS if seed in trained else IMAGES
        (pair,) = write_sample_folder(out / folder, [seed], plan.image_side)
        if seed in trained:
            pairs.append(pair)
        else:
            shg, bf = pair.paths
            os.replace(shg, out / PARTNERS / shg.name)
            images.append(bf)
    return pairs, images, _cut_query(images, out, plan)


def _cut_query(images: list[Path], out: Path, plan: Plan) -> Truth:
    """Cut a rotated query out of the partner of a random image."""
    import numpy as np
    import tifffile

    from napari_cmrir.images.geometry import Region, cut
    from napari_cmrir.images.readers import read_image

    rng = np.random.default_rng([plan.seed, 1])
    chosen = images[rng.integers(len(images))]
    partner = read_image(out / PARTNERS / chosen.name.replace("_BF", "_SHG"))
    rotation = rng.uniform(8, 28) * rng.choice([-1, 1])  # within the default rotations of a query
    turn = np.radians(abs(rotation))
    reach = plan.query_side / 2 * (np.cos(turn) + np.sin(turn)) + 1
    y, x = rng.uniform(reach, plan.image_side - 1 - reach, 2)
    region = Region((float(y), float(x)), plan.query_side, plan.query_side, float(rotation))
    pixels, _ = cut(partner, region)
    tifffile.imwrite(out / QUERY, pixels[..., 0], compression="zlib", predictor=True)
    return Truth(os.path.abspath(chosen), region.corners(), region.rotation_degrees)


def _train(pairs: list[Pair], out: Path, plan: Plan) -> Job[Representation]:
    from napari_cmrir.representations.comir.training.train import train
    from napari_cmrir.representations.training_settings import TrainingSettings

    settings = TrainingSettings(widths=plan.widths, steps=plan.steps, seed=plan.seed)
    model = yield from _only("steps", train(pairs, ("SHG", "BF"), settings))
    model.save(out / MODEL)
    return model


def _only(unit: str, job: Job[Representation]) -> Job[Representation]:
    """Pass on only progress in one unit, so that the bar never runs backwards."""
    from napari_cmrir.jobs import changed

    return changed(job, lambda progress: progress if progress.unit == unit else None)


def _index(images: list[Path], model: Representation, out: Path, plan: Plan) -> Job[Repository]:
    from napari_cmrir.bag_of_words.settings import VocabularySettings
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.repository.settings import RepositorySettings

    settings = RepositorySettings(vocabulary=VocabularySettings(size=plan.words))
    return (yield from build_repository(images, model, "BF", out / REPOSITORY, settings))


def _picture(query: NDArray[Any], result: SearchResult, repository: Repository, truth: Truth) -> Picture:
    from napari_cmrir.images.readers import read_image

    found = [
        FoundImage(hit, Path(hit.image).name, read_image(hit.image, hit.reading), repository.comir(hit.field))
        for hit in result.hits[:_SHOWN_HITS]
    ]
    return draw_hits(query, "SHG", result.comir, found, truth)


_PANEL, _GAP, _MARGIN, _HEADER, _LEGEND = 320, 14, 36, 84, 52  # px
_BACKGROUND, _FRAME = (24, 26, 31), (68, 72, 82)
_TEXT, _FAINT = (236, 238, 242), (158, 164, 176)
_MATCH, _TRUTH = (255, 214, 10), (0, 190, 255)
_SMALL, _LARGE = 21, 28  # text heights, px
_FINER = 16  # OpenCV draws at this fraction of a pixel

Colour = tuple[int, int, int]


def draw_hits(
    query: NDArray[Any],
    modality: str,
    comir: NDArray[np.uint8],
    found: Sequence[FoundImage],
    truth: Truth | None = None,
) -> Picture:
    """Draw a query beside its hits, all images above their CoMIRs.

    Parameters
    ----------
    query : (y, x, channel) array
    modality : str
        The query's.
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    found : sequence of FoundImage
        A column each.
    truth : Truth, optional
        Outlined in the images where it lies.

    Returns
    -------
    (y, x, 3) uint8 array
        RGB.
    """
    import numpy as np

    columns = len(found) + 1
    height = 2 * _MARGIN + _HEADER + 2 * _PANEL + _GAP + _LEGEND
    width = 2 * _MARGIN + columns * _PANEL + (columns + 1) * _GAP  # twice the gap beside the query
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top, bottom = _MARGIN + _HEADER, _MARGIN + _HEADER + _PANEL + _GAP
    words = [
        _Words(_MARGIN, top - 50, "Query", _LARGE, _TEXT),
        _Words(_MARGIN, top - 16, f"{modality}, {query.shape[0]} x {query.shape[1]} px", _SMALL, _FAINT),
    ]
    _paste(canvas, top, _MARGIN, _panel(query, []))
    _paste(canvas, bottom, _MARGIN, _panel(comir.transpose(1, 2, 0), []))
    for column, image in enumerate(found, 1):
        left = _MARGIN + column * (_PANEL + _GAP) + _GAP
        outlines = _outlines(image.hit, truth)
        _paste(canvas, top, left, _panel(image.pixels, outlines))
        _paste(canvas, bottom, left, _panel(image.comir.transpose(1, 2, 0), outlines))
        words += _header(left, top, image)
    words += _legend(canvas, bottom + _PANEL + _LEGEND, found, truth)
    return _written(canvas, words)


@dataclass(frozen=True)
class _Words:
    """A line of text, its left end and base line in px."""

    x: int
    y: int
    text: str
    size: int
    colour: Colour
    anchor: str = "ls"


def _header(left: int, top: int, image: FoundImage) -> list[_Words]:
    hit = image.hit
    right = left + _PANEL
    return [
        _Words(left, top - 50, f"{hit.rank}", _LARGE, _TEXT),
        _Words(left + 30, top - 50, image.name, _SMALL, _TEXT),
        _Words(left, top - 16, f"score {hit.score:.3f}", _SMALL, _FAINT),
        _Words(right, top - 16, f"turned {hit.rotation_degrees:+.1f}°", _SMALL, _FAINT, "rs"),
    ]


def _outlines(hit: Hit, truth: Truth | None) -> list[tuple[NDArray[np.float64], Colour, int]]:
    """Boxes to draw into a hit's image, the true one wide and below: (box, colour, line width)."""
    match = (hit.box, _MATCH, 3)
    if truth is None or truth.image != hit.image:
        return [match]
    return [(truth.box, _TRUTH, 8), match]


def _panel(pixels: NDArray[Any], outlines: list[tuple[NDArray[np.float64], Colour, int]]) -> Picture:
    """An image in a square of fixed size, with boxes in its own pixels drawn over it."""
    import cv2
    import numpy as np

    scale = _PANEL / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    shown: Picture = cv2.resize(
        _visible(pixels), (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    for number, (box, colour, thickness) in enumerate(outlines):
        corners = ((box + 0.5) * scale - 0.5)[:, ::-1] * _FINER
        points, shift = [np.rint(corners).astype(np.int32)], _FINER.bit_length() - 1
        if number == 0:  # the lowest box gets a dark rim for contrast
            cv2.polylines(shown, points, True, _BACKGROUND, thickness + 2, cv2.LINE_AA, shift)
        cv2.polylines(shown, points, True, colour, thickness, cv2.LINE_AA, shift)
    cv2.rectangle(shown, (0, 0), (width - 1, height - 1), _FRAME, 1)
    return shown


def _visible(pixels: NDArray[Any]) -> Picture:
    """Convert to 8-bit RGB; stretch other types between their percentiles."""
    import numpy as np

    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (1, 99.7))
        scaled = (pixels.astype(np.float32) - low) / max(high - low, 1e-6)
        pixels = np.rint(255 * scaled.clip(0, 1) ** 0.7).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]])


def _paste(canvas: Picture, top: int, left: int, panel: Picture) -> None:
    top, left = top + (_PANEL - panel.shape[0]) // 2, left + (_PANEL - panel.shape[1]) // 2
    canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel


def _legend(canvas: Picture, base: int, found: Sequence[FoundImage], truth: Truth | None) -> list[_Words]:
    """Draw the symbols of the legend, and return its texts."""
    import cv2

    entries = [(_MATCH, 3, "match box")]
    if truth is not None:
        rank = next((image.hit.rank for image in found if image.hit.image == truth.image), None)
        where = f"in hit {rank}" if rank else f"in none of the best {len(found)}"
        entries.append((_TRUTH, 7, f"true place, {where}"))
    words, left = [_Words(_MARGIN, base, "CoMIRs below", _SMALL, _FAINT)], _MARGIN
    left += _PANEL + 2 * _GAP
    for colour, thickness, text in entries:
        cv2.rectangle(canvas, (left + 4, base - 20), (left + 38, base + 3), colour, thickness, cv2.LINE_AA)
        words.append(_Words(left + 54, base, text, _SMALL, _TEXT))
        left += _PANEL + _GAP
    return words


def _written(canvas: Picture, words: Sequence[_Words]) -> Picture:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for line in words:
        font = ImageFont.load_default(line.size)
        draw.text((line.x, line.y), line.text, fill=line.colour, font=font, anchor=line.anchor)
    written: Picture = np.asarray(picture)
    return written
