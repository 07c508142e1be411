"""Engines and trackers in separate packages."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_bench.api import code_closure
from fewshot_bench.api.registry import registry
from fewshot_bench.store.store import Store
from tests.support import helpers
from tests.support.helpers import REPOSITORY

DOCS = REPOSITORY / "docs" / "how-to"
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1,2", "--limit", "20")


def example(page: str, name: str) -> str:
    """The code block of a page with this marker."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.split(f"<!-- example: {name} -->\n```python\n")[1].split("```\n")[0]


def install(folder: Path, name: str, point: str, **files: str) -> None:
    """Install a distribution with one entry point on the path, as an installer would."""
    for path, source in files.items():
        file = folder / f"{path.replace('__', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8")
    info = folder / f"fsbench_{name}-1.0.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: fsbench-{name}\nVersion: 1.0\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    points = f"[fewshot_bench]\n{name} = {point}\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


def fsbench(folder: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with an additional folder on the path."""
    modules = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        for name, value in variables.items():
            patch.setenv(name, value)
        registry.cache_clear()
        done = helpers.fsbench(*arguments)
    registry.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith("fsbench_"):
            del sys.modules[name]
            code_closure.forget(name)
    return subprocess.CompletedProcess([], done.code, done.out, done.err)


LAUNCHER_PLUGIN = """
from fewshot_bench import Option, hookimpl


@hookimpl
def register_engines(register):
    options = (
        Option("launcher", "command before that of a worker.", default="", env="LAUNCHER"),
        Option("launch", "how many workers.", int, default=1, minimum=1),
    )
    register("launcher", "fsbench_launcher.engine:build", options=options, elsewhere=True)
"""
LAUNCHER_ENGINE = '''
import shlex
import subprocess

from fewshot_bench import UsageError
from fewshot_bench.engines import DistributedEngine, EngineError, EngineSetup, Job, State, System


class Processes(System):
    """Workers of a job as processes of this command."""

    name = "launcher"

    def __init__(self, prefix: list[str]) -> None:
        self.prefix = prefix
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, job: Job, workers: int) -> Job:
        for number in range(workers):
            with (job.folder / f"worker-{number}.log").open("ab") as log:
                command = [*self.prefix, *job.command]
                try:
                    started = subprocess.Popen(command, stdout=log, stderr=log)
                except OSError as error:
                    raise EngineError(f"cannot start '{command[0]}': {error.strerror}") from error
            self.processes.append(started)
        return job

    def state(self) -> State:
        codes = [process.poll() for process in self.processes]
        alive = codes.count(None)
        return State(
            alive, f"{alive} processes", tuple(f"exit code {code}" for code in codes if code)
        )

    def cancel(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def build(setup: EngineSetup) -> DistributedEngine:
    try:
        prefix = shlex.split(setup.options["launcher"])
    except ValueError as error:
        raise UsageError(f"--launcher: {error}") from None
    return DistributedEngine(setup, Processes(prefix), most=setup.options["launch"])
'''


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with an engine, as `fsbench new engine` writes one."""
    folder = tmp_path_factory.mktemp("launcher")
    install(
        folder,
        "launcher",
        "fsbench_launcher.plugin",
        fsbench_launcher__plugin=LAUNCHER_PLUGIN,
        fsbench_launcher__engine=LAUNCHER_ENGINE,
    )
    return folder


def test_a_run_with_an_engine_of_another_package(launcher: Path, tmp_path: Path) -> None:
    engine = ("--engine", "launcher", "--launch", "1", "--jobs", "1")
    done = fsbench(launcher, *RUN, "--store", tmp_path, *engine, LAUNCHER="nice -n 1")
    assert done.returncode == 0, done.stderr
    assert "launcher: " in done.stderr
    assert [record.status for record in Store(tmp_path).records()] == ["done", "done"]
    (job,) = (tmp_path / "jobs").iterdir()
    assert "digits" in "".join(path.read_text() for path in job.glob("worker-*.log"))
    alone = fsbench(launcher, *RUN, "--store", tmp_path / "local", "--jobs", "1")
    assert alone.returncode == 0, alone.stderr
    logits = [
        {record.spec.key(): record.digests["logits"] for record in Store(path).records()}
        for path in (tmp_path, tmp_path / "local")
    ]
    assert logits[0] == logits[1]


def test_what_is_wrong_with_options_is_found_before_anything_runs(
    launcher: Path, tmp_path: Path
) -> None:
    mine = ("--engine", "launcher")
    for words, code, said in (
        (["--engine", "launcer"], 2, "unknown engine 'launcer': did you mean 'launcher'?"),
        (["--launch", "2"], 2, "--launch is an option of --engine launcher, and the"),
        ([*mine, "--launch", "0"], 2, "--launch '0': expected at least 1"),
        ([*mine, "--launch", "x"], 2, "--launch 'x': expected a whole number"),
        ([*mine, "--launcher", "'"], 2, "--launcher: No closing quotation"),
        ([*mine, "--launcher", "no-such-program"], 1, "cannot start 'no-such-pro"),
    ):
        done = fsbench(launcher, *RUN, "--store", tmp_path / "store", *words)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not list(tmp_path.glob("store/records/*"))


def test_engines_are_listed_and_shown(launcher: Path) -> None:
    listed = fsbench(launcher, "list", "engines").stdout
    assert "launcher  fsbench-launcher:launcher" in listed
    assert "local     fewshot-bench:builtin_engines" in listed
    shown = fsbench(launcher, "show", "launcher").stdout
    assert "--launch = 1\n      how many workers." in shown
    assert "[env: LAUNCHER]" in shown
    helped = fsbench(launcher, "run", "--help").stdout
    assert "--launch" not in helped
    assert "run --engine launcher --help" in helped or "launcher" in helped.partition("Where:")[2]
    helped = fsbench(launcher, "run", "--engine", "launcher", "--help").stdout
    launching = " ".join(helped.partition("Launcher:")[2].split())
    assert "--launch TEXT how many workers. [default: 1]" in launching
    assert "--array" not in helped


REGISTERED = """
from fewshot_bench import hookimpl

@hookimpl
def register_engines(register):
    register("by-set", "fsbench_byset_engine:BySet")
"""


BY_SET = '''
from collections.abc import Iterator, Sequence
from itertools import groupby

from fewshot_bench import Record, RunSpec
from fewshot_bench.engines import Engine, EngineSetup, LocalEngine, Progress


class BySet(Engine):
    """Finishes one data set before it begins the next."""

    def __init__(self, setup: EngineSetup) -> None:
        self.setup = setup

    def preview(self, cells: int) -> str:
        return f"{cells} cells, data set by data set"

    def run(self, cells: Sequence[RunSpec], progress: Progress) -> Iterator[Record]:
        def dataset(cell: RunSpec) -> str:
            return cell.dataset

        with LocalEngine(self.setup.store, self.setup.settings, self.setup.before) as engine:
            for name, group in groupby(sorted(cells, key=dataset), dataset):
                self.setup.say(f"now {name}")
                yield from engine.run(list(group), progress)
'''


def test_an_engine_that_computes_cells_its_own_way(tmp_path: Path) -> None:
    install(
        tmp_path, "byset", "fsbench_byset", fsbench_byset=REGISTERED, fsbench_byset_engine=BY_SET
    )
    few = ("--dataset", "letters,digits", "--shots", "1", "--seeds", "1", "--limit", "20")
    run = ("run", "-m", "zero-shot", *few, "--jobs", "1", "--engine", "by-set", "--store", tmp_path)
    shown = fsbench(tmp_path, *run, "--dry-run")
    assert "2 cells, data set by data set" in shown.stdout, shown.stderr
    done = fsbench(tmp_path, *run)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("now ")]
    assert said == ["now digits", "now letters"]
    assert len(list(Store(tmp_path).records())) == 2


BROKEN = """
from fewshot_bench import Option, hookimpl

@hookimpl
def register_engines(register):
    register("odd", "fsbench_odd:build", options=({options},))

def build(setup):
    return "an engine"
"""


def test_a_broken_engine_harms_itself_alone(tmp_path: Path) -> None:
    for number, (options, said) in enumerate(
        (
            ("", "its builder gave 'an engine', expected a fewshot_bench.engines.Engine"),
            ('Option("store")', "--store is an option of fsbench itself; rename it"),
            ('Option("--odd")', "option '--odd': expected a name such as max-jobs"),
            ('"odd"', "'odd' is no Option"),
        )
    ):
        folder, store = tmp_path / str(number), ("--store", tmp_path / "store")
        folder.mkdir()
        source = BROKEN.format(options=options).replace("(,)", "()")
        install(folder, "odd", "fsbench_odd", fsbench_odd=source)
        done = fsbench(folder, *RUN, *store, "--engine", "odd")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert fsbench(folder, *RUN, *store, "--dry-run").returncode == 0


def test_a_tracker_of_another_package(tmp_path: Path) -> None:
    install(tmp_path, "csvlog", "fsbench_csvlog", fsbench_csvlog=example("trackers.md", "tracker"))
    store = ("--store", tmp_path / "store")
    refused = fsbench(tmp_path, *RUN, *store, CSV_LOG=str(tmp_path / "nowhere" / "log.csv"))
    assert (refused.returncode, "there is no folder" in refused.stderr) == (2, True)
    assert not (tmp_path / "store").exists()
    done = fsbench(tmp_path, *RUN, *store, "--csv-log", tmp_path / "log.csv")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[1] for row in rows] == ["done", "done"]
    assert all(row[0].startswith("zero-shot on digits") for row in rows)


COMMANDS = """
from fewshot_bench import hookimpl

@hookimpl
def register_commands(cli):
    cli.add_lazy("greet", "fsbench_greet_command:command", "Say hello.")
    cli.add_lazy("lost", "nowhere:command", "Not there.")
    cli.add_lazy("run", "nowhere:command", "Taken.")
"""
COMMAND = """
import click

@click.command("greet")
def command():
    click.echo("hello")
"""


def test_commands_of_plug_ins_are_imported_when_they_are_used(tmp_path: Path) -> None:
    files = {"fsbench_greet": COMMANDS, "fsbench_greet_command": COMMAND}
    install(tmp_path, "greet", "fsbench_greet", **files)
    shown = fsbench(tmp_path, "--help")
    assert "greet      Say hello." in shown.stdout
    assert "'run' of plug-in fsbench-greet:greet is left out: fsbench itself has it" in shown.stderr
    assert fsbench(tmp_path, "greet").stdout == "hello\n"
    lost = fsbench(tmp_path, "lost")
    assert lost.returncode == 2
    assert "command 'lost' of plug-in fsbench-greet:greet cannot be loaded" in lost.stderr


def test_built_in_commands_are_plug_ins(tmp_path: Path) -> None:
    variables = {"FSBENCH_DISABLE_PLUGINS": "builtin_report,builtin_data"}
    shown = fsbench(tmp_path, "--help", **variables).stdout
    assert "reproduce  " in shown
    assert "report  " not in shown
    assert fsbench(tmp_path, "report", **variables).returncode == 2
    assert fsbench(tmp_path, "list", "methods", **variables).stderr == ""
    listed = fsbench(tmp_path, "list", "methods", FSBENCH_DISABLE_PLUGINS="builtin_reprot")
    assert "FSBENCH_DISABLE_PLUGINS names 'builtin_reprot', which is no entry" in listed.stderr


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fewshot_bench.cli.main import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'numpy', 'jinja2', 'matplotlib', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


FULL = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Full:
    name: ClassVar[str] = "full"

    def fit(self, task, backbone, ctx):
        if Path("FOLDER", "now").exists():
            raise OSError(24, "Too many open files")
        return ZeroShot().fit(task, backbone, ctx)
"""


@pytest.mark.slow
def test_a_failure_that_keeps_an_earlier_result_is_the_reason_why_a_job_ends(
    launcher: Path, tmp_path: Path
) -> None:
    text = FULL.replace("FOLDER", str(tmp_path))
    (tmp_path / "full.py").write_text(text, encoding="utf-8")
    few = ("--dataset", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1")
    run = ("run", "--method", f"{tmp_path}/full.py:Full", *few, "--store", tmp_path / "store")
    assert fsbench(launcher, *run).returncode == 0
    (tmp_path / "now").touch()
    done = fsbench(launcher, *run, "--force", "--engine", "launcher")
    assert done.returncode == 1, done.stderr
    assert "Too many open files; the earlier result is kept" in done.stderr
    assert [record.status for record in Store(tmp_path / "store").records()] == ["done"]
