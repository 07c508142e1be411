"""Training steps and whole runs on an accelerator, beside the official arithmetic.

    python -m benchmarks.accelerator [--device cuda] [--output accelerator.json] [--small]

Every trained method takes steps in its own `fit`, on random weights of CLIP's sizes, made-up images
and class names of ImageNet, in each precision, eager and captured. In turn with ours, the step of
the official code (`benchmarks.official`) runs in eager mode on the same weights, precision and
batch size. Where images are not trained on, ours takes features, which it has encoded ahead of
training; the official step encodes its images if the official code does: the second ratio is that
to ours with its views encoded. Then CLIP-LoRA and CoOp train on a support set of ImageNet's size.
Writes JSON, and a table in Markdown beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks import subjects
from benchmarks.official import STEPS, Setting
from fewshot_bench import Task
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.fit import AUTOCAST, Context
from fewshot_bench.runner.self_test import captured_kind
from fewshot_bench.training.train_step import TrainStep
from fewshot_bench.utils import environment
from fewshot_bench.utils.devices import accelerator_kind, peak_bytes, reset_peak, synchronize
from fewshot_bench.utils.rng import isolate

MODELS, CLASSES = ("ViT-B-32", "ViT-B-16", "ViT-L-14"), (10, 100, 1000)
PRECISIONS = ("fp32", "bf16", "fp16")
# Steps before the timed ones, in which the step is captured; and timed ones.
WARM, TIMED = 6, 12
MEBI = 1 << 20
OFFICIAL: dict[str, Callable[[Any, tuple[str, ...], int], Callable[[], Any]]] = {
    "clip-lora": lambda *given: subjects.clip_lora(*given).official,
    "coop": lambda *given: subjects.coop(*given).official,
    "ln-tuning": partial(subjects.official_tuned, choice=subjects.is_block_norm),
    "bitfit": partial(subjects.official_tuned, choice=subjects.is_bias),
}
"""Official steps that run in parts above `official.PART` classes: (backbone, names, images)."""
WHOLE = {"clip-lora": {}, "coop": {"epochs": 50}}


@dataclass(frozen=True)
class Size:
    """What is measured. images: of a support set; whole: classes and shots of whole runs."""

    models: tuple[str, ...] = MODELS
    classes: tuple[int, ...] = CLASSES
    precisions: tuple[str, ...] = PRECISIONS
    methods: tuple[str, ...] = ()
    warm: int = WARM
    timed: int = TIMED
    images: int = 64
    whole: tuple[int, int] = (1000, 16)
    options: dict[str, dict[str, Any]] = field(default_factory=lambda: WHOLE)
    model: str = "ViT-B-16"
    precision: str = "bf16"
    side: int = 4096


SMALL = Size(
    ("tiny",), (3,), ("fp32", "bf16"), (*OFFICIAL, *STEPS), 3, 2, 8, (2, 2),
    {"clip-lora": {"iterations": 2}, "coop": {"epochs": 2}}, "tiny", "fp32", 256,
)  # fmt: skip


class Pixels(EncodedFiles):
    """Images of noise in memory, of which sixteen differ."""

    name, stamped = "synthetic pixels", False

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self._count = count
        shape = (size[0] * 5 // 4, size[1] * 5 // 4, 3)
        rngs = map(np.random.default_rng, range(min(count, 16)))
        self._images = [Image.fromarray(rng.integers(0, 255, shape, np.uint8)) for rng in rngs]

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of their numbers: each counts as a file of its own."""
        return tuple(hashlib.sha256(b"%d" % index).digest() for index in range(self._count))

    def read(self, index: int) -> bytes:
        """No file."""
        raise NotImplementedError("these images have no files")

    def decode(self, index: int) -> Image.Image:
        """The image of a number."""
        return self._images[index % len(self._images)]

    def title(self, index: int) -> str:
        """Its number."""
        return str(index)


class _Enough(Exception):
    """Ends a fit after the timed steps."""


@dataclass
class Row:
    """Medians of one method in one setting; None is unknown.

    official: milliseconds of an official step, interleaved; encoding: of our frozen encoder on the
    images of a batch, where ours takes features and the official step encodes images. peak: share
    of the measured rate of matrix products. late: share of batches that were not ready when a
    step asked for one.
    """

    method: str
    model: str
    classes: int
    precision: str
    step: str
    ours: float | None = None
    official: float | None = None
    encoding: float | None = None
    megabytes: float | None = None
    peak: float | None = None
    late: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """The row in a table."""
        ratio = encoded = None
        if self.official and self.ours:
            ratio = self.official / self.ours
            encoded = self.official / (self.ours + (self.encoding or 0))
        return [
            *(self.method, self.model, f"{self.classes}", self.precision, self.step),
            *(_number(self.ours, "{:.2f}"), _number(self.official, "{:.2f}")),
            *(_number(ratio, "{:.1f}"), _number(encoded, "{:.1f}")),
            *(_number(self.megabytes, "{:,.0f}"), _number(self.peak, "{:.0%}")),
            *(_number(self.late, "{:.0%}"), self.note),
        ]


HEAD = (
    *("method", "model", "classes", "precision", "step", "ours ms", "official ms", "ratio"),
    *("with its views", "peak MB", "of peak", "waited", "note"),
)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def trained_methods() -> list[str]:
    """Built-in methods; those that take no step drop out when they are timed."""
    catalog = registry().methods
    return [name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")]


def backbone_of(model: str, device: torch.device, precision: str) -> Any:
    """`tiny`, or an open_clip model with random weights."""
    if model == "tiny":
        return load_tiny(str(device), precision)
    return subjects.backbone_of(model, device, precision)


def product_rate(device: torch.device, precision: str, side: int) -> float:
    """FLOP/s of matrix products of this side, best of five."""
    one = torch.randn(side, side, device=device, dtype=AUTOCAST.get(precision, torch.float32))
    best = float("inf")
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        one @ one
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


class Bench:
    """A backbone and a support set on a device; its fits are timed step by step."""

    def __init__(self, backbone: Any, classes: int, images: int) -> None:
        self.backbone, self.device = backbone, backbone.device
        self.names = subjects.classnames(classes)
        self.meter = Meter(self.device)
        self.store = FeatureCache(None)
        labels = [index % classes for index in range(images)]
        files = Pixels(images, backbone.image_size)
        source = ImageSource(files, images, backbone, labels)
        view = image_view(
            source, self.store, self.meter, phase="encode_support", labeled=True, seed=1
        )
        self.labels = torch.tensor(labels, device=self.device)
        self.task = Task(self.names, (subjects.TEMPLATE,), view, None)  # type: ignore[arg-type]

    def fit(self, method: Any, step: Any) -> None:
        """One fit with steps of a kind."""
        context = Context(1, self.device, self.backbone.precision, step=step)
        with ExitStack() as stack:
            stack.enter_context(accounted(self.store, self.meter))
            stack.enter_context(isolate(1))
            stack.enter_context(self.meter.phase("fit"))
            method.fit(self.task, self.backbone, context)
            context.take_steps()

    def official(self, name: str, count: int) -> Callable[[], Any] | None:
        """The official step on `count` images at the backbone's precision; None without one."""
        if name in OFFICIAL:
            step = OFFICIAL[name](self.backbone, self.names, count)
        elif name in STEPS:
            setting = Setting(self.backbone, self.names, self.labels)
            step = subjects.official_step(STEPS[name](setting), count)
        else:
            return None
        dtype = AUTOCAST.get(self.backbone.precision)
        if dtype is None:
            return step

        def cast() -> None:
            with torch.autocast(self.device.type, dtype):
                step()

        return cast

    def encoding_of(self, name: str, batch: Sequence[Any]) -> Callable[[], Any] | None:
        """Encodes as many images as the official step does beyond ours; None if it does not."""
        encodes = name in OFFICIAL or (name in STEPS and STEPS[name].given == "pixels")
        # A batch of pixels has frozen features behind its labels if the loss compares with them.
        if not encodes or (batch[0].ndim == 4 and len(batch) == 2):
            return None
        pixels, _ = subjects.batch_of(self.backbone, len(self.names), len(batch[0]))
        return lambda: self.backbone.encode_image(pixels)

    def time_steps(self, method: Any, row: Row, size: Size, rate: float) -> Row:
        """The row with the medians of the steps of a fit, which is ended after them."""
        mine, theirs, used = list[float](), list[float](), list[str]()
        views = list[float]()
        call, cost = TrainStep.__call__, Cost()
        counts = self.meter.images
        before, memory = (counts.batches, counts.late), list[float]()
        official: list[Callable[[], Any] | None] = []
        notes: list[str] = []

        def timed(step: TrainStep, *batch: Any, **rest: Any) -> None:
            used.append(step.used if step.used != "eager" else step.reason or "eager")
            if len(used) <= size.warm:
                call(step, *batch, **rest)
                return
            counted = reset_peak(self.device) and len(mine) == 0
            mine.append(self._seconds(lambda: call(step, *batch, **rest), cost))
            if counted:
                memory.append(peak_bytes(self.device) / MEBI)
            if not official:
                official.append(self.official(row.method, len(batch[0]) if batch else 0))
            encode = self.encoding_of(row.method, batch)
            if official[0] is not None:
                try:
                    theirs.append(self._seconds(official[0], Cost()))
                    if encode is not None:
                        views.append(self._seconds(encode, Cost()))
                except torch.OutOfMemoryError:
                    notes.append("official: out of memory")
                    official[0] = None
            if len(mine) == size.timed:
                raise _Enough

        note = ""
        try:
            with patch.object(TrainStep, "__call__", timed):
                self.fit(method, row.step)
        except _Enough:
            pass
        except Exception as error:
            note = f"{type(error).__name__}: {' '.join(str(error).split()):.80}"
        if mine and row.step != "eager" and used[-1] != row.step:
            note = f"eager: {used[-1]:.80}"
        ours = statistics.median(mine) if mine else None
        asked = counts.batches - before[0]
        return replace(
            row,
            ours=ours and 1e3 * ours,
            official=1e3 * statistics.median(theirs) if theirs else None,
            encoding=1e3 * statistics.median(views) if views else None,
            megabytes=max(memory, default=None),
            peak=ours and cost.flops / len(mine) / ours / rate,
            late=(counts.late - before[1]) / asked if asked else None,
            note=note or (", ".join(notes) if mine else "takes no step, or fewer"),
        )

    def _seconds(self, work: Callable[[], Any], cost: Cost) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        with counting(cost):
            work()
        synchronize(self.device)
        return time.perf_counter() - start


def step_rows(device: torch.device, size: Size) -> Iterator[Row]:
    """A row per method, model, number of classes, precision and kind of step."""
    kinds = ("eager", captured_kind(device))
    for model in size.models:
        for precision in size.precisions:
            backbone = backbone_of(model, device, precision)
            rate = product_rate(device, precision, size.side)
            for classes in size.classes:
                bench = Bench(backbone, classes, max(size.images, min(classes, size.images)))
                for name in size.methods or trained_methods():
                    for kind in kinds:
                        row = Row(name, model, classes, precision, kind)
                        method = registry().method_class(name)()
                        found = bench.time_steps(method, row, size, rate)
                        yield found
                        if found.ours is None:
                            break


@contextmanager
def _clock(device: torch.device) -> Iterator[list[float]]:
    taken = [time.perf_counter()]
    yield taken
    synchronize(device)
    taken.append(time.perf_counter() - taken[0])


def whole_rows(device: torch.device, size: Size) -> Iterator[dict[str, Any]]:
    """Whole fits on a support set of ImageNet's size: seconds, peak memory, waiting."""
    classes, shots = size.whole
    model, precision = size.model, size.precision
    for name, options in size.options.items():
        bench = Bench(backbone_of(model, device, precision), classes, classes * shots)
        method = registry().method_class(name)(**options)
        counted = reset_peak(device)
        with _clock(device) as taken:
            bench.fit(method, captured_kind(device))
        counts = bench.meter.images
        yield {
            "method": name,
            "model": model,
            "images": classes * shots,
            "classes": classes,
            "precision": precision,
            "seconds": round(taken[-1], 2),
            "peak_mb": round(peak_bytes(device) / MEBI) if counted else None,
            "late": counts.late / counts.batches if counts.batches else None,
        }


def measure(device: torch.device, size: Size, output: Path) -> None:
    """Measure all, print rows as they come, write `output` and a table beside it."""
    rows = []
    facts = environment.describe(device)
    print(f"{facts['device_name']}, torch {torch.__version__}\n\n{table([])}", end="")
    for row in step_rows(device, size):
        rows.append(row)
        print(f"| {' | '.join(row.cells())} |", flush=True)
    whole = []
    for found in whole_rows(device, size):
        whole.append(found)
        print(json.dumps(found), flush=True)
    content = {"environment": facts, "steps": [*map(asdict, rows)], "whole": whole}
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(table(rows), encoding="utf-8")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--device", default=accelerator_kind() or "cpu")
    parser.add_argument("--output", type=Path, default=Path("accelerator.json"))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    for name in ("models", "classes", "precisions", "methods"):
        parser.add_argument(f"--{name}", type=_names, help="comma-separated (default: all)")
    given = parser.parse_args()
    size = SMALL if given.small else Size()
    chosen = {name: getattr(given, name) for name in ("models", "precisions", "methods")}
    chosen |= {"classes": given.classes and tuple(map(int, given.classes))}
    chosen = {name: value for name, value in chosen.items() if value}
    measure(torch.device(given.device), replace(size, **chosen) if chosen else size, given.output)


if __name__ == "__main__":
    main()
