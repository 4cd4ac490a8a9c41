"""Compare dense SURF of one 834 x 834 px CoMIR at four block widths with mahotas on the same points.

    python benchmarks/surf_against_mahotas.py [--image FILE]

mahotas leaves out points near the border. It therefore gets the image with a wide border, extended as in this
package, so that both describe all 43,264 points. It samples half a sample off the article's positions, so its
descriptors are similar, not equal; the median cosine is printed.
"""

from __future__ import annotations

import argparse

import numpy as np
from words_setting import describe_machine, read_comir, stopwatch

from napari_cmrir.bag_of_words.descriptors.grid import grid_points
from napari_cmrir.bag_of_words.descriptors.surf import surf
from napari_cmrir.bag_of_words.settings import DescriptorSettings

BORDER = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", help="grey or colour image to describe, resized; generated if not given")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    image = read_comir(arguments.image, 834)
    settings = DescriptorSettings.paper()
    points = grid_points(834, 834, settings)
    wide = np.pad(image, BORDER, mode="edge")

    def ours() -> np.ndarray:
        return surf(image, settings).descriptors

    def mahotas() -> np.ndarray:
        from mahotas.features.surf import descriptors

        rows = np.column_stack([points[:, :2] + BORDER, points[:, 2:] / 20, np.ones((len(points), 2))])
        return descriptors(wide, rows.astype(float), descriptor_only=True)

    describe_machine()
    found, seconds = stopwatch({"ours": ours, "mahotas": mahotas}, arguments.repeats)
    print(f"ours      {len(found['ours']):,} features in {seconds['ours']}")
    if "mahotas" in found:
        print(f"mahotas   {len(found['mahotas']):,} features in {seconds['mahotas']}")
        print(f"ratio     {seconds['mahotas'].over(seconds['ours'])}")
        cosine = _cosines(found["ours"], found["mahotas"])
        print(f"median cosine of the descriptors of the same points: {np.median(cosine):.3f}")


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosines after mahotas' values are put in this package's order."""
    theirs = theirs / np.maximum(np.linalg.norm(theirs, axis=1, keepdims=True), 1e-12)
    best = np.zeros(len(ours))
    for order in ((0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 3, 2), (2, 0, 3, 1)):
        for transpose in (False, True):
            regions = theirs.reshape(-1, 4, 4, 4)
            regions = regions.transpose(0, 2, 1, 3) if transpose else regions
            cosine = np.abs((regions[..., list(order)].reshape(len(ours), 64) * ours).sum(axis=1))
            best = cosine if np.median(cosine) > np.median(best) else best
    return best


if __name__ == "__main__":
    main()
