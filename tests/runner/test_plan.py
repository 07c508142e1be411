"""From a request to cells: order, presets, settings, and what distinguishes two cells."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from fewshot_bench import UsageError
from fewshot_bench.analysis.signature.commands import commands_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.resuming import Code, resume
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import PluginError
from tests.support.answers import put_answers
from tests.support.helpers import cells, fsbench, inductive


def test_methods_vary_fastest_and_nothing_stands_twice() -> None:
    found = cells("zero-shot", "coop", "zero-shot", shots=(1, 2), seeds=(1, 2), limit=None)
    order = [(cell.shots, cell.train_seed, cell.method) for cell in found]
    assert order == [(k, s, m) for k in (1, 2) for s in (1, 2) for m in ("zero-shot", "coop")]
    assert len({cell.key() for cell in found}) == len(found)


def test_all_and_suites_are_expanded() -> None:
    found = cells("all", datasets=("demo", "digits"))
    assert {cell.dataset for cell in found} == {"digits", "letters", "shapes"}
    assert {cell.method for cell in found} == inductive()
    assert len(found) == 3 * len(inductive())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, ("coop", "min4", "custom")),
        ({"protocol": "clip-lora-paper"}, ("clip-lora", "none", "simple")),
        ({"protocol": "clip-lora-paper", "val": "full"}, ("clip-lora", "full", "simple")),
        ({"protocol": "nested", "prompts": "ensemble"}, ("nested", "min4", "ensemble")),
    ],
)
def test_presets(request_: dict[str, str], expected: tuple[str, str, str]) -> None:
    (cell,) = cells("zero-shot", **request_)
    assert (cell.protocol, cell.val, cell.prompts) == expected


def test_settings_expand_by_type_and_defaults_are_no_overrides() -> None:
    found = cells("clip-lora", options=["rank=1,2,4", "lr=2e-4", "encoder=text"])
    assert [cell.options["rank"] for cell in found] == [1, 2, 4]
    assert found[1].overrides == {"encoder": "text"}
    assert found[1].options["lr"] == pytest.approx(2e-4)
    assert found[0].label == "clip-lora[encoder=text,rank=1]"


def test_a_comma_in_a_text_is_escaped_and_printed_so() -> None:
    """A method's own command gives its cell again."""
    (cell,) = cells("plot++", options=[r"context_init=a\, this\, one\, my"])
    assert cell.overrides == {"context_init": "a, this, one, my"}
    ((line,), remarks) = commands_of([cell])
    assert remarks == []
    words = shlex.split(line)
    option = words[words.index("-o") + 1]
    assert option == r"plot++.context_init=a\, this\, one\, my"
    (again,) = cells("plot++", options=[option])
    assert again.key() == cell.key()


CHANGING = """
import dataclasses
import random
from typing import ClassVar

@dataclasses.dataclass(frozen=True)
class Doubles:
    name: ClassVar[str] = "doubles"
    a: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, "a", self.a * 2)

    def fit(self, task, backbone, ctx):
        return None


@dataclasses.dataclass(frozen=True)
class Drawn:
    name: ClassVar[str] = "drawn"
    a: float = dataclasses.field(default_factory=random.random)

    def fit(self, task, backbone, ctx):
        return None
"""


def test_a_hyper_parameter_keeps_the_value_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "changing.py"
    file.write_text(CHANGING, encoding="utf-8")
    assert cells(f"{file}:Doubles")
    with pytest.raises(PluginError, match=r"changes a from 3\.0 to 6\.0 when it is built"):
        cells(f"{file}:Doubles", options=["a=3"])
    with pytest.raises(PluginError, match=r"is built with a=0\.\d+, but its default is 0\."):
        cells(f"{file}:Drawn")


def test_a_setting_goes_to_every_method_that_has_it() -> None:
    found = cells("zero-shot", "coop", "clip-lora", options=["lr=1e-3", "coop.epochs=2"])
    overrides = {cell.method: dict(cell.overrides) for cell in found}
    assert overrides == {
        "zero-shot": {},
        "coop": {"lr": 1e-3, "epochs": 2},
        "clip-lora": {"lr": 1e-3},
    }


@pytest.mark.parametrize("options", [["coop.rank=2"], ["views=2"], ["zero-shot.rank=2"]])
def test_a_setting_that_nobody_has_is_refused(options: list[str]) -> None:
    with pytest.raises(UsageError):
        cells("coop", "clip-lora", options=options)


def test_resume_divides_the_cells(tmp_path: Path) -> None:
    plan = expand(Request(("zero-shot",), ("digits",), shots=(1,), seeds=(1, 2, 3)))
    store = Store(tmp_path)
    store.create()
    done, failed, left = plan.cells
    code = Code.of(["zero-shot"])
    mine = {"code": registry().code("zero-shot")}
    put_answers(store, Record(done, "done", environment=mine), [[1.0, 2.0]], [0], ["a"])
    error = {"type": "E", "message": "", "traceback": ""}
    store.write(Record(failed, "failed", environment=mine, error=error))
    state = resume(plan, store, code)
    assert (state.done, state.failed, state.todo) == ([done], [failed], [left])
    assert not state.stale
    assert resume(plan, store, code, retry_failed=True).todo == [failed, left]
    assert resume(plan, store, code, force=True).todo == plan.cells
    edited = Code({"zero-shot": "other"})
    assert resume(plan, store, edited).todo == plan.cells
    assert resume(plan, store, edited, keep_stale=True).todo == [left]


def test_imported_picks_must_be_those_of_the_validation_policy(tmp_path: Path) -> None:
    store = tmp_path / "store"
    out = tmp_path / "out"
    made = fsbench(
        *("splits", "export", "shapes", "--shots", "2", "--seeds", "1", "--val", "full", "-O", out)
    )
    assert made.code == 0, made.err
    (file,) = [path for path in (out, *out.rglob("*")) if path.is_file()]
    took = fsbench("splits", "import", file, "--dataset", "shapes", "--store", store)
    assert took.code == 0, took.err
    request = {
        "datasets": ("shapes",),
        "shots": (2,),
        "protocol": "imported",
        "store": store,
    }
    with pytest.raises(UsageError, match=r"validation images a class, --val min4 .* --val full"):
        cells("zero-shot", **request)
    (cell,) = cells("zero-shot", val="full", **request)
    assert (cell.protocol, cell.val, len(cell.picks)) == ("imported", "full", 64)
    assert cells("zero-shot", val="none", **request)
