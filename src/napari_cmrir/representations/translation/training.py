"""The training of pix2pix and CycleGAN on aligned pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import ArrayPair, Pair
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import RepresentationKind
from napari_cmrir.representations.comir.training.patches import sample
from napari_cmrir.representations.devices import peak_memory
from napari_cmrir.representations.model_file import SteppedTrainer
from napari_cmrir.representations.training import keep_latest, run_training
from napari_cmrir.representations.training_settings import (
    CYCLEGAN_PRESETS,
    PIX2PIX_PRESETS,
    CycleGanSettings,
    TrainingFigures,
    TranslationSettings,
)
from napari_cmrir.representations.translation.model import (
    CycleGanModel,
    Pix2PixModel,
    TranslationModel,
    folded,
    translate_tensor,
)
from napari_cmrir.representations.translation.objectives import CycleGan, Game, Pix2Pix, rate_factor

__all__ = ["CYCLEGAN", "PIX2PIX", "AlignedPatches", "TranslationTrainer"]

_BLURRED = 0.2  # share of patches that are blurred, and the largest sigma in px, as in the cited runs
_MOST_BLUR = 1.0
_HISTORY_STEPS = 10
_MOST_BAD_STEPS = 5  # consecutive steps without a finite loss before training gives up; not measured
_PREVIEW_SIDE = 256  # px of the pair shown while training


class AlignedPatches:
    """Draws patches of aligned pairs as the cited runs did: turned by any angle, mirrored, some blurred.

    Parameters
    ----------
    pairs : sequence of (first, second)
        ``(channel, y, x)`` tensors of values 0 to 1.
    settings : TranslationSettings
        ``patch_size``, ``mirrored_corners``, ``seed``; of CycleGAN, also ``unpaired``.

    Examples
    --------
    >>> pair = torch.rand(1, 100, 100), torch.rand(3, 100, 100)
    >>> first, second = AlignedPatches([pair], CycleGanSettings(patch_size=32)).draw(2)
    >>> first.shape, second.shape
    (torch.Size([2, 1, 32, 32]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], settings: TranslationSettings) -> None:
        self.pairs, self.size = list(pairs), settings.patch_size
        self.is_mirrored = settings.mirrored_corners
        self.is_cycle = isinstance(settings, CycleGanSettings)
        self.is_unpaired = isinstance(settings, CycleGanSettings) and settings.unpaired
        self.generator = torch.Generator().manual_seed(settings.seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw patches of both modalities, (count, channel, side, side), of the same places."""
        drawn = [self._pair() for _ in range(count)]
        return torch.cat([first for first, _ in drawn]), torch.cat([second for _, second in drawn])

    def _pair(self) -> tuple[Tensor, Tensor]:
        place = self._place()
        places = (place, self._place() if self.is_unpaired else place)
        patches = [self._cut(side, places[side]) for side in (0, 1)]
        if self.is_cycle:  # each side is mirrored once more by its own draw
            patches = [patch.flip(-1) if self._uniform() < 0.5 else patch for patch in patches]
        return patches[0], patches[1]

    def _place(self) -> tuple[int, int, int, int, float, bool, float]:
        """Draw a pair, a window (y, x, side), an angle, a flip and a blur."""
        g = self.generator
        number = int(torch.randint(len(self.pairs), (1,), generator=g))
        height, width = self.pairs[number][0].shape[-2:]
        degrees = 360 * self._uniform()
        side = self.size
        if not self.is_mirrored:
            side = math.ceil(self.size * math.sqrt(2)) + 2
            if side > min(height, width):  # too small to turn in freely: quarter turns need no mirrored pixel
                side, degrees = self.size, 90.0 * round(degrees / 90)
        y, x = (int(torch.randint(n - side + 1, (1,), generator=g)) for n in (height, width))
        flips, blurs, sigma = self._uniform() < 0.5, self._uniform() < _BLURRED, _MOST_BLUR * self._uniform()
        return number, y, x, side, degrees, flips, sigma if blurs else 0.0

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def _cut(self, which: int, place: tuple[int, int, int, int, float, bool, float]) -> Tensor:
        number, y, x, side, degrees, flips, sigma = place
        window = self.pairs[number][which][None, :, y : y + side, x : x + side]
        angle, share = torch.tensor([degrees]), torch.tensor([self.size / side])
        return blurred(sample(window, angle, share, torch.tensor([flips]), self.size), sigma)


def blurred(patches: Tensor, sigma: float) -> Tensor:
    """Blur (n, channel, y, x) patches by a Gaussian, in mirrored borders; sigma 0 leaves them."""
    if sigma <= 0:
        return patches
    reach = math.ceil(4 * sigma)
    at = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(patches)
    channels = patches.shape[1]
    padded = F.pad(patches, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


class TranslationTrainer(SteppedTrainer):
    """A training of both directions.

    Parameters
    ----------
    play : callable
        Makes the `Game` from settings, channels and device.
    model : type of TranslationModel
    images : sequence of (first, second)
        ``(y, x, channel)`` arrays of equal height and width.
    modalities, settings, device
        See `SteppedTrainer`.
    validation : sequence
        Not used.
    """

    def __init__(
        self,
        play: Callable[[Any, tuple[int, int], torch.device], Game],
        model: type[TranslationModel],
        images: Sequence[tuple[NDArray[Any], NDArray[Any]]],
        modalities: tuple[str, str],
        settings: TranslationSettings,
        device: torch.device,
        validation: Sequence[ArrayPair] = (),
    ) -> None:
        smallest = min(min(first.shape[:2]) for first, _ in images)
        fitting = [n for n in (4, 2, 1) if n <= settings.reduction and smallest // n >= settings.patch_size]
        if not fitting:
            raise InputError(
                f"The smallest training image has a side of {smallest} pixels, less than a patch of"
                f" {settings.patch_size}; give larger images or a smaller patch size."
            )
        factor = fitting[0]
        wanted, settings = settings.reduction, settings.model_copy(update={"reduction": factor})
        super().__init__(modalities, settings, device)
        self.model, self.settings = model, settings
        if factor < wanted:
            self.notes.append(
                f"The smallest image has a side of {smallest} pixels, so that the images are reduced by"
                f" {factor}, not {wanted}, before patches of {settings.patch_size} pixels are cut."
            )
        self.intensities = {
            modality: choose_intensity([pair[side] for pair in images])
            for side, modality in enumerate(modalities)
        }
        one, two = (self.intensities[modality] for modality in modalities)
        pairs = [(_reduced(one.apply(a), factor), _reduced(two.apply(b), factor)) for a, b in images]
        self.sampler = AlignedPatches(pairs, settings)
        self.game = play(settings, (one.channels, two.channels), device)
        self.precision = self.game.precision
        self._losses: dict[str, float] = {}
        self._bad_steps = 0
        self._shown = [image[None, :, :_PREVIEW_SIDE, :_PREVIEW_SIDE] for image in pairs[0]]

    def draws(self) -> torch.Generator:
        """Give the generator of the patches' draws."""
        return self.sampler.generator

    def content(self) -> Iterator[bytes]:
        """Yield the scaled images."""
        for pair in self.sampler.pairs:
            for image in pair:
                yield image.numpy().tobytes()

    def forget(self) -> None:
        """Give up the gradients of a failed step."""
        for optimiser in self.game.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def train_step(self) -> float:
        """Do one step of both directions, and return the weighted loss of the generators.

        Raises
        ------
        InputError
            If the loss is not a number for several steps.
        """
        settings, epochs = self.settings, self.settings.epochs
        self.game.at_rate(rate_factor(self.step * epochs // settings.steps, epochs))
        first, second = (patches.to(self.device) * 2 - 1 for patches in self.sampler.draw(self.batch_size))
        words = np.random.SeedSequence((settings.seed, self.step)).generate_state(2)
        self._losses = self.game.play(first, second, (int(words[0]), int(words[1])))
        loss = self.game.total(self._losses)
        self.step += 1
        self._bad_steps = 0 if math.isfinite(loss) else self._bad_steps + 1
        if self._bad_steps >= _MOST_BAD_STEPS:
            raise InputError(
                f"Training does not converge: at step {self.step}, the loss is not a number for the"
                f" {self._bad_steps}th time; lower the learning rate."
            )
        self.history.add(loss, **self._losses)
        if self.step % _HISTORY_STEPS == 0 or self.step == settings.steps:
            self.history.take_down(self.step)
        return loss

    def describe(self, loss: float) -> str:
        """Say the parts of the latest step's loss."""
        return "loss " + ", ".join(f"{name} {value:.3f}" for name, value in self._losses.items())

    def figures(self, device: str, eta_seconds: float) -> TrainingFigures:
        """Give the latest figures, and the fakes of one pair by the current networks."""
        settings = self.settings.model_copy(update={"reduction": 1})  # the images are reduced already
        fakes: dict[str, NDArray[np.uint8]] = {}
        for side, modality in enumerate(self.modalities):
            fake = translate_tensor(self.game.generators[side], self._shown[side].to(self.device), settings)
            fake = folded(fake, self.intensities[self.modalities[1 - side]].channels)
            fakes[modality] = (255 * fake[0]).byte().cpu().numpy()
        return TrainingFigures(self.history.loss, eta_seconds, device, peak_memory(self.device), fakes)

    def finish(self) -> TranslationModel:
        """Give the model of the latest networks; nothing is validated, as published."""
        first, second = self.modalities
        return self.model(
            self.modalities,
            self.settings,
            self.intensities,
            {
                m: network.cpu().eval()
                for m, network in zip(self.modalities, self.game.generators, strict=True)
            },
            second if self.settings.target == "second" else first,
            self.history.entries,
        )

    def state(self) -> dict[str, Any]:
        """Give all values that a resumed training needs to repeat the steps of an uninterrupted one."""
        return {
            "step": self.step,
            "game": self.game.state(),
            "history": self.history.state(),
            "draws": self.sampler.generator.get_state(),
            "course": (self.batch_size, self.stopped, self.notes, self._bad_steps),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        self.step = state["step"]
        self.game.load_state(state["game"])
        self.history.load_state(state["history"])
        self.sampler.generator.set_state(state["draws"])
        self.batch_size, self.stopped, self.notes, self._bad_steps = state["course"]


def _reduced(image: NDArray[np.float32], factor: int) -> Tensor:
    """Clip an image to 0 to 1 and reduce it by a factor; the rest of its last row and column is left out."""
    scaled = torch.from_numpy(image).clamp(0, 1)
    return F.avg_pool2d(scaled[None], factor)[0] if factor > 1 else scaled


def _train(
    course: Callable[..., Job[TranslationModel]],
    play: Callable[[Any, tuple[int, int], torch.device], Game],
    model: type[TranslationModel],
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TranslationSettings | None = None,
    **how: Any,
) -> Job[TranslationModel]:
    """Train both directions, or keep what was learnt; without settings, by those of the preset ``fast``.

    Parameters
    ----------
    course : callable
        `run_training` or `keep_latest`.
    play, model
        See `TranslationTrainer`.
    pairs, modalities, settings, **how
        See `napari_cmrir.train`.
    """
    trainer = partial(TranslationTrainer, play, model)
    chosen = settings or model.presets["fast"]
    trained: TranslationModel = yield from course(trainer, pairs, modalities, chosen, **how)
    return trained


PIX2PIX = RepresentationKind(
    Pix2PixModel.from_file,
    partial(_train, run_training, Pix2Pix, Pix2PixModel),
    PIX2PIX_PRESETS,
    partial(_train, keep_latest, Pix2Pix, Pix2PixModel),
)
CYCLEGAN = RepresentationKind(
    CycleGanModel.from_file,
    partial(_train, run_training, CycleGan, CycleGanModel),
    CYCLEGAN_PRESETS,
    partial(_train, keep_latest, CycleGan, CycleGanModel),
)
