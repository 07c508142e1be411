"""Method cards, as written by authors and printed by `fsbench show`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench import ContractError, MethodCard
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.store.store import Store
from tests.support.helpers import fsbench

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import MethodCard
from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Carded(ZeroShot):
    """A method with a card."""

    name: ClassVar[str] = "carded"
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        at_test="the split of the query",
        official={"alpha": "1.0 on Flowers, else 0.5"},
        deviations=("the last epoch instead of the best",),
    )
'''


def test_show_prints_the_card(tmp_path: Path) -> None:
    file = tmp_path / "carded.py"
    file.write_text(METHOD)
    output = fsbench("show", f"{file}:Carded").out
    assert "schedule: closed form" in output
    assert "knowledge of classes: templates" in output
    assert "knowledge at test time: the split of the query" in output
    assert "chosen per data set by the official code: alpha: 1.0 on Flowers, else 0.5" in output
    assert "differs from the official code: the last epoch instead of the best" in output


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": 3},
        {"schedule": "coop", "text": "class name"},
        {"schedule": "coop", "deviations": "one text"},
        {"schedule": "coop", "official": {"lr": 2}},
        {"schedule": "coop", "official": {2: "lr"}},
        {"schedule": "coop", "official": "lr"},
        {"schedule": "coop", "paper": "Zhou et al. 2022"},
    ],
)
def test_a_card_of_another_kind_is_refused_where_it_is_written(wrong) -> None:
    with pytest.raises(ContractError, match="MethodCard"):
        MethodCard(**wrong)


WORSE = {
    "a dict": ("    card: ClassVar[dict] = {'schedule': 'x'}\n", "expected a MethodCard"),
    "raises": ("    @property\n    def card(self): return 1 / 0\n", "ZeroDivisionError"),
    "lacks": ("    @property\n    def card(self): return self.gone\n", "no attribute 'gone'"),
    "leaves": ("    @property\n    def card(self): raise SystemExit(0)\n", "SystemExit"),
}
RUN = ("-d", "shapes", "--shots", 1, "--seeds", 1, "--backbone", "tiny")


def changed(folder: Path, card: str) -> str:
    """Write a method whose class has this card; return its reference."""
    file = folder / "worse.py"
    head = "@dataclass(frozen=True)\nclass Worse(Carded):\n    name: ClassVar[str] = 'worse'\n"
    file.write_text(f"{METHOD}\n\n{head}{card}")
    return f"{file}:Worse"


@pytest.mark.parametrize("what", WORSE)
def test_a_card_that_cannot_be_read_is_refused_before_anything_runs(
    what: str, tmp_path: Path
) -> None:
    card, reason = WORSE[what]
    method = changed(tmp_path, card)
    done = fsbench("run", "-m", method, *RUN, "--store", tmp_path / "store")
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert reason in done.err
    assert "Worse" in done.err
    assert not (tmp_path / "store").exists()
    shown, checked = fsbench("show", method), fsbench("check", method)
    assert (shown.code, checked.code) == (0, 1)
    assert reason in shown.err
    assert reason in " ".join(checked.out.split())


def test_a_card_of_some_options_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    card = (
        "    rank: int = 1\n    @property\n    def card(self): return [self.rank][self.rank - 1]\n"
    )
    method = changed(tmp_path, card.replace("return [self.rank]", "return [MethodCard('x')]"))
    call = ("-m", method, *RUN, "--store", tmp_path / "store", "--dry-run")
    assert fsbench("run", *call).code == 0
    done = fsbench("run", *call, "-o", "rank=2")
    assert (done.code, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert "the card of Worse cannot be read: IndexError" in done.err


def test_a_card_that_fails_after_the_fit_costs_no_result(tmp_path: Path) -> None:
    card = """
    @property
    def card(self):
        if hasattr(type(self), "fitted"):
            raise RuntimeError("too late")
        return MethodCard("x")

    def fit(self, task, backbone, ctx):
        type(self).fitted = True
        return super().fit(task, backbone, ctx)
"""
    done = fsbench("run", "-m", changed(tmp_path, card), *RUN, "--store", tmp_path / "store")
    assert done.code == 0, done.err
    (record,) = Store(tmp_path / "store").records()
    assert record.status == "done"
    assert record.card == {}
    (incident,) = [one for one in record.incidents if one["kind"] == "card"]
    assert "the card of Worse cannot be read: RuntimeError: too late" in incident["text"]


def test_every_method_of_ours_has_a_card() -> None:
    known = registry()
    classes = [known.method_class(name) for name in known.methods.entries]
    ours = [cls for cls in classes if cls.__module__.startswith("fsbench_methods.")]
    assert ours
    assert [cls for cls in ours if card_of(cls) is None] == []


def test_a_card_may_depend_on_options() -> None:
    probe = registry().method_class("linear-probe")
    assert [card_of(probe(init=init)).text for init in ("random", "text")] == ["none", "templates"]
    assert "knowledge of classes: none" in fsbench("show", "linear-probe").out


def test_records_keep_the_card_and_tables_and_audits_show_it(tmp_path: Path) -> None:
    call = ("-d", "shapes", "--shots", 1, "--seeds", 1, "--backbone", "tiny", "--store", tmp_path)
    done = fsbench("run", "-m", "zero-shot,tip-adapter,lp++", "-o", "lp++.epochs=3", *call)
    assert done.code == 0, done.err
    kept: dict[str, Record] = {r.spec.method: r for r in Store(tmp_path).records()}
    assert kept["zero-shot"].card == {
        "schedule": "none",
        "text": "templates",
        "at_test": "",
        "sees": "query",
        "official": {},
    }
    assert list(kept["lp++"].card["official"]) == ["validation set", "templates"]
    assert kept["lp++"].card["schedule"] == "lp++-300 (full batch) with epochs=3"
    assert kept["lp++"].default_schedule == "lp++-300 (full batch)"
    assert kept["zero-shot"].default_schedule == "none"
    shown = fsbench("compare", "--store", tmp_path, "--columns", "schedule,text knowledge").out
    assert "lp++-300 (full batch) with epochs=3" in " ".join(shown.split())
    assert "text knowledge" in shown
    assert "schedule" not in fsbench("compare", "--store", tmp_path).out
    audited = " ".join(fsbench("audit", "--store", tmp_path).out.split())
    assert "different schedules: closed form (tip-adapter), lp++-300 (full batch) with" in audited
