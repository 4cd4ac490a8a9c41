"""Memory that one training step leaves to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Memory"]


class Memory:
    """Images' memory that is used again: from the system, it takes longer to get than to fill.

    What is not given back is forgotten, and freed with the last tensor that lies in it.

    Examples
    --------
    >>> memory = Memory()
    >>> image = memory.take((2, 3, 8, 8), torch.float32)
    >>> where = image.data_ptr()
    >>> memory.give_back(image)
    >>> memory.take((2, 3, 8, 8), torch.float32).data_ptr() == where
    True
    """

    def __init__(self) -> None:
        self._free: list[torch.UntypedStorage] = []

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor of any content.

        Parameters
        ----------
        shape : (n, c, y, x)
        dtype : torch.dtype

        Returns
        -------
        (n, c, y, x) tensor
            On the processor, in the order channels last.
        """
        n, channels, height, width = shape
        count = n * channels * height * width
        fitting = [memory for memory in self._free if memory.nbytes() >= count * dtype.itemsize]
        if not fitting:
            return torch.empty((n, channels, height, width), dtype=dtype, memory_format=torch.channels_last)
        memory = min(fitting, key=torch.UntypedStorage.nbytes)
        self._free = [other for other in self._free if other is not memory]
        flat = torch.empty(0, dtype=dtype).set_(memory, 0, (count,))  # type: ignore[call-overload]
        image: Tensor = flat.view(n, height, width, channels).permute(0, 3, 1, 2)
        return image

    def give_back(self, *taken: Tensor) -> None:
        """Let memory be taken again; nobody may look at these tensors any more.

        Parameters
        ----------
        *taken : tensor
            What `take` returned.
        """
        self._free += [tensor.untyped_storage() for tensor in taken]
