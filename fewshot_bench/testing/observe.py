"""Side effects of a method: output, global generators, process state, optimizer steps."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fewshot_bench.testing.failure import CheckSkipped
from fewshot_bench.testing.process_state import ProcessState

_TOLERANCE = 1e-5
_SEARCH = 10_000_000


@dataclass
class Observation:
    """Side effects of a method: output, used global generators, state changes, moved parameters."""

    printed: str = ""
    generators: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    moved: list[Tensor] = field(default_factory=list)
    steps: int = 0


@contextlib.contextmanager
def observe(most_steps: int | None = None) -> Iterator[Observation]:
    """Record the side effects of the code inside, and restore the process state.

    most_steps: undo every optimizer step, and end the code inside with CheckSkipped at one more.
    """
    seen, watch = Observation(), _StepWatch(most_steps)
    generators, state = _read_generators(), ProcessState()
    try:
        with _capture(seen), watch.watch():
            yield seen
    finally:
        after = _read_generators()
        seen.generators = [name for name in generators if generators[name] != after.get(name)]
        seen.state = state.restore()
        seen.moved, seen.steps = watch.moved(), watch.steps


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


def _read_generators() -> dict[str, object]:
    """The states of all global random generators in comparable form."""
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


class _StepWatch:
    """Remembers the initial value of every parameter that an optimizer steps on."""

    def __init__(self, most_steps: int | None) -> None:
        self.steps = 0
        self._most = most_steps
        self._first: dict[int, tuple[Tensor, Tensor]] = {}
        self._moved: set[int] = set()

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
