"""NVIDIA's management library: facts of cards that need no context, energy, clock, power state.

All is absent without the extra `nvidia` (`nvidia-ml-py`) or without a driver, and for a MIG device,
which has no energy and no clock of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def list_majors() -> set[int]:
    """The first numbers of the compute capabilities of all cards of the machine."""
    library = _library()
    try:
        count = library.nvmlDeviceGetCount() if library else 0
        cards = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return {int(library.nvmlDeviceGetCudaComputeCapability(card)[0]) for card in cards}
    # Here and below: the library's errors have no base but Exception, and none may end a run.
    except Exception:
        return set()


def driver_version() -> str:
    """The version of the driver; "" if it is not known."""
    library = _library()
    try:
        return str(library.nvmlSystemGetDriverVersion()) if library else ""
    except Exception:
        return ""


def joules(device: torch.device) -> float | None:
    """The energy that a card has used since its driver was loaded; None if it is not counted.

    It counts all that runs on the card, and is updated about ten to fifty times a second.
    """
    library, card = _library(), _card(device)
    try:
        # In millijoules.
        return None if card is None else library.nvmlDeviceGetTotalEnergyConsumption(card) / 1000
    except Exception:
        return None


def read_state(device: torch.device) -> dict[str, Any]:
    """The clock of the multiprocessors in MHz, and the power state; empty if not known.

    >>> read_state(torch.device("cuda"))
    {'sm_mhz': 1980, 'power_state': 0}
    """
    library, card = _library(), _card(device)
    try:
        if card is None:
            return {}
        return {
            "sm_mhz": int(library.nvmlDeviceGetClockInfo(card, library.NVML_CLOCK_SM)),
            # 0 is the fastest state, 15 the slowest.
            "power_state": int(library.nvmlDeviceGetPerformanceState(card)),
        }
    except Exception:
        return {}


@functools.cache
def _library() -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml


@functools.cache
def _card(device: torch.device) -> Any:
    """The library's handle of a device that this process uses; None if there is none.

    By UUID, since the library counts cards in another order than CUDA, and ignores
    `CUDA_VISIBLE_DEVICES`.
    """
    if device.type != "cuda" or _library() is None:
        return None
    import torch

    try:
        uuid = torch.cuda.get_device_properties(device).uuid
        return _library().nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except Exception:
        return None
