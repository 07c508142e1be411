"""A plug-in that searches its process for query labels, and tampers with measurements."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import fewshot_bench.api.metrics
from fewshot_bench import Backbone, Images, Record, RunContext, RunSpec, Task, hookimpl
from fewshot_bench.runner.verdict import Answered

SHOWN = 10_000


def _perfect(logits: Any, labels: Any, metrics: Any = None) -> dict[str, float]:
    return {"top1": 99.5}


def replace_code() -> None:
    """Replace the code of the metrics function."""
    fewshot_bench.api.metrics.measured.__code__ = _perfect.__code__


class Flattering(Tensor):
    """A tensor whose operations and conversions return other values than it holds."""

    def numpy(self, **_: Any) -> np.ndarray:
        """Return (n, classes) with the maximum in the first column."""
        return np.eye(self.shape[1], dtype=np.float32)[np.zeros(len(self), dtype=int)]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return ones for every operation."""
        with torch._C.DisableTorchFunctionSubclass():
            return torch.ones_like(args[0].as_subclass(Tensor))


def examiner_of_caller() -> tuple[Any, RunSpec]:
    """Find the examiner and the cell in the stack frames of the harness."""
    frame: Any = sys._getframe(1)
    while not ("session" in frame.f_locals and "cell" in frame.f_locals):
        frame = frame.f_back
    return frame.f_locals["session"].examiner, frame.f_locals["cell"].spec


def ask_for_another_cell() -> None:
    """Request the support set of another split seed, which might contain this cell's queries."""
    examiner, spec = examiner_of_caller()
    examiner.cell(dataclasses.replace(spec, split_seed=spec.split_seed + 1))


def hand_in_for_another() -> None:
    """Submit a result for a rival method's cell."""
    examiner, spec = examiner_of_caller()
    rival = dataclasses.replace(spec, method="zero-shot", options={}, overrides={})
    examiner.settle(Answered(Record(rival, "failed")))


def hand_in_first(shape: tuple[int, int]) -> None:
    """Submit a result directly, to learn from its metrics."""
    examiner, spec = examiner_of_caller()
    outcome = examiner.settle(Answered(Record(spec, "done"), np.zeros(shape, np.float32)))
    assert not outcome.record.metrics


def patch_later() -> None:
    """Repeatedly replace a function from a thread that `threading` does not list."""
    waiting = _thread.allocate_lock()
    waiting.acquire()

    def run() -> None:
        waiting.release()
        while True:
            torch.nn.functional.normalize = lambda value, **_: value
            time.sleep(0.001)

    _thread.start_new_thread(run, ())
    # A thread that has not begun is not seen.
    waiting.acquire()


@dataclass(frozen=True)
class Prying:
    """Zero-shot with one of these tricks; `report` is where the hunter writes what it found."""

    name: ClassVar[str] = "prying"
    how: str = "hunt"
    report: str = ""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Answers:
        """Learn nothing."""
        if self.how == "code":
            replace_code()
        if self.how == "thread":
            patch_later()
        return Answers(backbone.class_features(task), self.how, self.report)


@dataclass(frozen=True)
class Answers:
    """The classifier."""

    weights: Tensor
    how: str
    report: str

    def logits(self, queries: Images) -> Tensor:
        """Logits (n, classes), after applying the trick."""
        # Once: before it is asked again for some of the queries.
        if self.how == "hunt" and not Path(self.report).exists():
            Path(self.report).write_text(json.dumps(hunted(len(queries))), encoding="utf-8")
        found = 100 * queries.features @ self.weights.T
        if self.how == "other-cell":
            ask_for_another_cell()
        if self.how == "rival":
            hand_in_for_another()
        if self.how == "twice":
            hand_in_first((len(found), found.shape[1]))
        if self.how == "subclass":
            return found.as_subclass(Flattering)  # type: ignore[no-any-return]
        return found.to("meta") if self.how == "meta" else found

    def tensors(self) -> Mapping[str, Tensor]:
        """No tensors to keep."""
        return {}


def hunted(count: int) -> dict[str, Any]:
    """All texts in this process, and all sequences of `count` integers."""
    warnings.simplefilter("ignore")
    texts: set[str] = set()
    numbers: list[list[int]] = []
    for value in everything():
        # Some objects of other tests cannot be read: dead proxies, tensors without values.
        with contextlib.suppress(Exception):
            if isinstance(value, str | Path):
                texts.add(str(value)[:SHOWN])
            elif isinstance(value, bytes) and len(value) < SHOWN:
                texts.add(value.decode("latin-1"))
            elif isinstance(value, Tensor) and value.device.type != "cpu":
                continue
            elif isinstance(value, Tensor | np.ndarray) and tuple(value.shape) == (count,):
                numbers.append([int(part) for part in value.tolist()])
            elif (
                isinstance(value, list | tuple)
                and len(value) == count
                and set(map(type, value)) == {int}
            ):
                numbers.append(list(value))
    return {"texts": sorted(texts), "numbers": numbers}


def everything() -> Iterator[Any]:
    """Every object tracked by the collector or referenced by one, and all frames' locals."""
    seen: set[int] = set()
    listed = gc.get_objects()
    for frame in sys._current_frames().values():
        walked: Any = frame
        while walked is not None:
            listed += list(walked.f_locals.values())
            walked = walked.f_back
    for value in listed:
        for part in (value, *gc.get_referents(value)):
            if id(part) not in seen:
                seen.add(id(part))
                yield part


@hookimpl
def run_started(spec: RunSpec) -> None:
    """Replace a function, or change settings, if the data set's folder contains a file for it."""
    folder = Path(spec.dataset.partition(":")[2])
    if (folder / "patch-in-hook").exists():
        torch.nn.functional.normalize = lambda value, **_: value
        (folder / "patched").touch()
    if (folder / "settings-in-hook").exists():
        torch.set_default_dtype(torch.float64)
        torch.set_flush_denormal(True)


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """Register the method."""
    register("prying", "fsbench_prying:Prying")
