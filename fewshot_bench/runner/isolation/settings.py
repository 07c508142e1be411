"""Settings of the process and of Python: how each is read and put back."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.utils.text import few, shown

# Libraries set these on import, for good reasons and for themselves.
LIBRARY_VARIABLES = frozenset(
    {
        *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"),
        *("TRITON_CACHE_DIR", "TRITON_PTXAS_PATH", "PYTORCH_NVML_BASED_CUDA_CHECK"),
    }
)


def described(before: Any, after: Any) -> str:
    """A change as text: the names of entries that differ, else the two values."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = sorted(str(n) for n in {*before, *after} if before.get(n, n) != after.get(n, n))
        return f" ({few(names)})"
    return f" from {shown(before)} to {shown(after)}"


@dataclass(frozen=True)
class Setting:
    """One piece of state. `write` puts a value of `read` back; None where that cannot be done.

    verb: what a plug-in did to it, as it is told; values: tells a change.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object] | None = None
    verb: str = "changed"
    values: Callable[[Any, Any], str] = described


def unvalued(before: Any, after: Any) -> str:
    """For values that nobody wants to read."""
    return ""


def attribute(holder: Any, name: str, label: str) -> Setting:
    """An attribute as a setting."""
    return Setting(label, lambda: getattr(holder, name), lambda value: setattr(holder, name, value))


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in LIBRARY_VARIABLES}


def _set_environment(before: dict[str, str]) -> None:
    for name in set(_environment()) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _handlers() -> dict[str, Any]:
    found = {}
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if str(getattr(handler, "__module__", "")).startswith("torch."):
            # How a DataLoader notices that a worker of its own has died.
            handler = signal.SIG_DFL
        found[signal.Signals(number).name if number in _NAMED else str(number)] = handler
    return found


_NAMED = {int(number) for number in signal.Signals}


def _set_handlers(before: dict[str, Any]) -> None:
    for name, handler in _handlers().items():
        if handler != before[name]:
            number = int(name) if name.isdigit() else signal.Signals[name]
            signal.signal(number, before[name])


def _set_timer(running: bool) -> None:
    if not running:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _umask() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("\nUmask:")[2].split(None, 1)[0], 8)
    except (OSError, ValueError, IndexError):
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def _filters() -> tuple[Any, ...]:
    # A filter for one module is how a library silences itself, on import.
    return tuple(entry for entry in warnings.filters if entry[3] is None)


def _set_filters(before: tuple[Any, ...]) -> None:
    own = [entry for entry in warnings.filters if entry[3] is not None]
    warnings.filters[:] = [*own, *before]  # type: ignore[index]
    with warnings.catch_warnings():
        """Entering and leaving makes Python forget what it knew of the filters."""


def _logging() -> dict[str, Any]:
    root = logging.root
    found = {
        "level": root.level,
        "handlers": tuple(root.handlers),
        "filters": tuple(root.filters),
        "disable": root.manager.disable,
        "class": logging.getLoggerClass(),
        "factory": logging.getLogRecordFactory(),
    }
    off = [n for n, one in list(root.manager.loggerDict.items()) if getattr(one, "disabled", False)]
    return found | {"disabled": tuple(off)}


def _set_logging(before: dict[str, Any]) -> None:
    root = logging.root
    root.setLevel(before["level"])
    root.handlers[:] = before["handlers"]
    root.filters[:] = before["filters"]
    logging.disable(before["disable"])
    logging.setLoggerClass(before["class"])
    logging.setLogRecordFactory(before["factory"])
    for name, one in list(root.manager.loggerDict.items()):
        if isinstance(one, logging.Logger):
            one.disabled = name in before["disabled"]


_DECIMAL = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")


def _decimal() -> dict[str, Any]:
    context = decimal.getcontext()
    traps = tuple(signal for signal, on in context.traps.items() if on)
    return {name: getattr(context, name) for name in _DECIMAL} | {"traps": traps}


def _set_decimal(before: dict[str, Any]) -> None:
    values = {name: before[name] for name in _DECIMAL}
    decimal.setcontext(decimal.Context(**values, traps=list(before["traps"])))


def _list(holder: Any, name: str, label: str) -> Setting:
    def write(value: tuple[Any, ...]) -> None:
        getattr(holder, name)[:] = value

    return Setting(label, lambda: tuple(getattr(holder, name)), write, values=unvalued)


def of_python() -> Iterator[Setting]:
    """Those that every process has."""
    yield Setting("the working directory", os.getcwd, os.chdir)
    yield Setting("environment variables", _environment, _set_environment)
    yield Setting("the umask", _umask, os.umask)
    yield _list(sys, "path", "sys.path")
    yield _list(sys, "argv", "sys.argv")
    for name in ("stdout", "stderr", "stdin"):
        yield attribute(sys, name, f"sys.{name}")
    for name in ("excepthook", "displayhook", "unraisablehook"):
        yield attribute(sys, name, f"sys.{name}")
    yield Setting("warning filters", _filters, _set_filters, values=unvalued)
    yield Setting("the logging configuration", _logging, _set_logging)
    yield Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Setting("the switch interval", sys.getswitchinterval, sys.setswitchinterval)
    yield Setting("the trace function", sys.gettrace, sys.settrace)
    yield Setting("the profile function", sys.getprofile, sys.setprofile)
    yield Setting(
        "garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable()
    )
    yield Setting("its thresholds", gc.get_threshold, lambda found: gc.set_threshold(*found))
    yield Setting(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda name: locale.setlocale(locale.LC_ALL, name),
    )
    yield Setting("the decimal context", _decimal, _set_decimal)
    yield Setting("the default timeout", socket.getdefaulttimeout, socket.setdefaulttimeout)
    yield Setting(
        "Python's global generator (random)",
        random.getstate,
        random.setstate,
        verb="used or reseeded",
        values=unvalued,
    )
    if hasattr(os, "sched_getaffinity"):
        yield Setting(
            "the CPU affinity",
            lambda: os.sched_getaffinity(0),
            lambda cores: os.sched_setaffinity(0, cores),
        )
    if threading.current_thread() is threading.main_thread():
        yield Setting("signal handlers", _handlers, _set_handlers)
        if hasattr(signal, "getitimer"):
            yield Setting(
                "the alarm timer",
                lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
                _set_timer,
            )
            yield Setting(
                "the signal mask",
                lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
                lambda mask: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
            )
