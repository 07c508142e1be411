"""The conformance kit's result for a method's code appears in its records and in the audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.api import code_closure
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.runner import kit_results
from fewshot_bench.runner.kit_results import KitResult
from fewshot_bench.store.store import Store
from fewshot_bench.testing import KIT_VERSION, all_checks
from tests.support.audit_records import complete, fair, said
from tests.support.helpers import fsbench

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import hookimpl

@hookimpl
def register_methods(register):
    register("mine", "{module}:Mine")

@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    scale: float = 100.0

    def fit(self, task, backbone, ctx):
        SAY
        return Scores(backbone.class_features(task), self.scale)

@dataclass(frozen=True)
class Scores:
    weights: object
    scale: float

    def logits(self, queries):
        return self.scale * queries.features @ self.weights.T

    def tensors(self):
        return {"weights": self.weights}
"""
FEW = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1", "--store")
PASSED = {"version": KIT_VERSION, "failed": [], "expected": {}}


def records(store: Path, *arguments: object, methods: str = "mine") -> dict[str, Record]:
    """Run the command line and return the records by method."""
    result = fsbench("run", "-m", methods, *FEW, store, *arguments)
    assert result.code == 0, result
    return {record.spec.method: record for record in Store(store).records()}


def test_records_carry_the_result_for_exactly_this_code(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    install("mine", PLUGIN.replace("SAY", "pass"))
    store = tmp_path / "store"
    checked = fsbench("check", "mine")
    assert checked.code == 0, checked
    found = records(store, "--force", methods="mine,zero-shot")
    kit = found["mine"].environment["kit"]
    assert kit.items() >= PASSED.items()
    assert 0 < kit["passed"] <= len(all_checks())
    assert found["zero-shot"].environment["kit"] is None
    shown = fsbench("audit", "--store", store)
    count = kit["passed"]
    text = " ".join(shown.out.split())
    assert f"mine passed version {KIT_VERSION} of the kit" in text
    assert f"({count} of {count} rules)" in text
    assert "zero-shot never checked by the conformance kit" in text
    file = next((tmp_path / "plugins").glob("*.py"))
    text = file.read_text(encoding="utf-8").replace("100.0", "99.0")
    file.write_text(text, encoding="utf-8")
    assert records(store, "--force")["mine"].environment["kit"] is None
    strict = fsbench("audit", "--store", store, "--strict")
    assert strict.code == 1
    assert "never checked this code, which is not of fewshot_bench: mine (1 cell" in (
        " ".join(strict.out.split())
    )


def test_a_class_is_restored_by_the_code_that_it_has_now(install: Any, tmp_path: Path) -> None:
    source = PLUGIN.replace("SAY", "pass")
    install("mine", source)
    assert fsbench("check", "mine").code == 0
    file, module = tmp_path / "plugins" / "fsbench_mine.py", "fsbench_mine"
    edited = file.read_text(encoding="utf-8").replace("self.weights.T", "self.weights.T + 1")
    file.write_text(edited, encoding="utf-8")
    del sys.modules[module]
    code_closure.forget(module)
    registry.cache_clear()
    checked = fsbench("check", "mine")
    assert checked.code == 0, checked


def test_broken_rules_are_named_in_records_and_found_by_the_audit(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    install("printing", PLUGIN.replace("SAY", "print('hello')"))
    checked = fsbench("check", "mine")
    assert checked.code == 1
    (line,) = [line for line in checked.out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  check_prints_nothing: wrote 'hello")
    assert "fsbench_printing.py:" in line
    kit = records(tmp_path / "store")["mine"].environment["kit"]
    assert kit["failed"] == ["check_prints_nothing"]
    shown = fsbench("audit", "--store", tmp_path / "store", "--strict")
    assert shown.code == 1
    assert "mine breaks check_prints_nothing" in " ".join(shown.out.split())


def test_a_failure_that_is_expected_for_a_reason_is_in_records_and_the_audit(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    install("expected", PLUGIN.replace("SAY", "__import__('random').random()"))
    rule, why = "check_draws_from_no_global_generator", "a library draws"
    checked = fsbench("check", "mine", "--expect-failure", f"{rule}={why}")
    assert checked.code == 0, checked
    assert f"xfail {rule}: {why}\n" in checked.out
    assert "1 expected failure" in checked.out
    store = tmp_path / "store"
    kit = records(store)["mine"].environment["kit"]
    assert (kit["failed"], kit["expected"]) == ([], {rule: why})
    shown = fsbench("audit", "--store", store, "--format", "json")
    found = json.loads(shown.out)["findings"]
    texts = {note["hazard"]: note["text"] for note in found if note["kind"].startswith("kit")}
    assert texts[6] == f"mine breaks {rule} as declared: {why}"
    assert any(f"; breaks {rule} as declared: {why}" in note["text"] for note in found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("check_prints_nothing", "expected RULE=REASON"),
        ("check_prints_nothing= ", "has no reason"),
        ("check_print_nothing=typo", "did you mean 'check_prints_nothing'"),
    ],
)
def test_an_expected_failure_without_rule_or_reason_is_refused(given: str, said: str) -> None:
    refused = fsbench("check", "zero-shot", "--expect-failure", given)
    assert refused.code == 2
    assert said in refused.err


def test_a_damaged_result_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path))
    result = KitResult(3, 20, ("check_a",), {"check_b": "why"})
    kit_results.keep("mine", "d", result)
    kept = {"version": 3, "passed": 20, "failed": ["check_a"], "expected": {"check_b": "why"}}
    assert kit_results.of_record("mine", "d") == kept
    for method, digest in (("mine", "e"), ("other", "d"), ("mine", "")):
        assert kit_results.of_record(method, digest) is None
    (file,) = (tmp_path / "kit").iterdir()
    whole = file.read_text(encoding="utf-8")
    for damage in ("", "[]", "{}", "null", whole.replace("3", '"3"')):
        file.write_text(damage, encoding="utf-8")
        assert kit_results.of_record("mine", "d") is None


def hazard(records: list[Record]) -> str:
    """The audit's finding on selection on test data."""
    return audit(records).hazards[0].text


def test_the_audit_says_of_the_kit_what_the_records_say() -> None:
    kit = {"version": 2, "passed": 23, "failed": []}
    own = {"code": {"distribution": "fewshot-bench"}}
    mixed = fair(environment={"kit": kit, **own})
    mixed[0] = complete(mixed[0], environment={"kit": None, **own})
    first = mixed[0].spec.method
    count = sum(record.spec.method == first for record in mixed)
    text = hazard(mixed)
    assert f"{first} ({count - 1} of {count} cells)" in text
    assert "passed version 2 of the kit in this state of its code (23 of 23 rules)" in text
    assert f"{first} (1 of {count} cells) never checked by the conformance kit" in text
    broken = fair(environment={"kit": kit | {"passed": 21, "failed": ["check_a", "check_b"]}})
    (finding,) = said(broken)
    assert "coop, zero-shot breaks check_a, check_b of version 2 of the kit" in finding
    assert "coop, zero-shot does not tell whether the conformance kit checked it" in hazard(fair())
    for nonsense in ([], {"version": 1}, kit | {"failed": "all"}):
        assert "never checked" in hazard(fair(environment={"kit": nonsense}))
