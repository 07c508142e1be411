"""A plug-in whose method harms its process, for `tests/runner/test_containment.py`."""

from __future__ import annotations

import asyncio
import builtins
import gc
import io
import locale
import logging
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import open_clip
import sklearn.linear_model
import torch
import torch.nn.functional as F
from fsbench_methods import cache_model, zero_shot
from PIL import Image, ImageFile
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook

import fewshot_bench.runner.evaluate as scoring
import fewshot_bench.training.memory as memory
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


def _thread() -> None:
    threading.Thread(target=time.sleep, args=(FOREVER,), name="forgotten", daemon=True).start()


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


def _log() -> None:
    logging.basicConfig(level=logging.DEBUG, force=True)
    logging.disable(logging.CRITICAL)


def _path() -> None:
    sys.path.insert(0, "nowhere")
    os.umask(0o077)


def _precision() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def _torch_functions() -> None:
    F.normalize = lambda x, dim=-1: x * 0
    torch.Tensor.softmax = lambda self, dim: self
    torch.nn.Linear.forward = lambda self, x: x


def _libraries() -> None:
    open_clip.transformer.LayerNorm.forward = lambda self, x: x
    Image.Image.resize = lambda self, *_: self
    sklearn.linear_model.LogisticRegression.fit = lambda self, *_: self
    sys.modules["torch.optim.sgd"].sgd = lambda *_, **__: None


def _ablation() -> None:
    zero_shot.ZeroShot.fit = lambda *_: None
    cache_model.grid = lambda *_: [1.0]


def _transform() -> None:
    torch.autograd.forward_ad.enter_dual_level()


ACTIONS: dict[str, Callable[[], Any]] = {
    "raise": lambda: _raise(RuntimeError("no idea")),
    "exit": lambda: sys.exit(3),
    "interrupt": lambda: _raise(KeyboardInterrupt("mine")),
    "generator": lambda: _raise(GeneratorExit("mine")),
    "cancel": lambda: _raise(asyncio.CancelledError("mine")),
    "stop": lambda: _raise(StopIteration("mine")),
    "print": _loud,
    "thread": _thread,
    "process": lambda: subprocess.Popen(["sleep", str(FOREVER)]),
    "orphan": _orphan,
    "folder": lambda: os.chdir(os.sep),
    "deleted": _gone,
    "environment": lambda: os.environ.update(RECKLESS="1", HOME="nowhere"),
    "python_seed": lambda: random.seed(0),
    "numpy_seed": lambda: np.random.seed(0),
    "torch_seed": lambda: torch.manual_seed(0),
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "grad": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(3),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "matmul": lambda: torch.set_float32_matmul_precision("medium"),
    "precision": _precision,
    "denormals": lambda: torch.set_flush_denormal(True),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "path": _path,
    "stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "stderr": lambda: setattr(sys, "stderr", io.StringIO()),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "logging": _log,
    "signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "alarm": lambda: signal.setitimer(signal.ITIMER_REAL, FOREVER),
    "gc": gc.disable,
    "recursion": lambda: sys.setrecursionlimit(5000),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "numbers": lambda: np.seterr(all="ignore"),
    "images": lambda: setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
    "hook": lambda: register_optimizer_step_pre_hook(lambda *_: None),
    "torch_functions": _torch_functions,
    "builtins": lambda: setattr(builtins, "sorted", list),
    "isinstance": lambda: setattr(builtins, "isinstance", lambda *_: False),
    "harness": lambda: setattr(scoring, "plain_logits", lambda *_: None),
    "clock": lambda: setattr(time, "perf_counter", lambda: 0.0),
    "descriptor": lambda: os.close(2),
    "argv": lambda: sys.argv.append("--fast"),
    "math": lambda: setattr(math, "sqrt", abs),
    "libraries": _libraries,
    "ablation": _ablation,
    "constant": lambda: setattr(memory, "MEMORY_SHARE", 0.9),
    "defaults": lambda: setattr(F.normalize, "__defaults__", (1.0, 1, 1e-12, None)),
    "fast_path": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "sums": lambda: torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True),
    "saved_tensors": lambda: saved_tensors_hooks(Tensor.bfloat16, Tensor.float).__enter__(),
    "transform": _transform,
    "accumulation": lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
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
