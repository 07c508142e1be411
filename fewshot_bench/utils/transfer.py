"""Copies to a device without host synchronization, from memory that is pinned where there is any.

`send` copies a tensor, whose values are unchanged; `reserve` is memory to fill for it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fewshot_bench.utils.devices import copies_late, pin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; copies from the host go through pinned memory where there is any."""
    return pin(tensor, device).to(device, non_blocking=copies_late(device))


def reserve(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uninitialized host memory that `send` copies to `device` without another copy before.

    The allocator of pinned memory reuses a tensor that was freed once all copies from it have
    ended, so it may be dropped, or kept, at any time.
    """
    import torch

    if copies_late(device):
        with suppress(RuntimeError, NotImplementedError):
            return torch.empty(shape, dtype=dtype, pin_memory=True)
    return torch.empty(shape, dtype=dtype)
