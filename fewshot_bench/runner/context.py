"""The context of a fit: named randomness, precision, notes and progress."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from fewshot_bench.utils import rng as streams
from fewshot_bench.utils.errors import ContractError, whole_number

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Declarations(NamedTuple):
    """Notes and selection that a method declared during `fit`."""

    notes: dict[str, Any]
    selection: dict[str, int]


class Context:
    """Named randomness, precision, notes and progress of one cell (see `RunContext`)."""

    def __init__(
        self,
        seed: int,
        device: torch.device,
        precision: str = "fp32",
        on_progress: Callable[[int, int], None] | None = None,
        parts: int = 1,
    ) -> None:
        self.device = device
        self.precision = precision
        self.notes: dict[str, Any] = {}
        self.selection = {"configurations": 0, "labels": 0}
        self.declared: int | None = None
        self._seed = seed
        self._on_progress = on_progress
        self._parts = parts
        self.divisible = False

    def declarations(self) -> Declarations:
        """A copy of the notes and the selection so far."""
        return Declarations(copy.deepcopy(self.notes), dict(self.selection))

    def restore(self, declarations: Declarations) -> None:
        """Reset notes and selection to earlier declarations."""
        self.notes = copy.deepcopy(declarations.notes)
        self.selection = dict(declarations.selection)

    @property
    def memory_parts(self) -> int:
        """Number of parts to divide the work into; reading it sets `divisible`."""
        self.divisible = True
        return self._parts

    @property
    def parts_used(self) -> int:
        """Number of parts that the work was divided into; 1 if `memory_parts` was never read."""
        return self._parts if self.divisible else 1

    def rng(self, name: str) -> torch.Generator:
        """A fresh CPU generator for the named stream of this cell."""
        if not isinstance(name, str) or not name:
            raise ContractError(f"ctx.rng({name!r}): expected the name of a stream, such as 'init'")
        return streams.generator(self._seed, name)

    def autocast(self) -> Any:
        """Context for encoder work at the run's precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self.precision])

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler; does nothing unless the precision is fp16 on CUDA."""
        enabled = self.precision == "fp16" and self.device.type == "cuda"
        return torch.amp.GradScaler(self.device.type, enabled=enabled)

    def progress(self, done: int, total: int) -> None:
        """Report the progress of `fit`."""
        if self._on_progress is not None:
            self._on_progress(
                whole_number("ctx.progress: done", done, 0),
                whole_number("ctx.progress: total", total, 0),
            )

    def note(self, **values: object) -> None:
        """Add JSON-able facts to the record."""
        for name, value in values.items():
            self.notes[name] = _plain(name, value)

    def count_selection(self, configurations: int, labels: int) -> None:
        """Declare that `configurations` were compared on `labels` validation labels."""
        where = "ctx.count_selection:"
        compared = whole_number(f"{where} configurations", configurations, 0)
        used = whole_number(f"{where} labels", labels, 0)
        self.selection["configurations"] += compared
        self.selection["labels"] = max(self.selection["labels"], used)

    def declare_trained(self, parameters: int) -> None:
        """Declare trained parameters of a solver that has no torch optimizer."""
        trained = whole_number("ctx.declare_trained: parameters", parameters, 0)
        self.declared = (self.declared or 0) + trained


def _plain(name: str, value: object) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str | int | float | bool | type(None)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(name, part) for part in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, part) for key, part in value.items()}
    if hasattr(value, "item"):
        return _plain(name, value.item())
    raise ContractError(
        f"note({name}=...) is a {type(value).__name__}, expected numbers, strings, lists or dicts"
    )
