"""Methods on frozen features: Tip-Adapter's search and training step, the linear probe's search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from fsbench_methods.cache_model import Cache, grid, search
from fsbench_methods.logistic import Affine, fit_logistic, search_c
from fsbench_methods.tip_adapter import TipAdapterF
from torch import Tensor

from benchmarks import official
from benchmarks.measure import Pair, in_pairs, seconds
from benchmarks.table import Row
from fewshot_bench.training.train_step import TrainStep, step_on

WIDTH, SHOTS = 512, 16
BETAS, ALPHAS = grid(12.0, 200), grid(10.0, 20)
# The official search is timed at every EVERY-th point of its grid, and its time scaled up.
EVERY = 80
# Approximate norm of CLIP's features before normalization.
SPREAD = 10.0


@dataclass(frozen=True)
class Features:
    """Unit features around one center per class: keys, queries and class prompts."""

    keys: Tensor
    labels: Tensor
    queries: Tensor
    targets: Tensor
    text: Tensor

    @classmethod
    def drawn(cls, classes: int, queries: int) -> Features:
        """Draw overlapping clusters, so that answers differ over the grid."""
        rng = torch.Generator().manual_seed(classes)
        centers = torch.randn(classes, WIDTH, generator=rng)
        labels = torch.arange(classes).repeat_interleave(SHOTS)
        targets = torch.randint(classes, (queries,), generator=rng)

        def near(index: Tensor, noise: float) -> Tensor:
            drawn = noise * torch.randn(len(index), WIDTH, generator=rng)
            return F.normalize(centers[index] + drawn, dim=-1)

        text = near(torch.arange(classes), 8.0)
        return cls(near(labels, 4.0), labels, near(targets, 4.0), targets, text)


def frozen_rows(classes: tuple[int, ...], pairs: int) -> Iterator[Row]:
    """Yield every comparison at every number of classes."""
    for count in classes:
        data = Features.drawn(count, 25 * count)
        yield _tip_search(data, count)
        yield _tip_step(data, count, pairs)
        if count <= 100:
            yield from (_probe(data, count, shots) for shots in (1, 4, SHOTS))


def _tip_search(data: Features, classes: int) -> Row:
    cache = Cache.build(data.keys, data.labels, classes)
    values = F.one_hot(data.labels, classes).float()
    zero_shot = 100.0 * data.queries @ data.text.T

    def ours() -> tuple[float, float]:
        found = search(cache, data.queries, data.targets, zero_shot, BETAS, ALPHAS)
        return found.beta, found.alpha

    def theirs(betas: list[float], alphas: list[float]) -> tuple[float, float]:
        return official.tip_search(
            data.queries, data.targets, data.text, data.keys.T, values, betas, alphas
        )

    points = [(beta, alpha) for beta in BETAS for alpha in ALPHAS][
        :: EVERY if classes < 500 else 10 * EVERY
    ]
    spent = sum(seconds(lambda p=p: theirs([p[0]], [p[1]])) for p in points)  # type: ignore[misc]
    scaled = spent * len(BETAS) * len(ALPHAS) / len(points)
    mine = min(seconds(ours) for _ in range(2))
    return Row("tip-adapter search", "512 wide", classes, Pair(mine, scaled, scaled / mine))


def _tip_step(data: Features, classes: int, pairs: int) -> Row:
    method, cache = TipAdapterF(), Cache.build(data.keys, data.labels, classes)
    mine = torch.nn.Parameter(cache.keys.clone())
    layer = torch.nn.Linear(WIDTH, len(mine), bias=False)
    layer.weight.data.copy_(data.keys)
    steps = [torch.optim.AdamW([p], lr=1e-3, eps=1e-4) for p in (mine, layer.weight)]
    values = F.one_hot(data.labels, classes).float()
    index = torch.arange(min(256, len(data.targets)))
    features, targets = data.queries[index], data.targets[index]
    loss_of_mine = partial(method.loss, cache.with_keys(mine), data.text, 100.0)
    take = TrainStep(step_on(loss_of_mine), steps[0], torch.amp.GradScaler("cpu", enabled=False))

    def ours() -> None:
        take(features, targets)

    def theirs() -> None:
        affinity = layer(features)
        cached = ((-1) * (1.0 - 1.0 * affinity)).exp() @ values
        loss = F.cross_entropy(100.0 * features @ data.text.T + 2.0 * cached, targets)
        steps[1].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        steps[1].step()

    return Row("tip-adapter-f step", "512 wide", classes, in_pairs(ours, theirs, pairs, 3))


def _probe(data: Features, classes: int, shots: int) -> Row:
    from tests.reference.linear_probe import searched

    few = 4 * classes
    val, targets = SPREAD * data.queries[:few], data.targets[:few]
    taken = torch.arange(len(data.keys)) % SHOTS < shots
    keys, labels = SPREAD * data.keys[taken], data.labels[taken]
    chosen: dict[str, float] = {}

    def solve(c: float) -> Affine:
        return fit_logistic(keys, labels, classes, c, 1000)

    def correct(model: Affine) -> int:
        return int((model.logits(val).argmax(dim=-1) == targets).sum())

    def ours() -> None:
        chosen["ours"] = search_c(solve, correct, 8).c

    def theirs() -> None:
        train, held = (part.double().numpy() for part in (keys, val))
        chosen["official"], _ = searched(train, labels.numpy(), held, targets.numpy())

    mine, other = seconds(ours), seconds(theirs)
    assert np.isclose(chosen["ours"], chosen["official"]), chosen
    return Row("linear-probe search", f"{shots}-shot", classes, Pair(mine, other, other / mine))
