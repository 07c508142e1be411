"""`send`: copies to a device without host synchronization; values are unchanged."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fewshot_bench.utils.devices import is_accelerator

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; copies from host to CUDA go through pinned memory."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.is_cpu else tensor
    return pinned.to(device, non_blocking=True)


def reserve(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized host memory that `send` copies to `device` without another copy before.

    Pinned where the device has pinned memory, whose allocator reuses a tensor that was freed once
    all copies from it have ended; so a tensor may be dropped, or kept, at any time.
    """
    import torch

    if is_accelerator(device):
        with suppress(RuntimeError, NotImplementedError):
            return torch.empty(shape, dtype=dtype, pin_memory=True)
    return torch.empty(shape, dtype=dtype)
