"""TransCLIP against its equations, and the accidents of the official code against ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fsbench_methods.stata import StatA
from fsbench_methods.transclip import TransClip
from fsbench_methods.transclip_model import GAMMAS
from torch import Tensor

from tests.reference import transduction as reference
from tests.reference.toy import context
from tests.support.transduction_cases import CLASSES, Case, Seen, draw

CASES = [draw(seed) for seed in range(3)]
ZERO_SHOT = TransClip(support=False)


def support(case: Case) -> tuple[Tensor, Tensor]:
    return case.train.features, case.train.labels


def few_shot(case: Case, gammas: tuple[float, ...] = GAMMAS, **accidents: bool) -> list[Tensor]:
    """z of the reference for each gamma."""
    q = case.queries.features
    return reference.transclip(q, case.start, support(case), gammas, **accidents)


def chosen(case: Case, results: list[Tensor]) -> Tensor:
    assert case.val is not None
    val = case.val.features, case.val.labels
    return results[reference.choose(case.queries.features, val, results)]


def changed(first: Tensor, second: Tensor) -> float:
    """The share of queries with other answers."""
    return float((first.argmax(dim=1) != second.argmax(dim=1)).float().mean())


def agree(logits: Tensor, z: Tensor) -> None:
    """Assert the same assignments within rounding, and the same answers."""
    assert logits.isfinite().all()
    assert (logits.exp() - z).abs().max() < 2e-6
    assert torch.equal(logits.argmax(dim=1), z.argmax(dim=1))


@pytest.mark.parametrize("case", CASES)
def test_zero_shot(case: Case) -> None:
    z = reference.transclip(case.queries.features, case.start)[0]
    agree(case.answer(ZERO_SHOT), z)
    assert changed(z, case.start) > 0.01


@pytest.mark.parametrize("case", CASES)
def test_few_shot_takes_the_first_best_gamma_on_validation_images(case: Case) -> None:
    agree(case.answer(TransClip()), chosen(case, few_shot(case)))
    ctx = context()
    TransClip().fit(case, case, ctx)  # type: ignore[arg-type]
    assert case.val is not None
    assert ctx.selection == {"configurations": 4, "labels": len(case.val)}


@pytest.mark.parametrize("gamma", [0.01, 0.2])
def test_a_gamma_is_given_or_001_without_validation_images(gamma: float) -> None:
    case, ctx = CASES[0], context()
    (z,) = few_shot(case, (gamma,))
    agree(case.answer(TransClip(gamma=gamma)), z)
    without = case.answer(TransClip(), val=None)
    assert torch.equal(without, case.answer(TransClip(gamma=0.01)))
    TransClip(gamma=gamma).fit(case, case, ctx)  # type: ignore[arg-type]
    assert ctx.selection == {"configurations": 0, "labels": 0}


def test_misaligned_rows_make_answers_depend_on_the_order_of_queries() -> None:
    case = CASES[0]
    order = case.queries.labels.argsort(stable=True)
    by_class = replace(case, queries=case.queries.take(order))
    ours = case.answer(TransClip())
    assert torch.allclose(by_class.answer(TransClip()), ours[order], atol=1e-4)
    official, ordered = (few_shot(part, (0.01,), misaligned=True) for part in (case, by_class))
    assert changed(official[0][order], ordered[0]) > 0.01
    aligned, ordered = (few_shot(part, (0.01,)) for part in (case, by_class))
    assert changed(aligned[0][order], ordered[0]) == 0


def gaps(first: list[Tensor], second: list[Tensor]) -> list[float]:
    """The largest differences between assignments, for each gamma."""
    return [float((a - b).abs().max()) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("accident", ["misaligned", "dropped"])
def test_neighbors_mixed_up_or_dropped_move_assignments(accident: str) -> None:
    assert min(gaps(few_shot(CASES[1]), few_shot(CASES[1], **{accident: True}))) > 0.01


def test_gammas_that_start_where_the_last_one_ended_differ_until_the_rounds_converge() -> None:
    inputs = CASES[1].queries.features, CASES[1].start, support(CASES[1]), GAMMAS
    anew, chained = (
        [reference.transclip(*inputs, n, chained=on) for n in (1, 10)] for on in (False, True)
    )
    assert max(gaps(anew[0], chained[0])) > 1e-3
    assert max(gaps(anew[1], chained[1])) < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_on_top_of_zero_shot_is_zero_shot_unless_the_start_is_overwritten(case: Case) -> None:
    scores = case.logit_scale * case.queries.features @ case.text.T
    queries = replace(case.queries, scores=scores)
    ours = case.answer(TransClip(on="zero-shot"), queries=queries)
    assert torch.equal(ours, case.answer(ZERO_SHOT))
    overwritten = reference.transclip(case.queries.features, case.start, aliased=True)[0]
    assert changed(overwritten, ours) > 0.1


def test_the_number_of_classes_is_that_of_the_names_not_that_of_the_labels() -> None:
    case = CASES[0]
    present = case.queries.take((case.queries.labels < CLASSES - 1).nonzero()[:, 0])
    fewer = replace(case, queries=present)
    agree(fewer.answer(ZERO_SHOT), reference.transclip(present.features, fewer.start)[0])
    counted = int(present.labels.max()) + 1
    with pytest.raises(RuntimeError, match="must match"):
        reference.transclip(present.features, fewer.start, classes=counted)


@pytest.mark.parametrize("method", [TransClip(), ZERO_SHOT], ids=["few-shot", "zero-shot"])
def test_permuted_queries_and_classes_permute_answers(method: TransClip) -> None:
    case, rng = CASES[2], torch.Generator().manual_seed(5)
    queries, classes = (torch.randperm(n, generator=rng) for n in (len(case.queries), CLASSES))
    new = classes.argsort()
    assert case.val is not None
    moved = Case(
        case.queries.take(queries),
        replace(case.train, labels=new[case.train.labels]),
        replace(case.val, labels=new[case.val.labels]),
        case.text[classes],
    )
    expected = case.answer(method)[queries][:, classes]
    assert torch.allclose(moved.answer(method), expected, atol=1e-3)


def test_the_first_means_do_not_depend_on_the_order_of_queries_with_probabilities_of_one() -> None:
    case = replace(CASES[0], logit_scale=1000.0)
    assert (case.start == 1).sum() > 100
    order = torch.arange(len(case.queries)).flip(0)
    turned = case.answer(ZERO_SHOT, queries=case.queries.take(order))
    assert changed(turned.flip(0), case.answer(ZERO_SHOT)) == 0


@pytest.mark.parametrize("method", [TransClip(), ZERO_SHOT], ids=["few-shot", "zero-shot"])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_few_queries_or_equal_ones_are_answered(method: TransClip, count: int) -> None:
    case = CASES[0]
    few = case.queries.take(torch.arange(count))
    assert case.answer(method, queries=few).isfinite().all()
    equal = case.queries.take(torch.zeros(count, dtype=torch.int64))
    answers = case.answer(method, queries=equal)
    assert answers.isfinite().all()
    assert len(answers.argmax(dim=1).unique()) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_queries_follow_the_equations(count: int) -> None:
    case = CASES[0]
    few = replace(case, queries=case.queries.take(torch.arange(count)))
    ours = few.answer(TransClip(gamma=0.01))
    agree(ours, few_shot(few, (0.01,))[0])


def test_one_class_and_a_class_without_support_images_are_answered() -> None:
    case = CASES[0]
    shots = Seen(case.train.features[:4], case.train.labels[:4])
    alone = case.answer(TransClip(), text=case.text[:1], train=shots, val=None)
    assert torch.equal(alone, torch.zeros(len(case.queries), 1))
    partly = case.answer(TransClip(), train=shots, val=None)
    assert (partly.argmax(dim=1) == case.queries.labels).float().mean() > 0.3


@pytest.mark.parametrize(
    ("method", "total"), [(TransClip(), 40), (TransClip(gamma=0.1), 10), (StatA(), 10)]
)
def test_rounds_are_reported_as_progress(method: TransClip | StatA, total: int) -> None:
    queries = CASES[0].queries.take(torch.arange(20))
    CASES[0].answer(method, queries=queries)
    assert queries.told == [(done, total) for done in range(total)]


def test_only_support_images_tie_it_to_their_classes() -> None:
    assert TransClip().tied_to_classes
    case = CASES[0]
    for free in (TransClip(on="coop"), ZERO_SHOT):
        assert not free.tied_to_classes
        assert hasattr(free.fit(case, case, context()), "for_classes")  # type: ignore[arg-type]
