"""EM-Dirichlet against loops, and its answers for unusual groups of queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fsbench_methods.em_dirichlet import EmDirichlet, HardEmDirichlet

from fewshot_bench.utils.errors import UsageError
from tests.reference import em_dirichlet as reference
from tests.support.zlap_cases import Case, Seen, make_case

QUICK = {"rounds": 3, "steps": 120}
METHODS = (EmDirichlet, HardEmDirichlet)


def probabilities(case: Case) -> torch.Tensor:
    return (30 * case.queries.features @ case.text.T).double().softmax(dim=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("penalty", [-1, 3])
def test_the_answers_are_those_of_loops(method: type[EmDirichlet], penalty: int) -> None:
    case = make_case(classes=6, queries=24)
    answers = case.answer(method(penalty=penalty, **QUICK))
    x = probabilities(case)
    weight = 6 // 5 if penalty < 0 else penalty
    (expected,) = reference.posteriors([x], weight, 3, hard=method.hard, steps=120)
    assert answers.argmax(dim=1).tolist() == reference.match(expected, x)
    # Columns are matched, and rows are probabilities.
    assert torch.allclose(answers.exp().sum(dim=1), torch.ones(24))
    sorted_rows = answers.double().sort(dim=1).values, expected.sort(dim=1).values
    assert torch.allclose(*sorted_rows, atol=1e-3, rtol=1e-4)


def test_a_shared_test_of_convergence_changes_answers_a_little() -> None:
    cases = [make_case(classes=5, queries=12, seed=seed) for seed in (1, 2)]
    xs = [probabilities(case) for case in cases]
    alone = [reference.posteriors([x], 1, 2, steps=400)[0] for x in xs]
    together = reference.posteriors(xs, 1, 2, steps=400, together=True)
    gaps = [float((a.exp() - b.exp()).abs().max()) for a, b in zip(alone, together, strict=True)]
    assert 0 < max(gaps) < 1e-3
    for case, own in zip(cases, alone, strict=True):
        answers = case.answer(EmDirichlet(rounds=2, steps=400))
        assert torch.allclose(
            answers.double().sort(dim=1).values, own.sort(dim=1).values, atol=1e-3, rtol=1e-4
        )


@pytest.mark.parametrize("method", METHODS)
def test_queries_and_classes_may_have_any_order(method: type[EmDirichlet]) -> None:
    case = make_case(classes=6, queries=24)
    answers = case.answer(method(**QUICK)).exp()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    moved = Seen(case.queries.features[order], case.queries.labels[order])
    assert torch.allclose(
        case.answer(method(**QUICK), queries=moved).exp(), answers[order], atol=1e-4
    )
    classes = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    other = case.answer(method(**QUICK), text=case.text[classes]).exp()
    assert torch.equal(other.argmax(dim=1), answers[:, classes].argmax(dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_few_queries_of_few_classes_are_answered(method: type[EmDirichlet]) -> None:
    case = make_case(classes=6, queries=24)
    one = Seen(case.queries.features[:1], case.queries.labels[:1])
    best = int((one.features @ case.text.T).argmax())
    assert int(case.answer(method(**QUICK), queries=one).argmax()) == best
    same = Seen(one.features.expand(9, -1), one.labels.expand(9))
    assert case.answer(method(**QUICK), queries=same).argmax(dim=1).tolist() == [best] * 9
    for support in (False, True):
        of_one = case.queries.labels == case.queries.labels[0]
        few = Seen(case.queries.features[of_one], case.queries.labels[of_one])
        case.answer(method(support=support, **QUICK), queries=few)
        first = Seen(case.train.features[:1], torch.tensor([0]))
        case.answer(method(support=support, **QUICK), text=case.text[:1], train=first)


def test_on_top_of_zero_shot_it_is_itself() -> None:
    case = make_case(classes=6, queries=24)
    queries = replace(case.queries, scores=100 * case.queries.features @ case.text.T)
    method = EmDirichlet(on="zero-shot", **QUICK)
    answers = case.answer(EmDirichlet(**QUICK))
    assert torch.allclose(case.answer(method, queries=queries), answers, atol=1e-2, rtol=1e-3)


def test_support_images_stay_in_their_clusters() -> None:
    case = make_case(classes=6, queries=24)
    x = probabilities(case)
    near = (30 * case.train.features @ case.text.T).double().softmax(dim=1)
    answers = case.answer(EmDirichlet(support=True, **QUICK))
    (expected,) = reference.posteriors([x], 1, 3, steps=120, support=(near, case.train.labels))
    assert torch.allclose(answers.double(), expected, atol=1e-3, rtol=1e-4)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"penalty=-2: expected at least 0, or -1"):
        EmDirichlet(penalty=-2)
