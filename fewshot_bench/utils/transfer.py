"""`send`: copies to a device without host synchronization; values are unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; copies from host to CUDA go through pinned memory."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.is_cpu else tensor
    return pinned.to(device, non_blocking=True)
