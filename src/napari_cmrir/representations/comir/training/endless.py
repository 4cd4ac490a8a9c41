"""Training of one network for every modality, on pairs that are drawn without end.

A pair is two random looks of one scene of `random_scenes`: each shows it as an invented instrument does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.comir.training.loss import Objective
from napari_cmrir.representations.comir.training.patches import PatchBatch, PatchSampler
from napari_cmrir.representations.comir.training.random_scenes import Scene, draw_scene, noise
from napari_cmrir.representations.comir.training.settings import TrainingSettings
from napari_cmrir.representations.comir.training.trainer import History, build_optimiser, learning_rate
from napari_cmrir.representations.comir.training.validation import measure_scale
from napari_cmrir.representations.devices import training_precision

__all__ = ["EndlessTrainer", "draw_look", "draw_pair", "with_own_range"]

DrawnPair = tuple[NDArray[np.float32], NDArray[np.float32]]

_POOLED = 192  # pairs that patches are cut from: eight batches of 24 meet each of them once on average
_MEASURED = 64
_HISTORY_STEPS = 100
_APART = 32  # px: most that the windows of two partners lie apart; the mark at 40 px below needs less
_LEAST_RANGE = 0.1  # of the scene's: noise is not made a picture of


class EndlessTrainer:
    """The state of a training whose pairs are drawn while it goes on.

    Patches are cut from the latest `_POOLED` pairs. Every step, the oldest of them make way for new ones,
    which another process draws meanwhile. Pair ``n`` depends on ``n`` alone, so that a resumed training meets
    the same pairs.

    The networks see windows that lie up to `_APART` pixels apart; what both hold is compared. Where both see
    the compared patch alone, a network learns from its zero-padded borders where a place lies in the patch,
    and paints a mark of some 40 px at the middle: that tells the discs of a patch apart, and no two images.

    The first and the second patches of a batch pass through two copies of the network at the same time, each
    on one thread. Threads that share an operation wait for each other, which is ten times slower where other
    programs use the processor.

    Parameters
    ----------
    draw : callable
        ``draw(n)`` gives pair ``n``: two aligned (1, y, x) float32 arrays, values about 0 to 1. It is sent to
        the executor.
    settings : TrainingSettings
        Nothing is validated.
    device : torch.device
    fresh : int
        New pairs a step.
    threads : {1, 2}
        How many patches' networks compute at once.
    executor : concurrent.futures.Executor, optional
        Where pairs are drawn; by default a thread.
    state : dict, optional
        Go on from this `state`, of settings that differ at most in the number of steps.

    Attributes
    ----------
    step : int
        Steps done.
    network : UNet or Tiramisu
    history : History

    Raises
    ------
    ValueError
        The state is of other settings.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    >>> settings = TrainingSettings(widths=(4, 8), batch_size=2, patch_size=32, steps=2)
    >>> trainer = EndlessTrainer(lambda n: (image, 1 - image), settings, torch.device("cpu"))
    >>> trainer.advance() > 0, trainer.step
    (True, 1)
    """

    def __init__(
        self,
        draw: Callable[[int], DrawnPair],
        settings: TrainingSettings,
        device: torch.device,
        *,
        fresh: int = 1,
        threads: int = 1,
        executor: Executor | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.draw, self.settings, self.device, self.fresh = draw, settings, device, fresh
        torch.manual_seed(settings.seed)
        self.network = build_network(settings, 1).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._copy = copy.deepcopy(self.network)
        self.optimiser = build_optimiser(self.network.parameters(), settings)
        self.precision = training_precision(device)
        self.objective = Objective(settings, device)
        self.history = History()
        self.step = 0
        self._drawing = executor or ThreadPoolExecutor(1)
        self._threads = ThreadPoolExecutor(threads)
        if state is not None:
            self._load(state)
        size = settings.patch_size + 2 * _APART
        self.sampler = PatchSampler(
            self._pool(), size, settings.free_rotation, settings.seed, settings.variation
        )
        if state is not None:
            self.sampler.generator.set_state(state["draws"])

    @property
    def drawn(self) -> int:
        """Pairs drawn from the start."""
        return _POOLED + self.step * self.fresh

    def advance(self) -> float:
        """Do one step, and return its loss."""
        numbers = range(self.drawn, self.drawn + self.fresh)
        waiting = [(number, self._drawing.submit(self.draw, number)) for number in numbers]
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        chosen = self.sampler.choose(self.settings.batch_size)
        networks = (self.network, self._copy)
        comirs = list(self._threads.map(lambda side: self._comir(side, chosen), (0, 1)))
        ends = [comir.detach().requires_grad_() for comir in comirs]
        loss = self.objective(ends[0], ends[1], chosen.turned.to(self.device))
        for network in networks:
            network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        list(self._threads.map(lambda side: comirs[side].backward(ends[side].grad), (0, 1)))  # type: ignore[no-untyped-call]
        for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
            assert ours.grad is not None
            ours.grad += theirs.grad
        if torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0).isfinite():
            self.optimiser.step()
        self._copy.load_state_dict(self.network.state_dict())
        self.step += 1
        value = float(loss.detach())
        self.history.add(value)
        if self.step % _HISTORY_STEPS == 0 or self.step == self.settings.steps:
            self.history.take_down(self.step)
        for number, pair in waiting:
            self.sampler.pairs[number % _POOLED] = _tensors(pair.result())
        return value

    def _comir(self, side: int, chosen: PatchBatch) -> Tensor:
        network = (self.network, self._copy)[side]
        generator = torch.Generator().manual_seed(chosen.seeds[side] + 1)
        patches = with_own_range(chosen.cut(side), generator)
        away = torch.randint(_APART + 1, (len(patches), 2), generator=generator).tolist()
        seen = self.settings.patch_size + _APART
        patches = torch.stack(
            [patch[:, y : y + seen, x : x + seen] for patch, (y, x) in zip(patches, away, strict=True)]
        ).to(self.device)
        patches = patches.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            comirs: Tensor = network(patches)
        size = self.settings.patch_size
        return torch.stack(
            [
                comir[:, _APART - y : _APART - y + size, _APART - x : _APART - x + size]
                for comir, (y, x) in zip(comirs.float(), away, strict=True)
            ]
        )

    def measure_scale(self) -> OutputScale:
        """Measure the output's range over patches of both looks of the latest pairs."""
        size, seed = self.settings.patch_size, self.settings.seed
        first, second, _ = PatchSampler(self.sampler.pairs, size, 0.0, seed, variation=0.0).draw(_MEASURED)
        return measure_scale(self.network, torch.cat((first, second)), self.settings, self.device)

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; tensors and plain values."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history.state(),
            "draws": self.sampler.generator.get_state(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        own = self.settings.model_dump(mode="json")
        if own != {**state["settings"], "steps": own["steps"]}:
            raise ValueError("The state belongs to a training with other settings.")
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._copy.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history.load_state(state["history"])

    def _pool(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs that the next step cuts patches from."""
        start = self.step * self.fresh
        numbers = range(start, start + _POOLED)
        pairs = dict(zip(numbers, self._drawing.map(self.draw, numbers, chunksize=8), strict=True))
        return [_tensors(pairs[n]) for n in sorted(pairs, key=lambda n: n % _POOLED)]


def with_own_range(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Scale half of the patches more or less by their own values, as a region is that is read alone.

    Parameters
    ----------
    patches : (n, 1, y, x) tensor
        Scaled by the values of the scenes that they are cut from.
    generator : torch.Generator

    Returns
    -------
    (n, 1, y, x) tensor

    Examples
    --------
    >>> patches = torch.linspace(0.4, 0.6, 32 * 32).reshape(1, 1, 32, 32).repeat(9, 1, 1, 1)
    >>> scaled = with_own_range(patches, torch.Generator().manual_seed(0)).flatten(1)
    >>> bool(scaled.std(1).max() > 3 * scaled.std(1).min())
    True
    """
    sample = patches[..., ::3, ::3].flatten(1)
    low, high = torch.quantile(sample, torch.tensor([0.001, 0.999]), 1)[..., None, None, None]
    own = (patches - low) / (high - low).clamp_min(_LEAST_RANGE)
    share = (2 * torch.rand(len(patches), 1, 1, 1, generator=generator) - 1).clamp_min(0)
    scaled: Tensor = patches + share * (own - patches)
    return scaled


def _tensors(pair: DrawnPair) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])


Map = NDArray[np.float32]


def draw_pair(seed: Sequence[int], side: int, pictures: Sequence[NDArray[np.uint8]] = ()) -> tuple[Map, Map]:
    """Draw one scene in two independent looks.

    Parameters
    ----------
    seed : sequence of int
        The same gives the same pixels.
    side : int
        Height and width in px.
    pictures : sequence of (y, x, 3) uint8 array
        Photographs that some scenes are cut from.

    Returns
    -------
    first, second : (1, y, x) float32 arrays
        Aligned; scaled as `choose_intensity` scales an image by its own values.

    Examples
    --------
    >>> first, second = draw_pair([0, 7], 128)
    >>> first.shape, bool(np.array_equal(first, draw_pair([0, 7], 128)[0]))
    ((1, 128, 128), True)
    """
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, side, pictures)
    first, second = draw_look(rng, scene), draw_look(rng, scene)
    if rng.random() < 0.7:
        second = _shaken(rng, second)
    return _scaled(first), _scaled(second)


def draw_look(rng: np.random.Generator, scene: Scene) -> Map:
    """Show a scene as a random instrument would.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : Scene

    Returns
    -------
    (y, x) float32 array
        Of any range.
    """
    if scene.picture is not None and rng.random() < 0.75:
        image = _of_picture(rng, scene)
    elif scene.fibrous.any() and rng.random() < 0.4:
        image = _of_fibres(rng, scene)
    else:
        image = _of_labels(rng, scene)
    return _instrument(rng, image)


def _of_labels(rng: np.random.Generator, scene: Scene) -> Map:
    """A value and a texture a label; labels merge, stain absorbs, borders show."""
    labels, shape = scene.labels, scene.labels.shape
    count = int(labels.max()) + 1
    values = rng.random(count).astype(np.float32)
    if count > 2 and rng.random() < 0.5:  # some labels are one to this instrument
        merged = rng.random(count) < rng.uniform(0.1, 0.6)
        values[merged] = values[rng.integers(count)]
    if rng.random() < 0.25:  # few things shine on a dark ground
        values *= rng.random(count) < 0.35
    image = values[labels]
    if rng.random() < 0.3:  # bodies are shaded towards their borders
        depth = cv2.distanceTransform(_inside(labels), cv2.DIST_L2, 3)
        image = image + rng.uniform(-0.5, 0.5) * np.minimum(depth / rng.uniform(3, 15), 1).astype(np.float32)
    shared = rng.normal(0, rng.choice([0.02, 0.08, 0.25]), (len(scene.detail), count)).astype(np.float32)
    for field, strength in zip(scene.detail, shared, strict=True):
        image = image + field * strength[labels]
    own = np.abs(rng.normal(0, rng.choice([0.02, 0.05, 0.1]), count)).astype(np.float32)
    image = image + noise(rng, shape, float(np.exp(rng.uniform(-0.4, 2)))) * own[labels]
    if rng.random() < 0.25:
        rim = cv2.GaussianBlur(1 - _inside(labels).astype(np.float32), (0, 0), rng.uniform(0.5, 2))
        image = image + rng.choice([-1, 1]) * rng.uniform(0.3, 1.5) * rim
    if rng.random() < 0.25:
        image = np.exp(-rng.uniform(0.7, 2.5) * np.maximum(image, 0))
    return image.astype(np.float32)


def _inside(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """1 inside of labels, 0 at their borders."""
    inside = np.ones(labels.shape, np.uint8)
    inside[:-1][labels[1:] != labels[:-1]] = 0
    inside[:, :-1][labels[:, 1:] != labels[:, :-1]] = 0
    return inside


def _of_fibres(rng: np.random.Generator, scene: Scene) -> Map:
    """Fibres alone, as second harmonic generation shows collagen: streaks on a dark ground, few photons."""
    signal = scene.fibrous ** rng.uniform(0.7, 2) * np.exp(rng.uniform(0, 0.7) * scene.detail[0])
    signal *= 1 + rng.uniform(0, 0.9) * np.tanh(noise(rng, scene.fibrous.shape, 20))
    signal += rng.uniform(0, 0.15) * (scene.labels % 3 == 1)
    photons = rng.uniform(4, 60)
    counted: Map = (rng.poisson(photons * signal.clip(0, 8)) / photons).astype(np.float32)
    return counted


def _of_picture(rng: np.random.Generator, scene: Scene) -> Map:
    """A photograph under a filter: one colour or stain of it, its edges, or its roughness."""
    assert scene.picture is not None
    kind = rng.random()
    mixture = (
        rng.dirichlet((0.5, 0.5, 0.5)) if kind < 0.6 else rng.normal(0, 1, 3)
    )  # else: differences of colours
    image = scene.picture @ mixture.astype(np.float32)
    low, high = np.percentile(image, (1, 99))
    image = ((image - low) / max(high - low, 1e-3)).clip(0, 1).astype(np.float32)
    if rng.random() < 0.6:
        image = _tone(rng, image)
    if rng.random() < 0.15:
        image = image + rng.normal(0, 0.5, scene.labels.max() + 1).astype(np.float32)[scene.labels]
    return image


def _tone(rng: np.random.Generator, image: Map) -> Map:
    """A random curve over the values 0 to 1; it may fall as well as rise."""
    knots = int(rng.integers(3, 7))
    heights = rng.random(knots)
    if rng.random() < 0.4:
        heights = np.sort(heights)[:: rng.choice([-1, 1])]
    table = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, knots), heights)
    table = cv2.GaussianBlur(table[None].astype(np.float32), (0, 0), 10)[0]
    toned: Map = table[(image.clip(0, 1) * 255).astype(np.uint8)]
    return toned


def _instrument(rng: np.random.Generator, image: Map) -> Map:
    """Focus, light, edges, response, noise and failures of an instrument, each now and then."""
    shape = (image.shape[0], image.shape[1])
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(-0.7, 1.15))))
    contrast = float(image.std()) + 1e-3
    kind = rng.random()
    if kind < 0.1:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
        x, y = (cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
        image = np.sqrt(x * x + y * y) if rng.random() < 0.7 else x * rng.normal() + y * rng.normal()
    elif kind < 0.18:
        image = _deviation(image, rng.uniform(1, 4))
    elif kind < 0.35:  # relief: without what is coarse
        image = image - cv2.GaussianBlur(image, (0, 0), rng.uniform(4, 25))
    elif kind < 0.42:
        image = cv2.morphologyEx(image, rng.choice([cv2.MORPH_ERODE, cv2.MORPH_DILATE]), np.ones((3, 3)))
    elif kind < 0.52:
        image = _sparse(rng, image)
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-3 * contrast)
    if rng.random() < 0.3:
        image = _tone(rng, image)
    if rng.random() < 0.4:
        image = image.clip(0, None) ** np.float32(np.exp(rng.normal(0, 0.6)))
    if rng.random() < 0.4:
        image = 1 - image
    if rng.random() < 0.5:
        field = noise(rng, shape, rng.uniform(25, 90)) * rng.uniform(0.05, 0.5)
        image = image * np.exp(field) if rng.random() < 0.7 else image + 0.5 * field
    if rng.random() < 0.15:
        reduced = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        image = cv2.resize(reduced, shape[::-1], interpolation=cv2.INTER_LINEAR)
    image = image + noise(rng, shape, rng.choice([0.3, 0.3, 0.8])) * abs(rng.normal(0, 0.04))
    if rng.random() < 0.12:  # nothing was seen there
        for _ in range(rng.integers(1, 4)):
            (y, x), (h, w) = rng.integers(0, shape[0], 2), rng.integers(10, shape[0] // 3, 2)
            image[y : y + h, x : x + w] = rng.uniform(0, 1)
    return image.astype(np.float32)


def _sparse(rng: np.random.Generator, image: Map) -> Map:
    """What exceeds a level, in few photons: most of such an image is dark."""
    level, top = np.quantile(image, (rng.uniform(0.3, 0.85), 0.999))
    signal = ((image - level) / max(top - level, 1e-6)).clip(0, 1.5) ** rng.uniform(0.7, 2)
    photons = rng.uniform(5, 100)
    counted: Map = (rng.poisson(photons * signal + rng.uniform(0, 1)) / photons).astype(np.float32)
    return counted


def _deviation(image: Map, reach: float) -> Map:
    """Local standard deviation."""
    mean = cv2.GaussianBlur(image, (0, 0), reach)
    variance = cv2.GaussianBlur(image * image, (0, 0), reach) - mean * mean
    deviation: Map = np.sqrt(np.maximum(variance, 0))
    return deviation


def _shaken(rng: np.random.Generator, image: Map) -> Map:
    """Move pixels smoothly by up to a few: published pairs are aligned no better."""
    shape = (image.shape[0], image.shape[1])
    rows, columns = np.indices(shape, np.float32)
    strength, grain = rng.uniform(0, 1.5), rng.uniform(20, 60)
    x, y = (grid + strength * noise(rng, shape, grain) for grid in (columns, rows))
    shaken: Map = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return shaken


def _scaled(image: Map) -> Map:
    return choose_intensity([image]).apply(image)
