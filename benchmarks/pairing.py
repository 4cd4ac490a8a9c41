"""Measure what `find_aligned_pairs` finds between two folders that are not aligned.

    python benchmarks/pairing.py MODEL PAIRS [PAIRS ...] --modalities SHG BF [--rounds N] [--seed N]

The pairs are split up as a user has them: a third of each folder loses its partner, the names are shuffled,
and every second image is turned at random over the full circle and shifted by up to 20 % of its sides. What
lay outside its image is filled with the colour of the image's border. A pair is findable where half of it
still shows both. Printed: the share of findable pairs that is found, wrong pairs among those accepted
(another partner, or corners more than 5 % of the diagonal apart), and the corner error of those found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, inside, sample
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import run
from napari_cmrir.pairing.find import find_aligned_pairs
from napari_cmrir.registration.affine import box_difference
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.settings import PairingSettings

FINDABLE = 0.5  # share of a partner that still shows what the first image shows


def turned(pixels, rng):
    """Turn and shift an image in its frame; also the map to its new pixels, and the share that is left."""
    height, width = pixels.shape[:2]
    shift = rng.uniform(-0.2, 0.2, 2) * (height, width)
    centre = ((height - 1) / 2 + shift[0], (width - 1) / 2 + shift[1])
    region = Region(centre, height, width, float(rng.uniform(-180, 180)))
    corners = region.corners()
    steps = np.stack(((corners[3] - corners[0]) / height, (corners[1] - corners[0]) / width), 1)
    first = corners[0] + steps @ (0.5, 0.5)
    mask = inside(pixels.shape, first, steps, height, width)
    border = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    cut = np.where(mask[..., None], sample(pixels, first, steps, height, width), np.median(border, 0))
    there = np.eye(3)
    there[:2, :2], there[:2, 2] = steps, first
    return cut.astype(pixels.dtype), np.linalg.inv(there), float(mask.mean())


def lay_out(folders, modalities, work, seed):
    """Write the two folders; return map, name and findable or not of every pair by its two files."""
    rng = np.random.default_rng(seed)
    pairs = [pair for folder in folders for pair in find_pairs([folder], modalities)]
    order = rng.permutation(len(pairs))
    third = len(pairs) // 4  # of all pairs, one in each folder only: a third of what is left in either
    lonely = {0: set(order[:third].tolist()), 1: set(order[third : 2 * third].tolist())}
    names = [rng.permutation(len(pairs)), rng.permutation(len(pairs))]
    truth, shapes = {}, {}
    for number, pair in enumerate(pairs):
        images = read_pair(pair)
        moved, matrix, left = turned(images[1], rng)
        files = []
        for side, pixels in enumerate((images[0], moved)):
            name = f"{('first', 'second')[side]}-{names[side][number]:03d}_{modalities[side]}.tif"
            files.append(name)
            if number in lonely[1 - side]:
                continue
            target = work / ("first", "second")[side] / name
            target.parent.mkdir(parents=True, exist_ok=True)
            colour = pixels.shape[2] == 3
            tifffile.imwrite(
                target, pixels if colour else pixels[..., 0], photometric="rgb" if colour else None
            )
        shapes[files[0]] = images[0].shape
        if number not in lonely[0] | lonely[1]:
            truth[tuple(files)] = (matrix, pair.identifier, left >= FINDABLE)
    return truth, shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", nargs="+", type=Path)
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--steps", type=int, default=PairingSettings().training_steps)
    parser.add_argument("--show", action="store_true", help="print every row")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    modalities = tuple(given.modalities)
    truth, shapes = lay_out(given.pairs, modalities, work, given.seed)
    model = load_model(given.model)
    settings = PairingSettings(rounds=given.rounds, training_steps=given.steps)
    if not set(modalities) <= set(model.modalities):  # to measure a model across collections
        names = zip(modalities, model.modalities, strict=True)
        model.intensities = {new: model.intensities[old] for new, old in names}
        model.modalities = modalities
    started = time.perf_counter()
    job = find_aligned_pairs(
        work / "first", work / "second", modalities, model, work / "pairs", settings=settings
    )
    result = run(job)
    seconds = time.perf_counter() - started
    errors, wrong, beyond = [], [], 0
    missed = {both: name for both, (_, name, findable) in truth.items() if findable}
    n_findable = len(missed)
    for pair in result.pairs:
        both = (pair.first.name, pair.second.name)
        matrix, name, findable = truth.get(both, (None, "", False))
        error = np.nan
        if matrix is not None and pair.matrix is not None:
            error = box_difference(matrix, pair.matrix, shapes[both[0]])
        if given.show:
            print(f"{pair.confidence:.3f} {pair.accepted!s:5} {name or '-':24} {error:7.4f} {pair.reason}")
        if pair.accepted and error <= 0.05:
            if findable:
                errors.append(error)
                missed.pop(both)
            beyond += not findable
        elif pair.accepted:
            wrong.append((name or "another partner", both, round(float(error), 3), round(pair.confidence, 4)))
    print("\n".join(result.notes))
    if given.show:
        print("missed:", sorted(missed.values()))
    print("wrong:", wrong)
    print(
        json.dumps(
            {
                "findable": n_findable,
                "found": len(errors),
                "share": round(len(errors) / max(1, n_findable), 3),
                "wrong": len(wrong),
                "found_beyond_findable": beyond,
                "median_corner_error_percent": round(100 * float(np.median(errors)), 3) if errors else None,
                "largest_corner_error_percent": round(100 * float(np.max(errors)), 3) if errors else None,
                "rounds": result.rounds,
                "minutes": round(seconds / 60, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
