"""`TrainStep`: forward pass, backward pass and optimizer step on a batch, as one object.

Methods get one from `RunContext.train_step` or `RunContext.train_step_by`. A step may be captured
and then repeated without Python: the harness, which watches optimizers and encoders, is told of
each repetition. Where that fails, the fit ends with a `CaptureError`, and another process repeats
it with eager steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from fewshot_bench.profiling.cost import Cost, count_cost, counting, not_counted
from fewshot_bench.profiling.curves import Curves
from fewshot_bench.profiling.optimizer import judge_losses, unjudged
from fewshot_bench.training.back_ends import BackEnd, Work, back_end
from fewshot_bench.training.step_state import read_numbers
from fewshot_bench.training.steps import start_momentum
from fewshot_bench.training.tape import NotCapturableError, Tape
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.step_kind import VARIABLE, Kind
from fewshot_bench.utils.text import few

# Eager steps before a step is recorded: optimizers and caches get their tensors in them.
WARM = 2
# How many times the difference of two eager steps a repetition may be off, and the most of it.
NOISE, MOST_NOISE = 4, 1e-2
# A repetition is compared with an eager step on these ones, counted from 1, and at the end.
COMPARED = frozenset(4**power for power in range(12))


class DriftError(Exception):
    """A repetition of a captured step does other work than an eager step."""


class CaptureError(FsbenchError):
    """A step failed while it was captured or repeated, and left generators or memory half-way.

    reason: why the same fit has eager steps when it is repeated. of_code: True if no step of this
    code can be captured.
    """

    def __init__(self, kind: Kind, error: Exception) -> None:
        text = f"{' '.join(str(error).split()) or type(error).__name__:.300}"
        super().__init__(
            f"training steps cannot be repeated ({kind}): {text}; use --step eager, or "
            f"{VARIABLE}=eager where there is no such option"
        )
        self.reason = _explain(kind, text)
        self.of_code = isinstance(error, NotCapturableError)


@dataclass
class _Seen:
    """The part of one step that the harness would see: its cost, losses and gradients.

    losses: as the scaler returned them. unscaled: before. logged: values of `ctx.log` in the step.
    """

    cost: Cost = field(default_factory=Cost)
    losses: list[Tensor] = field(default_factory=list)
    unscaled: list[Tensor] = field(default_factory=list)
    logged: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    overflow: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """All that is there: losses, logged values, gradients, and whether they overflowed."""
        losses = {id(loss): loss for loss in (*self.losses, *self.unscaled)}.values()
        logged = (value for values in self.logged.values() for value in values)
        every = (*losses, *logged, *(gradient for _, gradient in self.gradients), self.overflow)
        return [tensor.detach() for tensor in every if tensor is not None]


@dataclass(frozen=True)
class _Captured:
    """A captured step on batches of one signature, whose tensors are copied to `inputs`."""

    signature: Sequence[Any]
    inputs: Sequence[Tensor]
    tape: Tape
    replay: Work
    seen: _Seen


class TrainStep:
    """One step of training: gradients of a batch, then the optimizer; does not wait for the device.

    used: the kind of step that was asked for once one was captured, until then `eager`. reason: why
    none is captured, if another kind was asked for. CaptureError once a capture has failed.

    >>> step = TrainStep(step_on(loss), optimizer, ctx.scaler())
    >>> step(features, labels, rate=cosine(self.lr, done, total))
    """

    def __init__(
        self,
        backward: Callable[..., None],
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler,
        max_norm: float = 0.0,
        kind: Kind = "eager",
        curves: Curves | None = None,
    ) -> None:
        """backward: called with a batch and `scale`; adds the gradients of its scaled losses.

        Its `before_step()`, if it has one, is called before every step, outside of what is
        captured; True means that the step has changed, as by `restart`.

        max_norm: bound on the total gradient norm (clipping); 0 for none. curves: get the loss and
        the learning rate of every step.
        """
        self._backward = backward
        self._before: Callable[[], bool] | None = getattr(backward, "before_step", None)
        self._optimizer = optimizer
        self._scaler = scaler
        self._max_norm = max_norm
        self.kind, self.used, self.reason = kind, "eager", ""
        self._captured: _Captured | None = None
        self._failed: CaptureError | None = None
        self._first: Sequence[Any] | None = None
        self._warm = self._repeated = 0
        self._back_end: BackEnd | None = None
        self._curves = curves or Curves()
        # The learning rate of the first group; the version of its tensor that was copied.
        self._rate: float | Tensor = 0.0
        self._version = -1
        if kind != "eager":
            with self._failing():
                try:
                    self._back_end = back_end(kind, _device(optimizer))
                    _make_capturable(optimizer)
                except NotCapturableError as error:
                    # Nothing has begun yet.
                    self._back_end, self.reason = None, _explain(kind, str(error))

    def __call__(self, *batch: Tensor, rate: float | None = None) -> None:
        """Take a step on a batch; rate: the learning rate of all groups, None to leave it."""
        if self._failed is not None:
            # The method has caught it.
            raise self._failed
        if self._before is not None and self._before():
            self.restart()
        if rate is not None:
            for group in self._optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        self._read_rate(rate)
        if self._back_end is None:
            self._take(batch)
        else:
            self._advance(batch, self._back_end)
        self._curves.send()

    def restart(self) -> None:
        """Declare that the next step does other work than the last one; it is captured anew."""
        self._captured = self._first = None
        self._warm = self._repeated = 0

    def settle(self) -> None:
        """Compare the last repetition with an eager step, and drop what was captured."""
        if self._failed is not None:
            raise self._failed
        if self._captured is not None and self._repeated and self._back_end is not None:
            with self._failing():
                self._compare(self._captured, self._back_end)
        self.restart()

    def _read_rate(self, rate: float | None) -> None:
        """Keep the learning rate of a step; a tensor's is copied where it has changed."""
        stated = self._optimizer.param_groups[0]["lr"] if rate is None else rate
        if not isinstance(stated, Tensor):
            self._rate, self._version = float(stated), -1
        elif self._version != stated._version:
            self._rate, self._version = stated.detach().clone(), stated._version

    def _take(self, batch: Sequence[Tensor]) -> None:
        """Take an eager step."""
        seen = _Seen()
        self._step(batch, seen)
        self._log(seen)

    def _log(self, seen: _Seen) -> None:
        self._curves.log_step(self._rate, seen.unscaled, seen.logged)

    def _step(self, batch: Sequence[Tensor], seen: _Seen) -> None:
        """Take a step; its losses and logged values are added to `seen`."""
        optimizer, scaler = self._optimizer, self._scaler
        optimizer.zero_grad(set_to_none=True)
        with self._curves.inside() as seen.logged:
            self._backward(*batch, self._keep_losses(seen))
        if self._max_norm:
            scaler.unscale_(optimizer)
            gradients = [parameter.grad for parameter in _parameters(optimizer)]
            _clip([gradient for gradient in gradients if gradient is not None], self._max_norm)
        scaler.step(optimizer)
        scaler.update()

    def _keep_losses(self, seen: _Seen) -> Callable[[Tensor], Tensor]:
        def scale(loss: Tensor) -> Tensor:
            scaled: Tensor = self._scaler.scale(loss)
            seen.losses.append(scaled.detach())
            # Methods also scale constants.
            if loss.requires_grad:
                seen.unscaled.append(seen.losses[-1] if scaled is loss else loss.detach())
            return scaled

        return scale

    def _advance(self, batch: Sequence[Tensor], end: BackEnd) -> None:
        """Repeat the captured step, or take an eager one; record the one after `WARM` steps."""
        signature = [(tensor.shape, tensor.dtype, tensor.device) for tensor in batch]
        self._first = self._first or signature
        captured = self._captured
        if captured is not None and signature == captured.signature:
            for inner, tensor in zip(captured.inputs, batch, strict=True):
                inner.copy_(tensor, non_blocking=True)
            self._repeat(captured, end)
        elif captured is None and signature == self._first and self._warm >= WARM:
            self._capture(batch, signature, end)
        else:
            self._warm += signature == self._first
            with end.apart():
                seen = _Seen()
                self._step(batch, seen)
            self._log(seen)

    def _capture(self, batch: Sequence[Tensor], signature: Sequence[Any], end: BackEnd) -> None:
        """Take a step while it is recorded, then capture it for the next ones."""
        inputs, tape = (
            [tensor.clone() for tensor in batch],
            Tape(_device(self._optimizer), end.keep),
        )
        seen, numbers = _Seen(), read_numbers(self._backward)

        def step() -> None:
            nonlocal seen
            seen = self._see(inputs)

        with self._failing():
            with end.apart():
                tape.record(step)
            _require_same(numbers, read_numbers(self._backward))
        self._account(seen)
        self._log(seen)
        # Some captures compute the step once more, in its memory.
        self._curves.hold()
        with self._failing():
            replay = end.capture(tape, step, lambda: seen.tensors())
        self._captured = _Captured(signature, inputs, tape, replay, seen)
        self.used = self.kind

    def _repeat(self, captured: _Captured, end: BackEnd) -> None:
        self._repeated += 1
        with self._failing():
            if self._repeated in COMPARED:
                self._compare(captured, end)
            captured.replay()
        self._account(captured.seen)
        self._log(captured.seen)

    def _see(self, inputs: Sequence[Tensor]) -> _Seen:
        """Take a step of which neither the harness nor hooks on optimizers see anything."""
        seen, optimizer = _Seen(), self._optimizer
        step = getattr(type(optimizer).step, "__wrapped__", type(optimizer).step)

        def step_unseen(*args: Any, **kwargs: Any) -> Any:
            seen.overflow = getattr(optimizer, "found_inf", None)
            return step(optimizer, *args, **kwargs)

        own = vars(optimizer).get("step")
        optimizer.step = step_unseen  # type: ignore[method-assign]
        try:
            with not_counted(), counting(seen.cost), unjudged():
                self._step(inputs, seen)
        finally:
            del optimizer.step
            if own is not None:
                optimizer.step = own  # type: ignore[method-assign]
        seen.gradients = [(parameter, parameter.grad) for parameter in _parameters(optimizer)]
        return seen

    def _account(self, seen: _Seen) -> None:
        """Tell the harness and the optimizer's hooks of a step that they did not see."""
        optimizer: Any = self._optimizer

        def tell(_: Optimizer) -> None:
            # Eager steps of other batches have gradients elsewhere.
            for parameter, gradient in seen.gradients:
                parameter.grad = gradient
            count_cost(seen.cost)
            judge_losses(seen.losses)
            if seen.overflow is not None:
                optimizer.found_inf = seen.overflow

        try:
            Optimizer.profile_hook_step(tell)(optimizer)
        finally:
            vars(optimizer).pop("found_inf", None)

    def _compare(self, captured: _Captured, end: BackEnd) -> None:
        """DriftError if a repetition differs from an eager step; changes nothing.

        Kernels that add in no fixed order differ in each step: two eager ones tell by how much.
        """
        # The last logged values may be in the memory of the repetition.
        self._curves.hold()
        tape, seen, restore = captured.tape, captured.seen, captured.tape.save()

        def look(take: Callable[[], _Seen]) -> list[list[Tensor]]:
            restore()
            tensors = take().tensors()
            return [_copies(tensors), *([tensor] for tensor in _copies(tape.changed) if end.exact)]

        def take_eager() -> _Seen:
            with end.apart():
                return self._see(captured.inputs)

        def take_captured() -> _Seen:
            captured.replay()
            return seen

        try:
            expected = look(take_eager)
            gap = _largest_gap(expected, look(take_captured))
            allowed = end.tolerance
            if gap > allowed and not end.exact:
                noise = NOISE * _largest_gap(expected, look(take_eager))
                allowed = max(allowed, min(noise, MOST_NOISE))
        except torch.OutOfMemoryError:
            return
        finally:
            restore()
            for parameter, gradient in seen.gradients:
                parameter.grad = gradient
        if not gap <= allowed:
            raise DriftError(
                f"a repeated step differs from an eager one by {gap:.1g} (at most {allowed:.0e}): "
                "it does other work than when it was captured; call restart() of the step where "
                "its work changes, or keep what changes in tensors"
            )

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn an error into a CaptureError, which is raised again at each later call."""
        try:
            yield
        except Exception as error:
            self._failed = CaptureError(self.kind, error)
            raise self._failed from error


def _explain(kind: Kind, text: str) -> str:
    return f"steps are eager, not {kind}: {text}"


def step_on(loss: Callable[..., Tensor]) -> Callable[..., None]:
    """The backward pass of `loss`, a function of the tensors of a batch that returns a scalar.

    >>> backward = step_on(lambda features, labels: F.cross_entropy(features @ weights.T, labels))
    """

    def backward(*batch_and_scale: Any) -> None:
        *batch, scale = batch_and_scale
        torch.autograd.backward(scale(loss(*batch)))

    return backward


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _device(optimizer: Optimizer) -> torch.device:
    return _parameters(optimizer)[0].device


def _make_capturable(optimizer: Optimizer) -> None:
    """Let an optimizer keep its state, and the learning rate of every group, on the device."""
    if type(optimizer) not in (SGD, Adam, AdamW):
        raise NotCapturableError(f"{type(optimizer).__name__} keeps numbers on the host")
    device = _device(optimizer)
    # Kernels of accelerators read the rate in 32 bits, those of a CPU in 64.
    kind = torch.float64 if device.type == "cpu" else torch.float32
    for group in optimizer.param_groups:
        group["lr"] = torch.as_tensor(group["lr"], dtype=kind, device=device).clone()
        group["fused"], group["foreach"] = True, False
        if "capturable" in group:
            group["capturable"] = True
    # torch warns of steps that are not captured, such as the first ones.
    optimizer._warned_capturable_if_run_uncaptured = True
    # Fused optimizers skip overflowed steps by themselves: nothing is read on the host.
    optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
    if isinstance(optimizer, SGD):
        start_momentum(optimizer)


def _require_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    """NotCapturableError if a step changed a number in Python."""
    changed = [name for name in after if before.get(name, before) != after[name]]
    if changed:
        raise NotCapturableError(
            f"it changes {few(changed)} in Python, which no repetition does; do so in before_step()"
        )


def _clip(gradients: list[Tensor], max_norm: float) -> None:
    """Clip the total norm of gradients, as torch.nn.utils.clip_grad_norm_ does.

    Unlike that function, it moves no number between devices.
    """
    norm = torch.stack(torch._foreach_norm(gradients)).norm()
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def _largest_gap(expected: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> float:
    return max(_gap(one, other) for one, other in zip(expected, found, strict=True))


def _gap(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference of two lists of tensors, relative to their largest number."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        return float("inf")
    pairs = [(a.float(), b.float()) for a, b in zip(expected, found, strict=True) if a.numel()]
    # What is not finite is judged elsewhere.
    if not pairs or not all(bool(a.isfinite().all()) for a, _ in pairs):
        return 0.0
    largest = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(largest, 1e-30)
