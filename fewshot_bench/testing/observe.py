"""Side effects of a method: output, global generators, process state, optimizer steps."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, backends
from torch.autograd import forward_ad
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fewshot_bench.testing.failure import CheckSkipped
from fewshot_bench.utils.devices import is_in_use, list_generators, usual_kind
from fewshot_bench.utils.progress import QUIET
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
    if is_in_use():
        now = torch.accelerator
        yield Setting("the current device", now.current_device_index, now.set_device_index)
        yield Setting("the current stream", now.current_stream, now.set_stream)


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
    for kind in ("cpu", usual_kind()):
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


_TOLERANCE = 1e-5
_SEARCH = 10_000_000


@dataclass
class Observation:
    """Side effects of a method: output, used global generators, state changes, moved parameters.

    so_far: gives the parameters that were moved until now. idle: parameters in an optimizer that
    had no gradient at any step.
    """

    printed: str = ""
    generators: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    moved: list[Tensor] = field(default_factory=list)
    idle: list[Tensor] = field(default_factory=list)
    so_far: Callable[[], list[Tensor]] = list
    steps: int = 0


@contextlib.contextmanager
def observe(most_steps: int | None = None) -> Iterator[Observation]:
    """Record the side effects of the code inside, and restore the process state.

    most_steps: undo every optimizer step, and end the code inside with CheckSkipped at one more.
    """
    watch = _StepWatch(most_steps)
    seen = Observation(so_far=watch.moved)
    generators, state = _read_generators(), ProcessState()
    try:
        with _capture(seen), watch.watch():
            yield seen
    finally:
        after = _read_generators()
        seen.generators = [name for name in generators if generators[name] != after.get(name)]
        seen.state = state.restore()
        seen.moved, seen.steps, seen.idle = watch.moved(), watch.steps, watch.idle()


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Use one torch thread inside: for toy tensors, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _capture(seen: Observation) -> Iterator[None]:
    """Capture stdout and stderr of Python and native code; warnings are ignored."""
    text = io.StringIO()
    sys.stdout.flush()
    sys.stderr.flush()
    with QUIET, tempfile.TemporaryFile() as file:
        saved = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in saved:
                os.dup2(file.fileno(), number)
            with (
                contextlib.redirect_stdout(text),
                contextlib.redirect_stderr(text),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            seen.printed = text.getvalue() + file.read().decode(errors="replace")


def _read_generators() -> dict[str, object]:
    """The states of all global random generators in comparable form."""
    kind, keys, *rest = np.random.get_state()
    states: dict[str, object] = {
        "random": random.getstate(),
        "numpy.random": (kind, bytes(memoryview(keys)), tuple(rest)),  # type: ignore[arg-type]
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    device, indices = list_generators()
    for index in indices:
        state = torch.get_device_module(device).get_rng_state(index)
        states[f"torch.{device} {index}"] = state.numpy().tobytes()
    return states


class _StepWatch:
    """Remembers the initial value of every parameter that an optimizer steps on."""

    def __init__(self, most_steps: int | None) -> None:
        self.steps = 0
        self._most = most_steps
        self._first: dict[int, tuple[Tensor, Tensor]] = {}
        self._moved: set[int] = set()
        self._had_gradient: set[int] = set()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Watch every step of every torch optimizer inside."""
        handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def moved(self) -> list[Tensor]:
        """The distinct parameters that any step changed."""
        return [self._first[key][0] for key in self._first if key in self._moved]

    def idle(self) -> list[Tensor]:
        """The distinct parameters that need a gradient and had none at any step."""
        return [first for key, (first, _) in self._first.items() if key not in self._had_gradient]

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for parameter in _parameters(optimizer):
            if parameter.grad is not None or not parameter.requires_grad:
                self._had_gradient.add(id(parameter))
            if id(parameter) not in self._first:
                self._first[id(parameter)] = (parameter, parameter.detach().clone())

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        for parameter in _parameters(optimizer):
            if id(parameter) in self._first and id(parameter) not in self._moved:
                first = self._first[id(parameter)][1]
                if first.shape != parameter.shape or not torch.equal(first, parameter.detach()):
                    self._moved.add(id(parameter))
        if self._most is not None:
            self._undo(_parameters(optimizer))

    @torch.no_grad()
    def _undo(self, parameters: Iterator[Tensor]) -> None:
        if self.steps > (self._most or 0):
            raise CheckSkipped(f"the fit does not end after its {self._most} optimizer steps")
        for parameter in parameters:
            if id(parameter) in self._first:
                parameter.copy_(self._first[id(parameter)][1])


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def not_stored(moved: list[Tensor], stored: list[Tensor]) -> list[Tensor]:
    """The moved parameters that no stored tensor accounts for.

    A tensor accounts for a parameter if it shares its memory, contains its values (also stacked,
    concatenated or transposed), or, for averaged and earlier checkpoints, has equally many
    elements; by size alone, a tensor accounts for only one parameter.
    """
    pairs = [[_holds(tensor, parameter) for tensor in stored] for parameter in moved]
    used = [any(held) for held in zip(*pairs, strict=True)]
    free = [tensor.numel() for tensor, is_used in zip(stored, used, strict=True) if not is_used]
    missing = []
    for parameter, held in zip(moved, pairs, strict=True):
        if parameter.numel() in free and not any(held):
            free.remove(parameter.numel())
        elif not any(held):
            missing.append(parameter)
    return missing


def _holds(tensor: Tensor, parameter: Tensor) -> bool:
    if tensor.device != parameter.device or not tensor.is_floating_point():
        return False
    if tensor.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr():
        return True
    flat, wanted = tensor.detach().flatten().float(), parameter.detach().flatten().float()
    if flat.numel() < wanted.numel():
        return False
    if flat.numel() == wanted.numel():
        sorted_values = flat.sort().values, wanted.sort().values
        return torch.allclose(*sorted_values, rtol=1e-4, atol=_TOLERANCE)
    step = 1 if flat.numel() * wanted.numel() <= _SEARCH else wanted.numel()
    gaps = (flat.unfold(0, wanted.numel(), step) - wanted).abs().amax(dim=1)
    return bool(gaps.min() <= _TOLERANCE)
