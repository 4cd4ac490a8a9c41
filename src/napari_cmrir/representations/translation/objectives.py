"""One optimisation step of pix2pix and of CycleGAN: losses, order of the updates, and the learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cmrir.representations.devices import run_parallel, training_precision
from napari_cmrir.representations.training_settings import (
    CycleGanSettings,
    Pix2PixSettings,
    TranslationSettings,
)
from napari_cmrir.representations.translation.networks import (
    build_discriminator,
    build_generator,
    initialise,
)

__all__ = ["CycleGan", "Game", "ImagePool", "Pix2Pix", "rate_factor", "with_channels"]


def rate_factor(epoch: int, epochs: int = TranslationSettings.epochs) -> float:
    """Give the factor of the learning rate: 1 in the first half of the epochs, then falling linearly.

    Parameters
    ----------
    epoch : int
        Counted from 0.
    epochs : int
        Their number.

    Examples
    --------
    >>> [round(rate_factor(epoch), 4) for epoch in (0, 99, 149, 199)]
    [1.0, 1.0, 0.505, 0.0099]
    """
    half = epochs // 2
    return 1 - max(0, epoch + 1 - half) / (half + 1)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Repeat the channels of (n, channel, y, x) images in turn, up to a number: grey becomes grey RGB."""
    own = images.shape[1]
    return images if own == channels else images[:, [i % own for i in range(channels)]]


class ImagePool:
    """Earlier fakes, so that a discriminator does not follow the latest generator alone.

    Shrivastava et al., CVPR 2017, arXiv:1612.07828. While the pool fills, it keeps and returns every new
    fake. Once full, it returns the new fake, or by half the chance an earlier one that the new one replaces.

    Parameters
    ----------
    size : int
        0 returns every new fake.
    seed : int

    Examples
    --------
    >>> pool = ImagePool(2, seed=0)
    >>> [float(pool.exchange(torch.full((1, 1), float(i)))) for i in range(2)]
    [0.0, 1.0]
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.images = size, list[Tensor]()
        self.draws = torch.Generator().manual_seed(seed)

    def exchange(self, fakes: Tensor) -> Tensor:
        """Give one fake, new or old, for each of (n, ...) new ones."""
        answers = []
        for fake in fakes.detach():
            if len(self.images) < self.size:
                self.images.append(fake.clone())
                answers.append(fake)
            elif self.size and float(torch.rand((), generator=self.draws)) > 0.5:
                at = int(torch.randint(self.size, (), generator=self.draws))
                answers.append(self.images[at])
                self.images[at] = fake.clone()
            else:
                answers.append(fake)
        return torch.stack(answers)

    def state(self) -> dict[str, Any]:
        """Give the state as plain values and tensors, for `load_state`."""
        return {"images": [image.cpu() for image in self.images], "draws": self.draws.get_state()}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore a `state`."""
        self.images = [image.to(device) for image in state["images"]]
        self.draws.set_state(state["draws"])


class Game(ABC):
    """The networks of both directions, their optimisers, and one step of both.

    Parameters
    ----------
    settings : TranslationSettings
    channels : (int, int)
        Channels of the first and of the second modality.
    device : torch.device

    Attributes
    ----------
    generators : list of Module
        From the first modality to the second, and back.
    discriminators : list of Module
    optimisers : list of Optimizer
    precision : torch.dtype
        Number format of the convolutions.
    """

    def __init__(
        self, settings: TranslationSettings, channels: tuple[int, int], device: torch.device
    ) -> None:
        self.channels, self.device = channels, device
        self.shown = max(channels)  # of a generator's input
        self.precision = training_precision(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.generators = [
                initialise(build_generator(settings, self.shown, self.given(1 - side))) for side in (0, 1)
            ]
            self.discriminators = [
                initialise(build_discriminator(settings, self.judged(side))) for side in (0, 1)
            ]
        for network in (*self.generators, *self.discriminators):
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rate = settings.learning_rate
        self.optimisers = [
            torch.optim.Adam(
                network.parameters(), self.rate, (0.5, 0.999), fused=device.type in ("cpu", "cuda")
            )
            for network in (*self.generators, *self.discriminators)
        ]

    @abstractmethod
    def given(self, side: int) -> int:
        """Channels of a translation into the first (0) or second (1) modality."""

    @abstractmethod
    def judged(self, side: int) -> int:
        """Channels that a discriminator sees."""

    @abstractmethod
    def play(self, first: Tensor, second: Tensor, seeds: tuple[int, int]) -> dict[str, float]:
        """Do one step on (n, channel, y, x) patches of values -1 to 1, and give the parts of the loss."""

    @abstractmethod
    def total(self, losses: Mapping[str, float]) -> float:
        """Add up the parts of the generators' loss by their weights."""

    def at_rate(self, factor: float) -> None:
        """Set the learning rate to a share of the settings'."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = factor * self.rate

    def _in(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32)

    def state(self) -> dict[str, Any]:
        """Give everything that later steps depend on, for `load_state`."""
        return {
            "networks": [network.state_dict() for network in (*self.generators, *self.discriminators)],
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        for network, kept in zip((*self.generators, *self.discriminators), state["networks"], strict=True):
            network.load_state_dict(kept)
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)


def _update(optimiser: torch.optim.Optimizer, *losses: float) -> None:
    """Step an optimiser, unless a loss or a gradient is not finite; the weights then stay."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    is_sound = all(map(math.isfinite, losses))
    if is_sound and bool(torch.stack([gradient.norm() for gradient in gradients]).isfinite().all()):
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _freeze(network: nn.Module, is_frozen: bool) -> None:
    for parameter in network.parameters():
        parameter.requires_grad_(not is_frozen)


class Pix2Pix(Game):
    """Two independent games, one a direction: the discriminator is updated first, then the generator.

    The losses of a direction are binary cross entropies of the discriminator's scores, and the mean absolute
    difference of a fake from the partner.

    Parameters
    ----------
    settings : Pix2PixSettings
    channels, device
        See `Game`.
    """

    def __init__(self, settings: Pix2PixSettings, channels: tuple[int, int], device: torch.device) -> None:
        self.l1_weight = settings.l1_weight
        super().__init__(settings, channels, device)

    def given(self, side: int) -> int:
        """Channels of a translation: as the modality has."""
        return self.channels[side]

    def judged(self, side: int) -> int:
        """Channels that a discriminator sees: those of the input, and those of its partner or fake."""
        return max(self.channels) + self.channels[1 - side]

    def total(self, losses: Mapping[str, float]) -> float:
        """Add up the parts of the generators' loss by their weights."""
        return losses["generator"] + self.l1_weight * losses["l1"]

    def play(self, first: Tensor, second: Tensor, seeds: tuple[int, int]) -> dict[str, float]:
        """Do one step of both directions; see `Game.play`."""
        pair = first, second
        found = run_parallel(
            lambda: self._direct(0, *pair, seeds[0]),
            lambda: self._direct(1, *pair[::-1], seeds[1]),
            self.device,
        )
        return {name: sum(parts[name] for parts in found) / 2 for name in found[0]}

    def _direct(self, side: int, source: Tensor, target: Tensor, seed: int) -> dict[str, float]:
        judge = self.discriminators[side]
        given = self._in(with_channels(source, self.shown))
        draws = torch.Generator(self.device).manual_seed(seed)
        with self._autocast():
            fake = self.generators[side](given, draws)
            real_scores = judge(self._in(torch.cat([given, target], 1)))
            fake_scores = judge(self._in(torch.cat([given, fake.detach()], 1)))
        judged = (F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()) / 2
        judged.backward()  # type: ignore[no-untyped-call]
        _update(self.optimisers[2 + side], float(judged.detach()))
        _freeze(judge, True)
        with self._autocast():
            scores = judge(self._in(torch.cat([given, fake], 1)))
        fooling, l1 = F.softplus(-scores).mean(), (fake - target).abs().mean()
        (fooling + self.l1_weight * l1).backward()
        _freeze(judge, False)
        values = {"generator": fooling, "l1": l1, "discriminator": judged}
        parts = {name: float(value.detach()) for name, value in values.items()}
        _update(self.optimisers[side], parts["generator"], parts["l1"])
        return parts


class CycleGan(Game):
    """Both directions in one game: the generators are updated first, then the discriminators.

    An image is translated together with one of the other modality, whose translation should leave it as it
    is: instance norm treats the images of a batch apart. The two directions meet in the fakes alone; their
    backward passes run in parallel, and no network runs twice on the same images.

    Parameters
    ----------
    settings : CycleGanSettings
    channels, device
        See `Game`.
    """

    def __init__(self, settings: CycleGanSettings, channels: tuple[int, int], device: torch.device) -> None:
        self.cycle_weight, self.identity_weight = settings.cycle_weight, settings.identity_weight
        self.pools = [ImagePool(settings.pool_size, settings.seed + side) for side in (0, 1)]
        super().__init__(settings, channels, device)

    def given(self, side: int) -> int:
        """Channels of a translation: equal in both modalities, as a generator also gets its target."""
        return max(self.channels)

    def judged(self, side: int) -> int:
        """Channels that a discriminator sees: those of one image."""
        return max(self.channels)

    def total(self, losses: Mapping[str, float]) -> float:
        """Add up the parts of the generators' loss by their weights."""
        weighted = self.cycle_weight * losses["cycle"] + self.identity_weight * losses["identity"]
        return losses["generator"] + weighted

    def play(self, first: Tensor, second: Tensor, seeds: tuple[int, int]) -> dict[str, float]:
        """Do one step; see `Game.play`. Nothing is drawn by the seeds."""
        real = [self._in(with_channels(images, self.shown)) for images in (first, second)]
        made = run_parallel(lambda: self._translate(0, real), lambda: self._translate(1, real), self.device)
        fakes = [fake.detach().requires_grad_() for fake, _ in made]
        for judge in self.discriminators:
            _freeze(judge, True)
        back = run_parallel(
            lambda: self._return(0, fakes[0], real[0]),
            lambda: self._return(1, fakes[1], real[1]),
            self.device,
        )
        same = run_parallel(
            lambda: self._finish(0, made[0], fakes[0], real, *back[0], *back[1]),
            lambda: self._finish(1, made[1], fakes[1], real, *back[0], *back[1]),
            self.device,
        )
        for judge in self.discriminators:
            _freeze(judge, False)
        old = [self.pools[side].exchange(fakes[1 - side]) for side in (0, 1)]
        judged = run_parallel(
            lambda: self._judge(0, real[0], old[0]), lambda: self._judge(1, real[1], old[1]), self.device
        )
        return {
            "generator": sum(fooling for fooling, _ in back) / 2,
            "cycle": sum(cycle for _, cycle in back) / 2,
            "identity": sum(same) / 2,
            "discriminator": sum(judged) / 2,
        }

    def _translate(self, side: int, real: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Give the fake of an image, and the translation of an image of the generator's own target."""
        with self._autocast():
            if not self.identity_weight:
                return self.generators[side](real[side]), None
            fake, same = self.generators[side](self._in(torch.cat([real[side], real[1 - side]]))).chunk(2)
        return fake, same

    def _return(self, side: int, fake: Tensor, real: Tensor) -> tuple[float, float]:
        """Judge a fake, translate it back, and pass both gradients to it and to the generator back."""
        with self._autocast():
            scores = self.discriminators[1 - side](fake)
            again = self.generators[1 - side](fake)
        fooling, cycle = (scores - 1).square().mean(), (again - real).abs().mean()
        (fooling + self.cycle_weight * cycle).backward()
        return float(fooling.detach()), float(cycle.detach())

    def _finish(
        self, side: int, made: tuple[Tensor, Tensor | None], fake: Tensor, real: list[Tensor], *others: float
    ) -> float:
        """Pass the gradients on to the generator that made the fake, and update it."""
        graph, same = made
        outputs, gradients, value = [graph], [fake.grad], 0.0
        if same is not None:
            loss = (same - real[1 - side]).abs().mean()
            value = float(loss.detach())
            outputs.append(self.identity_weight * loss)
            gradients.append(None)
        torch.autograd.backward(outputs, gradients)
        _update(self.optimisers[side], value, *others)
        return value

    def _judge(self, side: int, real: Tensor, old: Tensor) -> float:
        with self._autocast():
            scores = self.discriminators[side](self._in(torch.cat([real, old])))
        of_real, of_old = scores.chunk(2)
        loss = ((of_real - 1).square().mean() + of_old.square().mean()) / 2
        loss.backward()
        value = float(loss.detach())
        _update(self.optimisers[2 + side], value)
        return value

    def state(self) -> dict[str, Any]:
        """Give everything that later steps depend on, the pools included."""
        return {**super().state(), "pools": [pool.state() for pool in self.pools]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        super().load_state(state)
        for pool, kept in zip(self.pools, state["pools"], strict=True):
            pool.load_state(kept, self.device)
