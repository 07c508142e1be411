"""The plug-in guide lists every rule, and shows the example package as it is."""

from __future__ import annotations

import inspect
from pathlib import Path

from fewshot_bench.plugins import Hooks
from fewshot_bench.testing import all_checks

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "tests" / "third_party_plugin" / "fsbench_prototype" / "method.py"


def test_every_rule_is_listed() -> None:
    listed = GUIDE.split("<!-- rules: begin -->\n")[1].split("<!-- rules: end -->")[0]
    assert listed == "".join(f"- `{check.name}`: {check.rule}\n" for check in all_checks())


def test_every_hook_is_documented() -> None:
    for name, _ in inspect.getmembers(Hooks, inspect.isfunction):
        assert f"`{name}(" in GUIDE


def test_the_method_shown_is_the_one_that_is_tested() -> None:
    source = EXAMPLE.read_text(encoding="utf-8").split('"""\n\n', 1)[1]
    assert source.strip() in GUIDE
