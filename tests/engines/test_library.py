"""`fewshot_bench.run` and its results: the same cells and numbers as `fsbench run`."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.api.options import RUN_OPTIONS
from fewshot_bench.cli.run import command
from fewshot_bench.engines import reporting
from fewshot_bench.engines.library import ARGUMENTS
from tests.support.helpers import PATIENCE, fsbench, wait_until

FEW: dict[str, Any] = {"shots": 1, "seeds": 1, "limit": 40, "progress": False, "jobs": 1}
FACE = ("torch", "matplotlib", "pandas", "scipy", "rich", "click", "pluggy", "numpy")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> fb.Results:
    """Two methods, one with two configurations, on digits."""
    return fb.run(
        ["zero-shot", "linear-probe"],
        "digits",
        options={"linear-probe.search_steps": [0, 1]},
        store=tmp_path_factory.mktemp("library"),
        **FEW,
    )


def numbers(results: fb.Results) -> dict[str, Any]:
    """Specification and metrics of every cell by key."""
    return {record.spec.key(): (record.spec, record.metrics) for record in results}


def test_the_command_line_and_the_library_give_equal_records(
    done: fb.Results, tmp_path: Path
) -> None:
    cells = ("-m", "zero-shot,linear-probe", "-d", "digits", "--shots", 1, "--seeds", 1)
    options = ("-o", "linear-probe.search_steps=0,1", "--limit", 40, "--jobs", 1)
    assert fsbench("run", *cells, *options, "--store", tmp_path).code == 0
    assert numbers(done) == numbers(fb.load(tmp_path))


def test_the_function_has_the_options_of_the_table_and_their_defaults() -> None:
    parameters = inspect.signature(fb.run).parameters
    assert set(parameters) == {*RUN_OPTIONS, "progress", "declared"}
    assert set(ARGUMENTS) == set(parameters) - {"classnames", "declared"}
    params = click.Command.get_params(command, click.Context(command))
    own = {"config", "save_config", "_click_default_help", "debug", "pdb", "edit", "profile"}
    assert {param.name for param in params} - own == set(RUN_OPTIONS)
    for name, row in RUN_OPTIONS.items():
        if not row.required:
            assert plain(parameters[name].default) == plain(row.default), name


def plain(value: Any) -> Any:
    """Normalize a default: one-element tuples and empty values."""
    single = value[0] if isinstance(value, tuple) and len(value) == 1 else value
    return single or None


def test_what_is_done_is_not_computed_again(done: fb.Results) -> None:
    with mock.patch("fewshot_bench.engines.local.LocalEngine._start", side_effect=AssertionError):
        again = fb.run(["zero-shot"], "digits", store=done.store, **FEW)
    assert len(again) == 1
    assert numbers(again).items() <= numbers(done).items()


def test_load_gives_what_the_store_holds(done: fb.Results) -> None:
    loaded = fb.load(done.store)
    assert numbers(loaded) == numbers(done)
    assert "3 records" in repr(loaded)
    assert not loaded.failed()


def test_a_store_that_holds_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(fb.DataMissingError, match="holds no readable record"):
        fb.load(tmp_path)
    with pytest.raises(fb.DataMissingError, match="does not exist"):
        fb.load(tmp_path / "absent")
    for nothing in (None, "", 3):
        with pytest.raises(fb.UsageError, match="expected the path of a folder"):
            fb.load(nothing)  # type: ignore[arg-type]


def test_unknown_names_are_refused_before_anything_runs(tmp_path: Path) -> None:
    for arguments, message in (
        ({"methods": "clip-lra"}, "unknown method 'clip-lra': did you mean 'clip-lora'"),
        ({"datasets": "digit"}, "unknown data set 'digit': did you mean 'digits'"),
        ({"protocol": "cop"}, "unknown protocol 'cop': did you mean 'coop'"),
        ({"options": {"sped": 1}}, "hyper-parameter"),
        ({"device": "cpu"}, "unknown argument of run.. 'device': did you mean 'devices'"),
        ({"partition": "gpu"}, "--partition is an option of --engine slurm"),
        ({"trak": "wandb"}, "unknown argument of run.. 'trak': did you mean 'track'"),
        ({"methods": [dict]}, "is no method"),
        ({"seeds": 2**70}, "limit of at most 18 digits"),
        ({"shots": [1, 10**18 + 1]}, "limit of at most 18 digits"),
    ):
        asked: Any = {"methods": "coop", "datasets": "digits", **FEW, "store": tmp_path / "s"}
        with pytest.raises(fb.UsageError, match=message):
            fb.run(**(asked | arguments))
    assert not (tmp_path / "s").exists()


WHOLE = "expected whole numbers from"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("shots", 1.5, f"=1.5: {WHOLE} 1, or 'all'"),
        ("shots", True, f"=True: {WHOLE} 1"),
        ("shots", "few", f"='few': {WHOLE} 1"),
        ("shots", None, f"=None: {WHOLE} 1"),
        ("shots", 0, f"=0: {WHOLE} 1"),
        ("shots", [], WHOLE),
        ("seeds", [1, 1.7], r"=\[1, 1.7\]: expected whole numbers from 0"),
        ("seeds", "1,2", WHOLE),
        ("split_seed", "x", "expected a whole number from 0, or None"),
        ("limit", True, "=True: expected a whole number from 1, or None"),
        ("limit", 1.5, "expected a whole number"),
        ("limit", "40", "='40': expected a whole number"),
        ("force", "yes", "='yes': expected True or False"),
        ("deterministic", "no", "expected True or False"),
        ("methods", None, "expected at least one name, class or object"),
        ("methods", 3, "expected at least one name"),
        ("methods", [], "expected at least one name"),
        ("methods", "", "expected at least one name"),
        ("datasets", None, "expected at least one name of a data set"),
        ("datasets", [], "expected at least one name of a data set"),
        ("datasets", [3], r"=\[3\]: expected at least one name"),
        ("options", {3: 4}, "expected a mapping such as"),
        ("options", {"rank": []}, "expected a mapping such as"),
        ("options", 3, "expected a mapping such as"),
        ("store", None, "expected the path of a folder"),
        ("store", 3, "expected the path of a folder"),
        ("store", "", "expected the path of a folder"),
        ("jobs", "a", "expected a whole number from 1"),
        ("jobs", 1.5, "expected a whole number from 1"),
        ("jobs", 0, "=0: expected a whole number from 1"),
        ("timeout", 0, "=0: expected a number of seconds above 0"),
        ("lease", float("nan"), "expected a number of seconds from 3"),
        ("holdout", "half", "expected a number between 0 and 1"),
        ("backbone", 3, "=3: expected a name"),
        ("precision", None, "expected a name"),
        ("engine", None, "expected a name"),
        ("keep_split", "beside", "expected 'store' or 'data'"),
        ("progress", "no", "expected True or False, or None"),
    ],
)
def test_values_of_another_type_are_refused_before_anything_runs(
    name: str, value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked: Any = {"methods": "coop", "datasets": "digits", **FEW, "store": "s", name: value}
    with pytest.raises(fb.UsageError, match=f"^{name}=?.*{message}"):
        fb.run(**asked)
    assert not list(tmp_path.iterdir())


def test_missing_data_is_an_error_where_nothing_else_was_asked(tmp_path: Path) -> None:
    asked = {"store": tmp_path / "s", "backbone": "tiny", "protocol": "coop", **FEW}
    with pytest.warns(fb.FsbenchWarning), pytest.raises(fb.DataMissingError, match="eurosat"):
        fb.run("zero-shot", ["eurosat"], **asked)
    with pytest.warns(fb.FsbenchWarning, match="eurosat"):
        assert not len(fb.run("zero-shot", ["digits", "eurosat"], dry_run=True, **asked))
    with pytest.warns(fb.FsbenchWarning, match="eurosat"):
        results = fb.run("zero-shot", ["digits", "eurosat"], **asked)
    assert [record.spec.dataset for record in results] == ["digits"]
    assert list(results.missing) == ["eurosat"]


def test_a_dry_run_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = FEW | {"progress": True}
    results = fb.run("zero-shot", "digits", store=tmp_path / "s", dry_run=True, **asked)
    assert len(results) == 0
    assert not (tmp_path / "s").exists()
    out, err = capsys.readouterr()
    assert out == ""
    assert "1 cell: 0 done already, 1 to run" in err


def test_a_run_in_a_thread(tmp_path: Path) -> None:
    results: list[fb.Results] = []

    def compute() -> None:
        numbers = {"shots": np.array([1]), "seeds": np.int64(1), "limit": np.int64(40)}
        results.append(fb.run("zero-shot", "digits", store=tmp_path, **(FEW | numbers)))

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join(PATIENCE)
    (record,) = results[0]
    assert (type(record.spec.limit), record.spec.limit) == (int, 40)


def test_failed_cells_are_records_and_a_warning(methods: Any, tmp_path: Path) -> None:
    with pytest.warns(fb.FsbenchWarning, match="1 cell failed") as caught:
        results = fb.run(["bad-fit", "zero-shot"], "digits", store=tmp_path, **FEW)
    assert caught[0].filename == __file__
    assert [record.spec.method for record in results.failed()] == ["bad-fit"]
    assert len(results.where(status="done")) == 1
    assert "1 done, 1 failed" in repr(results)


def test_silence_and_plain_lines(
    done: fb.Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fb.run("zero-shot", "digits", store=tmp_path, **FEW)
    assert capsys.readouterr() == ("", "")
    fb.run("zero-shot", "digits", store=tmp_path, **(FEW | {"progress": None, "force": True}))
    out, err = capsys.readouterr()
    assert out == ""
    assert "[1/1] zero-shot on digits, 1-shot, seed 1: 90.00 %" in err
    assert not {"\r", "\x1b"} & set(err)


def test_the_bar_of_a_notebook_is_html(tmp_path: Path) -> None:
    shown: list[str] = []

    class Handle:
        update = staticmethod(shown.append)

    def display(first: str, *, display_id: bool) -> Handle:
        shown.append(first)
        return Handle()

    module = mock.Mock(HTML=str, display=display)
    with (
        mock.patch.object(reporting, "in_notebook", return_value=True),
        mock.patch("fewshot_bench.engines.reporting.import_module", return_value=module),
    ):
        fb.run("zero-shot", "digits", store=tmp_path, **(FEW | {"progress": None}))
    assert shown[0].startswith('<progress max="1" value="0.00">')
    assert "1/1 cells" in shown[-1]


def test_an_interrupt_keeps_what_is_done_and_the_next_call_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: Any = FEW | {"seeds": [1, 2, 3, 4, 5, 6], "progress": None, "store": tmp_path}

    def interrupt() -> None:
        wait_until(lambda: len([*tmp_path.glob("records/*/*.json")]) >= 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fb.run("linear-probe", "digits", **asked)
    finally:
        signal.signal(signal.SIGINT, before)
        thread.join()
    assert "cells are done and kept" in capsys.readouterr().err
    kept = len(fb.load(tmp_path))
    assert 1 <= kept < 6
    assert repr(fb.run("linear-probe", "digits", **asked)).endswith("': 6 done)")
    assert f"6 cells: {kept} done already, {6 - kept} to run" in capsys.readouterr().err


def test_importing_it_is_quick_and_brings_nothing_in() -> None:
    code = (
        "import sys, time; before = time.process_time(); import fewshot_bench\n"
        "print(time.process_time() - before, *sorted(sys.modules))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert min(float(run.stdout.split()[0]) for run in runs) < 0.15
    assert not {*FACE} & set(runs[0].stdout.split())


def test_the_face_names_what_it_has() -> None:
    assert set(fb.__all__) <= set(dir(fb))
    for name in fb.__all__:
        assert getattr(fb, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        _ = fb.runn  # type: ignore[attr-defined]


def test_names_are_listed() -> None:
    assert fb.list_backbones() == ["tiny"]
    assert {"clip-lora", "zero-shot"} <= set(fb.list_methods())
    assert fb.list_datasets("demo") == ["digits", "letters", "shapes"]
