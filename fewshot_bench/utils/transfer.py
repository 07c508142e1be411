"""Copies to an accelerator that the host does not wait for. `send` is all of it; bits are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; what lies on the host goes to CUDA by way of pinned memory."""
    pinned = tensor.pin_memory() if device.type == "cuda" and tensor.is_cpu else tensor
    return pinned.to(device, non_blocking=True)
