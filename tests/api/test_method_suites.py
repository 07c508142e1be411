"""Suites of methods: one name for several, in runs, filters and lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import make
from tests.support.helpers import fsbench
from tests.support.store_records import written


def test_a_suite_stands_for_its_methods_and_for_each_once() -> None:
    fast = registry().methods.suites()["fast"]
    assert {"zero-shot", "linear-probe", "tip-adapter-f"} <= set(fast)
    assert not {"coop", "clip-lora"} & set(fast)
    request = Request(("zero-shot", "fast"), ("digits",), shots=(1,), seeds=(1,))
    assert {cell.method for cell in expand(request).cells} == set(fast)
    assert fb.list_methods("fast") == fast
    assert {"coop", "clip-lora", "zero-shot"} <= set(fb.list_methods("seed-paper"))


@pytest.mark.parametrize("listing", [fb.list_methods, fb.list_datasets])
@pytest.mark.parametrize("suite", [3, ["fast"], b"fast"])
def test_a_suite_is_a_name(listing: Any, suite: Any) -> None:
    with pytest.raises(UsageError, match="expected a name, or None"):
        listing(suite)


def test_an_unknown_suite_is_named_with_the_closest() -> None:
    with pytest.raises(UsageError, match="did you mean 'prompts'"):
        fb.list_methods("prompt")
    result = fsbench("run", "-m", "promts", "-d", "digits", "--dry-run")
    assert result.code == 2
    assert "did you mean 'prompts'" in result.err


def test_lists_and_completion_have_them() -> None:
    assert "suite prompts: coop" in fsbench("list", "methods").out


def test_a_filter_takes_those_that_the_store_has(tmp_path: Path) -> None:
    for method in ("zero-shot", "coop", "clip-lora"):
        written(Store(tmp_path), make(method))
    shown = fsbench("compare", "-m", "prompts", "--store", tmp_path, "--format", "csv").out
    assert "coop" in shown
    assert "clip-lora" not in shown
    assert "zero-shot" not in shown
