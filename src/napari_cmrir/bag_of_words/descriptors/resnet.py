"""ResNet152 as a dense descriptor, and the ImageNet weights that it and two retrievers use.

A feature is the layout of one channel's activation (Breznik et al. 2024, doi:10.1038/s41598-024-68800-1,
"Stage II alternatives", and the authors' public code: the network of He et al. 2016,
doi:10.1109/CVPR.2016.90, without average pool and classifier, pooled to 8 x 8).

The weights are torchvision's IMAGENET1K_V1, which the published systems used; torchvision's present default
for ResNets, V2, is another training. They are not shipped and not fetched: ImageNet's terms may bind them to
non-commercial research.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_cmrir.bag_of_words.descriptors.features import Features, as_channels, stretch
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.errors import InputError, MissingError
from napari_cmrir.files import atomic_path, checksum

__all__ = [
    "CHANNELS",
    "IMAGENET",
    "MEAN",
    "RANDOM",
    "SIDE",
    "STANDARD_DEVIATION",
    "ImagenetWeights",
    "feature_matrix",
    "feature_network",
    "find_weights",
    "imagenet_network",
    "install_weights",
    "network_input",
    "resnet152",
    "torchvision_models",
    "weights_folder",
]

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1], as the weights were trained."""

RANDOM = "random"
"""In place of a file of weights: weights drawn by a seed, for tests; nothing takes them unasked."""

_ADDRESS = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class ImagenetWeights:
    """The published weights of a network.

    Parameters
    ----------
    file : str
        Name of the file; it ends with the first eight hexadecimal digits of its SHA-256.
    megabytes : int
        Its size.
    """

    file: str
    megabytes: int

    @property
    def digits(self) -> str:
        """First digits of the file's SHA-256."""
        return self.file.rpartition("-")[2].partition(".")[0]


IMAGENET = {
    "resnet152": ImagenetWeights("resnet152-394f9c45.pth", 230),
    "resnet50": ImagenetWeights("resnet50-0676ba61.pth", 98),
    "densenet169": ImagenetWeights("densenet169-b2777c0a.pth", 55),
    "densenet121": ImagenetWeights("densenet121-a639ec97.pth", 31),
}
"""The networks, by torchvision's name."""


def weights_folder() -> Path:
    """Give the folder where torch keeps weights: ``hub/checkpoints`` in ``$TORCH_HOME``.

    Returns
    -------
    Path
    """
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(name: str, file: str | os.PathLike[str] | None = None) -> Path:
    """Find the weights of a network, and check that they are the published ones.

    Parameters
    ----------
    name : str
        A key of `IMAGENET`.
    file : path-like, optional
        By default the file of that name in `weights_folder`.

    Returns
    -------
    Path

    Raises
    ------
    MissingError
        There is no such file.
    InputError
        Its SHA-256 is another one.
    """
    wanted = IMAGENET[name]
    path = weights_folder() / wanted.file if file is None else Path(file)
    if not path.is_file():
        where = "" if file is None else f" at {path}"
        raise MissingError(
            f"The ImageNet weights of {name} are missing{where}; fetch {_ADDRESS}{wanted.file}"
            f" ({wanted.megabytes} MB, SHA-256 {wanted.digits}...) and put it into {weights_folder()}."
        )
    digest = checksum(path)
    if not digest.startswith(wanted.digits):
        raise InputError(
            f"{path} does not hold the ImageNet weights of {name}: its SHA-256 is {digest[:8]}..., not"
            f" {wanted.digits}...; fetch {_ADDRESS}{wanted.file} again."
        )
    return path


def install_weights(file: str | os.PathLike[str]) -> Path:
    """Copy a file of weights to where every process of this user finds it.

    Parameters
    ----------
    file : path-like
        Of any name; its SHA-256 says which network's it is.

    Returns
    -------
    Path
        In `weights_folder`.

    Raises
    ------
    InputError
        There is no such file, or it holds none of the known weights.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"There is no file of weights {path}; check the path.")
    digest = checksum(path)
    for known in IMAGENET.values():
        if digest.startswith(known.digits):
            target = weights_folder() / known.file
            if not (target.exists() and checksum(target) == digest):
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as partial:
                    shutil.copyfile(path, partial)
            return target
    names = ", ".join(known.file for known in IMAGENET.values())
    raise InputError(
        f"{path} holds none of the known weights (SHA-256 {digest[:8]}...); give one of {names}."
    )


def torchvision_models() -> Any:
    """Import torchvision's models.

    torchvision cannot be imported where its compiled operators do not load, as beside a torch for the
    processor alone from another source than the registry. The networks use none of these operators, so that
    it is enough to declare the names that it asks for.

    Raises
    ------
    MissingError
        torchvision is not installed.
    InputError
        It cannot be imported for another reason.
    """
    while True:
        try:
            import torchvision.models
        except ImportError:
            raise MissingError(
                "This network needs torchvision, which is not installed; run"
                " pip install 'napari-cmrir[resnet]'."
            ) from None
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None or missing[1] in _declared:
                raise InputError(
                    f"torchvision cannot be imported ({error}); install the one made for torch"
                    f" {torch.__version__}."
                ) from None
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            _declared[missing[1]] = library
            library.define(f"{missing[1]}(Tensor x) -> Tensor")
        else:
            return torchvision.models


_declared: dict[str, Any] = {}  # operators by name; a declaration lasts as long as its library


def imagenet_network(name: str, weights: str | os.PathLike[str] | None = None, seed: int = 0) -> nn.Module:
    """Make a network with its ImageNet weights.

    Parameters
    ----------
    name : str
        A key of `IMAGENET`.
    weights : path-like, optional
        The file of weights, by default that of `weights_folder`; `RANDOM` draws them, for tests.
    seed : int
        Of random weights; the state of torch's own generator does not change.

    Returns
    -------
    nn.Module
        Of 1,000 classes, in evaluation mode, on the processor.

    Raises
    ------
    MissingError
        There are no weights, or no torchvision.
    InputError
        The weights are not the published ones.
    """
    path = None if weights == RANDOM else find_weights(name, weights)
    make = getattr(torchvision_models(), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = make(weights=None)
    if path is not None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict({_present_name(key): value for key, value in state.items()})
    return network.eval()


def _present_name(key: str) -> str:
    """Rename a tensor of DenseNet's files, which date from before names lost their points.

    Examples
    --------
    >>> _present_name("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


CHANNELS = 2048
"""Features of an image: the channels of the last map."""
SIDE = 8
"""Side of the grid that each channel is pooled to; its 64 values are the descriptor."""


def resnet152(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by ResNet152.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        uint8; other types are stretched to their range. Three channels are red, green and blue; one is
        tripled; of another number, the mean is. Computed on the tensor's device.
    settings : DescriptorSettings
        Only the name is used: neither grid nor normalisation applies.
    mask : (y, x) bool array, optional
        Not used: every feature sees the whole image.

    Returns
    -------
    Features
        2,048 of 64 values, not brought to unit length; the points are the image's middle. A strength is the
        sum of the values.

    Raises
    ------
    InputError
        The CoMIR has an unusable shape or type, or torchvision or the weights are missing.
    """
    values = feature_matrix(feature_network(), network_input(comir))
    height, width = comir.shape[-2:]
    point = np.array([height // 2, width // 2, min(height, width)], np.float32)
    return Features(np.tile(point, (len(values), 1)), values, values.sum(1))


def network_input(comir: Any) -> torch.Tensor:
    """Prepare a CoMIR for a network of ImageNet.

    Returns
    -------
    torch.Tensor, (1, 3, y, x)
        Divided by 255, less the mean, over the standard deviation of ImageNet.

    Examples
    --------
    >>> [round(float(value), 2) for value in network_input(np.full((1, 2, 2), 255, np.uint8))[0, :, 0, 0]]
    [2.25, 2.43, 2.64]
    """
    channels, _ = as_channels(comir)
    is_8_bit = comir.dtype in (np.uint8, torch.uint8)
    scaled = channels / 255 if is_8_bit else stretch(channels)
    if len(scaled) != 3:
        scaled = scaled.mean(0, keepdim=True).expand(3, -1, -1)
    mean, deviation = (scaled.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
    return ((scaled - mean) / deviation)[None].float()


@lru_cache(maxsize=1)
def feature_network() -> nn.Module:
    """Load ResNet152 up to its last map, 58,143,808 parameters; once a process.

    Raises
    ------
    InputError
        torchvision or the weights are missing.
    """
    return without_classifier(imagenet_network("resnet152"))


def without_classifier(network: nn.Module) -> nn.Module:
    """Leave out the last two children of a ResNet, average pool and classifier.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    nn.Module
        (n, 3, y, x) to (n, 2048, y / 32, x / 32), sides rounded up, in evaluation mode.
    """
    return nn.Sequential(*list(network.children())[:-2]).eval()


@torch.inference_mode()
def feature_matrix(network: nn.Module, image: torch.Tensor) -> NDArray[np.float32]:
    """Compute the features of an image.

    Parameters
    ----------
    network : nn.Module
        To the last map; moved to the image's device.
    image : (1, 3, y, x) tensor

    Returns
    -------
    ndarray, (channel, 64)
        Each channel pooled to 8 x 8, row by row. The windows overlap where 8 does not divide the map's side.
    """
    maps = network.to(image.device)(image)
    pooled = nn.functional.adaptive_avg_pool2d(maps, SIDE)
    values: NDArray[np.float32] = pooled[0].flatten(1).cpu().numpy()
    return values
