"""Kinds of devices: all that the harness asks of the CPU, CUDA, ROCm, XPU, MPS or another device.

No other module names a kind. A device that lacks statistics of memory, events, pinned memory,
bf16 or float64 works too: each function says what it does then. Functions that take neither a
tensor nor a `torch.device` open no context on a card, apart from `list_models`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.nvidia import driver_version, list_majors
from fewshot_bench.utils.text import split_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CPU = "cpu"
# Looked for by name, too, since torch may take another device as this machine's accelerator.
_KINDS = ("cuda", "xpu", "mps")
# The variables by which a process sees some of a kind's devices. ROCm, whose kind is "cuda" too,
# has two layers: HIP's variable, of which CUDA's is another name, counts in ROCR's devices.
_VISIBLE = {"cuda": ("CUDA_VISIBLE_DEVICES",), "xpu": ("ZE_AFFINITY_MASK",)}
_VISIBLE_HIP = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_VISIBLE_ROCR = ("ROCR_VISIBLE_DEVICES",)
_MIG = "MIG-"
# Lets operators that MPS lacks run on the CPU; torch reads it when it is imported.
_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
# The least compute capability of NVIDIA with bf16; older cards emulate it, slower than fp32.
_BF16_CAPABILITY = 8
# Seconds for a process that imports torch and looks at the cards.
_PATIENCE = 300
_ASKING = """
import sys, torch
kind, *indices = sys.argv[1:]
module, last = torch.get_device_module(kind), torch.get_device_module(kind).device_count() - 1
def ask(index):
    with module.device(index):
        try:
            return module.is_bf16_supported(including_emulation=False)
        except TypeError:
            return module.is_bf16_supported()
print("bf16" if all(ask(min(int(index), last)) for index in indices) else "none")
"""
# Steps between waits for a device without events.
_PERIOD = 64


class Event(Protocol):
    """A point in a device's queue of work."""

    def query(self) -> bool:
        """True once the device has reached it; does not wait."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has reached it."""
        ...


def is_accelerator(device: torch.device) -> bool:
    """True for every device but a CPU."""
    return device.type != CPU


def fewer_kernels(device: torch.device) -> bool:
    """True where a kernel costs more than padding: on accelerators, which wait for launches."""
    return is_accelerator(device)


def accelerator_kind() -> str:
    """The kind of this machine's accelerator, such as `cuda`; "" where there is none."""
    return next(iter(list_accelerators()), "")


def usual_kind() -> str:
    """The kind of accelerators that torch is for, whether or not one is here; else CUDA."""
    return _current_kind() or _KINDS[0]


def list_accelerators() -> list[str]:
    """The kinds of accelerators on this machine: torch's current one first."""
    kinds = dict.fromkeys((_current_kind(), *_KINDS))
    return [kind for kind in kinds if kind and count_devices(kind)]


def count_devices(kind: str) -> int:
    """The number of devices of a kind that workers can get; 0 for a kind that torch does not know.

    CUDA itself shows one of several MIG devices to a process; each worker can get its own.
    """
    if kind == CPU:
        return 1
    count = getattr(_module(kind), "device_count", lambda: 0)
    found = 0
    with suppress(RuntimeError):
        # Some modules say -1 where there is no driver.
        found = max(0, int(count()))
    visible = _list_visible(_VISIBLE[kind][0]) if kind in _VISIBLE else ()
    is_mig = any(name.startswith(_MIG) for name in visible)
    return len(visible) if found and is_mig else found


def allow_fallback() -> None:
    """On Apple's machines, let operators that MPS lacks run on the CPU; before torch is imported.

    A setting of the user stays.
    """
    if sys.platform == "darwin":
        os.environ.setdefault(_FALLBACK, "1")


def see_only(name: str) -> tuple[str, dict[str, str]]:
    """The device as a worker of its own calls it, and the variables that hide all others from it.

    `cuda:3` is `cuda` with `CUDA_VISIBLE_DEVICES=3`, or the fourth of those that the variable
    lists: an index, a UUID or a MIG device. A kind without such a variable keeps its index.
    """
    kind, _, index = name.partition(":")
    variables = _visibility(kind)
    if not index or not variables:
        return name, {_FALLBACK: os.environ.get(_FALLBACK, "1")} if kind == "mps" else {}
    visible = dict(enumerate(_list_visible(variables[0])))
    own = visible.get(int(index), index)
    return kind, dict.fromkeys(variables, own)


def _visibility(kind: str) -> tuple[str, ...]:
    """The variables to set for a worker of its own, all to one value; none if there is none."""
    if kind == "xpu" and os.environ.get("ONEAPI_DEVICE_SELECTOR"):
        # Its selection comes before, with a syntax of its own.
        return ()
    if kind == "cuda" and _is_rocm():
        given = tuple(name for name in _VISIBLE_HIP if os.environ.get(name))
        below = tuple(name for name in _VISIBLE_ROCR if os.environ.get(name))
        return given or below or _VISIBLE_HIP[:1]
    return _VISIBLE.get(kind, ())


def _list_visible(variable: str) -> tuple[str, ...]:
    return split_names(os.environ.get(variable, ""))


def has_bf16(names: Sequence[str]) -> bool:
    """True if all these devices of one kind, such as `cuda:0`, compute in bf16 themselves."""
    import torch

    kind = names[0].partition(":")[0]
    if kind == CPU or (kind == "cuda" and _is_rocm()):
        return True
    if kind == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    known = _nvidia_have_bf16() if kind == "cuda" else None
    if known is not None:
        return known
    types = _autocast_types(kind)
    if types or not hasattr(_module(kind), "is_bf16_supported"):
        return torch.bfloat16 in types
    return _ask_bf16(kind, [name.partition(":")[2] or "0" for name in names])


def has_fp16(kind: str) -> bool:
    """True if autocast of this kind of device offers fp16."""
    import torch

    return kind in (CPU, *_KINDS) or torch.float16 in _autocast_types(kind)


def _autocast_types(kind: str) -> Iterable[torch.dtype]:
    return getattr(_module(kind), "get_amp_supported_dtype", tuple)()


def _nvidia_have_bf16() -> bool | None:
    """True if all cards of the machine have bf16, False if none has; None if that is not known.

    NVIDIA's library counts cards in another order than CUDA, which does not matter for one answer.
    """
    answers = {major >= _BF16_CAPABILITY for major in list_majors()}
    return answers.pop() if len(answers) == 1 else None


def _ask_bf16(kind: str, indices: Sequence[str]) -> bool:
    """Ask torch in another process, whose contexts on cards end with it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASKING, kind, *indices],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.split()[-1:] == ["bf16"]


def has_float64(device: torch.device) -> bool:
    """False for MPS, whose tensors cannot have float64."""
    return device.type != "mps"


def place(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; one in float64 stays on the host for a device without float64."""
    import torch

    stays = tensor.dtype is torch.float64 and not has_float64(device)
    return tensor if stays else tensor.to(device)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all its work; nothing to wait for on a CPU."""
    if device.type == CPU:
        return
    module = _module(device.type)
    if device.type == "mps":
        module.synchronize()
    elif hasattr(module, "synchronize"):
        module.synchronize(device)
    else:
        import torch

        torch.accelerator.synchronize(device)


def reset_peak(device: torch.device) -> bool:
    """Count the peak of memory from here; False if the device does not count its memory."""
    with suppress(*_ABSENT):
        _memory(device, "reset_peak_memory_stats")
        return True
    return False


def peak_bytes(device: torch.device) -> int:
    """The most bytes of tensors on a device since `reset_peak`, which must have returned True."""
    return int(_memory(device, "max_memory_allocated"))


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device, including what its allocator holds unused; else of the host."""
    with suppress(*_ABSENT):
        if device.type == "mps":
            module = _module("mps")
            own = module.recommended_max_memory() - module.current_allocated_memory()
            return min(int(own), free_host_memory())
        if device.type != CPU:
            module = _module(device.type)
            read = getattr(module, "mem_get_info", None)
            free, _ = read(device) if read else _memory(device, "get_memory_info")
            held = _memory(device, "memory_reserved") - _memory(device, "memory_allocated")
            return int(free + held)
    return free_host_memory()


# What torch raises for a device without a capability, or before it had a function.
_ABSENT = (AssertionError, AttributeError, RuntimeError, TypeError, ValueError)


def _memory(device: torch.device, name: str) -> Any:
    """The answer of a memory function of the kind's module, or else of `torch.accelerator`."""
    import torch

    if device.type in (CPU, "mps"):
        raise RuntimeError(f"{device.type} does not count the memory of tensors")
    module = _module(device.type)
    # `torch.accelerator` has them from torch 2.9.
    owner = module if hasattr(module, name) else torch.accelerator
    return getattr(owner, name)(device)


def empty_cache() -> None:
    """Return unused memory of the accelerator's allocator to the device."""
    if is_in_use():
        with suppress(*_ABSENT):
            _module(_current_kind()).empty_cache()


def device_name(device: torch.device) -> str:
    """The name of an accelerator's model, such as `NVIDIA H100 80GB HBM3`; else its kind."""
    module = _module(device.type)
    with suppress(*_ABSENT):
        return str(module.get_device_name(device))
    with suppress(*_ABSENT):
        return str(module.get_device_properties(device).name)
    return device.type


def list_models() -> list[dict[str, str]]:
    """The names and models of all accelerators on this machine."""
    import torch

    return [
        {"device": f"{kind}:{index}", "model": device_name(torch.device(kind, index))}
        for kind in list_accelerators()
        for index in range(count_devices(kind))
    ]


def list_software() -> dict[str, str]:
    """Versions of what computes on accelerators: those that torch has, and NVIDIA's driver."""
    import torch

    cudnn: Any = torch.backends.cudnn
    versions = {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "rocm": torch.version.hip,
        "xpu": getattr(torch.version, "xpu", None),
        "nvidia driver": driver_version(),
    }
    return {name: str(version) for name, version in versions.items() if version}


def pin(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor in pinned memory, for copies to `device`; unchanged where there is none."""
    if device.type in (CPU, "mps") or not tensor.is_cpu:
        return tensor
    with suppress(*_ABSENT):
        return tensor.pin_memory()
    return tensor


def copies_late(device: torch.device) -> bool:
    """True if copies to a device may be `non_blocking`, so that they are made late.

    Not on MPS, which reads memory that is not pinned after the call has returned.
    """
    return device.type not in (CPU, "mps")


def choose(device: torch.device) -> None:
    """Make a numbered device the current one of this process."""
    import torch

    if device.type != CPU and device.index is not None:
        torch.accelerator.set_device_index(device.index)


def list_generators() -> tuple[str, list[int]]:
    """A kind of device and the indices of its devices whose generators have a state."""
    kind = _current_kind()
    if not is_in_use() or not hasattr(_module(kind), "get_rng_state"):
        return _KINDS[0], []
    return kind, list(range(count_devices(kind)))


def is_in_use() -> bool:
    """True once this process has a context on the accelerator."""
    kind = _current_kind()
    is_initialized = getattr(_module(kind), "is_initialized", lambda: count_devices(kind) > 0)
    return bool(kind and is_initialized())


def graph_class(device: torch.device) -> Any:
    """The class in torch of graphs of a device, which repeat captured work; None without."""
    module = _module(device.type)
    names = [name for name in ("CUDAGraph", "XPUGraph") if hasattr(module, name)]
    return getattr(module, names[0]) if names and hasattr(module, "graph") else None


def record_event(device: torch.device) -> Event:
    """An event after the work queued so far.

    Without events, `query` is True after a `synchronize` of any later event, which happens once in
    64 events: reading late costs memory, waiting at every step would cost time.
    """
    queue = _queue(device)
    if not queue.late:
        try:
            return _Marked(device)
        except _ABSENT:
            queue.late = True
    return _Late(queue)


class _Marked:
    """An event of a device that has events."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device = device
        self._event = torch.accelerator.current_stream(device).record_event()
        # Some devices fail here first.
        self._event.query()

    def query(self) -> bool:
        return bool(self._event.query())

    def synchronize(self) -> None:
        try:
            self._event.synchronize()
        except _ABSENT:
            # Some devices have events that nobody can wait for.
            synchronize(self._device)


class _Queue:
    """Events recorded on a device without events, and how many of them it has reached."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recorded = self.reached = 0
        self.late = False

    def wait(self) -> None:
        synchronize(self.device)
        self.reached = self.recorded


_QUEUES: dict[torch.device, _Queue] = {}


def _queue(device: torch.device) -> _Queue:
    if device not in _QUEUES:
        _QUEUES[device] = _Queue(device)
    return _QUEUES[device]


class _Late:
    """An event of a device without events."""

    def __init__(self, queue: _Queue) -> None:
        queue.recorded += 1
        self._queue, self._number = queue, queue.recorded

    def query(self) -> bool:
        if self._number + _PERIOD <= self._queue.recorded:
            self.synchronize()
        return self._number <= self._queue.reached

    def synchronize(self) -> None:
        if self._number > self._queue.reached:
            self._queue.wait()


def _current_kind() -> str:
    """The kind that torch was built for or that registered itself; there may be no such device."""
    import torch

    with suppress(RuntimeError):
        # torch 2.6 raises where later versions return None.
        current = torch.accelerator.current_accelerator()
        return current.type if current else ""
    return ""


def _module(kind: str) -> Any:
    """torch's module of a kind of device; None for what torch does not know."""
    import torch

    with suppress(RuntimeError):
        return torch.get_device_module(kind) if kind else None
    return None


def _is_rocm() -> bool:
    import torch

    return torch.version.hip is not None
