"""Each check of the conformance kit catches a method that breaks exactly its rule."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from fewshot_bench.testing import (
    CheckFailure,
    all_checks,
    check_method,
    parametrize_with_checks,
    run_checks,
)
from fewshot_bench.utils.errors import UsageError
from tests.breakers import BREAKERS, Head, Linear, rebuilt
from tests.breakers_learning import ChangesProcess, Prints


@pytest.mark.parametrize("name", sorted(BREAKERS))
def test_a_breaker_fails_exactly_its_check(name: str) -> None:
    check, kind = BREAKERS[name]
    failed = {r.name: r.reason for r in run_checks(kind()) if r.outcome == "failed"}
    assert set(failed) == {check}, failed
    assert failed[check]


def test_every_check_has_a_breaker() -> None:
    assert {check for check, _ in BREAKERS.values()} == {check.name for check in all_checks()}


def test_every_check_says_its_rule_in_one_sentence() -> None:
    for check in all_checks():
        assert check.rule.endswith("."), check.name


@parametrize_with_checks([Head()])
def test_the_example_passes(method: Any, check: Callable[[Any], None]) -> None:
    check(method)


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
