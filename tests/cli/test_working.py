"""Progress of long commands: what a line says, and when; data stay alone on stdout."""

from __future__ import annotations

import inspect
import io
import re
import threading
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fewshot_bench.cli import working
from fewshot_bench.cli.main import cli
from fewshot_bench.utils import progress
from fewshot_bench.utils.progress import Work, current, over


class Clock:
    """A clock that advances only when set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_the_step_and_the_time_left() -> None:
    clock = Clock()
    work = Work("store verify", clock)
    clock.now += 40
    assert work.line() == "store verify: 40 s so far"
    work.step("records", 100)
    assert work.line() == "store verify: records, 0 of 100, 40 s so far"
    clock.now += 30
    work.advance(25)
    assert work.line() == "store verify: records, 25 of 100, 2 min left"
    work.step("claims")
    work.advance(12)
    assert work.line() == "store verify: claims, 12, 1 min so far"


def test_what_was_there_before_says_nothing_about_the_pace() -> None:
    clock = Clock()
    work = Work("data prepare", clock)
    work.step("a.zip", 1000, 900)
    clock.now += 10
    work.advance(50)
    assert work.line().endswith("10 s left")


def test_a_budget_is_an_upper_bound() -> None:
    clock = Clock()
    work = Work("adapt", clock)
    work.step("coop, repeat 1, fold 3 of 5", 40, most=600)
    clock.now += 60
    work.advance(12)
    assert work.line() == "adapt: coop, repeat 1, fold 3 of 5, 12 of 40, at most 9 min left"


def test_items_are_counted_by_the_layer_that_has_them() -> None:
    lines = []
    with progress.shown(Work("x", Clock())) as work:
        for _ in over(["a", "b"], "files"):
            lines.append(work.line())
    assert lines == ["x: files, 0 of 2, 0 s so far", "x: files, 1 of 2, 0 s so far"]
    assert current() is not work


@click.command()
@working.working("long", "reading")
def long_command() -> None:
    """A command that ends when two lines were printed."""
    current().step("step", 4)
    assert said.wait(60)
    click.echo("data")


said = threading.Event()


def test_a_pipe_gets_lines_on_stderr_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        click.echo(line, err=True)
        lines.append(line)
        if len(lines) == 3:
            said.set()

    said.clear()
    monkeypatch.setattr(working, "_say", say)
    monkeypatch.setattr(working, "EVERY_SECONDS", 0.001)
    monkeypatch.setattr(working, "FIRST_SECONDS", 0.0)
    done = CliRunner().invoke(long_command)
    assert done.exit_code == 0
    assert done.stdout == "data\n"
    assert {line.partition(",")[0] for line in lines} <= {"long: reading", "long: step"}
    assert done.stderr.splitlines() == lines


# Commands that end within seconds, and `worker`, which prints a line for each cell.
QUICK = {"list", "new", "printed", "show", "worker"}


def test_every_command_is_quick_or_shows_its_progress() -> None:
    context, silent = click.Context(cli), set()
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in [*inner, command]:
            kept = inspect.unwrap(one.callback) if one and one.callback else None
            text = inspect.getsource(inspect.getmodule(kept)) if kept else ""
            if not isinstance(one, click.Group) and not re.search("working\\(|Reporter\\(", text):
                silent.add(name)
    assert silent == QUICK


def test_without_threads_a_command_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with working.working("check", "reading") as work:
        assert current() is work


def test_a_terminal_has_one_line_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen: Any = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with working.working("export") as work:
        work.step("comparing", 10)
        print("data")
    shown = screen.getvalue()
    assert "export: comparing, 0 of 10" in shown or "export: 0 s" in shown
    assert "data" not in shown
