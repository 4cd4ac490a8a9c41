"""A descriptor: the mean of every square of 4 x 4 in a block of 32 px, on a grid of 8 px."""

import numpy as np

from napari_cmrir.bag_of_words.descriptors.features import Features

SIDE, STEP, SQUARE = 32, 8, 8


def block_means(comir, settings, mask):
    """Describe a CoMIR (channel, y, x); features outside the mask are left out."""
    channels = np.atleast_3d(np.asarray(comir, np.float32).T).T
    points, vectors = [], []
    for y in range(0, channels.shape[1] - SIDE + 1, STEP):
        for x in range(0, channels.shape[2] - SIDE + 1, STEP):
            centre = y + SIDE // 2, x + SIDE // 2
            if mask is None or mask[centre]:
                block = channels[:, y : y + SIDE, x : x + SIDE]
                squares = block.reshape(len(channels), SIDE // SQUARE, SQUARE, SIDE // SQUARE, SQUARE)
                points.append((*centre, SIDE))
                vectors.append(squares.mean((2, 4)).ravel())
    values = np.array(vectors, np.float32).reshape(len(points), -1)
    values -= values.mean(1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = np.divide(values, length, out=np.zeros_like(values), where=length > 1e-3)
    return Features(np.array(points, np.float32).reshape(-1, 3), unit, unit.var(1))
