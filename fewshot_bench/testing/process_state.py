"""`ProcessState`: settings of Python, NumPy, Pillow and torch that a method has to leave alone.

A setting that one plain call can restore has a `write`; changes of the others are only named.
"""

from __future__ import annotations

import functools
import gc
import locale
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import backends
from torch.autograd import forward_ad

from fewshot_bench.utils.text import few, shown

# Set by libraries on import, for their own use.
LIBRARY_VARIABLES = frozenset(
    {
        *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"),
        *("TRITON_CACHE_DIR", "TRITON_PTXAS_PATH", "PYTORCH_NVML_BASED_CUDA_CHECK"),
    }
)
# Attributes by module.
ATTRIBUTES: Mapping[str, str] = {
    "sys": "stdin stdout stderr",
    "PIL.ImageFile": "LOAD_TRUNCATED_IMAGES",
    "PIL.Image": "MAX_IMAGE_PIXELS",
    "torch.backends.cudnn": "enabled benchmark deterministic benchmark_limit",
    "torch.backends.mkldnn": "enabled deterministic",
    "torch.backends.opt_einsum": "enabled strategy",
    "torch.utils.deterministic": "fill_uninitialized_memory",
}


@dataclass(frozen=True)
class Setting:
    """One piece of state. `write` restores a value of `read`; None if no plain call can.

    opaque: its values say nothing to a reader.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None
    opaque: bool = False


class ProcessState:
    """A snapshot of all settings of this process."""

    def __init__(self) -> None:
        self._before = [(setting, _read(setting)) for setting in settings()]

    def restore(self) -> list[str]:
        """Restore what has changed, as far as possible; returns descriptions of the changes."""
        changes = []
        for setting, before in self._before:
            after = _read(setting)
            if _is_same(before, after):
                continue
            changes.append(setting.name + ("" if setting.opaque else _describe(before, after)))
            if setting.write is not None:
                with suppress(Exception):
                    setting.write(before)
        return changes


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception as error:
        return f"unreadable ({type(error).__name__})"


def _is_same(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except Exception:
        return before is after


def _describe(before: Any, after: Any) -> str:
    """The names of the differing entries of two mappings, else both values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = sorted(str(n) for n in {*before, *after} if before.get(n, n) != after.get(n, n))
        return f" ({few(names)})"
    return f" from {shown(before)} to {shown(after)}"


def settings() -> Iterator[Setting]:
    """All settings of this process whose libraries are imported."""
    for module, names in ATTRIBUTES.items():
        holder = sys.modules.get(module)
        for name in names.split():
            if hasattr(holder, name):
                read = functools.partial(getattr, holder, name)
                yield Setting(f"{module}.{name}", read, functools.partial(setattr, holder, name))
    yield from _list_python()
    yield Setting("NumPy's error state", np.geterr, lambda values: np.seterr(**values))
    yield from _list_torch()


def _list_python() -> Iterator[Setting]:
    yield Setting("the working directory", os.getcwd, os.chdir)
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Setting("garbage collection", gc.isenabled)
    yield Setting("environment variables", _read_environment, _write_environment)
    yield Setting("the umask", _read_umask, os.umask)
    yield Setting("sys.path", lambda: tuple(sys.path), _write_path, opaque=True)
    yield Setting("sys.argv", lambda: tuple(sys.argv), opaque=True)
    yield Setting("warning filters", _read_filters, _write_filters, opaque=True)
    yield Setting("the logging configuration", _read_logging)
    yield Setting("the locale", lambda: locale.setlocale(locale.LC_ALL))
    if hasattr(os, "sched_getaffinity"):
        yield Setting("the CPU affinity", lambda: os.sched_getaffinity(0))
    if threading.current_thread() is threading.main_thread():
        yield Setting("signal handlers", _read_handlers)
        yield Setting("the alarm timer", lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0)
        yield Setting("the signal mask", lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []))


def _list_torch() -> Iterator[Setting]:
    cuda, mha = backends.cuda, backends.mha
    yield Setting("torch's threads", torch.get_num_threads, torch.set_num_threads)
    yield Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled)
    yield Setting("torch's inference mode", torch.is_inference_mode_enabled)
    yield Setting("torch's anomaly mode", torch.is_anomaly_enabled)
    yield Setting("torch's NaN checks", torch.is_anomaly_check_nan_enabled)
    yield Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Setting("torch's default device", torch.get_default_device)
    read = torch.get_deterministic_debug_mode
    yield Setting("torch's deterministic algorithms", read, torch.set_deterministic_debug_mode)
    for kind in ("flash", "mem_efficient", "math", "cudnn"):
        yield Setting(f"torch's {kind} attention", getattr(cuda, f"{kind}_sdp_enabled"))
    yield Setting(
        "torch's sums of attention in half precision",
        cuda.fp16_bf16_reduction_math_sdp_allowed,
        cuda.allow_fp16_bf16_reduction_math_sdp,
    )
    fast = mha.get_fastpath_enabled, mha.set_fastpath_enabled
    yield Setting("torch's fast path of attention", *fast)
    yield Setting("torch's float32 precision", _read_precision)
    yield Setting("torch's denormal numbers", _read_flush, torch.set_flush_denormal, opaque=True)
    yield Setting("torch's autocast", _read_autocast)
    yield Setting(
        "torch's function and dispatch modes",
        lambda: (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
    )
    yield Setting("hooks on every optimizer or module", _read_hooks, opaque=True)
    yield Setting("hooks on tensors saved for gradients", _read_saved_hooks, opaque=True)
    yield Setting(
        "torch's function transforms",
        lambda: (torch._C._functorch.maybe_current_level(), forward_ad._current_level),
    )
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield Setting("the CUDA device", torch.cuda.current_device, torch.cuda.set_device)
        yield Setting("the CUDA stream", torch.cuda.current_stream, torch.cuda.set_stream)


def _read_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in LIBRARY_VARIABLES}


def _write_environment(before: dict[str, str]) -> None:
    for name in set(_read_environment()) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _write_path(before: tuple[str, ...]) -> None:
    sys.path[:] = before


def _read_umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _read_filters() -> tuple[Any, ...]:
    # Libraries silence themselves on import with a filter for one module: not counted.
    return tuple(entry for entry in warnings.filters if entry[3] is None)


def _write_filters(before: tuple[Any, ...]) -> None:
    own = [entry for entry in warnings.filters if entry[3] is not None]
    warnings.filters[:] = [*own, *before]  # type: ignore[index]
    with warnings.catch_warnings():
        """Entering and leaving invalidates Python's cache of the filters."""


def _read_logging() -> dict[str, Any]:
    root = logging.root
    loggers = list(root.manager.loggerDict.items())
    return {
        "level": root.level,
        "handlers": tuple(root.handlers),
        "filters": tuple(root.filters),
        "disable": root.manager.disable,
        "disabled": tuple(name for name, own in loggers if getattr(own, "disabled", False)),
    }


def _read_handlers() -> dict[str, Any]:
    """Signal handlers by name; torch's as SIG_DFL: DataLoader detects dead workers by one."""
    handlers = {number.name: signal.getsignal(number) for number in signal.Signals}
    return {
        name: signal.SIG_DFL if str(getattr(own, "__module__", "")).startswith("torch.") else own
        for name, own in handlers.items()
    }


def _read_flush() -> bool:
    return bool(torch.full((1,), 1e-40, dtype=torch.float32, device="cpu") * 1.0 == 0)


def _read_precision() -> dict[str, Any]:
    """All precision switches, old and new; reading an old one fails if a new one was set."""
    holders: dict[str, Any] = {"all": backends}
    for name in ("cuda", "cudnn", "mkldnn"):
        module = getattr(backends, name)
        holders[name] = module
        holders |= {f"{name}.{p}": getattr(module, p, None) for p in ("matmul", "conv", "rnn")}
    switches = ["fp32_precision", "allow_tf32", "allow_fp16_accumulation"]
    switches += [f"allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16")]
    values: dict[str, Any] = {}
    for path, holder in holders.items():
        for switch in switches:
            with suppress(Exception):
                values[f"{path}.{switch}"] = getattr(holder, switch)
    with suppress(RuntimeError):
        values["matmul"] = torch.get_float32_matmul_precision()
    return values


def _read_autocast() -> dict[str, Any]:
    values: dict[str, Any] = {"cache": torch.is_autocast_cache_enabled()}
    for kind in ("cpu", "cuda"):
        values[kind] = torch.is_autocast_enabled(kind)
        values[f"{kind} dtype"] = torch.get_autocast_dtype(kind)
    return values


def _read_saved_hooks() -> tuple[Any, ...]:
    """The hooks that change what autograd keeps for gradients, and why there may be none."""
    hooks = torch._C._autograd
    return (
        hooks._top_saved_tensors_default_hooks(True),
        hooks._saved_tensors_hooks_get_disabled_error_message(),
    )


def _read_hooks() -> dict[str, Any]:
    return {
        name: dict(value)
        for module in ("torch.nn.modules.module", "torch.optim.optimizer")
        for name, value in vars(sys.modules[module]).items()
        if name.startswith("_global_") and isinstance(value, dict)
    }
