"""Observation of a fit from outside: the parameters that optimizers move, and their steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from fewshot_bench.profiling.finite import FiniteNumbers


class ParameterObserver:
    """Counts distinct parameters that an optimizer stepped on with a gradient, and the steps.

    With `numbers` it also ends a fit whose loss or gradients are no numbers any more.
    """

    def __init__(self, numbers: FiniteNumbers | None = None) -> None:
        self._seen: dict[int, Tensor] = {}
        self._numbers = numbers
        self.steps = 0
        self.declared: int | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every step of every torch optimizer inside; NumericalError as `FiniteNumbers`."""
        handle = register_optimizer_step_post_hook(self._after_step)
        try:
            with self._numbers.watching() if self._numbers else nullcontext():
                yield
        finally:
            handle.remove()

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and id(parameter) not in self._seen:
                    self._seen[id(parameter)] = parameter
        if self._numbers is not None:
            self._numbers.after_step(optimizer)

    @property
    def parameters(self) -> list[Tensor]:
        """The distinct parameters that moved."""
        return list(self._seen.values())

    @property
    def trained(self) -> int:
        """Number of trained values: observed, or what a solver without optimizer declared."""
        observed = sum(parameter.numel() for parameter in self._seen.values())
        return observed if observed or self.declared is None else self.declared

    @property
    def source(self) -> str:
        """`observed` at the optimizer, or `declared` by the method."""
        return "declared" if not self._seen and self.declared is not None else "observed"
