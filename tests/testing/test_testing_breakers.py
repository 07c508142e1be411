"""Each check of the conformance kit catches a method that breaks exactly its rule."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.coop import CoOp
from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task, Vocabulary
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.testing import (
    Bench,
    CheckFailure,
    CheckResult,
    all_checks,
    check_method,
    parametrize_with_checks,
    run_checks,
)
from fewshot_bench.testing.learning_checks import (
    SLACK,
    accuracy_of,
    check_learns_a_separable_task,
)
from fewshot_bench.training import Encoders, EpochLearner, Learned, LinearClassifier
from fewshot_bench.utils.errors import UsageError
from tests.support.breakers import BREAKERS, Head, InBatches, InStreams, Linear, rebuilt
from tests.support.breakers_learning import ChangesProcess, Prints


@pytest.mark.parametrize("name", sorted(BREAKERS))
def test_a_breaker_fails_exactly_its_check(name: str) -> None:
    check, kind = BREAKERS[name]
    failed = {r.name: r.reason for r in run_checks(kind()) if r.outcome == "failed"}
    assert set(failed) == {check}, failed
    assert failed[check]


@pytest.mark.parametrize("kind", [InBatches, InStreams])
def test_what_a_card_allows_breaks_no_rule(kind: type) -> None:
    outcomes = {result.name: result.outcome for result in run_checks(kind())}
    skipped = {name for name, outcome in outcomes.items() if outcome != "passed"}
    assert "check_restored_from_its_tensors_it_answers_alike" in skipped
    assert {outcomes[name] for name in skipped} == {"skipped"}


def test_every_check_has_a_breaker() -> None:
    assert {check for check, _ in BREAKERS.values()} == {check.name for check in all_checks()}


def test_every_check_says_its_rule_in_one_sentence() -> None:
    for check in all_checks():
        assert check.rule.endswith("."), check.name


def test_breakers_leave_no_trace_in_the_process() -> None:
    before = os.getcwd()
    run_checks(ChangesProcess())
    assert os.getcwd() == before
    assert "FSBENCH_TEST_LEFTOVER" not in os.environ


def test_an_expected_failure_is_accepted_with_its_reason() -> None:
    check_method(Prints(), expected_failures={"check_prints_nothing": "a progress line"})


def test_an_expected_failure_that_passes_is_an_error() -> None:
    with pytest.raises(CheckFailure, match=r"passes; remove it from expected_failures"):
        check_method(Head(), expected_failures={"check_prints_nothing": "a progress line"})


def test_the_failures_are_listed_together() -> None:
    with pytest.raises(CheckFailure, match=r"head breaks 1 rules:\n  check_prints_nothing: wrote"):
        check_method(Prints())


def test_an_unknown_expected_failure_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'check_prints_nothing'"):
        check_method(Head(), expected_failures={"check_print_nothing": "typo"})


def test_expected_failures_become_strict_xfails() -> None:
    decorator = parametrize_with_checks(
        [Prints()], expected_failures={"head": {"check_prints_nothing": "a progress line"}}
    )
    marked = [case for case in decorator.args[1] if case.marks]
    assert [case.id for case in marked] == ["head-check_prints_nothing"]
    (mark,) = marked[0].marks
    assert mark.kwargs == {"strict": True, "reason": "a progress line"}


@dataclass(frozen=True)
class Many(Head):
    """Starts at prompts that are worse than those of zero-shot, and learns a little."""

    rate: float = 7e-4

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        asked = Vocabulary(task.classnames, ("a photo of many {}.",))
        weight = backbone.class_features(asked).clone().requires_grad_()
        optimizer = torch.optim.AdamW([weight], lr=self.rate)
        for _ in range(10):
            optimizer.zero_grad()
            scores = backbone.logit_scale * task.train.features @ F.normalize(weight, dim=-1).T
            F.cross_entropy(scores, task.train.labels).backward()
            optimizer.step()
        weight = weight.detach()
        return Linear(weight, weight.new_zeros(len(weight)), backbone.logit_scale)


def test_a_method_with_other_prompts_is_compared_with_its_own_start() -> None:
    bench = Bench(Many())
    fit, start = bench.first, bench.untrained
    assert start is not None
    zero_shot = fit.view().features @ fit.backbone.class_features(fit.task).T
    untrained, trained, other = (
        accuracy_of(logits, fit.labels) for logits in (start.logits, fit.logits, zero_shot)
    )
    assert untrained < trained < other - SLACK
    check_learns_a_separable_task(bench)


@dataclass(frozen=True)
class Patient(Head):
    """Fits until the weights have moved."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        start = backbone.class_features(task)
        weight = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=0.01)
        while torch.equal(weight, start):
            optimizer.zero_grad()
            scores = task.train.features @ weight.T
            F.cross_entropy(scores, task.train.labels).backward()
            optimizer.step()
        weight = weight.detach()
        return Linear(weight, weight.new_zeros(len(weight)), backbone.logit_scale)


def test_a_fit_that_ends_only_when_it_has_moved_has_no_untrained_state() -> None:
    bench = Bench(Patient())
    assert accuracy_of(bench.first.logits, bench.first.labels) < 1 - SLACK
    assert bench.untrained is None
    check_learns_a_separable_task(bench)


@dataclass
class Attached(Linear):
    """A classifier with eight tensors, all of which require a gradient."""

    def tensors(self) -> Any:
        parts = {f"row {index}": self.weight[index % 4] for index in range(8)}
        return {name: row.clone().requires_grad_() for name, row in parts.items()}


@dataclass(frozen=True)
class AttachesAll(Head):
    fit = rebuilt(Attached)


def test_a_reason_lists_at_most_five_things_and_names_the_authors_line() -> None:
    (check,) = [one for one in all_checks() if one.name == "check_tensors_are_detached_and_finite"]
    with pytest.raises(CheckFailure, match=r"\(at \S*breakers\.py:\d+ in tensors\)$") as failed:
        check(AttachesAll())
    listed = "row 0, row 1, row 2, row 3, row 4 and 3 more with requires_grad"
    assert listed in str(failed.value)
    assert failed.value.__suppress_context__


@dataclass
class Strict(Linear):
    """A classifier that takes no weights of zero."""

    def logits(self, queries: Images) -> Tensor:
        if not self.weight.any():
            raise ValueError("expected weights")
        return super().logits(queries)


@dataclass(frozen=True)
class RefusesZeros(Head):
    fit = rebuilt(Strict)


def test_an_error_of_a_classifier_with_zeros_is_a_change() -> None:
    rule = "check_logits_come_from_the_stored_tensors"
    (check,) = [one for one in all_checks() if one.name == rule]
    check(RefusesZeros())


@dataclass(frozen=True)
class ReturnsOurs(Head):
    """Its classifier is one of fewshot_bench, with weights that are not finite."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        return LinearClassifier(backbone.class_features(task) / 0)


@dataclass(frozen=True)
class Inherits(CoOp):
    """A method whose fit is inherited."""

    def initial_context(self, *given: Any) -> Any:
        raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("kind", "function"), [(ReturnsOurs, "fit"), (Inherits, "initial_context")]
)
def test_no_reason_points_into_what_an_author_inherits(kind: type, function: str) -> None:
    places = {one.place for one in run_checks(kind()) if one.outcome == "failed"}
    assert len(places) == 1
    assert re.fullmatch(rf"\S*test_testing_breakers\.py:\d+ in {function}", places.pop())


@dataclass
class Listed(Linear):
    """A classifier whose `tensors` is not a mapping."""

    def tensors(self) -> Any:
        return [self.weight, self.bias]


@dataclass(frozen=True)
class ListsTensors(Head):
    fit = rebuilt(Listed)


def test_tensors_that_are_no_mapping_break_one_rule() -> None:
    results = {result.name: result for result in run_checks(ListsTensors())}
    broken = {name: one.reason for name, one in results.items() if one.outcome == "failed"}
    assert list(broken) == ["check_fit_returns_a_classifier"]
    assert "tensors() returned list" in broken["check_fit_returns_a_classifier"]
    skipped = results["check_tensors_are_detached_and_finite"]
    assert (skipped.outcome, skipped.reason) == (
        "skipped",
        "needs the mapping that tensors() must return",
    )


def failures(kind: type) -> dict[str, CheckResult]:
    return {one.name: one for one in run_checks(kind()) if one.outcome == "failed"}


@dataclass(frozen=True)
class ForgetsTexts(EpochLearner):
    """Has tensors for both encoders and hands the images' to theirs only."""

    name: ClassVar[str] = "forgets-texts"
    epochs: int = 2
    batch_size: int = 4
    trains: ClassVar[tuple[str, ...]] = ("vision", "text")

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        return {
            "images": torch.zeros(2, backbone.image_tower().width),
            "texts": torch.zeros(2, backbone.text_tower().width),
        }

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        return replace(frozen, vision_edits=Edits((Tokens(0, learned["images"], "end"),)))


def test_tensors_of_an_encoder_that_never_sees_them_break_a_rule() -> None:
    (check,) = [one for one in all_checks() if one.name == "check_training_moves_parameters"]
    place = r"\(at \S*test_testing_breakers\.py:\d+ in encoders\)"
    shapes = r"1 parameters of an optimizer never get a gradient: shapes \(2, \d+\); .*"
    with pytest.raises(CheckFailure, match=shapes + place):
        check(ForgetsTexts())


def line_of(text: str) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"test_testing_breakers.py:{lines.index(text) + 1}"


@dataclass(frozen=True)
class HasAStrayValue(Head):
    other: int = 3
    momentum = 0.95


class IsNoDataclass:
    """A method without fields."""

    name: ClassVar[str] = "is-no-dataclass"


LEFT: list[Tensor] = []


@dataclass(frozen=True)
class LeavesWeights(Head):
    """Each fit begins with what the one before it left."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        LEFT.append(backbone.class_features(task) + sum(LEFT))
        return LinearClassifier(LEFT[-1])


def test_a_broken_rule_is_placed_at_the_line_that_breaks_it() -> None:
    (stray,) = [one for one in all_checks() if "hyperparameters" in one.name]
    with pytest.raises(CheckFailure, match=line_of("    momentum = 0.95")):
        stray(HasAStrayValue())
    with pytest.raises(CheckFailure, match=line_of("class IsNoDataclass:")):
        stray(IsNoDataclass())


def test_state_that_a_fit_leaves_is_named_where_it_is_left() -> None:
    found = failures(LeavesWeights)
    for name in ("check_same_seed_gives_the_same_logits", "check_fit_is_repeatable"):
        assert (
            "left something behind (in a global, a class attribute, a cache)" in found[name].reason
        )
        assert re.search(r"test_testing_breakers\.py:\d+ in fit$", found[name].place)
    assert not any("global generator" in one.reason for one in found.values())


@dataclass
class Infinite(Linear):
    def logits(self, queries: Images) -> Tensor:
        return super().logits(queries) * float("nan")


@dataclass(frozen=True)
class HasNoNumbers(Head):
    fit = rebuilt(Infinite)


def test_logits_that_are_not_finite_break_no_rule_of_another_matter() -> None:
    """Neither of validation, seeds, precision and stored tensors; the accuracy is at chance."""
    assert failures(HasNoNumbers).keys() == {
        "check_logits_are_one_finite_row_per_query",
        "check_learns_a_separable_task",
    }
