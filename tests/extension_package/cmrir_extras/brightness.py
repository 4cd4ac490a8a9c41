"""A retriever: compares histograms of brightness; a baseline that ignores the modality."""

import numpy as np

from napari_cmrir.evaluation.retrievers.base import Retriever

BINS = 16


def histogram(pixels, counts=None):
    """Shares of the brightness of a (y, x, channel) image, from its darkest to its brightest pixel."""
    grey = np.asarray(pixels, np.float64).mean(2)
    shares, _ = np.histogram(grey if counts is None else grey[counts], BINS)
    return shares / shares.sum()


class Brightness(Retriever):
    """Compares histograms."""

    def index(self, images, modality):
        """Keep the histogram of every image."""
        self.histograms = {name: histogram(pixels) for name, pixels in images.items()}
        yield from ()

    def rank(self, pixels, modality, *, region=None, mask=None):
        """Score by the overlap of the histograms, 0 to 1."""
        yield from ()
        if region is not None:
            top, left = region.corners().min(0).round().astype(int).clip(0)
            bottom, right = region.corners().max(0).round().astype(int) + 1
            pixels = pixels[top:bottom, left:right]
            mask = None if mask is None else mask[top:bottom, left:right]
        own = histogram(pixels, mask)
        return {name: float(np.minimum(own, other).sum()) for name, other in self.histograms.items()}
