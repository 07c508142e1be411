"""ZLaP against a dense solution of its system, and its answers for unusual groups of queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fsbench_methods.zlap import SMALLEST, TOLERANCE, Zlap

from fewshot_bench.utils.errors import UsageError
from tests.reference.zlap import scores
from tests.support.zlap_cases import Seen, make_case


def test_the_scores_are_those_of_a_dense_system() -> None:
    case = make_case()
    answers, expected = case.answer(Zlap()).exp(), scores(case.queries.features, case.text)
    assert torch.allclose(answers.double(), expected + SMALLEST, atol=TOLERANCE)
    assert torch.equal(answers.argmax(dim=1), expected.argmax(dim=1))


def test_other_settings_are_those_of_a_dense_system() -> None:
    case = make_case()
    given = {"neighbors": 10, "gamma": 3.0, "alpha": 0.9}
    answers = case.answer(Zlap(**given)).exp()
    expected = scores(case.queries.features, case.text, **given)
    assert torch.allclose(answers.double(), expected, atol=1e-4 * float(expected.max()))


def test_a_query_that_is_displaced_by_its_equals_has_one_neighbor_more_in_the_official_code() -> (
    None
):
    case = make_case()
    features = case.queries.features
    for displaced in (False, True):
        plain = scores(features, case.text, displaced=displaced)
        assert torch.allclose(plain, scores(features, case.text))
    # Six equal ones: the five nearest of some of them leave these themselves out.
    features = torch.cat([features, features[:1].expand(5, -1)])
    expected = scores(features, case.text)
    assert not torch.allclose(scores(features, case.text, displaced=True), expected, rtol=1e-3)
    answers = case.answer(Zlap(), queries=Seen(features, torch.zeros(len(features)))).exp()
    assert torch.equal(answers[:50].argmax(dim=1), expected[:50].argmax(dim=1))


def test_queries_and_classes_may_have_any_order() -> None:
    case = make_case()
    answers = case.answer(Zlap())
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    moved = Seen(case.queries.features[order], case.queries.labels[order])
    assert torch.allclose(case.answer(Zlap(), queries=moved), answers[order], atol=1e-4)
    classes = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    other = case.answer(Zlap(), text=case.text[classes])
    assert torch.allclose(other, answers[:, classes], atol=1e-4)


@pytest.mark.parametrize("support", [0.0, 1.0])
def test_few_queries_of_few_classes_are_answered(support: bool) -> None:
    case, method = make_case(), Zlap(support=support)
    one = Seen(case.queries.features[:1], case.queries.labels[:1])
    alone = case.answer(method, queries=one)
    if not support:
        assert int(alone.argmax()) == int((one.features @ case.text.T).argmax())
    same = Seen(one.features.expand(9, -1), one.labels.expand(9))
    assert len(set(case.answer(method, queries=same).argmax(dim=1).tolist())) == 1
    of_one = case.queries.labels == case.queries.labels[0]
    case.answer(method, queries=Seen(case.queries.features[of_one], case.queries.labels[of_one]))
    case.answer(method, text=case.text[:1], train=Seen(case.train.features[:1], torch.tensor([0])))


def test_on_top_of_zero_shot_it_is_itself() -> None:
    case = make_case()
    logits = 100 * case.queries.features @ case.text.T
    answers = case.answer(Zlap())
    # Logits of a classifier can have any constant added to a row.
    for shift in (0.0, 30.0):
        queries = replace(case.queries, scores=logits + shift)
        assert torch.allclose(
            case.answer(Zlap(on="zero-shot"), queries=queries), answers, atol=1e-3
        )
    other = replace(case.queries, scores=logits.roll(1, dims=1))
    assert not torch.allclose(case.answer(Zlap(on="coop"), queries=other), answers, atol=1e-1)


def test_labeled_images_pull_on_queries() -> None:
    case = make_case()
    # Texts of other classes.
    wrong = {"text": case.text.roll(1, dims=0)}
    answers = (case.answer(Zlap(support=weight), **wrong) for weight in (0.0, 1.0))
    hits = [int((each.argmax(dim=1) == case.queries.labels).sum()) for each in answers]
    assert hits[1] > 2 * hits[0]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match=r"alpha=1.0: expected at least 0 and below 1"):
        Zlap(alpha=1.0)
