"""Process-wide settings that a plug-in may change, of Python, NumPy, Pillow and torch.

`Settings` is the entry point. A setting that one plain call can restore has a `write`; changes of
the others are only reported, and the process is not used again.
"""

from __future__ import annotations

import functools
import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fewshot_bench.utils.text import few, shown

CHANGED = "changed"
# Set by libraries on import, for their own use: no reason for an incident.
LIBRARY_VARIABLES = frozenset(
    {
        *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"),
        *("TRITON_CACHE_DIR", "TRITON_PTXAS_PATH", "PYTORCH_NVML_BASED_CUDA_CHECK"),
    }
)
# Module, attribute.
ATTRIBUTES = (
    *(("sys", name) for name in ("stdin", "stdout", "stderr")),
    ("PIL.ImageFile", "LOAD_TRUNCATED_IMAGES"),
    ("PIL.Image", "MAX_IMAGE_PIXELS"),
)
# Name, module, reader and writer function; without a writer the setting is not restored.
PAIRS = (
    ("the working directory", "os", "getcwd", "chdir"),
    ("the recursion limit", "sys", "getrecursionlimit", "setrecursionlimit"),
    ("garbage collection", "gc", "isenabled", ""),
    ("torch's threads", "torch", "get_num_threads", "set_num_threads"),
    ("torch's grad mode", "torch", "is_grad_enabled", "set_grad_enabled"),
    ("torch's inference mode", "torch", "is_inference_mode_enabled", ""),
    ("torch's anomaly mode", "torch", "is_anomaly_enabled", ""),
    ("torch's NaN checks", "torch", "is_anomaly_check_nan_enabled", ""),
)
# Attributes and pairs that change the results of kernels, and so frozen features. Thread counts are
# not among them: they are part of the feature cache key.
KERNELS = (
    *(("torch.backends.cudnn", name) for name in ("enabled", "benchmark", "deterministic")),
    ("torch.backends.cudnn", "benchmark_limit"),
    *(("torch.backends.mkldnn", name) for name in ("enabled", "deterministic")),
    *(("torch.backends.opt_einsum", name) for name in ("enabled", "strategy")),
    ("torch.utils.deterministic", "fill_uninitialized_memory"),
)
KERNEL_PAIRS = (
    ("torch's default dtype", "torch", "get_default_dtype", "set_default_dtype"),
    ("torch's default device", "torch", "get_default_device", ""),
    (
        *("torch's deterministic algorithms", "torch"),
        *("get_deterministic_debug_mode", "set_deterministic_debug_mode"),
    ),
    *(
        (f"torch's {one} attention", "torch.backends.cuda", f"{one}_sdp_enabled", "")
        for one in ("flash", "mem_efficient", "math", "cudnn")
    ),
    (
        *("torch's sums of attention in half precision", "torch.backends.cuda"),
        *("fp16_bf16_reduction_math_sdp_allowed", "allow_fp16_bf16_reduction_math_sdp"),
    ),
    (
        *("torch's fast path of attention", "torch.backends.mha"),
        *("get_fastpath_enabled", "set_fastpath_enabled"),
    ),
)


def described(before: Any, after: Any) -> str:
    """The names of the differing entries of two mappings, else both values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = sorted(str(n) for n in {*before, *after} if before.get(n, n) != after.get(n, n))
        return f" ({few(names)})"
    return f" from {shown(before)} to {shown(after)}"


def unvalued(before: Any, after: Any) -> str:
    """Empty description, for values that are long or opaque."""
    return ""


@dataclass(frozen=True)
class Setting:
    """One piece of state. `write` restores a value of `read`; None if no plain call can.

    verb: the incident's word for the change; values: describes the values before and after.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None
    verb: str = CHANGED
    values: Callable[[Any, Any], str] = described


class Settings:
    """Snapshot of all settings of this process."""

    def __init__(self) -> None:
        self._before = [(setting, _read(setting.read)) for setting in of_process()]

    def changes(self) -> Iterator[tuple[Setting, str, bool]]:
        """Settings that differ now, each with a description of its values, and True if restored."""
        for setting, before in self._before:
            after = _read(setting.read)
            if not _same(before, after):
                yield setting, setting.values(before, after), _put_back(setting, before)


class _Unreadable:
    """The value of a setting that cannot be read; all of them are equal."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"unreadable ({type(self._error).__name__})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unreadable)

    __hash__ = None  # type: ignore[assignment]


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        return _Unreadable(error)


def _put_back(setting: Setting, before: Any) -> bool:
    if setting.write is None:
        return False
    try:
        setting.write(before)
    except Exception:
        return False
    return _same(before, _read(setting.read))


def _same(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except Exception:
        return before is after


def of_process() -> Iterator[Setting]:
    """All settings of this process whose libraries are imported."""
    yield from _listed(ATTRIBUTES, PAIRS)
    yield from _of_python()
    if threading.current_thread() is threading.main_thread():
        yield Setting("signal handlers", _handlers)
        yield Setting("the alarm timer", lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0)
        yield Setting("the signal mask", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))
    if "numpy" in sys.modules:
        yield from _of_numpy()
    if "torch" in sys.modules:
        yield from of_kernels()
        yield from _of_torch()


def of_kernels() -> Iterator[Setting]:
    """Settings of torch that change what kernels compute."""
    import torch

    yield from _listed(KERNELS, KERNEL_PAIRS)
    yield Setting("torch's float32 precision", _precision)
    yield Setting("torch's denormal numbers", _flushes, torch.set_flush_denormal, values=unvalued)


def kernel_state() -> dict[str, Any]:
    """The values of `of_kernels`, by name."""
    return {setting.name: setting.read() for setting in of_kernels()}


def _listed(
    attributes: tuple[tuple[str, str], ...], pairs: tuple[tuple[str, str, str, str], ...]
) -> Iterator[Setting]:
    for place, name in attributes:
        holder = sys.modules.get(place)
        if hasattr(holder, name):
            read = functools.partial(getattr, holder, name)
            yield Setting(f"{place}.{name}", read, functools.partial(setattr, holder, name))
    for label, place, reader, writer in pairs:
        holder = sys.modules.get(place)
        if hasattr(holder, reader):
            write = getattr(holder, writer) if writer else None
            yield Setting(label, getattr(holder, reader), write)


def _of_python() -> Iterator[Setting]:
    yield Setting("environment variables", _environment, _set_environment)
    yield Setting("the umask", _umask, os.umask)
    yield Setting("sys.path", lambda: tuple(sys.path), _set_path, values=unvalued)
    yield Setting("sys.argv", lambda: tuple(sys.argv), values=unvalued)
    yield Setting("warning filters", _filters, _set_filters, values=unvalued)
    yield Setting("the logging configuration", _logging)
    yield Setting("the locale", lambda: locale.setlocale(locale.LC_ALL))
    yield _generator("Python's global generator (random)", random.getstate, random.setstate)
    if hasattr(os, "sched_getaffinity"):
        yield Setting("the CPU affinity", lambda: os.sched_getaffinity(0))


def _of_numpy() -> Iterator[Setting]:
    import numpy as np

    def state() -> tuple[Any, ...]:
        found: Any = np.random.get_state(legacy=True)
        return (found[0], found[1].tobytes(), *found[2:])

    def seed(found: tuple[Any, ...]) -> None:
        np.random.set_state((found[0], np.frombuffer(found[1], np.uint32), *found[2:]))

    yield Setting("NumPy's error state", np.geterr, lambda found: np.seterr(**found))
    yield _generator("NumPy's global generator (np.random)", state, seed)


def _of_torch() -> Iterator[Setting]:
    import torch

    yield Setting(
        "torch's global generator", torch.initial_seed, torch.manual_seed, "reseeded", unvalued
    )
    yield Setting("torch's autocast", _autocast)
    yield Setting(
        "torch's function and dispatch modes",
        lambda: (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
    )
    yield Setting("hooks on every optimizer or module", _hooks, values=unvalued)
    yield Setting("hooks on tensors saved for gradients", _saved_tensors_hooks, values=unvalued)
    yield Setting("torch's function transforms", _transforms)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield Setting("the CUDA device", torch.cuda.current_device, torch.cuda.set_device)
        yield Setting("the CUDA stream", torch.cuda.current_stream, torch.cuda.set_stream)


def _generator(name: str, read: Callable[[], Any], write: Callable[[Any], object]) -> Setting:
    return Setting(name, read, write, "used or reseeded", unvalued)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in LIBRARY_VARIABLES}


def _set_environment(before: dict[str, str]) -> None:
    for name in set(_environment()) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _set_path(before: tuple[str, ...]) -> None:
    sys.path[:] = before


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _filters() -> tuple[Any, ...]:
    # Libraries silence themselves on import with a filter for one module: not counted.
    return tuple(entry for entry in warnings.filters if entry[3] is None)


def _set_filters(before: tuple[Any, ...]) -> None:
    own = [entry for entry in warnings.filters if entry[3] is not None]
    warnings.filters[:] = [*own, *before]  # type: ignore[index]
    with warnings.catch_warnings():
        """Entering and leaving invalidates Python's cache of the filters."""


def _logging() -> dict[str, Any]:
    root = logging.root
    loggers = list(root.manager.loggerDict.items())
    return {
        "level": root.level,
        "handlers": tuple(root.handlers),
        "filters": tuple(root.filters),
        "disable": root.manager.disable,
        "disabled": tuple(name for name, one in loggers if getattr(one, "disabled", False)),
    }


def _handlers() -> dict[str, Any]:
    """Signal handlers by name; torch's as SIG_DFL: DataLoader detects dead workers by one."""
    found = {one.name: signal.getsignal(one) for one in signal.Signals}
    return {
        name: signal.SIG_DFL if str(getattr(one, "__module__", "")).startswith("torch.") else one
        for name, one in found.items()
    }


def _flushes() -> bool:
    import torch

    return bool(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 1.0 == 0)


def _precision() -> dict[str, Any]:
    """All precision switches, old and new; reading an old one fails if a new one was set."""
    import torch
    from torch import backends

    holders: dict[str, Any] = {"all": backends}
    for name in ("cuda", "cudnn", "mkldnn"):
        module = getattr(backends, name)
        holders[name] = module
        holders |= {f"{name}.{p}": getattr(module, p, None) for p in ("matmul", "conv", "rnn")}
    switches = ["fp32_precision", "allow_tf32", "allow_fp16_accumulation"]
    switches += [f"allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16")]
    found: dict[str, Any] = {}
    for place, holder in holders.items():
        for switch in switches:
            with suppress(Exception):
                found[f"{place}.{switch}"] = getattr(holder, switch)
    with suppress(RuntimeError):
        found["matmul"] = torch.get_float32_matmul_precision()
    return found


def _autocast() -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"cache": torch.is_autocast_cache_enabled()}
    for kind in ("cpu", "cuda"):
        found[kind] = torch.is_autocast_enabled(kind)
        found[f"{kind} dtype"] = torch.get_autocast_dtype(kind)
    return found


def _saved_tensors_hooks() -> tuple[Any, ...]:
    """The hooks that change what autograd keeps for gradients, and why there may be none."""
    import torch

    hooks = torch._C._autograd
    return (
        hooks._top_saved_tensors_default_hooks(True),
        hooks._saved_tensors_hooks_get_disabled_error_message(),
    )


def _transforms() -> tuple[Any, ...]:
    """The levels of function transforms (vmap, grad) and of forward-mode gradients."""
    import torch
    from torch.autograd import forward_ad

    return torch._C._functorch.maybe_current_level(), forward_ad._current_level


def _hooks() -> dict[str, Any]:
    return {
        name: dict(value)
        for module in ("torch.nn.modules.module", "torch.optim.optimizer")
        for name, value in vars(sys.modules[module]).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }
