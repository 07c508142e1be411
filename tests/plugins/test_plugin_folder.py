"""A plug-in that changes the working directory moves no result of a command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from tests.support.helpers import fsbench

FEW = ("--shots", "1", "--limit", "20", "--jobs", "1", "--backbone", "tiny")
MOVES = """
import os
from dataclasses import dataclass, replace
from typing import ClassVar
from fewshot_bench import Metric, hookimpl
from fsbench_datasets.embedded import digits

def move(place):
    if place == "{place}":
        os.chdir("/")

move("import")

@hookimpl
def register_datasets(register):
    move("register_datasets")
    register("moved-digits", "{module}:Moved")

@hookimpl
def register_metrics(register):
    register("moving", "{module}:MOVING")

@hookimpl
def worker_environment(store, options):
    move("worker_environment")

@hookimpl
def run_warnings(store):
    move("run_warnings")

@hookimpl
def table_columns(records):
    move("table_columns")

def moving(hits):
    move("metric")
    return 100 * float(hits.mean())

MOVING = Metric("moving", "a moving one", moving)

class Moved:
    def __init__(self):
        move("factory")
        self.digits = digits()

    def card(self):
        move("card")
        return replace(self.digits.card(), name="moved-digits")

    def items(self):
        move("items")
        return {role: pool[::7] for role, pool in self.digits.items().items()}

    def read(self, item):
        return self.digits.read(item)
"""
MOVED = (
    *("import", "register_datasets", "worker_environment", "run_warnings", "table_columns"),
    *("metric", "factory", "card", "items"),
)


@pytest.mark.parametrize("place", MOVED)
def test_results_stay_in_the_store_of_the_command_wherever_a_plug_in_goes(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    install("moves", MOVES.replace("{place}", place))
    words = ("run", "-m", "zero-shot", "-d", "moved-digits", "--seeds", "1,2", *FEW)
    done = fsbench(*words, "--store", "mine")
    assert done.code == 0, done.err
    assert Path.cwd() == here
    assert len(list(Store(here / "mine").records())) == 2
    shown = fsbench("compare", "--store", "mine", "--metric", "moving", "--format", "json")
    assert Path.cwd() == here
    rows = json.loads(shown.out)["rows"]
    assert {row["n_seeds"] for row in rows} == {2}, rows


METHOD = """
import os
from dataclasses import dataclass
from typing import ClassVar
from fsbench_methods.zero_shot import ZeroShot

os.chdir("/")

@dataclass(frozen=True)
class Odd(ZeroShot):
    name: ClassVar[str] = "odd"
"""


def test_a_file_of_a_method_may_change_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHOD)
    done = fsbench(
        "run", "-m", "mine.py:Odd", "-d", "digits", *FEW, "--seeds", "1", "--store", "store"
    )
    assert done.code == 0, done.err
    assert len(list(Store(tmp_path / "store").records())) == 1
