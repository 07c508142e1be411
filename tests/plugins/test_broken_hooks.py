"""Plug-in hooks that fail or return wrong values: the plug-in is named, and no other affected."""

from __future__ import annotations

import csv
import inspect
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest

import fewshot_bench as fb
from fewshot_bench.api.options import TAKEN
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.cli import run
from fewshot_bench.engines.base import EngineError
from fewshot_bench.engines.process import Slot, Worker
from fewshot_bench.plugins.reproduce import command as reproduce
from fewshot_bench.store.store import Store
from tests.support.helpers import cells, fsbench

RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1,2", "--limit", "20")
HOOK = "from fewshot_bench import Option, hookimpl\n\n@hookimpl\ndef {hook}\n"
GOOD = """
from fewshot_bench import hookimpl

@hookimpl
def run_warnings(store):
    return ["all is well"]

@hookimpl
def table_columns(records):
    return {"cells": len(records), "nothing": None}
"""
BAD = """
import sys
from fewshot_bench import hookimpl

@hookimpl
def run_started(spec):
    raise LookupError("no start")

@hookimpl
def run_finished(record):
    sys.exit(3)

@hookimpl
def run_warnings(store):
    return "one text"

@hookimpl
def table_columns(records):
    if len(records) == 1:
        raise KeyError("odd")
    return {"bad": 1}
"""


def test_a_run_and_its_table_go_on(install: Any, tmp_path: Path) -> None:
    install("bad", BAD)
    install("good", GOOD)
    done = fsbench(*RUN, "--jobs", "1", "--store", tmp_path / "store")
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert told == [
        "warning: run_started of plug-in fsbench-bad:bad failed: LookupError: no start, at "
        f"{tmp_path / 'plugins'}/fsbench_bad.py:7 in run_started",
        "warning: run_finished of plug-in fsbench-bad:bad failed: SystemExit: 3, at "
        f"{tmp_path / 'plugins'}/fsbench_bad.py:11 in run_finished",
        "warning: run_warnings of plug-in fsbench-bad:bad gave 'one text', expected a list of "
        "texts",
        "warning: all is well",
    ]
    shown = fsbench("compare", "--store", tmp_path / "store", "--format", "csv")
    assert (shown.code, shown.err) == (0, "")
    assert ",bad" in shown.out
    few = ("--seeds", "1", "--format", "csv")
    shown = fsbench("compare", "--store", tmp_path / "store", *few)
    assert shown.code == 0
    assert shown.err.splitlines() == [
        "warning: table_columns of plug-in fsbench-bad:bad failed: KeyError: 'odd', at "
        f"{tmp_path / 'plugins'}/fsbench_bad.py:20 in table_columns; its columns are left out"
    ]
    assert "cells" in shown.out
    assert "bad" not in shown.out
    with pytest.warns(UserWarning, match="table_columns of plug-in fsbench-bad:bad failed"):
        fb.load(tmp_path / "store").where(seeds=1).compare()
    install("two", GOOD)
    shown = fsbench("compare", "--store", tmp_path / "store")
    assert "plug-in fsbench-two:two gave 'cells', as fsbench-good:good; its col" in shown.err
    assert "None" not in shown.out


CHANGING = """
from fewshot_bench import hookimpl

@hookimpl
def run_started(spec):
    spec.options["epochs"] = 1

@hookimpl
def table_columns(records):
    for record in records:
        record.metrics["top1"] = 101.0
    records.clear()
    return {"changed": 1}
"""


def test_what_a_hook_writes_into_its_arguments_reaches_no_number(
    install: Any, tmp_path: Path
) -> None:
    install("changing", CHANGING)
    install("then", GOOD)
    done = fsbench(*RUN, "--jobs", "1", "--store", tmp_path / "store")
    assert done.code == 0, done.err
    table = fsbench("compare", "--store", tmp_path / "store", "--format", "csv").out
    shown = next(csv.DictReader(table.splitlines()))
    assert float(shown["top1_max"]) <= 100
    assert (shown["changed"], shown["cells"]) == ("1", "2")
    results = fb.load(tmp_path / "store")
    results.compare()
    assert all(record.metrics["top1"] <= 100 for record in results)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("worker_environment(store, options):\n    return {}['x']", "failed: KeyError: 'x'"),
        ("worker_environment():\n    raise SystemExit(3)", "failed: SystemExit: 3"),
        ("worker_environment(store):\n    return ['A']", "gave ['A'], expected a mapping of texts"),
        ("worker_environment(store):\n    return {'A': 1}", "gave {'A': 1}, expected a mapping"),
        ("worker_environment():\n    return {'FSBENCH_OFFLINE': ''}", "sets FSBENCH_OFFLINE: "),
    ],
)
def test_no_run_begins_without_what_workers_need(
    install: Any, tmp_path: Path, hook: str, said: str
) -> None:
    install("bad", HOOK.format(hook=hook))
    refused = fsbench(*RUN, "--store", tmp_path / "store")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
    assert f"error: worker_environment of plug-in fsbench-bad:bad {said}" in refused.err
    assert not (tmp_path / "store").exists()


FAILED = """
from fewshot_bench import Option, hookimpl

@hookimpl
def register_methods(register):
    raise ValueError("not today")

@hookimpl
def register_options(register):
    register(Option("mark"))

@hookimpl
def worker_environment(store, options):
    return {"MARK": options["mark"]}

@hookimpl
def run_warnings(store):
    return ["called"]
"""


def test_a_plug_in_that_failed_to_register_has_no_hook_called(install: Any, tmp_path: Path) -> None:
    install("bad", FAILED)
    done = fsbench(*RUN, "--store", tmp_path / "store")
    assert done.code == 0, done.err
    (line,) = done.err.splitlines()
    said = "warning: plug-in fsbench-bad:bad (fsbench_bad) was not loaded: register_methods: "
    assert line == f"{said}ValueError: not today"


def test_no_plug_in_gives_a_worker_another_device() -> None:
    channel, labels = mock.Mock(), mock.Mock()
    labels.expect.return_value = 1
    slot = Slot("cpu/0", "cpu", {"CUDA_VISIBLE_DEVICES": "3"})
    worker = Worker(slot, mock.Mock(), channel, labels)
    given = {"CUDA_VISIBLE_DEVICES": "7", "MINE": "1"}
    worker.send(cells("zero-shot"), "some:plug-in", given)
    (message,) = channel.send.call_args.args
    assert message["variables"] == {"CUDA_VISIBLE_DEVICES": "3", "MINE": "1"}


OPTIONS = """
from fewshot_bench import Option, hookimpl

@hookimpl
def register_options(register):
    register(Option({name!r}))

@hookimpl
def worker_environment(store, options):
    options["{name}"]
"""


DECLARED = """
from fewshot_bench import Option, hookimpl

@hookimpl
def register_options(register):
    register(Option("mark", {declared}))
"""


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("type=lambda text: 1 / 0", "ZeroDivisionError: division by zero"),
        ("type=lambda text: text, minimum=1", "TypeError: '>=' not supported between instances"),
    ],
)
def test_an_option_whose_type_fails_is_named(
    install: Any, tmp_path: Path, declared: str, said: str
) -> None:
    install("bad", DECLARED.format(declared=declared))
    refused = fsbench(*RUN, "--mark", "x", "--store", tmp_path / "store")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith(f"error: --mark 'x': its plug-in failed: {said}")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("type=int, default='3'", "default '3', expected a whole number"),
        ("type=float, default=True", "default True, expected a number"),
        ("default=3", "default 3, expected a text"),
        ("type=int, multiple=True, default=3", "default 3, expected a tuple"),
        ("type=int, multiple=True, default=('a',)", "default 'a', expected a whole number"),
    ],
)
def test_an_option_with_another_default_than_its_type_is_refused(
    install: Any, declared: str, expected: str
) -> None:
    install("bad", DECLARED.format(declared=declared))
    assert f"option --mark: {expected}" in " ".join(fsbench("list", "plugins").err.split())


def test_an_option_of_two_plug_ins_is_refused(install: Any, tmp_path: Path) -> None:
    conflict = "two plug-ins register the option 'mark': fsbench-one:one, "
    install("one", OPTIONS.format(name="mark"))
    install("two", OPTIONS.format(name="mark"))
    for words in (["--mark", "x"], []):
        refused = fsbench(*RUN, "--store", tmp_path / "store", *words)
        assert (refused.code, len(refused.err.splitlines())) == (2, 1), refused.err
        assert conflict in refused.err
        assert "fsbench-two:two, " in refused.err
    with pytest.raises(fb.FsbenchError, match=conflict):
        fb.run("zero-shot", "digits", store=tmp_path / "store", mark="x")
    assert not (tmp_path / "store").exists()


# Source that stores a record other than the one it yields, a given number of times.
STORED = """
        record = Record(cells[0], "failed", error={{"type": "E", "message": "m"}})
        self.store.write(record)
        for _ in range({times}):
            yield Record(cells[0], "done", metrics={{"top1": 100.0}})
"""
ENGINE = """
from fewshot_bench import Record, hookimpl
from fewshot_bench.engines import Engine

@hookimpl
def register_engines(register):
    register("odd", "{module}:Odd")

class Odd(Engine):
    def __init__(self, setup):
        self.store = setup.store

    def run(self, cells, progress):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise LookupError('no room')", "failed: LookupError: no room, at {file}:14 in run"),
        ("raise SystemExit(0)", "failed: SystemExit: 0, at {file}:14 in run"),
        ("yield 'a record'", "run gave 'a record', expected records"),
        ("return 3", "failed: TypeError: 'int' object is not iterable"),
        (
            "return []",
            "cells, the first of which is zero-shot on digits",
        ),
        (STORED.format(times=2), "which was not asked for or was given before"),
        ("yield Record(cells[0], 'failed')", "which is not in the store"),
    ],
)
def test_an_engine_that_fails_is_named(install: Any, tmp_path: Path, body: str, said: str) -> None:
    install("odd", ENGINE.replace("{body}", body))
    refused = fsbench(*RUN, "--engine", "odd", "--store", tmp_path / "store")
    assert refused.code == 1, refused.err
    (line,) = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert "engine 'odd' (fsbench-odd:odd, " in line
    assert said.replace("{file}", f"{tmp_path}/plugins/fsbench_odd.py") in line
    with pytest.raises(EngineError) as caught:
        fb.run("zero-shot", "digits", shots=1, store=tmp_path / "store", engine="odd")
    assert (caught.value.__cause__ is None) == ("failed: " not in said)


def test_what_an_engine_says_of_a_record_is_not_taken_for_it(install: Any, tmp_path: Path) -> None:
    install("odd", ENGINE.replace("{body}", STORED.format(times=1)))
    done = fsbench(*RUN, "--engine", "odd", "--store", tmp_path / "store")
    (record,) = Store(tmp_path / "store").records()
    assert (done.code, record.status, record.metrics) == (1, "failed", {})
    assert "100" not in done.err


def test_a_built_in_engine_stands_against_another_of_its_name(install: Any, tmp_path: Path) -> None:
    install("odd", ENGINE.replace("{body}", "yield 'a record'").replace('"odd"', '"local"'))
    said = "engine 'local' is built in; the one of fsbench-odd:odd, "
    assert said in fsbench("list", "engines").err
    assert fsbench(*RUN, "--store", tmp_path / "store").code == 0


HALF = """
from fewshot_bench import Option, hookimpl

@hookimpl
def register_methods(register):
    register("zero-shot", "{module}:Any")
    register("own", "{module}:Any")

@hookimpl
def register_options(register):
    register(Option("store"))
"""


def test_what_fails_in_one_hook_registers_nothing_in_others(install: Any, tmp_path: Path) -> None:
    install("half", HALF)
    assert "own" not in fsbench("list", "methods").out.split()
    assert fsbench(*RUN, "--store", tmp_path / "store").code == 0


def test_a_mistyped_hook_is_named(install: Any) -> None:
    install("bad", HOOK.format(hook="register_metods(register):\n    pass"))
    listed = fsbench("list", "plugins").out
    assert "unknown hook 'register_metods': did you mean 'register_methods'?" in listed


def test_options_are_listed_and_shown(install: Any) -> None:
    install("one", OPTIONS.format(name="mark"))
    assert "--mark (fsbench-one:one)" in " ".join(fsbench("list", "options").out.split())
    shown = fsbench("show", "mark").out
    assert "mark: option of commands that run cells, registered by fsbench-one:one" in shown
    assert "--mark = None" in shown


def test_names_of_own_options_are_those_of_commands_that_run_cells() -> None:
    own = {name for name in inspect.signature(fb.run).parameters if name != "declared"}
    for command in (run.command, reproduce.command):
        params = click.Command.get_params(command, click.Context(command))
        own |= {name[2:] for param in params for name in param.opts if name.startswith("--")}
    assert {name.replace("_", "-") for name in own} <= TAKEN
    assert {name.replace("_", "-") for name in own} | set(CONDITIONS) == TAKEN
