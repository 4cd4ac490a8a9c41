"""Devices: which one computes, its number format and its memory."""

from __future__ import annotations

import sys
from typing import Literal

import torch

from napari_cmrir.errors import InputError

__all__ = [
    "DeviceName",
    "choose_device",
    "describe_device",
    "is_out_of_memory",
    "peak_memory",
    "release_memory",
    "training_precision",
]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device, or the fastest available device for ``"auto"``.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        If this machine has no such device.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    devices = {  # fastest first
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    available = [device for device, is_available in devices.items() if is_available]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise InputError(
            f"This machine has no device {name!r}; choose auto or one of: {', '.join(available)}."
        )
    return torch.device(name)


def training_precision(device: torch.device) -> torch.dtype:
    """Return the number format in which convolutions run fastest on a device.

    It is bfloat16 if the hardware multiplies bfloat16 matrices (CUDA, processors with AMX), else float32.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.dtype

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


def describe_device(name: str, chosen: torch.device) -> str:
    """Describe the chosen device in words; for ``"auto"``, say why it was chosen.

    Parameters
    ----------
    name : str
        The requested device name.
    chosen : torch.device
        Device that `choose_device` returned for it.

    Returns
    -------
    str

    Examples
    --------
    >>> describe_device("cpu", torch.device("cpu"))
    'cpu'
    >>> describe_device("auto", torch.device("cpu"))
    'cpu (no cuda or mps device is available)'
    """
    if chosen.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(chosen)})"
    if name != "auto":
        return chosen.type
    return f"{chosen.type} (no cuda{' or mps' if chosen.type == 'cpu' else ''} device is available)"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that a device's memory was too small.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    True
    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's CPU allocator raises a plain RuntimeError; only its message says what happened.
    message = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in message or "can't allocate memory" in message
    )


def release_memory(device: torch.device) -> None:
    """Return torch's cached, unused memory to a device.

    Parameters
    ----------
    device : torch.device
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Return this process's peak memory in bytes: on the GPU for CUDA, else in total.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
        Bytes.

    Examples
    --------
    >>> peak_memory(torch.device("cpu")) > 2**20
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
