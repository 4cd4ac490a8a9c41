"""Draw right and wrong first hits of an evaluation: one contact sheet for each kind of query.

    python docs/make_overlays.py EVALUATION PAIRS --modalities SHG BF -o FOLDER [--size patch] [--count 20]

EVALUATION is the folder that `evaluate -o` wrote. A row shows the query, the first hit cut out upright at the
found pose, both as a checkerboard and, for a wrong hit, the right place with its rank. Up to half of the rows
are wrong hits, spread evenly over the confidence. The frame of a right hit is green, that of a wrong hit red.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_cmrir.evaluation.queries import GridField, cut_grid
from napari_cmrir.evaluation.report.comparison import read_evaluation
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.images.readers import read_image

TILE, CAPTION, SQUARES = 168, 34, 6
GREEN, RED = (40, 160, 60), (200, 40, 40)

Fields = dict[str, GridField]
Paths = dict[tuple[str, str], Path]
read = lru_cache(maxsize=64)(read_image)


def as_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Show an image (y, x, channel) of any type as RGB, its contrast stretched."""
    if pixels.dtype != np.uint8:
        pixels = np.moveaxis(255 * choose_intensity([pixels]).apply(pixels).clip(0, 1), 0, -1).astype(
            np.uint8
        )
    grey = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, 2)
    low, high = np.percentile(grey, (1, 99))
    stretched = (grey.astype(np.float32) - low) * (255 / max(high - low, 1))
    return np.ascontiguousarray(stretched.clip(0, 255).astype(np.uint8))


def cut_box(name: str, box: Any, modality: str, fields: Fields, paths: Paths) -> NDArray[np.uint8]:
    """Cut out a box of a field, upright."""
    field = fields[name]
    region = Region.from_corners(np.asarray(box, float) + np.array([field.y, field.x]))
    pixels, inside = cut(read(paths[field.identifier, modality]), region)
    shown = as_rgb(pixels)
    shown[~inside] = 255
    return shown


def tile(
    pixels: NDArray[np.uint8], colour: tuple[int, int, int] | None, words: list[str]
) -> NDArray[np.uint8]:
    """Put a picture in a coloured frame above lines of text."""
    picture = np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)
    shown = cv2.resize(pixels, (TILE - 8, TILE - 8), interpolation=cv2.INTER_AREA)
    if colour is not None:
        picture[:TILE] = colour
    picture[4 : TILE - 4, 4 : TILE - 4] = shown
    for line, text in enumerate(words):
        at = (2, TILE + 13 + 15 * line)
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def checkerboard(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show two pictures of one place in alternate squares."""
    other = cv2.resize(other, one.shape[1::-1], interpolation=cv2.INTER_AREA)
    rows, columns = (np.arange(side) * SQUARES // side for side in one.shape[:2])
    return np.where(((rows[:, None] + columns) % 2 == 0)[..., None], one, other).astype(np.uint8)


def row(result: dict[str, Any], fields: Fields, paths: Paths) -> NDArray[np.uint8]:
    """Draw a query and its first hit; of a wrong one, also the right place."""
    condition, hit = result["condition"], result["hits"][0]
    right = result["rank"] == 1
    colour = GREEN if right else RED
    query = cut_box(result["field"], result["box"], condition["query"], fields, paths)
    found = cut_box(hit["image"], hit["box"], condition["repository"], fields, paths)
    sure = f"score {hit['score']:.3f}  conf {hit['confidence']:.2f}"
    tiles = [
        tile(
            query,
            None,
            [f"{condition['query']} {result['field']}", f"turned {result['rotation_degrees']:.0f}"],
        ),
        tile(found, colour, [f"{condition['repository']} {hit['image']}", sure]),
        tile(checkerboard(query, found), colour, ["checkerboard of both"]),
    ]
    if not right:
        true = cut_box(result["field"], result["box"], condition["repository"], fields, paths)
        score = "" if result["right"] is None else f"score {result['right']['score']:.3f}"
        tiles += [tile(true, None, [f"the right place, rank {result['rank']}", score])]
        tiles += [tile(checkerboard(query, true), None, ["checkerboard with it"])]
    else:
        tiles += [np.full((TILE + CAPTION, TILE, 3), 255, np.uint8)] * 2
    return np.hstack(tiles)


def chosen(results: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Choose half wrong and half right ones, each spread over the confidence."""
    asked = [result for result in results if result["hits"]]
    by_confidence = sorted(asked, key=lambda result: -result["hits"][0]["confidence"])
    wrong = [result for result in by_confidence if result["rank"] != 1]
    right = [result for result in by_confidence if result["rank"] == 1]
    n_wrong = min(len(wrong), count // 2)
    spread = []
    for group, n in ((right, min(len(right), count - n_wrong)), (wrong, n_wrong)):
        spread += (
            [group[i] for i in np.unique(np.linspace(0, len(group) - 1, n).round().astype(int))] if n else []
        )
    return spread


def main() -> None:
    """Write the contact sheets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", default="patch", choices=("patch", "full"))
    parser.add_argument("--count", type=int, default=20)
    asked = parser.parse_args()
    evaluation = read_evaluation(asked.evaluation)
    pairs = find_pairs(asked.pairs, tuple(asked.modalities))
    paths = {
        (pair.identifier, m): p for pair in pairs for m, p in zip(asked.modalities, pair.paths, strict=True)
    }
    side = evaluation["settings"]["field_size"]
    fields = {
        field.name: field
        for pair in pairs
        for field in cut_grid(pair.identifier, *read(pair.paths[0]).shape[:2], side)
    }
    wanted = [
        result
        for result in evaluation["queries"]
        if result["condition"]["size"] == asked.size
        and result["condition"]["pose"] == "transformed"
        and result["condition"]["query"] != result["condition"]["repository"]
    ]
    rows = [row(result, fields, paths) for result in chosen(wanted, asked.count)]
    rows += [np.full_like(rows[0], 255)] * (len(rows) % 2)
    half = len(rows) // 2
    sheet = np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])
    asked.output.mkdir(parents=True, exist_ok=True)
    path = asked.output / f"overlays-{'-'.join(asked.modalities).lower()}-{asked.size}.png"
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    print(path)


if __name__ == "__main__":
    main()
