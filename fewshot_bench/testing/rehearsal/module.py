"""`torch.rehearsal`: the device type `rehearsal` in Python, shaped like `torch.cuda`.

`build.py` copies this file beside the compiled device; `fewshot_bench` does not import it.
Beyond what torch asks of a device's module there are `counts`, `launches_by_name`, `limit_memory`,
`listen` and `forbid_waits`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import backend_registration

_C: Any = importlib.import_module(f"{__name__}._C")
Device = torch.device | str | int | None


def register() -> None:
    """Make the device known to torch, once per process."""
    if hasattr(torch, "rehearsal"):
        return
    backend_registration.rename_privateuse1_backend("rehearsal")
    torch._register_device_module("rehearsal", sys.modules[__name__])  # type: ignore[no-untyped-call]
    backend_registration.generate_methods_for_privateuse1_backend(for_storage=True)


def is_available() -> bool:
    """True, unless `show_devices(0)` hides all devices."""
    return device_count() > 0


def is_initialized() -> bool:
    """True where there are devices: they need no context."""
    return is_available()


def _is_in_bad_fork() -> bool:
    return False


def device_count() -> int:
    """The number of devices: 2, or what `show_devices` says."""
    return int(_C.device_count())


def show_devices(count: int) -> int:
    """Let this process have another number of devices, 0 to 16; returns the number before."""
    return int(_C.show_devices(count))


def current_device() -> int:
    """The index of this thread's current device."""
    return int(_C.current_device())


def set_device(device: Device) -> None:
    """Change this thread's current device."""
    _C.set_device(_index(device))


def _index(device: Device) -> int:
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return current_device() if index is None else index


class device:
    """Context in which another device is this thread's current one."""

    def __init__(self, device: Device) -> None:
        self._index, self._before = _index(device), 0

    def __enter__(self) -> None:
        self._before = current_device()
        set_device(self._index)

    def __exit__(self, *error: object) -> None:
        set_device(self._before)


def synchronize(device: Device = None) -> None:
    """Wait for the device; counted."""
    torch.accelerator.synchronize(_index(device))


class Event(torch.Event):
    """An event of the device."""

    def __new__(cls, enable_timing: bool = False) -> Event:
        return super().__new__(cls, device="rehearsal", enable_timing=enable_timing)


def Stream(device: Device = None) -> torch.Stream:
    """A new stream of the device; all streams compute at once."""
    return torch.Stream(device=torch.device("rehearsal", _index(device)))


def current_stream(device: Device = None) -> torch.Stream:
    """This thread's stream on the device."""
    return torch.accelerator.current_stream(_index(device))


@contextmanager
def stream(stream: torch.Stream) -> Iterator[None]:
    """Context in which a stream is this thread's current one."""
    with stream:
        yield


def manual_seed(seed: int) -> None:
    """Seed the generator of the current device."""
    _C.default_generator(current_device()).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all devices."""
    for index in range(device_count()):
        _C.default_generator(index).manual_seed(seed)


def get_rng_state(device: Device = None) -> torch.Tensor:
    """The state of the device's generator."""
    state: torch.Tensor = _C.default_generator(_index(device)).get_state()
    return state


def set_rng_state(state: torch.Tensor, device: Device = None) -> None:
    """Restore a state of the device's generator."""
    _C.default_generator(_index(device)).set_state(state)


def get_amp_supported_dtype() -> list[torch.dtype]:
    """The types that autocast takes on the device."""
    return [torch.float16, torch.bfloat16]


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """True."""
    return True


def get_device_name(device: Device = None) -> str:
    """The name of the device."""
    return "rehearsal device on host memory"


def get_device_properties(device: Device = None) -> SimpleNamespace:
    """The name and the memory in bytes of the device."""
    total = _C.counts(_index(device))["limit"]
    return SimpleNamespace(name=get_device_name(device), total_memory=total)


def memory_allocated(device: Device = None) -> int:
    """Bytes of all tensors on the device."""
    return int(_C.counts(_index(device))["allocated"])


def max_memory_allocated(device: Device = None) -> int:
    """The largest number of bytes since the last reset."""
    return int(_C.counts(_index(device))["peak"])


memory_reserved, max_memory_reserved = memory_allocated, max_memory_allocated


def reset_peak_memory_stats(device: Device = None) -> None:
    """Let the peak begin at what is allocated now."""
    _C.reset_peak(_index(device))


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """Free and total bytes of the device."""
    counts = _C.counts(_index(device))
    return counts["limit"] - counts["allocated"], counts["limit"]


def empty_cache() -> None:
    """Do nothing: no memory is held back."""


def limit_memory(size: int | None, device: Device = None) -> None:
    """Let allocations beyond `size` bytes raise torch.OutOfMemoryError; None: the usual 16 GiB."""
    _C.set_limit(_index(device), size or 0)


def counts(device: Device = None) -> dict[str, int]:
    """The work of a device since `reset_counts`.

    `launches`: kernels; views launch none, a function on lists of tensors one. `reads`: values or
    sizes that came to the host. `uploads`: copies to the device that block. `sent`: copies from or
    to pinned memory that do not. `synchronizations`. `allocated` and `peak` in bytes.
    """
    found: dict[str, int] = _C.counts(_index(device))
    del found["limit"]
    return found


def launches_by_name() -> dict[str, int]:
    """Launches on all devices since `reset_counts`, by operator."""
    found: dict[str, int] = _C.launches_by_name()
    return found


def reset_counts() -> None:
    """Set the counts of all devices to zero, apart from bytes."""
    for index in range(device_count()):
        _C.reset_counts(index)
    _C.reset_names()


@contextmanager
def listen(heard: Callable[[str, str, int], None]) -> Iterator[None]:
    """Context in which `heard(kind, operator, device)` is called where the host waits.

    kind: `read`, `upload` or `synchronization`, or `overwriting`: at a wait, pinned memory holds
    other bytes than when it was sent, though no earlier wait said that its copy had been made. The
    call is made in the waiting thread, inside the operator: its stack shows the line, and an error
    that it raises ends the operator.
    """
    before = _C.listen(heard)
    try:
        yield
    finally:
        _C.listen(before)


@contextmanager
def forbid_waits() -> Iterator[None]:
    """Context in which the host may not wait: a RuntimeError in the line that would."""

    def refuse(kind: str, operator: str, index: int) -> None:
        raise RuntimeError(f"the host waits for rehearsal:{index}: {kind} by {operator}")

    with listen(refuse):
        yield
