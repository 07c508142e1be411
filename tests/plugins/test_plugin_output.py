"""What plug-ins print, interrupt or end: output of commands stays whole, and the plug-in is named.

The commands run in their own processes where a plug-in may end or interrupt the process.
"""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.engines import local
from fewshot_bench.store.store import Store
from tests.support.helpers import (
    PATIENCE,
    command,
    fsbench,
    problems,
    save_image,
    start,
    wait_until,
)
from tests.support.synthetic_store import fill

FEW = ("-d", "digits", "--shots", "1", "--limit", "20", "--jobs", "1", "--backbone", "tiny")
RUN = ("run", "-m", "zero-shot", "--seeds", "1", *FEW)
HOOK = "import os, sys, time\nfrom fewshot_bench import hookimpl\n\n@hookimpl\ndef {hook}\n"
INTERRUPTED = "failed: RuntimeError: it raised KeyboardInterrupt"
LOST = "did not come back: its last reports are lost"


def hook(text: str) -> str:
    """The source of a plug-in with one hook."""
    return HOOK.replace("{hook}", text)


def apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


LOUD = """
from fewshot_bench import Metric, hookimpl

print("printed at the import")

@hookimpl
def register_metrics(register):
    print("printed by register_metrics")
    register("loud", "{module}:METRIC")

@hookimpl
def table_columns(records):
    print("printed by table_columns")
    return {"cells": len(records)}

def loud(hits):
    print("printed by the metric")
    return 1.0

METRIC = Metric("loud", "a loud one", loud)
"""


def test_what_plug_ins_print_is_not_in_the_output_of_a_command(
    install: Any, tmp_path: Path
) -> None:
    store = fill(tmp_path / "s", 1, 1, (1,), (1,), queries=20, classes=4)
    install("loud", LOUD)
    words = ("compare", "--store", store.path, "--metric", "loud", "--format", "json")
    shown = fsbench(*words)
    assert shown.code == 0, shown.err
    assert shown.out.startswith("{"), shown.out
    assert json.loads(shown.out)["meta"]["metric"] == "loud"
    for place in ("at the import", "by register_metrics", "by table_columns", "by the metric"):
        assert f"printed {place}\n" in shown.err


def test_an_import_that_interrupts_is_named_and_contained(install: Any) -> None:
    install("rude", "raise KeyboardInterrupt\n")
    install("class", "import fsbench_rude\n")
    listed = fsbench("list", "plugins")
    assert listed.code == 0
    assert "RuntimeError: it raised KeyboardInterrupt" in " ".join(listed.out.split())
    assert fsbench("list", "methods").code == 0


def test_a_real_interrupt_at_an_import_stops_the_command(install: Any) -> None:
    install("own", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = apart("list", "methods")
    assert (done.returncode, done.stderr.split()) == (130, ["error:", "stopped"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("run_finished(record):\n    os._exit(7)", "ended its process (exit code 7)"),
        ("run_finished(record):\n    raise KeyboardInterrupt", INTERRUPTED),
        ("run_warnings(store):\n    raise KeyboardInterrupt", INTERRUPTED),
    ],
)
def test_a_hook_that_ends_its_process_is_named(
    install: Any, tmp_path: Path, body: str, said: str
) -> None:
    install("bad", hook(body))
    done = fsbench(*RUN, "--store", tmp_path)
    assert done.code == 0, done.err
    (line,) = done.err.splitlines()
    name = body.partition("(")[0]
    assert line.partition(", at ")[0] == f"warning: {name} of plug-in fsbench-bad:bad {said}"
    assert [record.status for record in Store(tmp_path).records()] == ["done"]


def test_a_tracker_that_blocks_holds_up_no_cell(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "HOOK_SECONDS", 1.0)
    install("bad", hook("run_finished(record):\n    time.sleep(1000)"))
    twice = ("run", "-m", "zero-shot,tip-adapter", "--seeds", "1", *FEW)
    done = fsbench(*twice, "--store", tmp_path)
    assert done.code == 0, done.err
    assert done.err.splitlines() == [f"warning: run_finished of plug-in fsbench-bad:bad {LOST}"]
    assert [record.status for record in Store(tmp_path).records()] == ["done", "done"]


def test_a_tracker_that_an_interrupt_stops_is_named(install: Any, tmp_path: Path) -> None:
    place = tmp_path / "hooked"
    body = f"open({str(place)!r}, 'w').close()\n    time.sleep(1000)"
    install("own", hook(f"run_finished(record):\n    {body}"))
    process = start(*RUN, "--store", tmp_path / "store")
    wait_until(place.exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert sorted(problems(err)) == [
        "stopped: 1 of 1 cells are done and kept; run the same command again to continue",
        "warning: run_finished of plug-in fsbench-own:own was stopped: its last reports are lost",
    ]


REPORTING = "run_finished(record):\n    print(record.spec.describe(), file=open({!r}, 'a'))"


def test_a_cell_whose_worker_is_killed_after_its_record_is_computed_again_and_reported(
    install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("own", hook(REPORTING.format(str(tmp_path / "reported"))))
    handle, killed = local.LocalEngine._handle, []

    def kill(engine: Any, worker: Any, event: Any, progress: Any) -> None:
        """The first worker ends before it says that a cell is finished: it is computed again."""
        if event is not None and event.event == "finished" and not killed:
            killed.append(worker)
            worker.process.kill()
        elif event is None or worker not in killed:
            handle(engine, worker, event, progress)

    monkeypatch.setattr(local.LocalEngine, "_handle", kill)
    run = ("run", "-m", "zero-shot", "--seeds", "1,2", *FEW)
    done = fsbench(*run, "--store", tmp_path / "store")
    assert done.code == 0, done
    assert len((tmp_path / "reported").read_text().splitlines()) == 2


def test_an_interrupt_after_the_cells_says_that_they_are_kept(install: Any, tmp_path: Path) -> None:
    body = "import signal\n    os.kill(os.getppid(), signal.SIGINT)"
    install("own", hook(f"run_warnings(store):\n    {body}"))
    done = apart(*RUN, "--store", tmp_path)
    assert done.returncode == 130
    assert problems(done.stderr) == [
        "stopped: 1 of 1 cells are done and kept; run the same command again to continue"
    ]


METHOD = """
import os, signal
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import hookimpl

@hookimpl
def register_methods(register):
    register("odd", "{module}:Odd")

class Kept:
    def __init__(self, classes):
        self.classes = classes

    def logits(self, queries):
        return queries.features @ self.classes.T

    def tensors(self):
        return {"classes": self.classes}

@dataclass(frozen=True)
class Odd:
    name: ClassVar[str] = "odd"

    def fit(self, task, backbone, ctx):
        {body}
        return Kept(backbone.class_features(task))
"""


def test_a_method_that_interrupts_its_process_prints_one_line(install: Any, tmp_path: Path) -> None:
    install("odd", METHOD.replace("{body}", "os.kill(os.getpid(), signal.SIGINT)"))
    done = fsbench("run", "-m", "odd", "--seeds", "1", *FEW, "--store", tmp_path)
    (record,) = Store(tmp_path).records()
    assert (done.code, record.status) == (1, "failed")
    assert "Traceback" not in done.err
    said = "a method or plug-in interrupted its own worker process (SIGINT)"
    assert done.err.splitlines().count(said) == 2
    assert record.error is not None
    assert "killed by signal 2" in record.error["message"]


def test_a_method_that_comes_back_in_two_processes_is_computed_once(
    install: Any, tmp_path: Path
) -> None:
    install("odd", METHOD.replace("{body}", "os.fork()"))
    done = fsbench("run", "-m", "odd", "--seeds", "1", *FEW, "--store", tmp_path)
    (record,) = Store(tmp_path).records()
    assert (done.code, record.status, done.err) == (0, "done", "")


def test_variables_that_no_environment_holds_are_refused_with_the_plug_in(
    install: Any, tmp_path: Path
) -> None:
    install("bad", hook("worker_environment(store):\n    return {'A\\0': 'b'}"))
    refused = fsbench(*RUN, "--store", tmp_path / "store")
    assert refused.code == 2
    assert "worker_environment of plug-in fsbench-bad:bad gave {'A\\x00': 'b'}" in refused.err
    assert "a mapping of texts to texts that an environment can hold" in refused.err


def test_a_failed_plug_in_has_no_commands(install: Any) -> None:
    source = hook("register_methods(register):\n    raise LookupError('no')")
    source += "@hookimpl\ndef register_commands(cli):\n    cli.add_lazy('odd', 'x:y', 'Odd one.')\n"
    install("half", source)
    assert "Odd one." not in fsbench("--help").out
    assert "unknown command 'odd'" in fsbench("odd").err


def test_rerun_names_what_to_install(install: Any, tmp_path: Path) -> None:
    install("odd", METHOD.replace("{body}", "pass"))
    assert fsbench("run", "-m", "odd", "--seeds", "1", *FEW, "--store", tmp_path / "s").code == 0
    (record,) = Store(tmp_path / "s").records()
    for path in (tmp_path / "plugins").glob("*.dist-info/*"):
        path.unlink()
    from fewshot_bench.api.registry import registry

    registry.cache_clear()
    refused = fsbench("rerun", record.spec.key(), "--store", tmp_path / "s")
    assert refused.code == 2
    assert "method 'odd' is not installed; fsbench-odd 1.0 computed the record" in refused.err


CHATTY = """
from dataclasses import dataclass, replace
from typing import ClassVar
from fewshot_bench import hookimpl
from fsbench_datasets.embedded import digits

@hookimpl
def register_methods(register):
    register("chatty", "{module}:Chatty")

@hookimpl
def register_datasets(register):
    register("chatty-digits", "{module}:ChattyDigits")

class ChattyDigits:
    def __init__(self):
        print("printed by the factory")
        self.digits = digits()

    def card(self):
        print("printed by card")
        return replace(self.digits.card(), name="chatty-digits")

    def items(self):
        print("printed by items")
        return {role: pool[::7] for role, pool in self.digits.items().items()}

    def read(self, item):
        print("printed by read")
        return self.digits.read(item)

class Said:
    def __init__(self, classes):
        self.classes = classes

    def logits(self, queries):
        print("printed by logits")
        return queries.features @ self.classes.T

    def tensors(self):
        return {"classes": self.classes}

@dataclass(frozen=True)
class Chatty:
    name: ClassVar[str] = "chatty"
    steps: int = 1

    def __post_init__(self):
        print("printed by __post_init__")

    def fit(self, task, backbone, ctx):
        return Said(backbone.class_features(task))

    def restore(self, tensors, vocabulary, backbone):
        print("printed by restore")
        return Said(tensors["classes"])
"""


def test_methods_and_data_sets_print_nothing_into_json(install: Any, tmp_path: Path) -> None:
    install("chatty", CHATTY)
    what = ("-d", "chatty-digits", "--shots", "1", "--seeds", "1", "--backbone", "tiny")
    store = tmp_path / "store"
    kept = fsbench("run", "-m", "chatty", *what, "--keep-models", "--store", store)
    assert kept.code == 0, kept.err
    (model,) = (store / "models").iterdir()
    save_image(tmp_path / "one.png", 1)
    classified = fsbench("predict", model, tmp_path / "one.png", "--format", "jsonl")
    assert [json.loads(line)["image"] for line in classified.out.splitlines()] == [
        str(tmp_path / "one.png")
    ]
    for place in ("__post_init__", "restore", "logits"):
        assert f"printed by {place}\n" in classified.err
    measured = fsbench("evaluate", model, "-d", "chatty-digits", "--format", "json")
    assert json.loads(measured.out)["dataset"] == "chatty-digits", measured.err
    for place in ("the factory", "card", "items", "read"):
        assert f"printed by {place}\n" in measured.err
    words = ("-m", "chatty", "-o", "steps=1,2", "--store", tmp_path / "swept")
    assert fsbench("run", *words, *what).code == 0
    drawn = fsbench("compare", "--layout", "sweep", *words, "--format", "json")
    assert json.loads(drawn.out)["meta"]["method"] == "chatty", drawn.err


def test_a_method_that_ends_the_process_does_not_end_predict(install: Any, tmp_path: Path) -> None:
    install("chatty", CHATTY)
    what = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--backbone", "tiny")
    store = tmp_path / "store"
    assert fsbench("run", "-m", "chatty", *what, "--keep-models", "--store", store).code == 0
    (model,) = (store / "models").iterdir()
    module = tmp_path / "plugins" / "fsbench_chatty.py"
    module.write_text(
        module.read_text().replace('print("printed by logits")', "raise SystemExit(0)")
    )
    save_image(tmp_path / "one.png", 1)
    done = fsbench("predict", model, tmp_path / "one.png", "--format", "jsonl")
    assert (done.code, done.out) == (1, "")
    assert "(SystemExit: 0)" in done.err.splitlines()[-1]
