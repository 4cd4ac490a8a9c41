"""Sort the queries that an evaluation did not find first by what may have lost them, and draw all of them.

    napari-cmrir evaluate MODEL PAIRS --modalities SHG BF --no-within --no-untransformed -o EVALUATION
    python benchmarks/lost_queries.py EVALUATION PAIRS -o SHEETS

A query is sorted into the first of these classes that it belongs to:

- wrong truth: the pair is named by `--wrong-truth`, because `train --check` says that it is not aligned;
- same scene: the place that was found first looks, in its own modality, like the right one (correlation of
  the bandpassed pixels above 0.5): another image of the collection shows it, too;
- plain query, plain target: the contrast of the query, or of the same place in the searched modality, is in
  the lowest fifth of all queries of the condition (standard deviation between 1.5 and 16 px, over the range
  of the image, as in `shows_structure`);
- edges disagree: the directions of the edges of both modalities agree less than in four fifths of all queries
  (mean cosine of twice the angle between the gradients, weighted by both magnitudes; 1 for equal directions);
- other.

The classes but the second look at the images alone, not at the search, so that found queries are sorted, too:
the table prints how many of each class are lost. SHEETS gets a picture of each class: the query, the right
place, the place found first, query by query.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter, sobel

from napari_cmrir.evaluation.metrics import share
from napari_cmrir.evaluation.queries import cut_grid, identifier_of, read_square_pair
from napari_cmrir.evaluation.report.comparison import read_evaluation
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import BAND, bandpass, grey_span

LOWEST = 0.2  # share of all queries that counts as low
SAME_SCENE = 0.5
SHOWN, ACROSS = 96, 5  # px of a picture; queries a row
CLASSES = ("wrong truth", "same scene", "plain query", "plain target", "edges disagree", "other")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--wrong-truth", nargs="*", default=[], metavar="IDENTIFIER")
    options = parser.parse_args()
    evaluation = read_evaluation(options.evaluation)
    modalities = tuple(evaluation["modalities"])
    images, fields = {}, {}
    for pair in find_pairs([options.pairs], modalities):
        pixels = read_square_pair(pair)
        images[pair.identifier] = dict(zip(modalities, pixels, strict=True))
        size = pixels[0].shape[:2]
        fields |= {
            field.name: field
            for field in cut_grid(pair.identifier, *size, evaluation["settings"]["field_size"])
        }
    by_condition = defaultdict(list)
    for result in evaluation["queries"]:
        by_condition[tuple(result["condition"].values())].append(result)
    drawn = defaultdict(list)
    for (query, repository, pose, size), results in by_condition.items():
        seen = [look_at(result, images, fields, query, repository) for result in results]
        wrong = [identifier_of(result["field"]) in options.wrong_truth for result in results]
        true = [one for one, is_wrong in zip(seen, wrong, strict=True) if not is_wrong]
        low = {name: np.quantile([one[name] for one in true], LOWEST) for name in ("own", "other", "agree")}
        classes = [
            "wrong truth" if is_wrong else sort(one, low) for one, is_wrong in zip(seen, wrong, strict=True)
        ]
        n_lost = sum(one["lost"] for one in seen)
        print(f"\n{query} in {repository}, {pose}, {size}: {n_lost} of {len(seen)} not found first\n")
        print("| class | queries | of these not found first | share of the lost |\n|---|---|---|---|")
        for name in CLASSES:
            members = [one["lost"] for one, of in zip(seen, classes, strict=True) if of == name]
            if members:
                of_lost = f"{sum(members) / max(1, n_lost):.0%}"
                print(f"| {name} | {len(members)} | {share(sum(members), len(members))} | {of_lost} |")
        for one, name in zip(seen, classes, strict=True):
            if one["lost"]:
                drawn[name].append(np.hstack([one[part] for part in ("query", "right", "found")]))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, pictures in drawn.items():
        blank = np.full_like(pictures[0], 255)
        pictures += [blank] * (-len(pictures) % ACROSS)
        rows = [np.hstack(pictures[i : i + ACROSS]) for i in range(0, len(pictures), ACROSS)]
        cv2.imwrite(str(options.output / f"{name.replace(' ', '-')}.png"), np.vstack(rows))
    print(f"\nEach of the {sum(map(len, drawn.values()))} is drawn in {options.output}")


def look_at(result, images, fields, query, repository):
    """Measure a query, the right place, and the likeness of the place that was found first."""
    right = fields[result["field"]]
    own, target = (
        part_of(images[right.identifier][modality], result["box"], right) for modality in (query, repository)
    )
    first = result["hits"][0] if result["hits"] else None
    found, alike = np.zeros_like(target[0]), -1.0
    if first is not None:
        field = fields[first["image"]]
        found = part_of(images[field.identifier][repository], first["box"], field)[0]
        if result["rank"] != 1 and found.shape == target[0].shape:
            alike = np.corrcoef(bandpassed(found).ravel(), bandpassed(target[0]).ravel())[0, 1]
    parts = {"query": own[0], "right": target[0], "found": found}
    return {
        "lost": result["rank"] != 1,
        "own": bandpassed(own[0]).std() / own[1],
        "other": bandpassed(target[0]).std() / target[1],
        "agree": edge_agreement(own[0], target[0]),
        "alike": alike,
        **{name: picture_of(part) for name, part in parts.items()},
    }


def part_of(image, box, field):
    """Cut a box of a field, and give the range of its image."""
    region = Region.from_corners(np.array(box) + np.array([field.y, field.x]))
    return cut(image, region)[0], max(grey_span(image), 1e-6)


def bandpassed(pixels):
    return bandpass(pixels.mean(2, dtype=np.float64))


def edge_agreement(one, other):
    """Mean cosine of twice the angle between the gradients, weighted by both magnitudes."""
    smooth = [gaussian_filter(pixels.mean(2, dtype=np.float64), BAND[0]) for pixels in (one, other)]
    first, second = (sobel(grey, 0) + 1j * sobel(grey, 1) for grey in smooth)
    weight = np.abs(first) * np.abs(second)
    return float(
        np.real(first**2 * np.conj(second**2) / np.maximum(weight, 1e-12)).sum() / max(weight.sum(), 1e-12)
    )


def sort(one, low):
    if one["alike"] > SAME_SCENE:
        return "same scene"
    for name, key in (("plain query", "own"), ("plain target", "other"), ("edges disagree", "agree")):
        if one[key] <= low[key]:
            return name
    return "other"


def picture_of(pixels):
    """Scale a part to 8 bits, in its own range, and to the size of a picture with a white border."""
    pixels = pixels.astype(np.float64)
    low, high = np.percentile(pixels, (1, 99))
    scaled = (255 * (pixels - low) / max(high - low, 1e-6)).clip(0, 255).astype(np.uint8)
    colour = scaled[..., ::-1] if scaled.shape[2] == 3 else np.repeat(scaled[..., :1], 3, axis=2)
    shown = cv2.resize(np.ascontiguousarray(colour), (SHOWN - 4, SHOWN - 4), interpolation=cv2.INTER_AREA)
    return cv2.copyMakeBorder(shown, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))


if __name__ == "__main__":
    main()
