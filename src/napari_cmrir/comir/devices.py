"""Where the networks compute, and at which precision."""

from __future__ import annotations

from typing import Literal

import torch

from napari_cmrir.errors import InputError

__all__ = ["DeviceName", "choose_device", "training_precision"]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name, or the fastest at hand for ``"auto"``.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}

    Raises
    ------
    InputError
        If this machine has no such device.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available.get(name, False):
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise InputError(f"This machine has no device {name!r}; choose auto or one of: {there}.")
    return torch.device(name)


def training_precision(device: torch.device) -> torch.dtype:
    """Return the number format in which a training step computes fastest on a device.

    bfloat16 where the hardware multiplies matrices of it (CUDA, processors with AMX), else float32.

    Parameters
    ----------
    device : torch.device

    Examples
    --------
    >>> training_precision(torch.device("mps"))
    torch.float32
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False):
        return torch.bfloat16
    return torch.float32
