"""Broken plug-ins affect only themselves; broken classes are rejected before planning."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.method_rules import cannot_be_built, find_broken_rules
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import PluginError
from tests.support.helpers import Result, fsbench, inductive

OTHERS = len(inductive())
FEW = ("-d", "digits", "--shots", "1", "--seeds", "1", "--dry-run", "--store")
HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal
import dataclasses
from fewshot_bench import hookimpl
if TYPE_CHECKING:
    from elsewhere import Kind

@hookimpl
def register_methods(register):
    register("mine", "{module}:Mine")

class Base:
    def fit(self, task, backbone, ctx):
        raise RuntimeError("never called")
"""
FROZEN = "@dataclass(frozen=True)\nclass Mine(Base):\n    name: ClassVar[str] = 'mine'\n"
# Errors in a class: its source, and a part of the error message.
WRONG = {
    "no dataclass": ("class Mine(Base):\n    name = 'mine'\n", "not decorated with @dataclass"),
    "not frozen": ("@dataclass\nclass Mine(Base):\n    name: ClassVar[str] = 'mine'\n", "frozen"),
    "no default": (FROZEN + "    rate: float\n", "Mine.rate has no default"),
    "no type": (FROZEN + "    momentum = 0.9\n", "without being a field: annotate"),
    "other type": (FROZEN + "    rates: tuple[float, ...] = (0.1,)\n", "annotate rates as int"),
    "any type": (FROZEN + "    rate: Any = 0.1\n", "annotate rate as int"),
    "wrong type": (FROZEN + "    rate: int = 0.5\n", "annotate rate as int"),
    "unknown type": (FROZEN + "    rate: Kind = 1\n", "name 'Kind' is not defined"),
    "mutable": (
        FROZEN + "    rates: list[float] = field(default_factory=list)\n",
        "can be changed in place",
    ),
    "not finite": (FROZEN + "    rate: float = float('inf')\n", "is not finite"),
    "not given": (FROZEN + "    rate: float = field(default=1.0, init=False)\n", "init=False"),
    "no name": ("@dataclass(frozen=True)\nclass Mine(Base):\n    rate: float = 1\n", "no name"),
    "other name": (FROZEN.replace("'mine'", "'other'"), "registered as 'mine'"),
    "bad name": (FROZEN.replace("'mine'", "'My Method'"), "expected lower-case letters"),
    "name of all": (FROZEN.replace("'mine'", "'all'"), "'all', the reserved name of all methods"),
    "signs in names": (FROZEN.replace("'mine'", "'a b'"), "'.', '_', '+' and '-', a letter or"),
    "version of blanks": (FROZEN + "    version: ClassVar[str] = '1 a'\n", "version is '1 a', exp"),
    "version of signs": (FROZEN + "    version: ClassVar[str] = 'a|b@c,[d]'\n", "[d]', expected a"),
    "version of lines": (FROZEN + "    version: ClassVar[str] = '1\\n'\n", "'1\\n', expected a"),
    "version is no text": (FROZEN + "    version: ClassVar[int] = 2\n", "version is 2, expected a"),
    "no reason": (FROZEN + "    tied_to_classes: ClassVar[bool] = True\n", "is True, expected the"),
    "none to keep": (
        FROZEN + "    cannot_be_kept: ClassVar[int] = 1\n",
        "is 1, expected the reason",
    ),
    "name is a field": (FROZEN.replace("ClassVar[str]", "str"), "annotated as a field"),
    "no fit": (FROZEN.replace("(Base)", ""), "Mine has no fit"),
    "fit takes less": (FROZEN + "    def fit(self, task): ...\n", "write def fit(self, task,"),
    "raises": (FROZEN + "    def __post_init__(self): {}['x']\n", "cannot be built from its"),
}


def refused(*arguments: object) -> str:
    """The one-line error of a command that ends with exit code 2."""
    result = fsbench(*arguments)
    assert result.code == 2, result
    assert len(result.err.strip().splitlines()) == 1
    assert "Traceback" not in result.err
    return result.err


def good(result: Result) -> Result:
    """The result of a command that succeeds."""
    assert result.code == 0, result
    return result


@pytest.mark.parametrize("what", WRONG)
def test_a_broken_class_is_refused_at_once(what: str, install: Any, tmp_path: Path) -> None:
    source, reason = WRONG[what]
    install("mine", HEAD + source)
    said = refused("run", "-m", "mine", *FEW, tmp_path / "store")
    assert reason in said
    assert "fsbench check mine" in said
    assert "fsbench_mine.py:" in said
    assert not (tmp_path / "store").exists()
    checked = fsbench("check", "mine")
    assert checked.code == 1
    assert reason in " ".join(checked.out.split())
    assert "_MISSING_TYPE" not in checked.out


def test_show_says_what_is_broken(install: Any) -> None:
    install("mine", HEAD + FROZEN + "    rate: float\n")
    shown = good(fsbench("show", "mine"))
    assert "rate (no default)   [float]" in shown.out
    assert "_MISSING_TYPE" not in shown.out + shown.err
    assert "Mine.rate has no default" in shown.err
    assert "fsbench check mine" in shown.err


def test_show_prints_a_class_that_is_no_dataclass(install: Any) -> None:
    install("mine", HEAD + "class Mine(Base):\n    'What it is.'\n    name = 'mine'\n")
    shown = good(fsbench("show", "mine"))
    assert "What it is." in shown.out
    assert "not decorated with @dataclass(frozen=True)" in shown.err


BROKEN = {
    "does not import": ("import a_module_that_does_not_exist\n", "a_module_that_does_not_exist"),
    "raises in its hook": (
        HEAD.replace("    register(", "    raise LookupError('no list')\n    register("),
        "register_methods: LookupError: no list",
    ),
    "class does not import": (HEAD, "has no attribute 'Mine'"),
    "leaves": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    "leaves in its class": (HEAD.replace("{module}", "fsbench_gone"), "fsbench_gone"),
    "no dataclass": (HEAD + WRONG["no dataclass"][0], "not decorated"),
    "class that answers nothing": (
        HEAD
        + """
class Silent(type):
    def __getattribute__(cls, name):
        raise LookupError("ask me nothing")

class Mine(metaclass=Silent):
    pass
""",
        "LookupError: ask me nothing",
    ),
    "class without a name of its own": (
        HEAD
        + """
class Shy(type):
    @property
    def __name__(cls):
        raise LookupError("no name for you")

class Mine(metaclass=Shy):
    pass
""",
        "its class cannot be examined: LookupError: no name for you",
    ),
    "no class": (HEAD + "Mine = 3\n", "expected a class"),
    "not a name": (HEAD.replace('"mine"', "3"), "expected a name"),
    "suites": (
        HEAD.replace("methods", "datasets").replace(")\n\nclass", ", suites='demo')\n\nclass"),
        "expected suites=('demo',)",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_all_other_methods_run(what: str, install: Any, tmp_path: Path) -> None:
    source, reason = BROKEN[what]
    install("mine", source)
    result = good(fsbench("run", "-m", "all", *FEW, tmp_path))
    assert f"{OTHERS} cells: 0 done already, {OTHERS} to run" in result.out
    warnings = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1, result.err
    assert reason in warnings[0]
    assert "fsbench_mine" in warnings[0]
    assert reason in refused("run", "-m", "mine", *FEW, tmp_path)
    assert reason in refused("run", "-m", "all,mine", *FEW, tmp_path)
    for command in ("show", "check"):
        assert "Traceback" not in fsbench(command, "mine").err
    assert "fsbench-mine" in good(fsbench("list", "plugins")).out
    good(fsbench("show", "coop"))
    good(fsbench("list", "methods"))
    good(fsbench("run", "-m", "coop", "-o", "epochs=1,2", *FEW, tmp_path))


LOUD = """
@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"

    def fit(self, task, backbone, ctx):
        print("hello")
        return Scores(backbone.class_features(task))

@dataclass(frozen=True)
class Scores:
    weights: object

    def logits(self, queries):
        return 100 * queries.features @ self.weights.T

    def tensors(self):
        return {"weights": self.weights}
"""


def test_check_prints_one_line_per_rule_and_exits_with_1(install: Any) -> None:
    install("mine", HEAD + LOUD)
    result = fsbench("check", "mine")
    assert result.code == 1, result
    failed = [line for line in result.out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert failed[0].startswith("FAIL  check_prints_nothing: wrote 'hello")
    assert "did you mean 'zero-shot'" in refused("check", "zero-shoot")


def test_two_plugins_with_one_name_cost_that_name_alone(install: Any, tmp_path: Path) -> None:
    install("one", HEAD + FROZEN)
    install("two", HEAD + FROZEN)
    result = good(fsbench("run", "-m", "all", *FEW, tmp_path))
    assert f"{OTHERS} cells" in result.out
    assert "two plug-ins register the method 'mine'" in result.err
    for command in (["run", "-m", "mine", *FEW, tmp_path], ["show", "mine"], ["check", "mine"]):
        said = refused(*command)
        assert "fsbench_one.py:" in said
        assert "fsbench_two.py:" in said
    listed = good(fsbench("list", "methods"))
    assert "zero-shot" in listed.out
    assert "mine" not in listed.out
    assert "two plug-ins register the method 'mine'" in listed.err


def test_two_plugins_with_one_backbone_are_named(install: Any, tmp_path: Path) -> None:
    source = HEAD.replace("methods", "backbones")
    install("one", source)
    install("two", source)
    run = ("run", "-m", "zero-shot", *FEW, tmp_path, "--backbone")
    assert "two plug-ins register the backbone 'mine'" in refused(*run, "mine")
    good(fsbench(*run, "tiny"))
    assert "two plug-ins register" in good(fsbench("list", "backbones")).err


def test_a_plugin_that_fails_gives_a_name_back() -> None:
    catalog = Catalog("method", "methods")
    catalog._plugin = "one:a"
    catalog.register("mine", "one:Mine")
    catalog._plugin = "two:b"
    catalog.register("mine", "two:Mine")
    with pytest.raises(PluginError, match="two plug-ins"):
        catalog.find("mine")
    catalog.forget("two:b")
    assert catalog.find("mine").target == "one:Mine"


DATASETS = """
from fewshot_bench import DatasetCard, hookimpl

@hookimpl
def register_datasets(register):
    register("broken", "{module}:Broken", suites=("demo", "own"))

class Broken:
    def __init__(self):
        INIT
    def card(self):
        return DatasetCard("broken", "Broken", ("a", "b"), ("{}",), ("a {}.",), "MIT", "1")
    def items(self):
        raise KeyError("no such list")
    def read(self, item):
        raise NotImplementedError
"""
LATE = DATASETS.replace("INIT", "pass")
WRONG_SETS = {
    "does not import": (LATE.replace("class Broken", "class Other"), "no attribute 'Broken'"),
    "raises at once": (DATASETS.replace("INIT", "{}['x']"), "KeyError: 'x', at"),
    "raises in items": (LATE, "KeyError: 'no such list', at"),
    "leaves": (DATASETS.replace("INIT", "raise SystemExit(3)"), "SystemExit: 3"),
}


@pytest.mark.parametrize("what", WRONG_SETS)
def test_all_other_data_sets_of_a_suite_run(what: str, install: Any, tmp_path: Path) -> None:
    source, reason = WRONG_SETS[what]
    install("mine", source)
    run = ("run", "-m", "zero-shot", "--shots", "1", "--seeds", "1", "--dry-run", "--store")
    result = good(fsbench(*run, tmp_path, "-d", "demo"))
    assert "3 cells: 0 done already" in result.out
    assert result.err.count("warning: ") == 1
    assert reason in result.err
    assert "fsbench_mine.py:" in result.err
    assert reason in refused(*run, tmp_path, "-d", "broken")
    assert reason in refused(*run, tmp_path, "-d", "demo,broken")
    assert reason in refused(*run, tmp_path, "-d", "own")
    good(fsbench("list", "datasets"))
    good(fsbench(*run, tmp_path, "-d", "digits", "--transfer", "demo"))


@pytest.mark.parametrize("name", registry().methods.names())
def test_built_in_methods_break_no_static_rule(name: str) -> None:
    kind = registry().method_class(name)
    assert find_broken_rules(kind, name) == []
    assert cannot_be_built(kind) == []


def test_metadata_of_a_distribution_are_not_read_for_each_of_its_plugins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: Counter[str] = Counter()
    found = PathDistribution.read_text

    def counted(self: Any, name: str) -> str | None:
        read[f"{self._path}/{name}"] += 1
        return found(self, name)

    monkeypatch.setattr(PathDistribution, "read_text", counted)
    registry.cache_clear()
    assert len(registry().plugins) >= 10
    assert max(count for name, count in read.items() if name.endswith("METADATA")) <= 2
