"""What the curves of a fit cost: CPU seconds of training steps with and without their log.

    python -m benchmarks.curves [--steps 6] [--pairs 8]

Fits of CoOp and CLIP-LoRA run step by step, in turns with and without curves, on the toy backbone
and on a random one of the widths of a ViT-B/32. As a step takes much longer than its log, the log
is also timed alone, on steps of a model of four numbers.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp

from fewshot_bench.profiling.curves import Curves
from fewshot_bench.runner.fit import Context
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.utils.rng import isolate
from tests.reference.toy import random_backbone, random_task

CPU = torch.device("cpu")
ALONE = 2000
# Half of ViT-B/32's layers, which take half the time and have its widths.
SHAPE: dict[str, Any] = {"width": 512, "layers": 6}


class Silent(Curves):
    """Curves that nothing is logged to."""

    def log_step(self, *values: Any) -> None:
        """Keep nothing."""

    def send(self) -> None:
        """Send nothing."""


@contextmanager
def silent(is_silent: bool) -> Iterator[None]:
    """Contexts made inside have no curves, if asked for."""
    with patch("fewshot_bench.runner.fit.Curves", Silent if is_silent else Curves):
        yield


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def fit(method: Any, backbone: Any, is_silent: bool) -> float:
    """CPU seconds of a fit."""
    task = random_task(backbone, val=0)
    with silent(is_silent), isolate(1):
        context = Context(1, CPU, step="eager")
        spent = cpu_seconds(lambda: method.fit(task, backbone, context))
    assert bool(context.curves.finish()) is not is_silent
    return spent


def alone(is_silent: bool) -> float:
    """CPU seconds per step of a tiny model."""
    with silent(is_silent):
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        take = Context(1, CPU, step="eager").train_step(lambda: weight.square().sum(), optimizer)
    take(rate=0.1)

    def steps() -> None:
        for _ in range(ALONE):
            take(rate=0.1)

    return cpu_seconds(steps) / ALONE


def in_turns(measure: Callable[[bool], float], pairs: int) -> tuple[float, float]:
    """The medians with and without curves."""
    found = [(measure(False), measure(True)) for _ in range(pairs)]
    with_log, without = zip(*found, strict=True)
    return statistics.median(with_log), statistics.median(without)


def main() -> None:
    """Print a line per fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    alone(False)
    logged, plain = in_turns(alone, 3 * asked.pairs)
    cost = logged - plain
    print(f"log of one step: {1e6 * cost:.1f} microseconds of {1e6 * logged:.0f}")
    methods = {
        "coop": replace(CoOp(), epochs=asked.steps),
        "clip-lora": replace(ClipLora(), iterations=asked.steps),
    }
    for place, backbone in (
        ("tiny", toy_backbone("cpu", "fp32")),
        ("B/32-like", random_backbone(**SHAPE)),
    ):
        for name, method in methods.items():
            with_log, without = in_turns(partial(fit, method, backbone), asked.pairs)
            steps = asked.steps * (3 if name == "clip-lora" else 1)
            print(
                f"{name} on {place}: {1e3 * with_log / steps:.2f} ms per step with curves, "
                f"{1e3 * without / steps:.2f} without ({100 * (with_log / without - 1):+.2f} %); "
                f"the log alone is {100 * cost * steps / without:.3f} % of it"
            )


if __name__ == "__main__":
    main()
