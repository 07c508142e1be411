"""Progress of a running matrix: steps and remaining time within cells, and few lines in a pipe."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress, TextColumn

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.reporting import Display, Estimate, Pace, TerminalBar


def cell(shots: int = 16, seed: int = 1, method: str = "coop") -> RunSpec:
    """A cell on dtd."""
    return RunSpec(method, "dtd", shots, seed, seed)


class Clock:
    """A clock that advances only when set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(display: Display, clock: Clock, seconds: float, steps: int, of: RunSpec) -> None:
    """Simulate a cell whose steps take equal time."""
    for step in range(1, steps + 1):
        clock.now += seconds / steps
        display.inside(of, step, steps)


def test_a_long_cell_says_in_a_pipe_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    one, other = cell(), cell(seed=2)
    display = Display([one, other], 1, clock)
    run(display, clock, 600.0, 600, one)
    lines = capsys.readouterr().out.splitlines()
    said = "[0/2] coop on dtd, 16-shot, seed 1: step 30/600, 10 min left, 19 min left in all"
    assert lines[0] == said
    steps = [int(re.findall(r"step (\d+)/", line)[0]) for line in lines]
    assert steps == list(range(30, 601, 30))
    display.finish(Record(one, "done", timings={"elapsed_seconds": 600.0}, metrics={"top1": 50.0}))
    assert "[1/2] coop on dtd, 16-shot, seed 1: 50.00 % (600.0 s, 10 min left)" in (
        capsys.readouterr().out
    )


def test_several_cells_share_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    clock, cells = Clock(), [cell(seed=seed) for seed in range(8)]
    display = Display(cells, 8, clock)
    for _ in range(120):
        clock.now += 0.5
        for one in cells:
            display.inside(one, 0, 0)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_long_cell_without_steps_says_how_long_it_has_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fits of scikit-learn report none."""
    clock, one = Clock(), cell(method="linear-probe")
    display = Display([one], 1, clock)
    bar, shown = live(clock, [one], 100)
    for _ in range(2 * 600):
        clock.now += 0.5
        display.inside(one, 0, 0)
        bar.inside(one, 0, 0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert lines[3] == "[0/1] linear-probe on dtd, 16-shot, seed 1: 2 min so far"
    assert "10 min so far: linear-probe" in shown()
    # Its pace begins with its first step.
    for second in range(100):
        clock.now += 1.0
        display.inside(one, 0, 0)
        display.inside(one, second, 1000)
    assert display.estimate.seconds_left() == pytest.approx(901.0)


def test_short_cells_say_nothing_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    cells = [cell(seed=seed) for seed in range(100)]
    display = Display(cells, 1, clock)
    for one in cells:
        run(display, clock, 25.0, 50, one)
        display.finish(Record(one, "done", timings={"elapsed_seconds": 25.0}))
    assert len(capsys.readouterr().out.splitlines()) == len(cells)


def live(clock: Clock, cells: list[RunSpec], width: int) -> tuple[Display, Callable[[], str]]:
    """A progress bar on a terminal of this width, and a function that returns its text."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    progress = Progress(
        TextColumn("{task.fields[rest]}"),
        TextColumn("{task.fields[cell]}", markup=False),
        console=console,
        auto_refresh=False,
    )
    bar = TerminalBar(progress, len(cells), "")

    def shown() -> str:
        out = Console(file=io.StringIO(), width=width)
        out.print(progress.get_renderable())
        stream: Any = out.file
        return str(stream.getvalue())

    return Display(cells, 1, clock, bar=bar), shown


def test_a_terminal_shows_steps_and_both_times() -> None:
    clock = Clock()
    cells = [cell(), cell(seed=2)]
    display, shown = live(clock, cells, 100)
    display.inside(cells[0], 1, 100)
    assert "step 1/100: coop on dtd, 16-shot, seed 1" in shown()
    clock.now += 30
    display.inside(cells[0], 26, 100)
    # 25 steps took 30 s, so the remaining 74 take 89 s, and the other cell 119 s.
    assert shown().startswith("3 min left in all step 26/100, 1 min left: coop on dtd")


@given(
    st.lists(
        st.tuples(st.integers(-5, 2000), st.integers(-1, 1000), st.floats(0, 1e5)), max_size=40
    )
)
def test_no_report_of_a_plug_in_ends_a_run(reports: list[tuple[int, int, float]]) -> None:
    clock = Clock()
    cells = [cell(), cell(seed=2)]
    display, shown = live(clock, cells, 80)
    plain = Display(cells, 2, clock)
    for done, total, seconds in reports:
        clock.now += seconds
        for each in (display, plain):
            each.inside(cells[0], done, total)
        left = plain.estimate.seconds_left()
        assert left is None or left >= 0
    assert shown()


def test_a_cell_that_is_tried_again_has_a_new_pace() -> None:
    estimate = Estimate([cell()], 1)
    estimate.inside(cell(), 1, 10, 0.0)
    assert estimate.inside(cell(), 9, 10, 100.0).seconds_left() == pytest.approx(12.5)
    assert estimate.inside(cell(), 1, 10, 200.0).seconds_left() is None
    assert estimate.inside(cell(), 2, 10, 203.0).seconds_left() == pytest.approx(24.0)


def test_what_runs_counts_as_what_is_left_of_it() -> None:
    one, other = cell(), cell(seed=2)
    estimate = Estimate([one, other], 1)
    assert estimate.seconds_left() is None
    estimate.inside(one, 0, 10, 0.0)
    estimate.inside(one, 5, 10, 50.0)
    assert estimate.seconds_left() == pytest.approx(50.0 + 100.0)
    estimate.finish(one, 100.0)
    estimate.inside(other, 0, 10, 100.0)
    estimate.inside(other, 9, 10, 190.0)
    assert estimate.seconds_left() == pytest.approx(10.0)


def test_a_pace_needs_time_and_steps() -> None:
    pace = Pace(3, 0.0)
    pace.observe(3, 10, 50.0)
    assert pace.text() == "step 3/10"
    pace.observe(4, 10, 0.5)
    assert pace.text() == "step 4/10"
    pace.observe(4, 10, 60.0)
    assert pace.text() == "step 4/10, 6 min left"
