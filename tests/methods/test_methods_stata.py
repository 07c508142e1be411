"""StatA against its equations, and where the official code divides too often."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fsbench_methods.stata import StatA

from tests.reference import transduction as reference
from tests.support.transduction_cases import CLASSES, Case, draw

CASES = [draw(seed) for seed in range(3)]
CHUNK = 2500
"""Queries after which the official code divides the sum of squares again."""


def of_classes(case: Case, classes: int) -> Case:
    """The case with queries of the first classes alone."""
    kept = (case.queries.labels < classes).nonzero()[:, 0]
    return replace(case, queries=case.queries.take(kept))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("present", [CLASSES, 17, 2])
def test_stata_with_all_classes_and_with_few(case: Case, present: int) -> None:
    case = of_classes(case, present)
    z = reference.stata(case.queries.features, case.text, case.start)
    ours = case.answer(StatA())
    assert ours.isfinite().all()
    assert (ours.exp() - z).abs().max() < 2e-6
    assert torch.equal(ours.argmax(dim=1), z.argmax(dim=1))


@pytest.mark.parametrize("alpha", [0.5, 5.0])
def test_alpha_is_the_weight_of_an_anchor(alpha: float) -> None:
    case = CASES[0]
    z = reference.stata(case.queries.features, case.text, case.start, alpha=alpha)
    assert (case.answer(StatA(alpha=alpha)).exp() - z).abs().max() < 2e-6
    assert (case.answer(StatA()).exp() - z).abs().max() > 1e-3


def test_2499_to_2501_queries_are_answered_alike() -> None:
    case = draw(0, each=126)
    sizes = (CHUNK - 1, CHUNK, CHUNK + 1)
    parts = [replace(case, queries=case.queries.take(torch.arange(size))) for size in sizes]
    answers = [part.answer(StatA())[: sizes[0]].exp() for part in parts]
    for other in answers[1:]:
        # A new query is the neighbor of a few.
        assert ((other - answers[0]).abs().amax(dim=1) > 0.01).float().mean() < 0.01
    clean, chunked = (
        [reference.first_variance(p.queries.features, p.text, p.start, chunk).mean() for p in parts]
        for chunk in (None, CHUNK)
    )
    assert torch.allclose(torch.stack(clean), clean[0], rtol=1e-3)
    assert torch.allclose(torch.stack(chunked[:2]), clean[0], rtol=1e-3)
    assert chunked[2] < 0.01 * clean[2]


def test_the_accident_moves_assignments_of_the_equations() -> None:
    case = CASES[0]
    inputs = case.queries.features, case.text, case.start
    once, often = (reference.stata(*inputs, chunk=chunk) for chunk in (None, 100))
    assert (once - often).abs().max() > 1e-3


def test_permuted_queries_and_classes_permute_answers() -> None:
    case, rng = CASES[2], torch.Generator().manual_seed(5)
    queries, classes = (torch.randperm(n, generator=rng) for n in (len(case.queries), CLASSES))
    moved = replace(case, queries=case.queries.take(queries), text=case.text[classes])
    expected = case.answer(StatA())[queries][:, classes]
    assert torch.allclose(moved.answer(StatA()), expected, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_few_queries_or_equal_ones_are_answered(count: int) -> None:
    case = CASES[0]
    few = replace(case, queries=case.queries.take(torch.arange(count)))
    z = reference.stata(few.queries.features, few.text, few.start)
    assert (few.answer(StatA()).exp() - z).abs().max() < 2e-6
    equal = case.queries.take(torch.zeros(count, dtype=torch.int64))
    answers = case.answer(StatA(), queries=equal)
    assert answers.isfinite().all()
    assert len(answers.argmax(dim=1).unique()) == 1


def test_one_class_has_all_queries() -> None:
    case = CASES[0]
    assert torch.equal(case.answer(StatA(), text=case.text[:1]), torch.zeros(len(case.queries), 1))


def test_on_top_of_zero_shot_is_the_method_itself() -> None:
    case = CASES[0]
    scores = case.logit_scale * case.queries.features @ case.text.T
    ours = case.answer(StatA(on="zero-shot"), queries=replace(case.queries, scores=scores))
    assert torch.equal(ours, case.answer(StatA()))
