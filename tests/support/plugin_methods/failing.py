"""Methods that fail: in `fit`, in `logits`, without memory or a device, or by leaking a thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fewshot_bench import Backbone, RunContext, Task

from .scoring import Scores, same, scores


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
    """Fits a classifier whose logits are invalid or raise an error."""

    name: ClassVar[str] = "bad-logits"
    how: Literal["shape", "nan", "list", "raise", "exit"] = "raise"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Return a classifier whose `logits` fails."""
        return scores(task, backbone, CHANGES[self.how])


@dataclass(frozen=True)
class BadFit:
    """Does not get as far as a classifier."""

    name: ClassVar[str] = "bad-fit"
    how: Literal["raise", "exit", "none", "kill", "sleep", "fork", "options"] = "raise"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        """Fail in the chosen way."""
        if self.how == "raise":
            raise RuntimeError("no idea")
        if self.how == "exit":
            sys.exit(3)
        if self.how == "options":
            object.__setattr__(self, "how", "sleep")
            return scores(task, backbone, same)
        if self.how == "fork" and not os.fork():
            # A child that stays alive with all its parent's open files.
            time.sleep(3600)
        if self.how in ("kill", "fork"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "sleep":
            with open(os.environ["FSBENCH_TEST_FITS"], "a", encoding="utf-8") as log:
                log.write("fit\n")
            time.sleep(3600)
        return None


@dataclass(frozen=True)
class Leaver:
    """Leaves a thread behind."""

    name: ClassVar[str] = "leaver"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Start a thread that outlives the fit."""
        threading.Thread(target=time.sleep, args=(3600,)).start()
        return scores(task, backbone)


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
        """Zero-shot with simulated memory use; notes how many earlier tries are still in memory."""
        parts = ctx.memory_parts if self.reads else 1
        ctx.note(parts=parts, held=sum(one() is not None for one in HELD))
        activations = torch.zeros(1000)
        HELD.append(weakref.ref(activations))
        if parts < self.needs:
            SHORTAGES[self.kind]()
        return scores(task, backbone, same if self.needs else lambda value: _cuda())


ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later"
LOST: list[bool] = []


@dataclass(frozen=True)
class Faulty:
    """Makes the device of its process fail, always or in one try, and fails wherever it has."""

    name: ClassVar[str] = "faulty"
    how: Literal["never", "once", "always"] = "never"
    when: Literal["fit", "logits"] = "fit"

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scores:
        """Zero-shot on a device that works."""
        if self.when == "logits":
            return scores(task, backbone, self._use)
        return self._use(scores(task, backbone, same))

    def _use(self, value: Any) -> Any:
        log = Path(os.environ["FSBENCH_TEST_FITS"])
        tries = log.read_text() if log.exists() else ""
        log.write_text(f"{tries}{self.how} {os.getpid()} ")
        if LOST or self.how == "always" or (self.how == "once" and "once" not in tries):
            LOST.append(True)
            raise torch.AcceleratorError(ASSERTED)
        return value
