"""Methods that answer queries together: CPU seconds and peak memory at the size of ImageNet.

Features are synthetic, with a gap between images and texts. Each method runs in a process of its
own; its peak is that of the whole process, with torch and the features. A smaller size is run by
the plain equations, too, with dense matrices and loops over classes (`tests/reference`).

    python -m benchmarks.transduction
    python -m benchmarks.transduction --queries 10000 --classes 100 --methods stata
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fsbench_methods.stata import StatA
from fsbench_methods.transclip import TransClip
from fsbench_methods.zlap import Zlap
from torch import Tensor

from benchmarks.measure import in_pairs, machine
from tests.reference import transduction as reference
from tests.reference import zlap
from tests.reference.toy import context

METHODS = {
    "transclip-zs": TransClip(support=False),
    "transclip-fs": TransClip(),
    "stata": StatA(),
    "zlap": Zlap(),
}
SHOTS = 4
SMALL = (2000, 100, 512)


@dataclass(frozen=True)
class Images:
    """Images of which only features and labels are known."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def progress(self, done: int, total: int) -> None:
        """Nothing is shown."""


@dataclass(frozen=True)
class Problem:
    """A task and its queries, which is its own backbone."""

    queries: Images
    train: Images
    val: Images
    text: Tensor
    logit_scale: float = 100.0

    @classmethod
    def draw(cls, queries: int, classes: int, width: int) -> Problem:
        """Queries of random classes, and as many validation as support images of each class."""
        rng = torch.Generator().manual_seed(0)
        gaps = F.normalize(torch.randn(2, width, generator=rng), dim=-1)
        centers = 0.5 * torch.randn(classes, width, generator=rng) / width**0.5

        def images(labels: Tensor) -> Images:
            noise = 0.9 * torch.randn(len(labels), width, generator=rng) / width**0.5
            return Images(F.normalize(gaps[0] + centers[labels] + noise, dim=-1), labels)

        few = torch.arange(classes).repeat(SHOTS)
        drawn = torch.randint(classes, (queries,), generator=rng)
        noise = 0.35 * torch.randn(classes, width, generator=rng) / width**0.5
        text = F.normalize(gaps[1] + centers + noise, dim=-1)
        return cls(images(drawn), images(few), images(few), text)

    def class_features(self, task: Any) -> Tensor:
        """(classes, width)."""
        return self.text

    def answer(self, method: Any) -> Tensor:
        """(n, classes) of a method fitted on the task."""
        answers: Tensor = method.fit(self, self, context()).logits(self.queries)
        return answers

    def reason(self, name: str) -> Tensor:
        """(n, classes) by the plain equations."""
        q, text = self.queries.features, self.text
        y = (self.logit_scale * q @ text.T).softmax(dim=1)
        if name == "zlap":
            return zlap.scores(q, text)
        if name == "stata":
            return reference.stata(q, text, y)
        if name == "transclip-zs":
            return reference.transclip(q, y)[0]
        support = (self.train.features, self.train.labels)
        results = reference.transclip(q, y, support, (0.002, 0.01, 0.02, 0.2))
        return results[reference.choose(q, (self.val.features, self.val.labels), results)]


def run_large(size: tuple[int, int, int], threads: int, name: str) -> tuple[float, float, float]:
    """CPU seconds and wall seconds of a method, and the peak of its process in GB."""
    torch.set_num_threads(threads)
    problem = Problem.draw(*size)
    starts = time.process_time(), time.perf_counter()
    with torch.no_grad():
        problem.answer(METHODS[name])
    cpu, wall = time.process_time() - starts[0], time.perf_counter() - starts[1]
    return cpu, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("queries", 50000), ("classes", 1000), ("width", 512), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    asked = parser.parse_args()
    size = asked.queries, asked.classes, asked.width
    print(machine())
    small = Problem.draw(*SMALL)
    for name in asked.methods:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            cpu, wall, peak = pool.apply(run_large, (size, asked.threads, name))
        print(
            f"{name} on {' x '.join(map(str, size))}: {cpu:.0f} CPU s of {asked.threads} threads, "
            f"{cpu / asked.threads:.0f} s if they have a core each ({wall:.0f} s here), "
            f"{peak:.2f} GB"
        )
        torch.set_num_threads(1)
        ours, plain = partial(small.answer, METHODS[name]), partial(small.reason, name)
        pair = in_pairs(ours, plain, pairs=1, warm=False, clock=time.process_time)
        print(
            f"  {' x '.join(map(str, SMALL))}: {pair.ours:.2f} CPU s, plain {pair.official:.2f}, "
            f"{pair.ratio:.0f} times"
        )


if __name__ == "__main__":
    main()
