"""A plug-in whose method harms its process, for `tests/runner/test_containment.py`."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task, hookimpl

FOREVER = 3600


@dataclass(frozen=True)
class Nearest:
    """Zero-shot logits."""

    weights: Tensor

    def logits(self, queries: Images) -> Tensor:
        """Logits (n, classes)."""
        return 100 * queries.features @ self.weights.T

    def tensors(self) -> dict[str, Tensor]:
        """No tensors to keep."""
        return {}


def _raise(error: BaseException) -> None:
    raise error


def _orphan() -> None:
    code = f"import subprocess; subprocess.Popen(['sleep', '{FOREVER}'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _loud() -> None:
    for _ in range(2000):
        print("x" * 10_000)


def _gone(folder: str = "gone") -> None:
    os.mkdir(folder)
    os.chdir(folder)
    os.rmdir(os.path.join("..", folder))


ACTIONS: dict[str, Callable[[], Any]] = {
    "raise": lambda: _raise(RuntimeError("no idea")),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: _raise(KeyboardInterrupt("mine")),
    "generator": lambda: _raise(GeneratorExit("mine")),
    "cancel": lambda: _raise(asyncio.CancelledError("mine")),
    "stop": lambda: _raise(StopIteration("mine")),
    "print": _loud,
    "process": lambda: subprocess.Popen(["sleep", str(FOREVER)]),
    "orphan": _orphan,
    "folder": lambda: os.chdir(os.sep),
    "deleted": _gone,
    "no rights": lambda: os.umask(0o777),
    "only writing": lambda: os.umask(0o577),
    "only reading": lambda: os.umask(0o277),
    "python_seed": lambda: random.seed(0),
    "numpy_seed": lambda: np.random.seed(0),
    "torch_seed": lambda: torch.manual_seed(0),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "grad": lambda: torch.set_grad_enabled(False),
}


@dataclass(frozen=True)
class Reckless:
    """Does one of `ACTIONS` at the end of fit, or before the logits."""

    name: ClassVar[str] = "reckless"
    how: str = "raise"
    when: str = "fit"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        """Compute, then misbehave."""
        classifier = Nearest(backbone.class_features(task))
        if self.when == "fit":
            ACTIONS[self.how]()
            return classifier
        return Late(classifier.weights, self.how)


@dataclass(frozen=True)
class Late(Nearest):
    """Misbehaves at prediction."""

    how: str

    def logits(self, queries: Images) -> Tensor:
        """Logits (n, classes), followed by the action."""
        found = super().logits(queries)
        ACTIONS[self.how]()
        return found


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """Register the method."""
    register("reckless", "fsbench_reckless:Reckless")
