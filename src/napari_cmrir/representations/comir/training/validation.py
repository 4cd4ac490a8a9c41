"""Validation during training: retrieval among validation fields, output scale, choice of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.images.discovery import ArrayPair
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.registration.correlation import RotatedTemplates, high_pass, turn
from napari_cmrir.representations.comir.inference import OutputScale, forward_in_batches
from napari_cmrir.representations.comir.networks import Tiramisu, UNet
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.settings import HIGH_PASS_PX

__all__ = [
    "DEVIATIONS",
    "LEAST_SCALE",
    "RetrievalScore",
    "RetrievalTest",
    "Selection",
    "measure_scale",
]


DEVIATIONS = 2.0
"""Standard deviations of the output per unit of the scaled output.

2 leaves room in the 8 bits for images of more contrast: commit 7993d43 saw fewer saturated pixels and, with
stronger variation of patches, more first hits on shg_bf/val.
"""

LEAST_SCALE = 2e-6
"""Smallest divisor of an output, so that a flat output does not divide by 0."""


def measure_scale(
    network: UNet | Tiramisu, patches: torch.Tensor, settings: TrainingSettings, device: torch.device
) -> OutputScale:
    """Measure the output scale: mean and `DEVIATIONS` standard deviations of each channel.

    The mse critic takes the plain output, as in the published export.

    Parameters
    ----------
    network : UNet or Tiramisu
        On the device.
    patches : (n, channel, y, x) tensor
        Patches of the network's modality.
    settings : TrainingSettings
    device : torch.device

    Returns
    -------
    OutputScale
    """
    channels = settings.channels
    if settings.critic == "mse":
        return OutputScale((0.0,) * channels, (1.0,) * channels)
    network.eval()
    turns = range(0, 4, 4 // settings.rotations)
    comirs = torch.stack([_turned_back(network, patches, turn, device) for turn in turns]).mean(0)
    comirs = comirs.transpose(0, 1).flatten(1)
    scale = (DEVIATIONS * comirs.std(1)).clamp_min(LEAST_SCALE)
    return OutputScale(tuple(comirs.mean(1).tolist()), tuple(scale.tolist()))


def _turned_back(
    network: UNet | Tiramisu, patches: torch.Tensor, turn: int, device: torch.device
) -> torch.Tensor:
    """Compute the CoMIRs of patches turned by quarters, and turn the CoMIRs back."""
    turned = torch.rot90(patches, turn, (2, 3))
    return torch.rot90(forward_in_batches(network, turned, device, torch.float32), -turn, (2, 3))


# Sides of a field in px, and the number of fields: the largest side that gives 16 fields. More fields make
# the test harder and slower; not measured.
_FIELD_SIDES = (256, 224, 192, 160, 128, 96)
_MOST_FIELDS = 16
# Twice the first choice, with the mean of three tests (commit c512a3a): less noise
_QUERIES_PER_DIRECTION = 64
_MOST_ROTATION = 30.0  # degrees; the default of a search
_STEP = 2  # CoMIRs are compared at half resolution, as `comparison_step` of the default training
_TEMPERATURE = 0.1  # of the validation loss, which only breaks ties of retrieval; not measured

Represent = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class RetrievalScore:
    """Scores of a model in a `RetrievalTest`.

    Parameters
    ----------
    retrieval : float
        Share of queries whose own field correlates highest, 0 to 1.
    loss : float
        Mean cross entropy of the own field among all fields, in nats, at a temperature of 0.1.
    """

    retrieval: float
    loss: float

    def is_better_than(self, other: RetrievalScore | None) -> bool:
        """Compare by retrieval, then by loss; any score is better than None."""
        return other is None or (self.retrieval, -self.loss) > (other.retrieval, -other.loss)


@dataclass(frozen=True)
class _Query:
    """A query of the test, and the field that it shows."""

    field: int
    side: int  # 0 or 1: its modality
    degrees: float
    image: Tensor  # (channel, side, side)
    mask: Tensor  # (side, side)


class RetrievalTest:
    """A small search: queries of one modality among fields of the other, both ways.

    Up to 16 fields that do not overlap are cut from the images. A query is a patch of about 0.6 times a
    field's side, turned by up to 30 degrees and shifted. Its CoMIR, turned back by the known angle, is
    correlated with the CoMIR of every field at every shift by `RotatedTemplates`, as in registration.

    Parameters
    ----------
    pairs : sequence of (first, second)
        ``(y, x, channel)`` arrays, aligned.
    intensities : (Intensity, Intensity)
        Intensities of the two modalities.
    seed : int
        Seed of the queries' places and rotations.
    high_pass_px : float
        Standard deviation of the `high_pass` of the CoMIRs, in pixels, equal to that of the loss and the
        search; 0 for no high pass.

    Attributes
    ----------
    fields : (Tensor, Tensor)
        ``(n, channel, side, side)`` inputs of each network; n is 0 or 1 if the images are too small.
    """

    def __init__(
        self,
        pairs: Sequence[ArrayPair],
        intensities: Sequence[Intensity],
        seed: int,
        *,
        high_pass_px: float = HIGH_PASS_PX,
    ) -> None:
        self.high_pass_px = high_pass_px
        side, places = _choose_fields([pair[0].shape[:2] for pair in pairs])
        self.side, self.query_side = side, min(128, round(0.6 * side / 16) * 16)
        cut_fields = [
            [i.apply(pairs[p][k][y : y + side, x : x + side]) for p, y, x in places]
            for k, i in enumerate(intensities)
        ]
        self.fields = tuple(
            torch.from_numpy(np.stack(images)) if images else torch.empty(0, i.channels, side, side)
            for images, i in zip(cut_fields, intensities, strict=True)
        )
        rng = np.random.default_rng(seed)
        self.queries: list[_Query] = []
        for _ in range(max(1, _QUERIES_PER_DIRECTION // max(1, len(places)))):
            for number, (pair, y, x) in enumerate(places):
                centre = np.array([y, x]) + (side - 1) / 2 + rng.uniform(-side / 8, side / 8, 2)
                degrees = rng.uniform(-_MOST_ROTATION, _MOST_ROTATION)
                region = Region((centre[0], centre[1]), self.query_side, self.query_side, degrees)
                for k, intensity in enumerate(intensities):
                    pixels, mask = cut(pairs[pair][k], region)
                    image = torch.from_numpy(intensity.apply(pixels))
                    self.queries.append(_Query(number, k, degrees, image, torch.from_numpy(mask).float()))

    def __len__(self) -> int:
        return len(self.fields[0])

    def score(self, represent: Represent) -> RetrievalScore:
        """Search every query.

        Parameters
        ----------
        represent : callable
            ``represent(modality, images)`` gives the CoMIRs, (n, channel, y, x), of images of the first
            (0) or second (1) modality.

        Returns
        -------
        RetrievalScore

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> image = rng.normal(size=(40, 50)).repeat(8, 0).repeat(8, 1)[..., None]
        >>> intensity = Intensity(low=(-3.0,), high=(3.0,))
        >>> test = RetrievalTest([(image, image)], [intensity, intensity], seed=0)
        >>> len(test), test.side, test.query_side
        (12, 96, 64)
        >>> test.score(lambda modality, images: images).retrieval  # two modalities that are one
        1.0
        """
        fields = [represent(k, self.fields[k]) for k in (0, 1)]
        scales = [(c.mean((0, 2, 3))[:, None, None], c.std((0, 2, 3))[:, None, None]) for c in fields]
        comirs: list[Tensor] = [torch.empty(0)] * len(self.queries)
        for k in (0, 1):
            own = [i for i, query in enumerate(self.queries) if query.side == k]
            answers = represent(k, torch.stack([self.queries[i].image for i in own]))
            for i, answer in zip(own, _scaled(answers, *scales[k]), strict=True):
                comirs[i] = answer
        filtered = [self._filtered(_scaled(c, *s)) for c, s in zip(fields, scales, strict=True)]
        logits = torch.stack(
            [
                self._correlations(query, comir, filtered[1 - query.side])
                for query, comir in zip(self.queries, comirs, strict=True)
            ]
        )
        own_fields = torch.tensor([query.field for query in self.queries], device=logits.device)
        hits = (logits.argmax(1) == own_fields).float().mean()
        return RetrievalScore(float(hits), float(F.cross_entropy(logits / _TEMPERATURE, own_fields)))

    def _correlations(self, query: _Query, comir: Tensor, fields: Tensor) -> Tensor:
        """Give the highest correlation of a query's CoMIR with each field, (n,)."""
        mask = query.mask.to(comir.device)
        coarse_mask = (F.avg_pool2d(mask[None], _STEP)[0] > 0.99).float()
        coarse = self._filtered(comir[None], coarse_mask)[0]
        turned, turned_mask = turn(coarse, coarse_mask, query.degrees)
        templates = RotatedTemplates(
            [(turned, turned_mask)], (fields.shape[-2], fields.shape[-1]), centred=not self.high_pass_px
        )
        (scores,) = templates.correlate(fields)
        return scores.flatten(1).amax(1)

    def _filtered(self, comirs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Halve and high-pass CoMIRs, as a search does."""
        return high_pass(F.avg_pool2d(comirs, _STEP), mask, self.high_pass_px / _STEP)


def _choose_fields(shapes: Sequence[tuple[int, ...]]) -> tuple[int, list[tuple[int, int, int]]]:
    """Choose the largest field side that gives enough fields; give it, and (image, y, x) of each field."""
    grids = [_grid(shapes, side) for side in _FIELD_SIDES]
    enough = [i for i, grid in enumerate(grids) if len(grid) >= _MOST_FIELDS]
    best = enough[0] if enough else max(range(len(grids)), key=lambda i: len(grids[i]))
    places = grids[best]
    if len(places) > _MOST_FIELDS:
        places = [places[i] for i in np.linspace(0, len(places) - 1, _MOST_FIELDS).round().astype(int)]
    return _FIELD_SIDES[best], places


def _grid(shapes: Sequence[tuple[int, ...]], side: int) -> list[tuple[int, int, int]]:
    """List (image, y, x) of the fields of a side that fit into the images without overlap, centred."""
    return [
        (image, height % side // 2 + row * side, width % side // 2 + column * side)
        for image, (height, width) in enumerate(shapes)
        for row in range(height // side)
        for column in range(width // side)
    ]


def _scaled(comirs: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Map CoMIRs to [0, 1] as the 8-bit export does, without rounding."""
    return ((comirs - mean) / (DEVIATIONS * deviation).clamp_min(LEAST_SCALE)).sigmoid()


_AVERAGED_TESTS = 3  # tests whose mean decides, so that chance in one does not; not measured against others

States = dict[str, dict[str, Tensor]]


class Selection:
    """The kept networks: training returns to them when it goes wrong, and ends with them.

    Networks are kept if the mean score of the latest three tests is the best so far. Few queries and a high
    learning rate make a single test good or bad by chance.

    Parameters
    ----------
    networks : mapping of str to Module
        Network of each modality before the first step.
    test : RetrievalTest or None
        Test that decides; without one the latest networks are kept.

    Attributes
    ----------
    step : int
        Step of the kept networks.
    score : RetrievalScore or None
        Score of the kept networks in the last of the three tests.
    worse : int
        Number of tests since then.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], test: RetrievalTest | None) -> None:
        self.test = test
        self.step = self.worse = 0
        self.score: RetrievalScore | None = None
        self._mean: RetrievalScore | None = None
        self._recent: list[RetrievalScore] = []
        self._states = _states(networks)

    def offer(
        self, step: int, networks: Mapping[str, torch.nn.Module], represent: Represent
    ) -> RetrievalScore | None:
        """Test networks, and keep them if the mean score of the latest tests improves.

        Parameters
        ----------
        step : int
            Steps done.
        networks : mapping of str to Module
        represent : callable
            See `RetrievalTest.score`.

        Returns
        -------
        RetrievalScore or None
            Score of the networks; None without a test.
        """
        score = None if self.test is None else self.test.score(represent)
        mean = None
        if score is not None:
            self._recent = [*self._recent, score][-_AVERAGED_TESTS:]
            mean = _mean(self._recent)
        if mean is None or mean.is_better_than(self._mean):
            self.step, self.score, self._mean, self.worse = step, score, mean, 0
            self._states = _states(networks)
        else:
            self.worse += 1
        return score

    def restore(self, networks: Mapping[str, torch.nn.Module]) -> None:
        """Load the weights of the kept networks."""
        for modality, network in networks.items():
            network.load_state_dict(self._states[modality])
        self._recent = []

    def card(self) -> dict[str, float]:
        """Summarise the kept networks' validation, for `ComirModel.score`."""
        if self.test is None or self.score is None:
            return {}
        return {
            "retrieval": self.score.retrieval,
            "validation_loss": self.score.loss,
            "step": self.step,
            "fields": len(self.test),
            "queries": len(self.test.queries),
        }

    def state(self) -> dict[str, Any]:
        """Give the state as plain values and tensors, for `load_state`."""
        scores = [self.score, self._mean, *self._recent]
        plain = [(score.retrieval, score.loss) if score else None for score in scores]
        return {"step": self.step, "worse": self.worse, "scores": plain, "networks": self._states}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        self.step, self.worse, self._states = state["step"], state["worse"], state["networks"]
        scores = [RetrievalScore(*plain) if plain else None for plain in state["scores"]]
        self.score, self._mean = scores[:2]
        self._recent = [score for score in scores[2:] if score is not None]


def _mean(scores: Sequence[RetrievalScore]) -> RetrievalScore:
    return RetrievalScore(fmean(s.retrieval for s in scores), fmean(s.loss for s in scores))


def _states(networks: Mapping[str, torch.nn.Module]) -> States:
    return {
        modality: {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        for modality, network in networks.items()
    }
