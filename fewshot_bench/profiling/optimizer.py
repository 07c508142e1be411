"""Observation of optimizers: trained parameters, and values that are not finite.

`ParameterObserver` counts trained parameters of a fit, `LogitsObserver` those of `logits`;
`FiniteNumbers` raises NumericalError for a loss or
gradient that is not finite.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from fewshot_bench.api.method import RunContext
from fewshot_bench.api.record import NOT_OBSERVED
from fewshot_bench.profiling.cost import hold_on
from fewshot_bench.utils.devices import Event, is_accelerator, record_event
from fewshot_bench.utils.errors import NumericalError

MOST_OVERFLOWS = 25
"""Maximum consecutive overflows; a scaler that started at 2^16 is at 2^-9 by then."""
MOST_WAITING = 64
"""Losses buffered on the device until the next optimizer step, and copied to the host with it."""
Kind = Literal["loss", "scaled loss", "gradient", "overflows"]
Rates = tuple[Any, ...]
# Process-wide, as optimizers and torch's functions are.
_UNJUDGED: list[object] = []
_WATCHING: list[FiniteNumbers] = []


def unjudged() -> AbstractContextManager[None]:
    """Judge no losses inside, where a step is captured: `judge_losses` gets those of each run."""
    return hold_on(_UNJUDGED, object())


def judge_losses(losses: Iterable[Tensor]) -> None:
    """Judge the losses of a step that ran without Python."""
    for watching in _WATCHING:
        watching.judge_losses(losses)


@dataclass(frozen=True)
class _Reading:
    """Values of one step, being copied to the host."""

    kinds: tuple[Kind, ...]
    values: Tensor
    arrived: Event
    step: int
    rates: Rates


class FiniteNumbers:
    """Watches one fit of `method` for values that are not finite; errors call it `owner`."""

    def __init__(self, owner: str, method: object, ctx: RunContext) -> None:
        self._owner, self._precision = owner, ctx.precision
        self._scaled = ctx.scaler().is_enabled()
        if is_accelerator(ctx.device):
            # The first event of a device waits for it: here, and not in a step.
            record_event(ctx.device)
        self._lr: Any = getattr(method, "lr", None)
        self._optimizer: Any = None
        self._steps = 0
        self._waiting: list[tuple[Kind, Tensor]] = []
        self._sent: deque[_Reading] = deque()
        self._skipped = 0
        self._overflows: Tensor | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """NumericalError if a loss or gradient inside is not finite, at the latest at the end."""
        with ExitStack() as stack:
            wrap(stack, torch.autograd, "backward", self._check)
            wrap(stack, torch.amp.GradScaler, "step", self._count)
            wrap(stack, torch.optim.Optimizer, "__init__", self._meet)
            stack.enter_context(hold_on(_WATCHING, self))
            try:
                yield
                self._send()
                self._receive(wait=True)
            finally:
                self._optimizer = None
                self._waiting.clear()
                self._sent.clear()

    def after_step(self, optimizer: Any) -> None:
        """Check the gradients of an optimizer step."""
        self._optimizer = optimizer
        self._steps += 1
        overflow = getattr(optimizer, "found_inf", None)
        if isinstance(overflow, Tensor):
            # A fused optimizer skips steps with overflowed gradients by itself.
            before = torch.zeros_like(overflow) if self._overflows is None else self._overflows
            self._overflows = (before + 1) * (overflow > 0)
            self._look("overflows", self._overflows)
        else:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            dense = [g for g in gradients if g is not None and g.layout is torch.strided]
            if dense:
                self._look("gradient", torch.nn.utils.get_total_norm(dense, math.inf))
        self._send()
        self._receive()

    def _meet(self, create: Callable[..., None]) -> Callable[..., None]:
        """Wrap `Optimizer.__init__`: errors in the first step name this optimizer's rate."""

        @functools.wraps(create)
        def create_seen(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            create(optimizer, *args, **kwargs)
            self._optimizer = optimizer

        return create_seen

    def _check(self, backward: Callable[..., None]) -> Callable[..., None]:
        """Wrap `torch.autograd.backward`, which `Tensor.backward` calls too, to check losses."""

        @functools.wraps(backward)
        def check_roots(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> None:
            if grad_tensors is None and not _UNJUDGED:
                roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
                self.judge_losses([root.detach() for root in roots if _is_loss(root)])
            backward(tensors, grad_tensors, *args, **kwargs)

        return check_roots

    def judge_losses(self, losses: Iterable[Tensor]) -> None:
        """Judge the losses of a step."""
        for loss in losses:
            self._look("scaled loss" if self._scaled else "loss", loss)

    def _count(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `GradScaler.step`, which may skip steps of non-fused optimizers, to count skips."""

        @functools.wraps(step)
        def step_seen(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if _UNJUDGED:
                return step(scaler, optimizer, *args, **kwargs)
            before = self._steps
            result = step(scaler, optimizer, *args, **kwargs)
            self._skipped = self._skipped + 1 if self._steps == before else 0
            self._judge("overflows", self._skipped, self._steps + 1, self._rates())
            return result

        return step_seen

    def _look(self, kind: Kind, value: Tensor) -> None:
        """Judge a value at once or, on an accelerator, queue it to be sent with the next ones."""
        if not is_accelerator(value.device):
            self._judge(kind, float(value), self._steps + ("loss" in kind), self._rates())
            return
        self._waiting.append((kind, value.float().view(())))
        if len(self._waiting) >= MOST_WAITING:
            self._send()

    def _send(self) -> None:
        if not self._waiting:
            return
        kinds, values = zip(*self._waiting, strict=True)
        self._waiting.clear()
        stacked = torch.stack(values)
        copied = stacked.to("cpu", non_blocking=True)
        arrived = record_event(stacked.device)
        step = self._steps + ("loss" in kinds[-1])
        self._sent.append(_Reading(kinds, copied, arrived, step, self._rates()))

    def _receive(self, *, wait: bool = False) -> None:
        """Judge the readings that have arrived on the host; with `wait`, all of them."""
        while self._sent:
            first = self._sent[0]
            if wait:
                first.arrived.synchronize()
            elif not first.arrived.query():
                return
            self._sent.popleft()
            for kind, value in zip(first.kinds, first.values.tolist(), strict=True):
                self._judge(kind, value, first.step, first.rates)

    def _rates(self) -> Rates:
        groups = self._optimizer.param_groups if self._optimizer is not None else []
        return tuple(group.get("lr") for group in groups)

    def _judge(self, kind: Kind, value: float, step: int, rates: Rates) -> None:
        """NumericalError if `value` is not acceptable for its kind."""
        if kind == "overflows":
            wrong = value >= MOST_OVERFLOWS
        else:
            wrong = math.isnan(value) or (math.isinf(value) and kind != "scaled loss")
        if not wrong:
            return
        what = {
            "loss": f"the loss is {value}",
            "scaled loss": f"the loss is {value}",
            "gradient": f"a gradient is {value}",
            "overflows": f"gradients have overflowed {value:.0f} times in a row",
        }
        shown = sorted({f"{float(rate):.3g}" for rate in rates if rate is not None})
        rate = f"learning rate {' and '.join(shown)}, " if shown else ""
        raise NumericalError(
            f"{self._owner}: {what[kind]} at optimizer step {step} of fit ({rate}precision "
            f"{self._precision}); try {self._advice()}"
        )

    def _advice(self) -> str:
        is_number = isinstance(self._lr, int | float)
        option = f" (-o {self._owner}.lr={self._lr / 10:g})" if is_number else ""
        better = {"fp16": "--precision bf16 or fp32", "bf16": "--precision fp32"}
        other = better.get(self._precision)
        return f"a lower learning rate{option}" + (f", or {other}" if other else "")


def _is_loss(root: Any) -> bool:
    return isinstance(root, Tensor) and root.numel() == 1 and root.is_floating_point()


def wrap(stack: ExitStack, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace a function by `wrapper(function)` until `stack` exits."""
    original = getattr(owner, name)
    stack.callback(setattr, owner, name, original)
    setattr(owner, name, wrapper(original))


class ParameterObserver:
    """Counts distinct parameters that an optimizer stepped on with a gradient, and the steps.

    With `numbers`, also ends a fit whose loss or gradients are no longer finite.
    """

    def __init__(self, numbers: FiniteNumbers | None = None) -> None:
        self._seen: dict[int, Tensor] = {}
        self._numbers = numbers
        self._backward = 0
        self.steps = 0
        self.declared: int | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Watch every step of every torch optimizer inside; NumericalError as `FiniteNumbers`."""
        handle = register_optimizer_step_post_hook(self._after_step)
        try:
            with self._numbers.watch() if self._numbers else nullcontext(), ExitStack() as stack:
                # `torch.autograd.grad` and `backward` both call it, however a method imports them.
                wrap(stack, torch.autograd, "_engine_run_backward", self._ran_backward)
                yield
        finally:
            handle.remove()

    def _ran_backward(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the autograd engine to count its backward passes."""

        @functools.wraps(run)
        def ran(*args: Any, **kwargs: Any) -> Any:
            self._backward += 1
            return run(*args, **kwargs)

        return ran

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        stepped = [
            parameter
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        self._saw(stepped)
        if self._numbers is not None:
            self._numbers.after_step(optimizer)

    def _saw(self, stepped: Sequence[Tensor]) -> None:
        """Note the parameters of a step; they are held, so that no other one gets their id."""
        self._seen |= {id(parameter): parameter for parameter in stepped}

    @property
    def parameters(self) -> list[Tensor]:
        """The distinct parameters that were stepped on with a gradient."""
        return list(self._seen.values())

    @property
    def is_blind(self) -> bool:
        """True if gradients were computed, but no optimizer was seen that used them."""
        return self._backward > 0 and not self.steps and self.declared is None

    @property
    def trained(self) -> int | None:
        """Number of trained values: observed, or declared by a solver without an optimizer.

        None if gradients were computed without an optimizer: what they changed is unknown.
        """
        if self.is_blind:
            return None
        observed = sum(parameter.numel() for parameter in self._seen.values())
        return observed if observed or self.declared is None else self.declared

    @property
    def source(self) -> str:
        """`observed` at the optimizer, `declared` by the method, or neither: `not observed`."""
        if self.is_blind:
            return NOT_OBSERVED
        return "declared" if not self._seen and self.declared is not None else "observed"


class LogitsObserver(ParameterObserver):
    """Observes `logits`, where each query may train parameters of its own: they count once.

    known: references to the parameters that `fit` trained; trained again, they do not count again.
    """

    def __init__(self, parameters: Iterable[weakref.ref[Tensor]]) -> None:
        super().__init__()
        self._known = tuple(parameters)
        self._most = 0

    def _saw(self, stepped: Sequence[Tensor]) -> None:
        # Not held: a method may make a parameter for every query.
        ids = {id(parameter()) for parameter in self._known}
        new = sum(parameter.numel() for parameter in stepped if id(parameter) not in ids)
        self._most = max(self._most, new)

    @property
    def trained(self) -> int | None:
        """The most values of one step that `fit` had not trained; None as in `fit`."""
        return None if self.is_blind else self._most
