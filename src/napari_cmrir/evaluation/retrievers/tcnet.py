"""TC-Net: a triplet network with auxiliary classification, one embedding an image.

The competitor of Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Competing methods": Lin et al. 2019
(ACM Multimedia). A network is trained for anchors of each modality, as the paper does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from napari_cmrir.bag_of_words.descriptors.resnet import imagenet_network
from napari_cmrir.errors import InputError, MissingError
from napari_cmrir.evaluation.retrievers.base import PixelScaling, Retriever
from napari_cmrir.files import atomic_path
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import cut
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.representations.devices import choose_device
from napari_cmrir.representations.original import read_images
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region

__all__ = ["Embedding", "TcNet", "TcNetSettings", "TripletTraining", "triplet_loss"]


class TcNetSettings(Settings):
    """The settings of TC-Net; the defaults are its public code's where nothing else is said.

    Examples
    --------
    >>> TcNetSettings().margin
    0.3
    """

    backbone: Literal["densenet169", "densenet121"] = Field("densenet169", description="ImageNet network.")
    dimension: int = Field(1024, ge=1, le=8192, description="Values of an embedding.")
    margin: float = Field(0.3, gt=0, description="Of the squared distances of a triplet.")
    triplet_weight: float = Field(0.13, ge=0, description="Weight of the triplet loss.")
    softmax_weight: float = Field(
        0.13, ge=0, description="Weight of the cross entropy; not known of the paper's run, assumed."
    )
    centre_weight: float = Field(0.0013, ge=0, description="Weight of the centre loss.")
    learning_rate: float = Field(1e-4, gt=0, description="Of Adam.")
    weight_decay: float = Field(5e-4, ge=0, description="Of Adam.")
    centre_rate: float = Field(0.5, gt=0, le=1, description="Learning rate of the centres, by SGD.")
    epochs: int = Field(2000, ge=1, description="Epochs of one triplet a pair.")
    batch_size: int = Field(16, ge=1, description="Triplets a step; three images each go through together.")
    side: int = Field(256, ge=32, description="Side, px, that images are resized to.")
    crop: int = Field(225, ge=32, description="Side, px, of the random crop; queries take the middle.")
    checkpoint_every: int = Field(20, ge=1, description="Epochs after which a training can be resumed.")
    transform: Literal["linear", "log"] = Field(
        "linear", description="Mapping of dark grey modalities; the paper does not state its own."
    )
    weights: str = Field("", description="File of the backbone's weights; by default in torch's folder.")
    seed: int = Field(0, ge=0, description="Of heads, triplets, crops and flips.")


class Embedding(nn.Module):
    """The backbone, ReLU, average pool, and a linear layer; the embedding is not brought to unit length.

    Parameters
    ----------
    backbone : nn.Module
        (n, 3, y, x) to (n, channels, y', x').
    channels, dimension : int
    """

    def __init__(self, backbone: nn.Module, channels: int, dimension: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images, (n, dimension)."""
        maps = functional.relu(self.backbone(images))
        embedded: Tensor = self.head(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
        return embedded


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Give the mean of max(0, margin + |a - p|^2 - |a - n|^2) over (n, d) embeddings.

    Examples
    --------
    >>> a, far = torch.zeros(1, 2), torch.ones(1, 2)
    >>> float(triplet_loss(a, a, far, 0.3)), float(triplet_loss(a, far, a, 0.5))
    (0.0, 2.5)
    """
    near, away = ((anchor - other).square().sum(1) for other in (positive, negative))
    return (margin + near - away).clamp(min=0).mean()


class TripletTraining:
    """A network with the classifier and the centres that train it.

    Parameters
    ----------
    network : Embedding
        On the device to train on; changed in place.
    classes : int
        Number of training pairs, each a class.
    settings : TcNetSettings
    """

    def __init__(self, network: Embedding, classes: int, settings: TcNetSettings) -> None:
        self.network, self.settings = network.train(), settings
        self.device = network.head.weight.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.classifier = nn.Linear(settings.dimension, classes).to(self.device)
            self.centres = nn.Parameter(torch.randn(classes, settings.dimension).to(self.device))
        rates: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
        self.optimiser = torch.optim.Adam(network.parameters(), **rates)
        self.classifier_optimiser = torch.optim.Adam(self.classifier.parameters(), **rates)

    def step(self, images: Tensor, classes: Tensor) -> float:
        """Learn from triplets, and give the loss.

        Parameters
        ----------
        images : (3 n, 3, y, x) tensor
            All anchors, then all positives, then all negatives: one pass, whose batch norm mixes modalities.
        classes : (3 n,) int tensor

        Returns
        -------
        float
        """
        settings, classes = self.settings, classes.to(self.device)
        embedded = self.network(images.to(self.device))
        anchor, right, other = embedded.chunk(3)
        loss = settings.triplet_weight * triplet_loss(anchor, right, other, settings.margin)
        if settings.softmax_weight:
            entropy = functional.cross_entropy(self.classifier(embedded), classes)
            loss = loss + settings.softmax_weight * 3 * entropy  # summed over a, p and n
        spread = 3 * (embedded - self.centres[classes]).square().sum(1).mean()
        loss = loss + settings.centre_weight * spread
        self.optimiser.zero_grad()
        self.classifier_optimiser.zero_grad()
        self.centres.grad = None
        loss.backward()
        self.optimiser.step()
        self.classifier_optimiser.step()
        if settings.centre_weight and self.centres.grad is not None:
            # the centres move as far as the features' own gradient, whatever the loss's weight
            self.centres.data.sub_(settings.centre_rate / settings.centre_weight * self.centres.grad)
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Give all that the next step depends on."""
        states = {part: getattr(self, part).state_dict() for part in _PARTS}
        return {"centres": self.centres.data, **states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.centres.data.copy_(state["centres"])
        for part in _PARTS:
            getattr(self, part).load_state_dict(state[part])


_PARTS = ("network", "classifier", "optimiser", "classifier_optimiser")


class TcNet(Retriever):
    """Embed images by a network trained on triplets; squared Euclidean distance.

    Parameters
    ----------
    folder : path-like
        Keeps the trainings, ``tcnet-<anchors>.pt``; one that was broken off is resumed.
    device : str
    settings : TcNetSettings, optional
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        settings: TcNetSettings | None = None,
    ) -> None:
        super().__init__(folder, device)
        self.settings = settings or TcNetSettings()
        self.backbone = self.settings.backbone
        self.scaling = PixelScaling(self.settings.transform)
        self.networks: dict[str, Embedding] = {}
        self._embedded: dict[str, dict[str, Tensor]] = {}

    @classmethod
    def quick(cls, folder: str | os.PathLike[str], device: str = "auto") -> Self:
        """Make it with a smaller network, smaller images and few epochs."""
        few = TcNetSettings(backbone="densenet121", epochs=16, side=146, crop=128, checkpoint_every=4)
        made = cls(folder, device, settings=few)
        made.caveat = "fast preset: not the published method, its figures are not comparable with the paper"
        return made

    def make_network(self) -> Embedding:
        """Make a network with the backbone's ImageNet weights, and a head by the seed."""
        network: Any = imagenet_network(
            self.settings.backbone, self.settings.weights or None, self.settings.seed
        )
        channels = int(network.classifier.in_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return Embedding(network.features, channels, self.settings.dimension)

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Train a network for anchors of each modality; every pair is a class of its own.

        Raises
        ------
        MissingError
            There are fewer than two pairs, or the backbone's weights are missing.
        """
        if len(pairs) < 2:
            raise MissingError("TC-Net is trained on triplets; give at least two training pairs.")
        images = yield from read_images(pairs, modalities)
        squares = {}
        for modality in modalities:
            self.scaling.choose(images[modality], modality)
            squares[modality] = torch.stack([self._square(image, modality) for image in images[modality]])
        for done, anchors in enumerate(modalities):
            others = modalities[1 - done]
            job = self._train(squares[anchors], squares[others], anchors)
            self.networks[anchors] = yield from step_of(job, done, 2, "networks")

    def _train(self, anchors: Tensor, others: Tensor, name: str) -> Job[Embedding]:
        settings, count = self.settings, len(anchors)
        training = TripletTraining(self.make_network().to(choose_device(self.device)), count, settings)
        key = hashlib.sha256(settings.model_dump_json(exclude={"checkpoint_every", "weights"}).encode())
        key.update(anchors.numpy().tobytes() + others.numpy().tobytes())
        file, start = self.folder / f"tcnet-{name}.pt", 0
        if file.is_file():
            kept = torch.load(file, map_location=training.device, weights_only=True)
            if kept["key"] == key.hexdigest():
                start = kept["epoch"]
                training.load_state_dict(kept)
        for epoch in range(start, settings.epochs):
            rng = np.random.default_rng([settings.seed, epoch])  # an epoch resumed draws the same
            order, losses = rng.permutation(count), []
            for first in range(0, count, settings.batch_size):
                own = order[first : first + settings.batch_size]
                wrong = (own + rng.integers(1, count, len(own))) % count
                images = torch.cat([anchors[own], others[own], others[wrong]])
                classes = torch.from_numpy(np.concatenate([own, own, wrong]))
                losses.append(training.step(_augmented(images, settings.crop, rng), classes))
            message = f"TC-Net, {name} anchors: loss {np.mean(losses):.4f}"
            if (epoch + 1) % settings.checkpoint_every == 0 or epoch + 1 == settings.epochs:
                self.folder.mkdir(parents=True, exist_ok=True)
                state = {"key": key.hexdigest(), "epoch": epoch + 1, **training.state_dict()}
                with atomic_path(file) as partial:
                    torch.save(state, partial)
            yield Progress(epoch + 1, settings.epochs, "epochs", message)
        return training.network.eval()

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Embed all images by both networks.

        Raises
        ------
        InputError
            Nothing was fitted.
        """
        if not self.networks:
            raise InputError("TC-Net has no network; fit it on training pairs first.")
        self._embedded = {anchors: {} for anchors in self.networks}
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", f"Embedding {name}")
            for anchors in self.networks:
                self._embedded[anchors][name] = self._embed(pixels, modality, anchors)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score by minus the squared distance, by the network of the query's modality.

        The published code sees whole images only, so that a polygon or an ellipse is searched as its box, and
        the mask changes nothing.
        """
        yield from ()
        if region is not None:
            pixels, _ = cut(pixels, region)
        asked = self._embed(pixels, modality, modality)
        images = self._embedded[modality]
        return {name: -float((own - asked).square().sum()) for name, own in images.items()}

    @torch.inference_mode()
    def _embed(self, pixels: NDArray[Any], modality: str, anchors: str) -> Tensor:
        crop = self.settings.crop
        start = (self.settings.side - crop) // 2
        middle = self._square(pixels, modality)[None, :, start : start + crop, start : start + crop]
        network = self.networks[anchors]
        return network(middle.to(next(network.parameters()).device))[0].cpu()  # type: ignore[no-any-return]

    def _square(self, pixels: NDArray[Any], modality: str) -> Tensor:
        """Resize to (3, side, side) in [0, 1]; anything but three channels becomes grey."""
        planes = torch.from_numpy(self.scaling.apply(pixels, modality))
        colour = planes if len(planes) == 3 else planes.mean(0, keepdim=True).expand(3, -1, -1)
        size = (self.settings.side, self.settings.side)
        return functional.interpolate(
            colour[None], size, mode="bilinear", align_corners=False, antialias=True
        )[0]


def _augmented(images: Tensor, crop: int, rng: np.random.Generator) -> Tensor:
    """Crop each image at random, and flip one of two from left to right."""
    room = images.shape[-1] - crop
    pieces = []
    for image in images:
        y, x = rng.integers(0, room + 1, 2)
        piece = image[:, y : y + crop, x : x + crop]
        pieces.append(piece.flip(-1) if rng.random() < 0.5 else piece)
    return torch.stack(pieces)
