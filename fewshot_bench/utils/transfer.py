"""`send`: copies to a device without host synchronization; values are unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fewshot_bench.utils.devices import copies_late, pin

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; copies from the host go through pinned memory where there is any."""
    return pin(tensor, device).to(device, non_blocking=copies_late(device))
