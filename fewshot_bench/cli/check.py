"""`fsbench check`: the conformance kit on a registered method."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.author_frame import class_place
from fewshot_bench.api.code_closure import running_digest
from fewshot_bench.api.defaults import check_device
from fewshot_bench.api.method import find_parameter, parse_value
from fewshot_bench.api.method_code import is_meant
from fewshot_bench.api.method_rules import STATIC, BrokenRule, cannot_be_built, find_broken_rules
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import methods, one_of
from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.working import working
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.kit_results import KitResult
from fewshot_bench.utils.devices import CPU, choose, count_devices
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import FEW, shortened

if TYPE_CHECKING:
    from fewshot_bench.testing import CheckResult

MARKS = {"passed": "pass", "failed": "FAIL", "skipped": "skip", "expected failure": "xfail"}


@click.command("check", short_help="Run the conformance kit on a method.")
@click.argument("method", shell_complete=one_of(methods))
@click.option(
    "-o",
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A hyper-parameter other than its default; may be repeated.",
)
@click.option("--full", is_flag=True, help="Ignore the method's own quick() variant.")
@click.option(
    "--expect-failure",
    "expected",
    multiple=True,
    metavar="RULE=REASON",
    help="A rule that the method breaks on purpose, and why; may be repeated.",
)
@click.option(
    "--device",
    default=CPU,
    show_default=True,
    metavar="DEVICE",
    help="cpu, a card such as cuda:1, or rehearsal: one of its own type on host memory.",
)
@working("check", live=False)
def command(
    method: str, options: tuple[str, ...], full: bool, expected: tuple[str, ...], device: str
) -> None:
    """Check that METHOD keeps the contract, on a toy backbone with colored squares.

    One line per rule; rules that are broken for one reason share a line, with the place in the
    method's code. The exit code is 1 when a rule is broken, or an expected failure passes. A
    method with a quick() is checked in that variant, with the given options on top. Without
    options, on a CPU, the result is kept, expected failures included, and records of cells that
    this very code computes carry it (fsbench audit). On another device there are a few rules more:
    with --device rehearsal, which needs a C++ compiler, no step may make the host wait.
    """
    from fewshot_bench.testing import iter_checks

    _refuse_other_kinds(method)
    find_device(device)
    kind = registry().method_class(method)
    broken = find_broken_rules(kind, method)
    if cannot_be_built(kind):
        rules = broken or [BrokenRule(STATIC[0], reason) for reason in cannot_be_built(kind)]
        _report_broken([_fail(rule, kind) for rule in rules])
        say(f"{method}: {len(broken) or 1} broken; the other rules need a method that can be built")
        raise SystemExit(1)
    reasons = dict(_split(text, "--expect-failure", _REASON) for text in expected)
    instance, digest = _configure(method, kind, options, full), running_digest(kind)
    results = []
    for result in iter_checks(instance, reasons, device):
        # A rule that the class breaks under its registered name.
        rules = [rule for rule in broken if rule.check == result.name]
        if rules and result.outcome == "passed":
            result = _fail(rules[0], kind)
        results.append(result)
        if result.outcome != "failed":
            reason = f": {' '.join(result.reason.split())}" if result.reason else ""
            say(f"{MARKS[result.outcome]:5} {result.name}{reason}")
    failed = [result for result in results if result.outcome == "failed"]
    _report_broken(failed)
    counts = Counter(result.outcome for result in results)
    say(f"{method}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))}")
    mistaken = [result for result in failed if result.name in reasons]
    is_usual = device == CPU and not options
    if digest and digest == running_digest(kind) and is_usual and not mistaken:
        _keep(method, digest, results)
    if failed:
        raise SystemExit(1)


def _refuse_other_kinds(name: str) -> None:
    """UsageError for the name of a data set, a metric or an engine, which the kit cannot check."""
    if name in registry().methods.entries:
        return
    for catalog in registry().catalogs:
        if name in catalog.entries:
            step = f"data verify {name}" if catalog.listing == "datasets" else "list methods"
            raise UsageError(
                f"'{name}' is the name of a registered {catalog.kind}, and the kit checks methods "
                f"(fsbench {step})"
            )


def find_device(name: str) -> None:
    """UsageError for a device that is not there; the rehearsal device is compiled and loaded.

    Unless torch has found another device of this name by itself.
    """
    if name.partition(":")[0] == "rehearsal" and not count_devices("rehearsal"):
        from fewshot_bench.testing.rehearsal import load

        load()
    check_device(name, here=True)
    if name != CPU:
        import torch

        choose(torch.device(name))


def _fail(rule: BrokenRule, kind: type) -> CheckResult:
    from fewshot_bench.testing import CheckResult

    return CheckResult(rule.check, "", "failed", rule.reason, class_place(kind, rule.reason))


def _report_broken(failed: Iterable[CheckResult]) -> None:
    """Print broken rules; rules with the same reason and place share a line."""
    from fewshot_bench.testing.kit import add_place

    alike: dict[tuple[str, str], list[str]] = {}
    for result in failed:
        names = alike.setdefault((result.reason, result.place), [])
        names.append(result.name)
    for (reason, where), names in alike.items():
        say(f"{MARKS['failed']:5} {', '.join(shortened(names, FEW))}: {add_place(reason, where)}")


_REASON = "RULE=REASON, such as check_prints_nothing='the solver prints from C'"


def _split(text: str, option: str, expected: str) -> tuple[str, str]:
    """Both sides of an equals sign; UsageError for a text without one."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{option} {text!r}: expected {expected}")
    return name.strip(), value.strip()


def _keep(method: str, digest: str, results: Iterable[CheckResult]) -> None:
    """Keep the result for records computed by this code; a failure to write is only a warning."""
    from fewshot_bench.testing import KIT_VERSION

    if is_meant(method):
        try:
            own = registry().own_method(method)
        except FsbenchError as error:
            warn(f"fsbench run refuses this method: {error}")
            return
        method, digest = own.name, own.facts.digest

    outcomes: dict[str, dict[str, str]] = {outcome: {} for outcome in MARKS}
    for result in results:
        outcomes[result.outcome][result.name] = result.reason
    passed, failed = len(outcomes["passed"]), tuple(outcomes["failed"])
    kept = KitResult(KIT_VERSION, passed, failed, outcomes["expected failure"])
    try:
        kit_results.keep(method, digest, kept)
    except OSError as error:
        warn(f"records will not say that it was checked: {error}; set FSBENCH_CACHE to a folder")


def _configure(name: str, kind: type, options: tuple[str, ...], full: bool) -> Any:
    """An instance of the method, in its quick variant unless `full`, with the given options."""
    from fewshot_bench.testing import quick

    values: dict[str, Any] = {}
    for text in options:
        key, value = _split(text, "-o", f"name=value (fsbench show {shlex.quote(name)})")
        parameter = find_parameter(name, kind, key)
        values[parameter.name] = parse_value(name, parameter, value)
    instance: Any = kind() if full else quick(kind())
    return dataclasses.replace(instance, **values) if values else instance
