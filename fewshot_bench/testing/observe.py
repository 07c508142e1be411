"""Side effects of a method: output, global generators, process state, optimizer steps."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

_TOLERANCE = 1e-5
_SEARCH = 10_000_000


@dataclass
class Observation:
    """Observations of a method at work."""

    printed: str = ""
    generators: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    moved: list[Tensor] = field(default_factory=list)
    steps: int = 0


@contextlib.contextmanager
def observed() -> Iterator[Observation]:
    """Record what happens inside, and put the process state back as it was."""
    seen, watch = Observation(), _StepWatch()
    generators, state = _generators(), _state()
    try:
        with _captured(seen), watch.watching():
            yield seen
    finally:
        after = _generators()
        seen.generators = [name for name in generators if generators[name] != after.get(name)]
        now = _state()
        seen.state = [f"{name}: {state[name]} became {now[name]}" for name in _changed(state, now)]
        _restore(state, now)
        seen.moved, seen.steps = watch.moved(), watch.steps


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread inside: toy tensors are too small for more, which wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _captured(seen: Observation) -> Iterator[None]:
    """Collect what is written to stdout and stderr, by Python and below it; warnings are let be."""
    text = io.StringIO()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
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


def _generators() -> dict[str, object]:
    """The states of all global generators in a form that compares."""
    import numpy as np

    kind, keys, *rest = np.random.get_state()
    states: dict[str, object] = {
        "random": random.getstate(),
        "numpy.random": (kind, bytes(memoryview(keys)), tuple(rest)),  # type: ignore[arg-type]
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"torch.cuda {index}"] = state.numpy().tobytes()
    return states


_SETTERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "working directory": (os.getcwd, os.chdir),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "float32 matmul precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
}


def _state() -> dict[str, Any]:
    found: dict[str, Any] = {name: get() for name, (get, _) in _SETTERS.items()}
    return found | {f"environment variable {name}": value for name, value in os.environ.items()}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    names = sorted({*before, *after})
    changed = [name for name in names if before.get(name) != after.get(name)]
    for name in changed:
        before.setdefault(name, None)
        after.setdefault(name, None)
    return changed


def _restore(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name in _changed(before, after):
        value = before[name]
        if name in _SETTERS:
            _SETTERS[name][1](value)
        elif value is None:
            os.environ.pop(name.removeprefix("environment variable "), None)
        else:
            os.environ[name.removeprefix("environment variable ")] = value


class _StepWatch:
    """Remembers the first value of every parameter that an optimizer steps on."""

    def __init__(self) -> None:
        self.steps = 0
        self._first: dict[int, tuple[Tensor, Tensor]] = {}
        self._moved: set[int] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """See every step of every torch optimizer inside."""
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
        """The distinct parameters that some step changed."""
        return [self._first[key][0] for key in self._first if key in self._moved]

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for parameter in _parameters(optimizer):
            if id(parameter) not in self._first:
                self._first[id(parameter)] = (parameter, parameter.detach().clone())

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        for parameter in _parameters(optimizer):
            if id(parameter) in self._first and id(parameter) not in self._moved:
                first = self._first[id(parameter)][1]
                if first.shape != parameter.shape or not torch.equal(first, parameter.detach()):
                    self._moved.add(id(parameter))


def _parameters(optimizer: Any) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def not_stored(moved: list[Tensor], stored: list[Tensor]) -> list[Tensor]:
    """The moved parameters that no stored tensor accounts for.

    A tensor accounts for a parameter by sharing its memory, by holding its values (stacked,
    concatenated or transposed too), or, for averaged and earlier checkpoints, by being as large;
    the last way uses up the tensor.
    """
    left, used = [], set()
    for parameter in moved:
        holders = [i for i, tensor in enumerate(stored) if _holds(tensor, parameter)]
        used.update(holders)
        if not holders:
            left.append(parameter)
    free = [tensor.numel() for i, tensor in enumerate(stored) if i not in used]
    missing = []
    for parameter in left:
        if parameter.numel() in free:
            free.remove(parameter.numel())
        else:
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
        return _equal(flat.sort().values, wanted.sort().values)
    step = 1 if flat.numel() * wanted.numel() <= _SEARCH else wanted.numel()
    gaps = (flat.unfold(0, wanted.numel(), step) - wanted).abs().amax(dim=1)
    return bool(gaps.min() <= _TOLERANCE)


def _equal(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-4, atol=_TOLERANCE)
