"""Back ends that repeat a training step: as a graph of the device, compiled, or in software.

`back_end` makes the one for a kind of step. A step is a function without arguments whose tensors
stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from fewshot_bench.training.compiled_tape import compile_tape
from fewshot_bench.training.tape import NotCapturableError, Tape
from fewshot_bench.utils.devices import graph_class
from fewshot_bench.utils.step_kind import COMPILER, Kind

Work = Callable[[], None]


class BackEnd(Protocol):
    """Runs a step again after it was recorded on a tape.

    keep: True if the tape must keep the operators. tolerance: the largest gap between a step and
    its repetition, relative to the largest gradient. exact: True to compare what the step changes,
    too.
    """

    keep: bool
    tolerance: float
    exact: bool

    def apart(self) -> AbstractContextManager[Any]:
        """The context in which a step runs that is not captured."""
        ...

    def capture(self, tape: Tape, step: Work, outputs: Callable[[], list[Tensor]]) -> Work:
        """A function that repeats the step on a tape; what it changes is as before.

        outputs: the tensors that the harness reads after the last call of `step`.
        """
        ...


class SoftBackEnd:
    """A graph in software on any device: as strict as a device's, and slower than no graph."""

    keep, tolerance, exact = True, 1e-5, True

    def apart(self) -> AbstractContextManager[Any]:
        """No context."""
        return nullcontext()

    def capture(self, tape: Tape, step: Work, outputs: Callable[[], list[Tensor]]) -> Work:
        """The operators one after another."""
        return tape.replay


class GraphBackEnd:
    """A graph of the device (`torch.cuda.CUDAGraph`, also on ROCm): one launch for a whole step."""

    keep, tolerance, exact = False, 1e-3, False

    def __init__(self, device: torch.device) -> None:
        """NotCapturableError for a device without graphs."""
        self._module: Any = torch.get_device_module(device)
        self._new: Any = graph_class(device)
        if self._new is None:
            raise NotCapturableError(f"torch has no graphs of {device.type} devices")
        self._stream = self._module.Stream(device)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """The stream of the capture: gradients of a parameter must not be tied to another one."""
        self._stream.wait_stream(self._module.current_stream())
        with self._module.stream(self._stream):
            yield
        self._module.current_stream().wait_stream(self._stream)

    def capture(self, tape: Tape, step: Work, outputs: Callable[[], list[Tensor]]) -> Work:
        """The step, called once more to be captured; nothing is computed meanwhile."""
        graph = self._new()
        for generator in tape.generators:
            graph.register_generator_state(generator)
        # Threads that load images may allocate memory meanwhile.
        with self._module.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            step()
        replay: Work = graph.replay
        return replay


class CompileBackEnd:
    """The operators compiled by torch (inductor by default), in a graph of the device if it has."""

    keep, tolerance, exact = True, 1e-3, False

    def __init__(self, device: torch.device) -> None:
        self._compiler = os.environ.get(COMPILER, "inductor")

    def apart(self) -> AbstractContextManager[Any]:
        """No context."""
        return nullcontext()

    def capture(self, tape: Tape, step: Work, outputs: Callable[[], list[Tensor]]) -> Work:
        """Random numbers are drawn first, then all else runs as one compiled function."""
        run = compile_tape(tape, outputs(), self._compiler)
        restore = tape.save()
        try:
            run()
        finally:
            restore()
        return run


def resolve_kind(kind: Kind, device: torch.device) -> Kind:
    """The kind that `auto` means on a device: a graph where it has graphs, else eager."""
    if kind != "auto":
        return kind
    return "eager" if graph_class(device) is None else "graph"


def back_end(kind: Kind, device: torch.device) -> BackEnd | None:
    """The back end of a kind of step on a device; None for eager steps.

    NotCapturableError if there is none.
    """
    if kind == "soft":
        return SoftBackEnd()
    if kind == "graph":
        return GraphBackEnd(device)
    return CompileBackEnd(device) if kind == "compile" else None
