"""Run the checks: `parametrize_with_checks` in pytest, else `check_method` or `run_checks`."""

from __future__ import annotations

import inspect
import re
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeVar

from fewshot_bench.api.author_frame import author_frame, class_place, place_of, top_module
from fewshot_bench.api.method_rules import STATIC
from fewshot_bench.testing import (
    contract_checks,
    device_checks,
    learning_checks,
    manners_checks,
)
from fewshot_bench.testing.bench import Bench, Fit
from fewshot_bench.testing.failure import CheckFailure, CheckSkipped
from fewshot_bench.testing.observe import single_threaded
from fewshot_bench.utils.errors import UsageError, unknown

# Incremented when a rule is added, removed or changed: records hold the version that passed.
KIT_VERSION = 8

Check = Callable[[Bench], None]
Test = TypeVar("Test", bound=Callable[..., None])
Outcome = Literal["passed", "failed", "skipped", "expected failure"]
# Functions of methods and classifiers, with a pattern of the names of checks that concern them.
_PARTS = {
    "restore": "restored",
    "logits": "logits_(are|come)|answers",
    "start": "answers",
    "encoders": "training",
    "tensors": "tensors",
    "for_classes": "other_classes",
}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check of a method; `reason` is empty if it passed.

    place: `file:line in function` of the author's code that the reason refers to.
    """

    name: str
    rule: str
    outcome: Outcome
    reason: str = ""
    place: str = ""


@dataclass(frozen=True)
class NamedCheck:
    """A check with its name; if called with a method, it shares fits with other checks."""

    name: str
    function: Check

    @property
    def rule(self) -> str:
        """The rule in one sentence, the first line of the check's docstring."""
        return (inspect.getdoc(self.function) or "").splitlines()[0]

    def __call__(self, method: Any) -> None:
        """Run the check; CheckFailure (or an error of the method) if the rule is broken."""
        __tracebackhide__ = True
        bench = next((bench for bench in _benches if bench.method is method), None)
        if bench is None:
            _benches.append(bench := Bench(method))
        try:
            with single_threaded():
                self.function(bench)
        except CheckFailure as failure:
            raise CheckFailure(add_place(str(failure), _place(self, bench, str(failure)))) from None


def add_place(reason: str, where: str) -> str:
    """A reason on one line, with the place in the author's code if it is known."""
    line = " ".join(reason.split())
    return f"{line} (at {where})" if where else line


# The benches of the last two methods, so that checks share fits.
_benches: deque[Bench] = deque(maxlen=2)


def all_checks() -> list[NamedCheck]:
    """All checks, in the order in which a new method should pass them."""
    return _checks_of(contract_checks, learning_checks, manners_checks)


def checks_on(device: str) -> list[NamedCheck]:
    """The checks on a device, such as `rehearsal`: all, and on an accelerator a few of its own."""
    return all_checks() + (_checks_of(device_checks) if device != "cpu" else [])


def _checks_of(*modules: ModuleType) -> list[NamedCheck]:
    return [
        NamedCheck(name, function)
        for module in modules
        for name, function in vars(module).items()
        if name.startswith("check_") and inspect.getmodule(function) is module
    ]


def iter_checks(
    method: Any, expected_failures: Mapping[str, str], device: str = "cpu"
) -> Iterator[CheckResult]:
    """Yield one result per check on a device as soon as it is available."""
    refuse_unknown(expected_failures, device)
    bench = Bench(method, device)
    for check in checks_on(device):
        yield _judge(check, bench, expected_failures.get(check.name))


def run_checks(
    method: Any, *, expected_failures: Mapping[str, str] | None = None, device: str = "cpu"
) -> list[CheckResult]:
    """The results of all checks on one method."""
    return list(iter_checks(method, expected_failures or {}, device))


def _judge(check: NamedCheck, bench: Bench, expected: str | None) -> CheckResult:
    try:
        with single_threaded():
            check.function(bench)
    except CheckSkipped as skip:
        return CheckResult(check.name, check.rule, "skipped", str(skip))
    except CheckFailure as failure:
        problem = str(failure)
        where = _place(check, bench, problem)
    except (Exception, SystemExit) as error:
        trace = "".join(traceback.format_exception(error))
        problem = f"{type(error).__name__}: {error}"
        where = author_frame(trace, [top_module(type(bench.method))]) or _place(
            check, bench, problem
        )
    else:
        if expected is None:
            return CheckResult(check.name, check.rule, "passed")
        problem = f"expected to fail ({expected}) but passes; remove it from expected_failures"
        return CheckResult(check.name, check.rule, "failed", problem)
    if expected is None:
        return CheckResult(check.name, check.rule, "failed", problem, where)
    return CheckResult(check.name, check.rule, "expected failure", expected)


def _place(check: NamedCheck, bench: Bench, reason: str) -> str:
    """File and line of the code that a check refers to."""
    kind = type(bench.method)
    if check.name in STATIC[:2]:
        return class_place(kind, reason)
    owners = [kind]
    if isinstance(bench.tried, Fit):
        owners.append(type(bench.tried.classifier))
    parts = [part for part, words in _PARTS.items() if re.search(words, check.name)]
    functions = [getattr(owner, part, None) for part in (*parts, "fit") for owner in owners]
    own = [value for name, value in vars(kind).items() if not name.startswith("_")]
    return place_of(kind, *functions, *own)


def check_method(method: Any, *, expected_failures: Mapping[str, str] | None = None) -> None:
    """Run all checks; CheckFailure lists every unexpectedly broken rule."""
    results = run_checks(method, expected_failures=expected_failures)
    failed = [result for result in results if result.outcome == "failed"]
    lines = [f"  {each.name}: {add_place(each.reason, each.place)}" for each in failed]
    if failed:
        raise CheckFailure("\n".join([f"{_name(method)} breaks {len(failed)} rules:", *lines]))


def parametrize_with_checks(
    methods: Sequence[Any],
    *,
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> Callable[[Test], Test]:
    """Decorator for a test with arguments `(method, check)`; runs it once per method and check.

    `expected_failures` maps a method's name to its failing checks, each with a reason; they become
    strict xfails, so that an unexpected pass is an error.
    """
    import pytest

    expected = dict(expected_failures or {})
    names = [_name(method) for method in methods]
    for name, reasons in expected.items():
        if name not in names:
            raise unknown("method in expected_failures", name, names, "the methods of this call")
        refuse_unknown(reasons)
    cases = []
    for method in methods:
        reasons = expected.get(_name(method), {})
        for check in all_checks():
            reason = reasons.get(check.name)
            marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
            cases.append(
                pytest.param(method, check, id=f"{_name(method)}-{check.name}", marks=marks)
            )
    decorator: Callable[[Test], Test] = pytest.mark.parametrize(("method", "check"), cases)
    return decorator


def refuse_unknown(expected_failures: Mapping[str, str], device: str = "cpu") -> None:
    """UsageError for expected failures that name no check or give no reason."""
    names = [check.name for check in checks_on(device)]
    for name, reason in expected_failures.items():
        if name not in names:
            raise unknown("check", name, names, "fewshot_bench.testing.all_checks()")
        if not reason.strip():
            raise UsageError(f"expected failure '{name}' has no reason: say why it is right")


def _name(method: Any) -> str:
    return str(getattr(type(method), "name", type(method).__name__))


def quick(method: Any) -> Any:
    """The method's own quick variant if it has one (`def quick(self) -> Self`), else the method."""
    shorten = getattr(method, "quick", None)
    return shorten() if callable(shorten) else method
