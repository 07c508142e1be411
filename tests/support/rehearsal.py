"""Rehearsal of one method: fit, optimizer and prediction on an accelerator, or a stand-in.

`rehearse` runs them on the toy task, guarded like a fit of the runner; `Rehearsal.faults` lists
errors and waits of the host.
"""

from __future__ import annotations

import functools
import traceback
import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.registry import registry
from fewshot_bench.images import features
from fewshot_bench.profiling.optimizer import FiniteNumbers, ParameterObserver
from fewshot_bench.testing import toy_backbone
from fewshot_bench.testing.bench import Setting, prepare
from fewshot_bench.testing.rehearsal.waits import Waits, can_hear, hear_waits
from fewshot_bench.utils.rng import isolate

# Not the first device: what names no index goes wrong.
DEVICE = "rehearsal:1"
SETTING, QUERIES = Setting(shots=2, validation=1), range(0, 64, 7)
SHORT = {
    "epochs": 2,
    "iterations": 2,
    "rounds": 2,
    "batch_size": 8,
    "views": 2,
    "search_steps": 1,
    "max_iter": 10,
}
"""Hyper-parameters that make a method short, where it has them."""
WAYS_OF_ONE_METHOD = 3
# From the usual scale on, a scaler skips the few steps of a short fit, since they overflow.
_DEVICE, _, *_OTHERS = torch.amp.GradScaler.__init__.__defaults__
low_scale = functools.partial(
    patch.object, torch.amp.GradScaler.__init__, "__defaults__", (_DEVICE, 64.0, *_OTHERS)
)

_ROUNDING = {"fp32": 0.02, "bf16": 0.3, "fp16": 0.1}
# In bf16, contexts that start at random move far in a few steps, and prograd turns gradients that
# conflict, by any gap.
_SENSITIVE = {"coop": 0.4, "prograd": 2.0}


def tolerance(name: str, precision: str) -> float:
    """The largest mean gap to the CPU's logits of a short fit, relative to their spread."""
    more = _SENSITIVE.get(name, 0.0) if precision == "bf16" else 0.0
    return max(_ROUNDING[precision], more)


@dataclass(frozen=True)
class Rehearsal:
    """Waits of a fit and of the prediction of a query batch; `error` is set if they failed."""

    device: str
    fit: Waits
    predict: Waits
    logits: torch.Tensor | None = None
    error: str = ""
    sees: str = "query"

    def faults(self) -> list[str]:
        """Descriptions of all faults; empty if there is none."""
        if self.error:
            return [self.error]
        found = [f"in training: {wait}" for wait in self.fit.in_steps()]
        found += [f"in logits: {wait}" for wait in self.predict.in_answers(self.sees)]
        if self.fit.steps == 1:
            found.append("one optimizer step only: steps cannot be judged")
        if self.logits is not None and str(self.logits.device) != self.device:
            found.append(f"logits on {self.logits.device}")
        return found


def ways(method: Any) -> list[Any]:
    """Short variants of the method: its own option values, and the other choices of its options."""
    return list(dict.fromkeys(_short(method, number) for number in range(WAYS_OF_ONE_METHOD)))


def _short(method: Any, number: int) -> Any:
    changed: dict[str, Any] = {}
    for one in hyperparameters(type(method)):
        choices = (False, True) if one.type is bool else ()
        if typing.get_origin(one.type) is Literal:
            choices = typing.get_args(one.type)
        if choices:
            place = choices.index(getattr(method, one.name)) + number
            changed[one.name] = choices[place % len(choices)]
        elif one.name in SHORT:
            changed[one.name] = SHORT[one.name]
    return replace(method, **changed)


def rehearse(
    method: Any, precision: str = "fp32", parts: int = 1, device: str = DEVICE
) -> Rehearsal:
    """Fit on the toy task and predict its queries on a device, as the runner does."""
    # An accelerator's batches are padded to this size, which would only take time here.
    small = patch.object(features, "ENCODE_BATCH", features.SMALL_BATCH)
    with small, low_scale():
        made = prepare(SETTING, _backbone(precision, device), parts)
        made.sees = read_card(method).sees
        hear = hear_waits if can_hear(device) else lambda device: nullcontext(Waits())
        numbers = FiniteNumbers(method.name, method, made.context)
        fit, predict, logits, error = Waits(), Waits(), None, ""
        try:
            with hear(device) as fit, isolate(1), ParameterObserver(numbers).watch():
                made.classifier = method.fit(made.task, made.backbone, made.context)
            with hear(device) as predict:
                logits = made.predict(QUERIES)
        except (RuntimeError, TypeError) as raised:
            error = f"{raised} at {_place(raised)}"
        return Rehearsal(device, fit, predict, logits, error, made.sees)


@functools.cache
def on_host(method: Any) -> torch.Tensor:
    """Logits of the same fit on the CPU."""
    with isolate(1):
        made = prepare(SETTING, _backbone("fp32", "cpu"))
        made.sees = read_card(method).sees
        made.classifier = method.fit(made.task, made.backbone, made.context)
        logits: torch.Tensor = made.predict(QUERIES)
    return logits


@functools.cache
def _backbone(precision: str, device: str) -> Any:
    """A toy backbone shared by all methods, which leave it unchanged."""
    return toy_backbone(device, precision)


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/torch/" not in frame.filename]
    return f"{own[-1].filename}:{own[-1].lineno} in {own[-1].name}"


def _ways() -> dict[str, list[Any]]:
    """Short variants of every built-in method, by its name."""
    catalog = registry().methods
    names = [name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")]
    return {name: ways(registry().method_class(name)()) for name in names}


WAYS = {
    name if number == 0 else f"{name}-{number}": method
    for name, methods in _ways().items()
    for number, method in enumerate(methods)
}


NAMES = [name for name, method in WAYS.items() if name == method.name]


@dataclass(frozen=True)
class Step:
    """Values of a training step that a planted fault can use."""

    loss: Tensor
    features: Tensor
    labels: Tensor
    weight: Tensor
    ctx: RunContext


@dataclass(frozen=True)
class Head:
    """Logits of a linear head."""

    weight: Tensor
    finish: Callable[[Tensor], Any]

    def logits(self, queries: Images) -> Tensor:
        logits = queries.features @ self.weight.T
        changed = self.finish(logits)
        return changed if isinstance(changed, Tensor) else logits

    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight}


@dataclass(frozen=True)
class Planted:
    """A correct linear probe, apart from the faults `act` in a step and `finish` on logits.

    If `act` returns a tensor, it is added to the loss.
    """

    name: ClassVar[str] = "planted"

    act: Callable[[Step], Any] = lambda step: None
    finish: Callable[[Tensor], Any] = lambda logits: None
    fused: bool = True
    weight: str = ""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Head:
        features, labels = task.train.features, task.train.labels
        start = torch.zeros(
            len(task.classnames), features.shape[1], device=self.weight or ctx.device
        )
        weight = torch.nn.Parameter(start)
        optimizer = torch.optim.AdamW([weight], lr=0.01, fused=self.fused)

        def whole() -> Tensor:
            loss = F.cross_entropy(features @ weight.T, labels)
            more = self.act(Step(loss, features, labels, weight, ctx))
            return loss if more is None else loss + more

        take = ctx.train_step(whole, optimizer)
        for _ in range(3):
            take()
        return Head(weight.detach(), self.finish)
