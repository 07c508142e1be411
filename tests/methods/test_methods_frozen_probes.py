"""Linear and kernel classifiers on frozen features against their mathematics, over whole fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fsbench_methods.clap import Clap, multipliers
from fsbench_methods.cross_modal import CrossModal
from fsbench_methods.head_search import SIZES, HeadSearch, Samples
from fsbench_methods.proker import ProKeR, Ridge
from fsbench_methods.wise_ft import WiseFt
from fsbench_methods.zs_lp import Probe, ZsLp

from fewshot_bench import Augment, NumericalError
from fewshot_bench.runner.fit import Context
from fewshot_bench.training import raw_class_features, text_samples, unit
from tests.methods.test_methods_frozen import (
    BACKBONE,
    HALF,
    QUERIES,
    SCALE,
    TASK,
    TEXT,
    TOLERANCE,
    gradients_agree,
    same_answers,
)
from tests.reference import frozen_probes as reference
from tests.reference.toy import CPU, context, relative_gap

BASE = raw_class_features(BACKBONE, TASK)
ITERATIONS = 201


@pytest.mark.parametrize(("kind", "batch_size"), [(ZsLp, 256), (Clap, 256), (Clap, 12)])
def test_probes(kind: Any, batch_size: int) -> None:
    method = kind(epochs=30, views=4, batch_size=batch_size)
    pool = TASK.train.views(4, Augment()).flatten(0, 1)
    labels, order, epochs = TASK.train.labels.repeat(4), context().rng("order"), []
    for _ in range(30):
        indices = torch.randperm(len(pool), generator=order).split(batch_size)
        # As many batches as the 30 support images give.
        epochs.append([(pool[i], labels[i]) for i in indices[: max(1, 30 // batch_size)]])
    strength = reference.clap_multipliers(pool, labels, BASE, SCALE)
    probe = Probe(torch.nn.Parameter(BASE.clone()), BASE, pool, labels, SCALE)
    assert relative_gap(multipliers(probe), strength) < TOLERANCE
    strength = strength if kind is Clap else torch.zeros(6)
    vectors = reference.probe_fit(epochs, BASE, strength, SCALE)
    assert relative_gap(unit(vectors), unit(BASE)) > 0.01
    expected = reference.cosine_logits(QUERIES.features, vectors, SCALE)
    same_answers(method.fit(TASK, BACKBONE, context()).logits(QUERIES), expected)
    penalty = method.penalty(probe)
    gradients_agree(
        lambda w: torch.nn.functional.cross_entropy(probe.logits(pool, w), labels) + penalty(w),
        lambda w: reference.clap_loss(w, pool, labels, BASE, strength, SCALE),
    )


@pytest.mark.parametrize("points", ["images", "views"])
@pytest.mark.parametrize("val", [True, False])
def test_proker(points: Any, val: bool) -> None:
    task = replace(TASK, val=TASK.val if val else None, asked=5)
    views, labels = TASK.train.views(3, HALF), TASK.train.labels
    # A mean of views stands for as many points.
    support = unit(views.mean(dim=0)).repeat(3, 1) if points == "images" else views.flatten(0, 1)
    labels = labels.repeat(3)
    ctx = context()
    ours = ProKeR(points=points, views=3).fit(task, BACKBONE, ctx).logits(QUERIES)
    constants = (1.5, 0.05)
    if task.val is not None:
        given = task.val.features, task.val.labels
        constants = reference.proker_constants(given, support, labels, TEXT)
        assert ctx.selection == {"configurations": 200, "labels": 24}
    assert (ctx.notes["beta"], ctx.notes["penalty"]) == constants
    expected = reference.proker_logits(QUERIES.features, support, labels, TEXT, *constants)
    same_answers(ours, expected.float())


def test_proker_takes_the_constants_that_are_given() -> None:
    ctx = context()
    ProKeR(beta=2.0, views=2).fit(replace(TASK, val=None, asked=1), BACKBONE, ctx)
    assert ctx.notes == {"beta": 2.0, "penalty": 0.05}


def test_proker_refuses_a_kernel_that_rounding_has_left_without_a_solution() -> None:
    """The factors of such a kernel are finite numbers that solve nothing."""
    drawn = torch.Generator().manual_seed(0)
    points = unit(torch.randn(320, 8, generator=drawn) + 2 * torch.randn(8, generator=drawn))
    problem = Ridge(points, torch.arange(320) % 20, points[:20], views=10)
    problem.solve(0.5, 0.001)
    with pytest.raises(NumericalError, match=r"beta=0.5 and penalty=1e-07; try a larger penalty"):
        problem.solve(0.5, 1e-7)


def test_proker_chooses_on_validation_data_what_is_not_given() -> None:
    for given, tried in (({"beta": 2.0}, 10), ({"penalty": 0.3}, 20)):
        ctx = context()
        ProKeR(views=2, **given).fit(TASK, BACKBONE, ctx)
        assert ctx.notes.items() >= given.items()
        assert ctx.selection == {"configurations": tried, "labels": 24}
    told: list[int] = []
    ctx = Context(3, CPU, on_progress=lambda done, total: told.append(total - done))
    ProKeR(views=2, beta=2.0).fit(TASK, BACKBONE, ctx)
    assert told == list(range(10, 0, -1))
    ctx = context()
    ProKeR(views=2, beta=2.0, penalty=0.3).fit(TASK, BACKBONE, ctx)
    assert ctx.notes == {"beta": 2.0, "penalty": 0.3}
    assert ctx.selection == {"configurations": 0, "labels": 0}


@pytest.mark.parametrize("val", [True, False])
def test_heads(val: bool) -> None:
    task = replace(TASK, val=TASK.val if val else None)
    given = (TASK.val.features, TASK.val.labels) if TASK.val and val else None
    crops = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
    images = torch.cat([TASK.train.features, TASK.train.views(1, crops)[0]])
    labels = TASK.train.labels.repeat(2)
    features, classes = text_samples(BACKBONE, TASK)
    texts = (unit(features), classes)

    def order() -> torch.Generator:
        return context().rng("order")

    def expected(sets: Any, start: Any, sizes: Any) -> Any:
        return reference.best_head(sets, start, sizes, given, SCALE, ITERATIONS, order)

    # With twelve prompts, half of a batch of 32 is too large.
    head = expected([(images, labels), texts], unit(BASE), [8])
    ctx = context()
    ours = CrossModal(iterations=ITERATIONS).fit(task, BACKBONE, ctx)
    same_answers(ours.logits(QUERIES), SCALE * QUERIES.features @ head.T)
    assert relative_gap(head, unit(BASE)) > 1e-4
    assert ctx.selection["configurations"] == (6 * 3 if val else 0)
    head = expected([(images, labels)], unit(BASE), [8, 32])
    ours = WiseFt(iterations=ITERATIONS).fit(task, BACKBONE, context())
    same_answers(ours.logits(QUERIES), SCALE * QUERIES.features @ (head + unit(BASE)).T / 2)


def test_a_batch_has_a_share_below_the_size_of_each_set() -> None:
    samples = [Samples(torch.zeros(count, 2), torch.zeros(count)) for count in (2, 5, 17, 33)]

    def sizes(*sets: int) -> tuple[int, ...]:
        return HeadSearch(TEXT, tuple(samples[i] for i in sets), 1.0, 1).sizes()

    assert sizes(3) == sizes(2, 3) == SIZES
    assert sizes(1, 3) == sizes(2) == (8,)
    assert sizes(0, 3) == sizes(0) == (2,)
