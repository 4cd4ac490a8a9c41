"""Stage I: what a representation is, the registry of representations, and the model file."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_write
from napari_cmrir.images.discovery import ArrayPair, Pair
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registry import Registry
from napari_cmrir.representations.model_file import FORMAT, KEY, find_model, read_header
from napari_cmrir.settings import Comparison

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "REPRESENTATIONS",
    "Rectangle",
    "Representation",
    "RepresentationKind",
    "cut_tiles",
    "load_model",
    "represent",
    "train",
]

_TILE = 1024  # side of a tile in px; bounds memory: a float32 RGB tile takes 12 MiB; not measured

Rectangle = tuple[int, int, int, int]
"""(y, x, height, width) in pixels."""


class Representation(ABC):
    """Turns images of two modalities into one common kind of image, uint8 (channel, y, x).

    A subclass defines `name`, `channels`, `decisive` and `from_file`, and either `represent_tile` or its own
    `represent`. Indexing, queries and evaluation need nothing else.

    Attributes
    ----------
    name : str
        Name in the registry.
    halo : int
        Pixels around a tile that influence its representation; `represent` reads them for `represent_tile`.
    takes_any_modality : bool
        Whether the model represents images of other modalities, too; its two names are then proposals.
    modalities : (str, str)
        Names of the two modalities.
    intensities : dict of str to Intensity
        Channels and value range of each modality.
    history : list of dict
        ``{"step": int, "loss": float, "seconds": float}``, in order; empty if the representation is not
        trained in steps.
    provenance : dict
        Versions, training images and date.
    score : dict
        Retrieval scores on the validation fields; empty if nothing was validated.
    pixel_size : float or None
        Side of a pixel in micrometres, if known. Images are resampled to it before they are represented.
    """

    name: ClassVar[str]
    halo: ClassVar[int] = 0
    takes_any_modality: ClassVar[bool] = False

    modalities: tuple[str, str]
    intensities: dict[str, Intensity]
    history: list[dict[str, float]]
    provenance: dict[str, Any]
    score: dict[str, float]
    pixel_size: float | None

    @property
    @abstractmethod
    def channels(self) -> int:
        """Channels of a represented image."""

    @property
    def comparison(self) -> Comparison:
        """How its images are compared."""
        return Comparison()

    @property
    def targets(self) -> tuple[str, ...]:
        """Modalities that images can be compared in; none if they meet in a space of their own.

        A representation that has some gives itself for each of them by ``towards(target)``.
        """
        return ()

    def towards(self, target: str) -> Representation:
        """Give the same representation, comparing images in one of its `targets`."""
        raise NotImplementedError(f"{type(self).__name__} has no targets.")

    @property
    def caveat(self) -> str:
        """What must be said wherever figures of it are shown; empty if nothing."""
        return ""

    @abstractmethod
    def decisive(self) -> dict[str, Any]:
        """Give all values that determine a represented image, except `tensors`, as JSON values.

        They include ``"modalities"`` and ``"intensities"``. The fingerprint is computed from them.
        """

    @classmethod
    @abstractmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> Representation:
        """Build the representation from a model file.

        Parameters
        ----------
        header : dict
            What `decisive` and `described` returned; ``header["file"]`` is the path, for messages.
        tensors : dict of str to Tensor
            What `tensors` returned.

        Returns
        -------
        Representation
            Without pixel size, history, provenance and score, which `load_model` sets.

        Raises
        ------
        KeyError, TypeError, ValueError, RuntimeError
            If the file is damaged; `load_model` turns these into an `InputError`.
        """

    def described(self) -> dict[str, Any]:
        """Give the values of the header that do not determine the result, such as training settings."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights by name."""
        return {}

    def represent_tile(self, pixels: NDArray[Any], modality: str) -> NDArray[np.uint8]:
        """Represent a tile (y, x, channel) as (channel, y, x) of equal height and width."""
        raise NotImplementedError(f"{type(self).__name__} has neither represent_tile nor represent.")

    def represent(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        device: str = "auto",
        rotations: int | None = None,
        part: Rectangle | None = None,
        out: Any = None,
    ) -> Job[NDArray[np.uint8]]:
        """Represent an image, tile by tile.

        Parameters
        ----------
        pixels : (y, x) or (y, x, channel) array
            The image, of any size. A lazy, dask or zarr array is read tile by tile.
        modality : str
            Modality of the image.
        mask : (y, x) bool array, optional
            True where the image counts; the result is 0 elsewhere.
        device : {"auto", "cpu", "cuda", "mps"}
            Device to compute on.
        rotations : {1, 4}, optional
            4 averages over the four quarter turns of the image, each turned back. The result of a turned
            image then equals the turned result, at four times the cost. Default: as trained.
        part : (y, x, height, width), optional
            Compute this rectangle only; its halo is read from the image around it.
        out : (channel, y, x) uint8 array, optional
            Array to write to, such as a zarr array. With a lazy image, memory then holds one tile only.

        Yields
        ------
        Progress
            In tiles.

        Returns
        -------
        (channel, y, x) uint8 array
            The represented image, or `out` if it is given.

        Raises
        ------
        InputError
            If the modality is unknown, or the image has another number of channels.
        """
        self.require_modality(modality)
        if rotations not in (None, 1):
            raise InputError(f"The representation '{self.name}' takes no mean over rotations.")
        top, left, height, width = part or (0, 0, *pixels.shape[:2])
        answer = np.empty((self.channels, height, width), np.uint8) if out is None else out
        tiles = cut_tiles((top, left, height, width), _TILE)
        for done, (y, x, rows, columns) in enumerate(tiles):
            yield Progress(done, len(tiles), "tiles", "Representing the image")
            y0, x0 = max(0, y - self.halo), max(0, x - self.halo)
            source = np.asarray(pixels[y0 : y + rows + self.halo, x0 : x + columns + self.halo])
            tile = self.represent_tile(source[..., None] if source.ndim == 2 else source, modality)
            tile = tile[:, y - y0 : y - y0 + rows, x - x0 : x - x0 + columns]
            if mask is not None:
                tile = tile * mask[y : y + rows, x : x + columns]
            answer[:, y - top : y - top + rows, x - left : x - left + columns] = tile
        return answer

    def require_modality(self, modality: str) -> None:
        """Refuse a modality that the model was not trained on.

        Raises
        ------
        InputError
            If the model does not know the modality; the message names the two that it knows.
        """
        if modality not in self.modalities and not self.takes_any_modality:
            first, second = self.modalities
            raise InputError(
                f"The model was trained on {first} and {second}, not on {modality}; give one of these two."
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of name, pixel size, `decisive` and `tensors`.

        Two representations with equal fingerprints give equal images.
        """
        decisive = {"representation": self.name, "pixel_size": self.pixel_size, **self.decisive()}
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file atomically.

        Parameters
        ----------
        path : path-like
            The ``.safetensors`` file; an existing file is replaced.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from safetensors.torch import save

        header = {
            "format": FORMAT,
            "representation": self.name,
            **self.decisive(),
            **self.described(),
            "history": self.history,
            "provenance": self.provenance,
            "score": self.score,
            "pixel_size": self.pixel_size,
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors().items()}
        atomic_write(Path(path), save(tensors, metadata={KEY: json.dumps(header)}))


@dataclass(frozen=True)
class RepresentationKind:
    """An entry of the registry: how to load and train one kind of representation.

    Parameters
    ----------
    load : callable
        `Representation.from_file` of the class.
    train : callable
        ``train(pairs, modalities, settings, *, output, device, resume, pixel_size)``, a job that returns the
        `Representation`; see `train`.
    presets : mapping of str to settings
        Settings of `train` by name. The command line uses ``fast`` by default. A study does not train a kind
        that has presets on the pairs that it searches; its model must be given.
    keep : callable, optional
        As ``train``, without ``resume``: writes the model of an interrupted training from its checkpoint.
    """

    load: Callable[[dict[str, Any], dict[str, Tensor]], Representation]
    train: Callable[..., Job[Any]]
    presets: Mapping[str, Any] = field(default_factory=dict)
    keep: Callable[..., Job[Any]] | None = None


REPRESENTATIONS: Registry[RepresentationKind] = Registry(
    "representation",
    "napari_cmrir.representations",
    {
        "comir": "napari_cmrir.representations.comir.training.train:COMIR",
        "comir-any": "napari_cmrir.representations.comir.inference:ANY_MODALITY",
        "cyclegan": "napari_cmrir.representations.translation.training:CYCLEGAN",
        "original": "napari_cmrir.representations.original:ORIGINAL",
        "pix2pix": "napari_cmrir.representations.translation.training:PIX2PIX",
    },
)
"""Kinds of representation; other packages add theirs as entry points of ``napari_cmrir.representations``."""


def train(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: Any = None,
    *,
    representation: str = "comir",
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    pixel_size: float | None = None,
) -> Job[Any]:
    """Train a representation on aligned image pairs.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
        At least one. Arrays are ``(y, x)`` or ``(y, x, channel)``, of equal height and width.
    modalities : (str, str)
        Names of the first and the second modality of the pairs.
    settings : optional
        Settings of the representation, such as `TrainingSettings`.
    representation : str
        A name in `REPRESENTATIONS`.
    output : path-like, optional
        Model file to write at the end.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.
    resume : bool
        Continue an interrupted training of the same output.
    pixel_size : float, optional
        Side of a pixel of the images in micrometres; the model stores it.

    Yields
    ------
    Progress

    Returns
    -------
    Representation

    Raises
    ------
    InputError
        If the representation is unknown, or the pairs cannot be used.

    Examples
    --------
    >>> from napari_cmrir.jobs import run
    >>> pair = np.arange(64, dtype=np.uint8).reshape(8, 8), np.zeros((8, 8, 3), np.uint8)
    >>> model = run(train([pair], ("SHG", "BF"), representation="original"))
    >>> model.channels, run(represent(model, pair[0], "SHG"))[0, 7, :3].tolist()
    (1, [227, 231, 235])
    """
    job: Job[Any] = REPRESENTATIONS[representation].train(
        pairs, modalities, settings, output=output, device=device, resume=resume, pixel_size=pixel_size
    )
    return (yield from job)


def represent(
    model: Representation,
    pixels: NDArray[Any],
    modality: str,
    *,
    mask: NDArray[np.bool_] | None = None,
    device: str = "auto",
    rotations: int | None = None,
    part: Rectangle | None = None,
    out: Any = None,
) -> Job[NDArray[np.uint8]]:
    """Represent an image by a model, as a job.

    Parameters
    ----------
    model : Representation
    pixels, modality, mask, device, rotations, part, out
        See `Representation.represent`.

    Yields
    ------
    Progress
        In tiles.

    Returns
    -------
    (channel, y, x) uint8 array

    Raises
    ------
    InputError
        See `Representation.represent`.

    Examples
    --------
    >>> from napari_cmrir.jobs import run
    >>> from napari_cmrir.representations.model_file import sample_model
    >>> run(represent(load_model(sample_model()), np.zeros((64, 48)), "SHG")).shape
    (1, 64, 48)
    """
    return (
        yield from model.represent(
            pixels, modality, mask=mask, device=device, rotations=rotations, part=part, out=out
        )
    )


def cut_tiles(whole: Rectangle, side: int) -> list[Rectangle]:
    """Cut a rectangle into square tiles of at most ``side`` pixels a side.

    Parameters
    ----------
    whole : (y, x, height, width)
        The rectangle, in pixels.
    side : int
        Longest side of a tile, in pixels.

    Returns
    -------
    list of (y, x, height, width)
        Row by row.

    Examples
    --------
    >>> cut_tiles((0, 5, 10, 4), 6)
    [(0, 5, 6, 4), (6, 5, 4, 4)]
    """
    top, left, height, width = whole
    return [
        (top + y, left + x, min(side, height - y), min(side, width - x))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


def load_model(path: str | os.PathLike[str]) -> Representation:
    """Read a model file.

    Parameters
    ----------
    path : path-like
        A ``.safetensors`` file written by `train` or `Representation.save`, or the name of a model that comes
        with the package, see `find_model`.

    Returns
    -------
    Representation
        On the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If the file is missing, damaged, not a napari-cmrir model, of a newer format, or of an unknown
        representation.

    Examples
    --------
    >>> load_model("nothing.safetensors")
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: There is no model file nothing.safetensors; give a .safetensors ...
    """
    from safetensors.torch import load_file

    path = find_model(path)
    header = read_header(path)
    kind = REPRESENTATIONS[header.get("representation", "comir")]
    try:
        model = kind.load({**header, "file": str(path)}, load_file(path))
        model.history, model.provenance = header["history"], header["provenance"]
        model.score, model.pixel_size = header.get("score", {}), header.get("pixel_size")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}); train or copy the model again.") from None
    return model
