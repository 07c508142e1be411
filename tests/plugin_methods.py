"""A plug-in whose methods misbehave or look around; `tests/conftest.py` installs it by name."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, RunContext, Task, hookimpl


@dataclass(frozen=True)
class Scores:
    """Zero-shot logits passed through `change`; `look` sees the queries first."""

    weights: Tensor
    change: Callable[[Tensor], Any]
    look: Callable[[Images], None]

    def logits(self, queries: Images) -> Any:
        """(n, classes), if `change` leaves them so."""
        self.look(queries)
        return self.change(100 * queries.features @ self.weights.T)

    def tensors(self) -> Mapping[str, Tensor]:
        """Nothing that must be kept."""
        return {}


def _same(value: Any) -> Any:
    return value


def _blind(queries: Images) -> None:
    """Look at nothing."""


def scores(task: Task, backbone: Backbone, change: Callable[[Tensor], Any] = _same) -> Scores:
    """A classifier that would be right but for `change`."""
    return Scores(backbone.class_features(task), change, _blind)


def _leave(value: Tensor) -> Tensor:
    sys.exit(3)


def _raise(value: Tensor) -> Tensor:
    raise RuntimeError("no idea")


def _not_finite(value: Tensor) -> Tensor:
    value[0, 0] = float("nan")
    return value


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "shape": lambda value: value[:-1],
    "nan": _not_finite,
    "list": lambda value: value.tolist(),
    "raise": _raise,
    "exit": _leave,
}


@dataclass(frozen=True)
class BadLogits:
    """Returns what no classifier may return."""

    name: ClassVar[str] = "bad-logits"
    how: Literal["shape", "nan", "list", "raise", "exit"] = "raise"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Nothing goes wrong here."""
        return scores(task, backbone, CHANGES[self.how])


@dataclass(frozen=True)
class BadFit:
    """Does not get as far as a classifier."""

    name: ClassVar[str] = "bad-fit"
    how: Literal["raise", "exit", "none", "kill", "sleep", "fork"] = "raise"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        """Fail in the chosen way."""
        if self.how == "raise":
            raise RuntimeError("no idea")
        if self.how == "exit":
            sys.exit(3)
        if self.how == "fork" and not os.fork():
            # A child that lives on with all that its parent had open.
            time.sleep(3600)
        if self.how in ("kill", "fork"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            time.sleep(3600)
        return None


@dataclass(frozen=True)
class Vandal:
    """Leaves the backbone other than it was."""

    name: ClassVar[str] = "vandal"
    how: Literal[
        "weights",
        "hook",
        "grad",
        "train",
        "scale",
        "method",
        "tokenizer",
        "steps",
        "tower",
        "features",
        "views",
        "grad_mode",
        "dtype",
    ] = "weights"

    def fit(self, task: Task, backbone: Any, ctx: RunContext) -> Scores:
        """Change something after the features are computed."""
        classifier = scores(task, backbone)
        VANDALISM[self.how](task, backbone)
        return classifier


def _weights(task: Task, backbone: Any) -> None:
    with torch.no_grad():
        next(backbone.module.parameters()).add_(0.5)


def _hook(task: Task, backbone: Any) -> None:
    backbone.module.visual.register_forward_hook(lambda *_: None)


def _method(task: Task, backbone: Any) -> None:
    backbone.encode_image = lambda pixels: pixels.flatten(1)[:, : backbone.embed_dim]


def _tokenizer(task: Task, backbone: Any) -> None:
    backbone.tokenizer = backbone.tokenizer.__class__(context_length=60)


def _tower(task: Task, backbone: Any) -> None:
    backbone.image_tower().blocks[0].parts["attn.in_proj_weight"].add_(0.5)


def _features(task: Task, backbone: Any) -> None:
    task.train.features.zero_()
    task.train.raw_features.zero_()
    task.train.labels.zero_()


def _views(task: Task, backbone: Any) -> None:
    stream = torch.Generator().manual_seed(0)
    task.train.views(2, Augment(), stream, normalize=False).zero_()


VANDALISM: dict[str, Callable[[Task, Any], object]] = {
    "weights": _weights,
    "hook": _hook,
    "grad": lambda task, backbone: next(backbone.module.parameters()).requires_grad_(True),
    "train": lambda task, backbone: backbone.module.train(),
    "scale": lambda task, backbone: setattr(backbone, "logit_scale", 1.0),
    "method": _method,
    "tokenizer": _tokenizer,
    "steps": lambda task, backbone: backbone._steps.clear(),
    "tower": _tower,
    "features": _features,
    "views": _views,
    "grad_mode": lambda task, backbone: torch.set_grad_enabled(False),
    "dtype": lambda task, backbone: torch.set_default_dtype(torch.float64),
}


@dataclass(frozen=True)
class Positions:
    """Bets that queries are listed class by class."""

    name: ClassVar[str] = "positions"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Learn nothing."""
        return scores(task, backbone, _by_position)


def _by_position(value: Tensor) -> Tensor:
    count, classes = value.shape
    guess = torch.arange(count) * classes // count
    return torch.nn.functional.one_hot(guess, classes).float()


@dataclass(frozen=True)
class Slow:
    """Takes its time, so that a signal finds it at work."""

    name: ClassVar[str] = "slow"
    seconds: float = 0.2

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Report progress while waiting; leave a line where a test counts fits."""
        if "FSBENCH_TEST_FITS" in os.environ:
            with open(os.environ["FSBENCH_TEST_FITS"], "a", encoding="utf-8") as log:
                log.write("fit\n")
        for step in range(10):
            time.sleep(self.seconds / 10)
            ctx.progress(step + 1, 10)
        return scores(task, backbone)


@dataclass(frozen=True)
class Leaver:
    """Leaves a thread behind."""

    name: ClassVar[str] = "leaver"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Start a thread that outlives the process's interest in it."""
        threading.Thread(target=time.sleep, args=(3600,)).start()
        return scores(task, backbone)


FOUND: dict[str, list[Any]] = {"texts": [], "tensors": [], "kinds": []}
_OUTSIDE = (types.ModuleType, type)


def reachable(*roots: object) -> Iterator[Any]:
    """All that attributes, slots, containers, closures and arguments lead to; no globals."""
    import gc

    seen: dict[int, Any] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, _OUTSIDE):
            continue
        seen[id(value)] = value
        yield value
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            todo += [*cells, value.__defaults__, value.__kwdefaults__, value.__dict__]
        else:
            todo += gc.get_referents(value)


@dataclass(frozen=True)
class Walker:
    """Collects every text, tensor and kind of object that it can reach, in `FOUND`."""

    name: ClassVar[str] = "walker"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Look at all that `fit` is handed."""
        _remember(task, backbone, ctx)
        return Scores(backbone.class_features(task), _same, _remember)


def _remember(*roots: object) -> None:
    for value in reachable(*roots):
        FOUND["kinds"].append(type(value).__name__)
        if isinstance(value, str | PurePath):
            FOUND["texts"].append(str(value))
        elif isinstance(value, Tensor) and not value.is_floating_point():
            FOUND["tensors"].append(value)
        elif isinstance(value, list | tuple) and all(isinstance(part, int) for part in value):
            FOUND["tensors"].append(torch.tensor(value))


@dataclass(frozen=True)
class Viewer:
    """The nearest class mean of augmented views, the ones that `Vandal` changes."""

    name: ClassVar[str] = "viewer"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Average the views by class."""
        stream = torch.Generator().manual_seed(0)
        means = task.train.views(2, Augment(), stream, normalize=False).mean(dim=0)
        onehot = torch.nn.functional.one_hot(task.train.labels, len(task.classnames)).float()
        return Scores(onehot.T @ means, _same, _blind)


def _cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. " + 9 * "More. ")


def _cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def _onednn() -> None:
    raise RuntimeError("could not create a primitive")


def _other() -> None:
    raise RuntimeError("expected all tensors on one device")


SHORTAGES: dict[str, Callable[[], object]] = {
    "cuda": _cuda,
    "cublas": _cublas,
    "onednn": _onednn,
    "cpu": lambda: torch.empty(2**60),
    "python": lambda: bytearray(2**60),
    "numpy": lambda: np.empty(2**60, np.uint8),
    "other": _other,
}
HELD: list[weakref.ref[Tensor]] = []


@dataclass(frozen=True)
class Hungry:
    """Runs out of memory unless its work is divided into `needs` parts; 0: in `logits`."""

    name: ClassVar[str] = "hungry"
    kind: Literal["cuda", "cublas", "onednn", "cpu", "python", "numpy", "other"] = "cuda"
    needs: int = 4
    reads: bool = True
    batch_size: int = 32

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Zero-shot, at a cost; notes how much of earlier tries is still there."""
        parts = ctx.memory_parts if self.reads else 1
        ctx.note(parts=parts, held=sum(one() is not None for one in HELD))
        activations = torch.zeros(1000)
        HELD.append(weakref.ref(activations))
        if parts < self.needs:
            SHORTAGES[self.kind]()
        return scores(task, backbone, _same if self.needs else lambda value: _cuda())


@dataclass(frozen=True)
class Diverging:
    """Trains a bias, well enough until step `at`, and looks at no loss itself."""

    name: ClassVar[str] = "diverging"
    how: Literal["nan", "inf", "gradient", "by-hand", "lbfgs", "summed", "never"] = "nan"
    at: int = 3
    steps: int = 6
    lr: float = 0.5

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """All steps, whatever happens."""
        bias = torch.nn.Parameter(torch.ones(len(task.classnames), device=backbone.device))
        optimizer: Any = torch.optim.SGD([bias], lr=self.lr)
        if self.how == "lbfgs":
            optimizer = torch.optim.LBFGS([bias], lr=self.lr, max_iter=1)
        for step in range(1, self.steps + 1):

            def closure(step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = self._loss(bias, step == self.at)
                if self.how == "by-hand":
                    (bias.grad,) = torch.autograd.grad(loss, bias)
                elif self.how == "summed":
                    (0.5 * loss).backward()
                    (0.5 * loss.detach() + 0 * bias.sum()).backward()
                else:
                    loss.backward()
                return loss

            if self.how == "lbfgs":
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
            ctx.progress(step, self.steps)
        return scores(task, backbone)

    def _loss(self, bias: Tensor, now: bool) -> Tensor:
        loss = bias.square().sum()
        if not now or self.how == "never":
            return loss
        if self.how == "inf":
            return loss + float("inf")
        if self.how == "gradient":
            return loss + (0 * bias).sqrt().sum()
        return loss * float("nan")


METHODS = (BadLogits, BadFit, Vandal, Positions, Leaver, Slow, Walker, Viewer, Diverging, Hungry)


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """All of the above, by name."""
    for method in METHODS:
        register(method.name, f"fsbench_misbehaving:{method.__name__}")
