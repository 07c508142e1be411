"""`Curves`: numbers of a fit per step, such as its loss, thinned; nothing is read in a step.

Values on an accelerator stay there and come to the host together: now and then for a listener, and
at the end. What is kept depends on the number of steps alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.api.record import LARGEST
from fewshot_bench.utils.devices import Event, is_accelerator, record_event
from fewshot_bench.utils.errors import ContractError, whole_number

Listener = Callable[[list[tuple[int, dict[str, float]]]], None]
"""Gets (step, {series: value}) of points that are on the host."""
MOST_POINTS, MOST_SERIES, LONGEST_NAME, DIGITS = 100, 20, 40, 5
# Larger steps have no place in a record.
LARGEST_STEP = 10**15
# Between two calls of a listener.
SECONDS = 1.0


@dataclass(slots=True, eq=False)
class _Point:
    """One value of a series; several tensors are parts of it, as of accumulated gradients."""

    name: str
    step: int
    value: float | Tensor | Sequence[Tensor]
    is_mean: bool = False
    is_sent: bool = False

    def hold(self) -> None:
        """Copy the value where it is, as later steps may overwrite it; on a CPU, read it."""
        if isinstance(self.value, Tensor | float):
            return
        # A sum is a copy, also of one number.
        parts = [part.detach().sum() for part in self.value]
        whole = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
        if self.is_mean and len(parts) > 1:
            whole = whole / len(parts)
        self.value = whole if is_accelerator(whole.device) else float(whole)


class _Series:
    """The points of a series by the stride of the moment, which doubles, and the last one."""

    def __init__(self) -> None:
        self.kept: list[_Point] = []
        self.last: _Point | None = None
        self._stride, self._count = 1, 0

    def add(self, point: _Point) -> bool:
        """Add a point; True if it is one of those that are kept."""
        is_kept = self._count % self._stride == 0
        self._count += 1
        self.last = point
        if is_kept:
            point.hold()
            self.kept.append(point)
            if len(self.kept) == MOST_POINTS:
                del self.kept[1::2]
                self._stride *= 2
        return is_kept

    def points(self) -> list[_Point]:
        """All points, the last one included."""
        if self.last is None or self.last in self.kept[-1:]:
            return self.kept
        return [*self.kept, self.last]


class _Reading:
    """Points on their way to the host."""

    def __init__(self, points: Sequence[_Point]) -> None:
        self.points = points
        self._waiting = [point for point in points if isinstance(point.value, Tensor)]
        self._arrived: Event | None = None
        if self._waiting:
            there = _together(self._waiting)
            self._values = there.to("cpu", non_blocking=True)
            self._arrived = record_event(there.device)

    def arrive(self, *, wait: bool = False) -> bool:
        """True if the values are on the host, as they are at once with `wait`."""
        if self._arrived is None:
            return True
        if wait:
            self._arrived.synchronize()
        elif not self._arrived.query():
            return False
        for point, value in zip(self._waiting, self._values.tolist(), strict=True):
            point.value = value
        return True


class Curves:
    """The series of one fit.

    >>> curves = Curves()
    >>> curves.log(1, {"loss": 2.5})
    >>> curves.finish()
    {'loss': {'steps': [1], 'values': [2.5]}}
    """

    def __init__(self, listener: Listener | None = None) -> None:
        """listener: called at most once per second, outside of steps, and at the end.

        It gets every kept point once: also those that a longer fit thins out later.
        """
        self.steps = 0
        self.dropped = ""
        self._listener = listener
        self._series: dict[str, _Series] = {}
        self._own: set[str] = set()
        self._inside: dict[str, list[Tensor]] | None = None
        self._unsent: list[_Point] = []
        self._reading: _Reading | None = None
        self._next = time.monotonic() + SECONDS
        self._is_over = False

    def log(self, step: int | None, values: Mapping[str, object]) -> None:
        """Add values of a method, which take the place of a step's own series of the same name.

        step: None for that of the training step that runs, or of the last one.
        """
        numbers = {_check_name(name): _number(name, value) for name, value in values.items()}
        if self._inside is not None:
            _log_inside(self._inside, step, numbers)
            return
        if self._is_over:
            return
        at = self.steps if step is None else whole_number("ctx.log: step", step, 0)
        if at > LARGEST_STEP:
            raise ContractError(f"ctx.log: step is {at}, expected at most {LARGEST_STEP}")
        self._claim(numbers)
        for name, value in numbers.items():
            self._require_later(name, at, is_given=step is not None)
            point = _Point(name, at, value if isinstance(value, float) else [value])
            # At once, since a method may change the tensor: a parameter, say.
            point.hold()
            self._add(point)
        self.send()

    def log_step(
        self,
        rate: float | Tensor,
        losses: Sequence[Tensor],
        logged: Mapping[str, Sequence[Tensor]],
    ) -> None:
        """Add the values of a training step, whose tensors the next step may overwrite.

        losses: their sum is the loss of the step. logged: their mean is the value.
        """
        if self._is_over:
            return
        self.steps += 1
        step = self.steps
        self._claim(logged)
        if losses and "loss" not in self._own:
            self._add(_Point("loss", step, losses))
        if "rate" not in self._own:
            self._add(_Point("rate", step, rate))
        for name, parts in logged.items():
            self._require_later(name, step)
            self._add(_Point(name, step, parts, is_mean=True))

    @contextmanager
    def inside(self) -> Iterator[dict[str, list[Tensor]]]:
        """What the method logs inside, in a step that may be captured."""
        before, self._inside = self._inside, {}
        try:
            yield self._inside
        finally:
            self._inside = before

    def hold(self) -> None:
        """Copy the last values, before other work overwrites the memory of a captured step."""
        for series in self._series.values():
            if series.last is not None:
                series.last.hold()

    def send(self) -> None:
        """Give the listener what is on the host, if the last time was a second ago."""
        if self._listener is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        if self._reading is None:
            self._reading, self._unsent = _Reading(self._unsent), []
        if self._reading.arrive():
            self._deliver(self._reading.points)
            self._reading = None

    def finish(self) -> dict[str, dict[str, list[Any]]]:
        """The steps and values of every series; later values are ignored.

        `dropped` says what is left out, since JSON has no numbers that are not finite.
        """
        self.hold()
        self._is_over = True
        points = {name: series.points() for name, series in self._series.items()}
        every = [point for series in points.values() for point in series]
        sent = self._reading.points if self._reading is not None else []
        left = [*sent, *self._unsent, *(point for point in every if not point.is_sent)]
        _Reading(list(dict.fromkeys([*every, *left]))).arrive(wait=True)
        self._deliver(left)
        self._reading, self._unsent, self._series = None, [], {}
        first = {p.name: p.step for p in reversed(every) if not _is_finite(p.value)}
        if first:
            named = ", ".join(f"{name} (first at step {step})" for name, step in first.items())
            self.dropped = f"its curves leave out values that are not finite: {named}"
        finite = {name: [p for p in all_ if _is_finite(p.value)] for name, all_ in points.items()}
        return {
            name: {"steps": [p.step for p in kept], "values": [_round(p.value) for p in kept]}
            for name, kept in finite.items()
            if kept
        }

    def _claim(self, names: Iterable[str]) -> None:
        """Give names to the method: what steps logged by them is dropped."""
        for name in names:
            if name not in self._own:
                self._series.pop(name, None)
                self._own.add(name)

    def _add(self, point: _Point) -> None:
        series = self._series.get(point.name)
        if series is None:
            if len(self._series) >= MOST_SERIES:
                raise ContractError(
                    f"ctx.log: '{point.name}' would be series {MOST_SERIES + 1} of this fit, of at "
                    f"most {MOST_SERIES}: log fewer names (a mean instead of one per class, say)"
                )
            series = self._series[point.name] = _Series()
        if series.add(point) and self._listener is not None:
            self._unsent.append(point)
            point.is_sent = True

    def _require_later(self, name: str, step: int, *, is_given: bool = True) -> None:
        series = self._series.get(name)
        if series is None or series.last is None or step > series.last.step:
            return
        told = "count on, or give a second stage its own name"
        if not is_given:
            told = f"without a step, ctx.train_step counts; give one: ctx.log(epoch, {name}=...)"
        raise ContractError(
            f"ctx.log: {name} at step {step} follows step {series.last.step}, expected a later "
            f"one: {told}"
        )

    def _deliver(self, points: Iterable[_Point]) -> None:
        by_step: dict[int, dict[str, float]] = {}
        for point in points:
            if _is_finite(point.value):
                by_step.setdefault(point.step, {})[point.name] = _round(point.value)
        if by_step and self._listener is not None:
            self._listener(sorted(by_step.items()))


def _check_name(name: str) -> str:
    if name.isidentifier() and len(name) <= LONGEST_NAME:
        return name
    raise ContractError(
        f"ctx.log: '{name:.60}' is not the name of a series: expected letters, digits and "
        f"underscores, at most {LONGEST_NAME}, as in val_accuracy"
    )


def _number(name: str, value: object) -> float | Tensor:
    """A number, or a scalar tensor that is to be copied."""
    if isinstance(value, Tensor):
        if value.numel() == 1 and not value.is_complex():
            return value.detach().reshape(())
        shape = f"a {value.dtype} tensor of shape {tuple(value.shape)}"
        raise ContractError(f"ctx.log: {name} is {shape}, expected one number: log its mean, say")
    if isinstance(value, Real):
        return float(value)
    raise ContractError(
        f"ctx.log: {name} is {value!r:.60}, expected a number or a tensor with one element"
    )


def _log_inside(
    inside: dict[str, list[Tensor]], step: int | None, numbers: Mapping[str, float | Tensor]
) -> None:
    """Keep copies in memory of the step, which a captured one writes anew each time."""
    if step is not None:
        raise ContractError(
            f"ctx.log({step}, ...) inside a training step, which may be repeated without Python: "
            "leave the step out, as in ctx.log(entropy=entropy)"
        )
    for name, value in numbers.items():
        if not isinstance(value, Tensor):
            raise ContractError(
                f"ctx.log: {name} is {value!r} inside a training step, which may be repeated "
                "without Python: expected a tensor with one element"
            )
        inside.setdefault(name, []).append(value.clone())


def _together(points: Sequence[_Point]) -> Tensor:
    return torch.stack([point.value.float() for point in points])  # type: ignore[union-attr]


def _is_finite(value: Any) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST


def _round(value: Any) -> float:
    return float(f"{value:.{DIGITS}g}")
