"""Training patches: cut, turned and varied, a batch at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PatchBatch", "PatchSampler", "circular_mask", "local_circles", "rotate", "sample"]

# Random windows per patch, of which the one of most contrast is cut: fewer patches show empty glass. More
# would bias training to a few places; not measured.
_CANDIDATES = 3


class PatchSampler:
    """Draws random patches of aligned pairs; equal seeds draw equal patches.

    Parameters
    ----------
    pairs : sequence of (first, second)
        ``(channel, y, x)`` float tensors of equal height and width, values about [0, 1].
    size : int
        Side of a patch in pixels.
    free_rotation : float
        In degrees; see `TrainingSettings.free_rotation`.
    seed : int
        Seed of every draw.
    variation : float
        See `TrainingSettings.variation`.

    Attributes
    ----------
    companions : dict of int to list of int
        Pairs that are hard to tell apart, by number: a patch of one is followed by one of another.

    Examples
    --------
    >>> pair = (torch.rand(1, 200, 200), torch.rand(3, 200, 200))
    >>> first, second, turned = PatchSampler([pair], 64, 0.0, seed=0).draw(5)
    >>> first.shape, second.shape, turned.shape
    (torch.Size([5, 1, 64, 64]), torch.Size([5, 3, 64, 64]), torch.Size([5]))
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        size: int,
        free_rotation: float,
        seed: int,
        variation: float = 1.0,
    ) -> None:
        self.pairs = list(pairs)
        self.size = size
        self.free_rotation = free_rotation
        self.variation = variation
        self.companions: dict[int, list[int]] = {}
        self.generator = torch.Generator().manual_seed(seed)
        areas = torch.tensor([float(first[0].numel()) for first, _ in self.pairs])
        self._shares = areas / areas.sum()

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw patches of both modalities.

        Parameters
        ----------
        count : int

        Returns
        -------
        first, second : (count, channel, size, size) tensors
            Patches of the same places.
        turned : (count,) tensor
            Counter-clockwise rotation of each second patch against the first, in degrees.
        """
        chosen = self.choose(count)
        return chosen.cut(0), chosen.cut(1), chosen.turned

    def choose(self, count: int) -> PatchBatch:
        """Draw places and variations; `PatchBatch.cut` cuts the patches. See `draw`."""
        g = self.generator
        angle = torch.rand(count, generator=g) * 360
        free = (torch.rand(count, generator=g) * 2 - 1) * self.free_rotation
        turned = 90.0 * torch.randint(4, (count,), generator=g) + free
        scale = torch.exp((torch.rand(count, generator=g) * 2 - 1) * 0.1 * self.variation)  # within 10 %
        flip = torch.rand(count, generator=g) < 0.5
        windows, pick = [], -1
        for i in range(count):
            pick = self._pick(pick if i % 2 else -1)
            windows.append(self._window(pick, float(scale[i])))
        # A window too small to be turned in is turned by quarters, which reflects no pixel into the patch.
        fits = torch.tensor([window_fits for _, _, window_fits in windows])
        angle = torch.where(fits, angle, (angle / 90).round() * 90)
        turned = torch.where(fits, turned, (turned / 90).round() * 90)
        seeds = torch.randint(2**62, (2,), generator=g).tolist()
        sides = ([w[0] for w in windows], [w[1] for w in windows])
        return PatchBatch(sides, angle, scale, flip, turned, (seeds[0], seeds[1]), self.size, self.variation)

    def _pick(self, before: int) -> int:
        """Choose a pair: a companion of the one before, where that has some."""
        near = self.companions.get(before)
        if near:
            return near[int(torch.randint(len(near), (1,), generator=self.generator))]
        return int(torch.multinomial(self._shares, 1, generator=self.generator))

    def _window(self, pick: int, scale: float) -> tuple[Tensor, Tensor, bool]:
        """Choose a square window at a random place of a pair, in both modalities.

        The third result is whether the window is large enough to turn the patch in it by any angle.
        """
        g = self.generator
        first, second = self.pairs[pick]
        height, width = first.shape[-2:]
        side = math.ceil(self.size * scale * math.sqrt(2)) + 2
        fits = side <= min(height, width)
        if not fits:
            side = min(height, width)
        best, highest = (0, 0), -1.0
        for _ in range(_CANDIDATES):
            y = int(torch.randint(height - side + 1, (1,), generator=g))
            x = int(torch.randint(width - side + 1, (1,), generator=g))
            contrast = min(
                float(image[:, y : y + side : 4, x : x + side : 4].std()) for image in (first, second)
            )
            if contrast > highest:
                best, highest = (y, x), contrast
        y, x = best
        return first[:, y : y + side, x : x + side], second[:, y : y + side, x : x + side], fits


@dataclass(frozen=True)
class PatchBatch:
    """Places and variations of a batch of patches, drawn but not yet cut.

    Parameters
    ----------
    windows : (list of tensor, list of tensor)
        Windows of the first and of the second modality that patches are cut from.
    angle, scale, flip : (n,) tensors
        Rotation in degrees, enlargement and mirroring of the first patch of each pair.
    turned : (n,) tensor
        Rotation of the second patch against the first, in degrees.
    seeds : (int, int)
        Seeds of the variations of intensity of each modality.
    size : int
        Side of a patch in pixels.
    variation : float
        Strength of the variations of intensity.
    """

    windows: tuple[list[Tensor], list[Tensor]]
    angle: Tensor
    scale: Tensor
    flip: Tensor
    turned: Tensor
    seeds: tuple[int, int]
    size: int
    variation: float

    def cut(self, side: int) -> Tensor:
        """Cut the patches (n, channel, size, size) of the first (0) or second (1) modality."""
        windows = self.windows[side]
        largest = max(w.shape[-1] for w in windows)
        stacked = torch.stack([_pad(w, largest) for w in windows])
        ratio = torch.tensor(
            [min(self.size * float(s), w.shape[-1]) for s, w in zip(self.scale, windows, strict=True)]
        )
        angle = self.angle + side * self.turned
        patches = sample(stacked, angle, ratio / largest, self.flip, self.size)
        return vary(patches, torch.Generator().manual_seed(self.seeds[side]), self.variation)


def _pad(window: Tensor, side: int) -> Tensor:
    """Pad a window to a side, both centres at one point; the padding is never sampled."""
    extra = side - window.shape[-1]
    return F.pad(window, (extra // 2, extra - extra // 2, extra // 2, extra - extra // 2))


def sample(windows: Tensor, degrees: Tensor, share: Tensor, flip: Tensor, size: int) -> Tensor:
    """Sample the central share of each window, its content turned counter-clockwise.

    Parameters
    ----------
    windows : (n, channel, side, side) tensor
    degrees, share, flip : (n,) tensors
        Angle, share of the window's side (1: the whole), and whether the patch is mirrored.
    size : int
        Side of the patches in pixels.

    Returns
    -------
    (n, channel, size, size) tensor
    """
    radians = torch.deg2rad(degrees).to(windows)
    cos, sin = radians.cos() * share.to(windows), radians.sin() * share.to(windows)
    mirror = torch.where(flip, -1.0, 1.0).to(windows)
    zero = torch.zeros_like(cos)
    matrix = torch.stack(  # output (x, y) -> input (x, y); turning the content back
        (torch.stack((cos * mirror, -sin * mirror, zero), 1), torch.stack((sin, cos, zero), 1)), 1
    )
    grid = F.affine_grid(matrix, [len(windows), windows.shape[1], size, size], align_corners=False)
    return F.grid_sample(windows, grid, align_corners=False, padding_mode="reflection")


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn the content of square images counter-clockwise about their centres, within the same frame.

    Parameters
    ----------
    images : (n, channel, side, side) tensor
    degrees : (n,) tensor

    Returns
    -------
    (n, channel, side, side) tensor

    Examples
    --------
    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> rotate(image, torch.tensor([90.0])).round().int().tolist()
    [[[[2, 4], [1, 3]]]]
    """
    ones = torch.ones_like(degrees)
    return sample(images, degrees, ones, torch.zeros_like(degrees, dtype=torch.bool), images.shape[-1])


def circular_mask(side: int) -> Tensor:
    """Mask the largest disc in a square: the pixels that stay inside under every rotation.

    Parameters
    ----------
    side : int
        Side of the square, in pixels.

    Returns
    -------
    (side, side) bool tensor

    Examples
    --------
    >>> circular_mask(4).int().sum().item()
    12
    """
    r = torch.arange(side) - (side - 1) / 2
    return r[:, None].square() + r[None, :].square() <= (side / 2) ** 2


def local_circles(images: Tensor) -> Tensor:
    """Cut the four largest equal discs that fit side by side into the `circular_mask` of each square image.

    Parameters
    ----------
    images : (n, channel, side, side) tensor
        The side must be even.

    Returns
    -------
    (4 * n, channel, pixels) tensor
        The first disc of every image, then the second of every image, and so on.

    Examples
    --------
    >>> local_circles(torch.zeros(3, 2, 64, 64)).shape  # of diameter 26
    torch.Size([12, 2, 540])
    """
    radius = images.shape[-1] / 2
    small = radius / (1 + math.sqrt(2))
    side = int(2 * small)
    inside = circular_mask(side).to(images.device)
    starts = [round(radius + sign * small - side / 2) for sign in (-1, 1)]
    return torch.cat([images[..., y : y + side, x : x + side][..., inside] for y in starts for x in starts])


def vary(patches: Tensor, generator: torch.Generator, variation: float = 1.0) -> Tensor:
    """Vary gamma, sharpness, contrast, brightness, colour and noise of patches, each by its own draw.

    The widths of the draws at ``variation`` 1 are not measured; docs/training.md compares strengths.

    Parameters
    ----------
    patches : (n, channel, y, x) tensor
        Values about [0, 1].
    generator : torch.Generator
        Source of the draws.
    variation : float
        Factor of all variations except sharpness; 0 changes the sharpness only.

    Returns
    -------
    (n, channel, y, x) tensor
    """
    n, channels = patches.shape[:2]

    def within(most: float, *shape: int) -> Tensor:
        return most * variation * (2 * torch.rand(n, *shape, 1, 1, generator=generator) - 1)

    gamma = torch.exp(within(0.25, 1))
    contrast = torch.exp(within(0.25, 1) + within(0.1, channels))
    brightness = within(0.1, 1) + within(0.05, channels)
    softness = (1.3 * torch.rand(n, 1, 1, 1, generator=generator) - 0.3).clamp_min(0)
    colour = torch.randn(n, channels, channels, generator=generator)
    noise = 0.03 * variation * torch.rand(n, 1, 1, 1, generator=generator)
    patches = patches.clamp_min(0).pow(gamma)
    blurred = F.avg_pool2d(F.pad(patches, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    patches = patches + softness * (blurred - patches)
    patches = (patches - 0.5) * contrast + 0.5 + brightness
    mixing = torch.eye(channels) + 0.075 * variation * colour
    patches = (mixing @ patches.flatten(2)).reshape(patches.shape)
    return patches + noise * torch.randn(patches.shape, generator=generator)
