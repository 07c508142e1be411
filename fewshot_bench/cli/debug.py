"""`fsbench run --debug`: one cell in this process, with its terminal.

Nothing guards, watches or repeats it, and nothing is stored unless a store is named.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import tempfile
import traceback
from bdb import BdbQuit
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fewshot_bench.api.author_frame import author_frame, short_path
from fewshot_bench.api.options import HERE, LOCAL, RUN_OPTIONS
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec, name_cell
from fewshot_bench.cli.author_error import editor, format_error, look_around, open_editor
from fewshot_bench.cli.output import say
from fewshot_bench.engines import matrix, reporting
from fewshot_bench.engines.asking import ask
from fewshot_bench.utils.cache_dir import only_read, restore_sharing
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError
from fewshot_bench.utils.text import counted, option_name, printable

if TYPE_CHECKING:
    from fewshot_bench.runner.request import Plan, Request

# The place that errors about what `logits` returned state themselves.
_STATED = re.compile(r"\(at (\S+:\d+ in \w+)\)$")
# Options that make no sense for one cell in this process.
_REFUSED = ("jobs", "timeout", "hang_after", "lease", "dry_run", "retry_failed", "keep_stale")


@dataclass(frozen=True)
class Debugging:
    """The requests of a debugged run beside its cell."""

    pdb: bool = False
    edit: bool = False
    profile: bool = False
    traceback: bool = False


def debug(
    ctx: click.Context,
    values: Mapping[str, Any],
    declared: Mapping[str, Any],
    asked: Debugging,
    reporter: reporting.Reporter,
) -> int:
    """Run the one cell of a command; returns the exit code.

    values: of `RUN_OPTIONS`. reporter: shows no progress. UsageError for several cells, before
    anything starts.
    """
    words = editor() if asked.edit else []
    named = ctx.get_parameter_source("store") is not ParameterSource.DEFAULT
    _refuse_others(ctx, values["engine"], asked, named)
    with ExitStack() as stack:
        own = {**values, "engine": HERE, "force": True}
        if not named:
            temporary = tempfile.TemporaryDirectory(prefix="fsbench-debug-")
            own["store"] = Path(stack.enter_context(temporary))
            # What is computed now leaves nothing behind in caches, either.
            stack.enter_context(restore_sharing())
            only_read()
        if own["step"] == "auto":
            # A breakpoint in a captured step would stop once.
            own["step"] = "eager"
        plan: Plan | None = None
        from fewshot_bench.engines.here import CellError
        from fewshot_bench.engines.open_cell import pick_one
        from fewshot_bench.runner.request import expand

        try:
            request = ask(own, declared)
            plan = expand(request)
            pick_one(plan, "--debug", _write_option)
            return _run(plan, request, asked, reporter, named)
        except (CellError, PluginError) as error:
            if error.__cause__ is None:
                raise
            return _show(error.__cause__, plan, asked, words)


def _refuse_others(ctx: click.Context, engine: str, asked: Debugging, named: bool) -> None:
    """UsageError for options that do not go with one cell in this process."""
    given = [name for name in _REFUSED if ctx.get_parameter_source(name) is _COMMANDLINE]
    if engine not in (LOCAL, HERE):
        given.append("engine")
    if given:
        names = ", ".join(map(option_name, given))
        raise UsageError(f"--debug runs one cell in this process, once: leave {names} out")
    if asked.profile and named:
        raise UsageError(
            "--profile slows the cell down, and a store holds its times: leave --store or "
            "--profile out"
        )


_COMMANDLINE = ParameterSource.COMMANDLINE


def _write_option(name: str, value: Any) -> str:
    flags = RUN_OPTIONS[name].flags
    return shlex.join((flags[-1], str(value)))


def _run(
    plan: Plan, request: Request, asked: Debugging, reporter: reporting.Reporter, named: bool
) -> int:
    from fewshot_bench.engines.here import AROUND
    from fewshot_bench.store.store import Store

    (cell,) = plan.cells
    around: AbstractContextManager[object] = nullcontext()
    said: list[str] = []
    if asked.profile:
        # Its library announces itself otherwise.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        from fewshot_bench.profiling.trace import profiled

        trace = Path(f"profile-{name_cell(cell)}.json.gz")
        around = profiled(trace, request.devices[0], said.append)
    request = dataclasses.replace(request, engine_options={AROUND: around})
    outcome = matrix.run_plan(plan, request, reporter)
    record = Store(request.store.absolute()).get(cell.key())
    if record is not None:
        for line in (*_describe(record), *said):
            say(line)
    stored = f"stored in {request.store}" if named else "not stored (--store DIR stores it)"
    if asked.profile:
        stored = "not stored (a profiled cell never is)"
    say(f"  {stored}")
    return outcome.exit_code


def _describe(record: Record) -> Iterator[str]:
    """The metrics of a cell, what it cost, and what was noticed."""
    yield reporting.outcome(record)
    metrics = [f"{name} {value:.4g}" for name, value in record.metrics.items()]
    yield f"  {', '.join(metrics)}"
    footprint = record.footprint
    phases = record.timings.get("phases", {}).items()
    times = [f"{name} {phase['elapsed']['wall']:.2f} s" for name, phase in phases]
    yield f"  {', '.join(times)}"
    trained, steps = footprint.get("trained") or 0, footprint.get("steps", 0)
    memory = f"peak memory {footprint.get('peak_memory_mb', 0):,.0f} MB"
    yield f"  {trained:,} trained parameters, {counted(steps, 'step')}, {memory}"
    curves = [(name, curve["values"]) for name, curve in record.curves.items()]
    if logged := [
        f"{name} {values[0]:.4g} to {values[-1]:.4g}" for name, values in curves if values
    ]:
        yield f"  {', '.join(logged)}"
    for incident in record.incidents:
        yield f"  {incident['kind']}: {incident['text']}"


def _show(cause: BaseException, plan: Plan | None, asked: Debugging, words: list[str]) -> int:
    """Show an error of a cell, or of its method's file, at its place; returns the exit code.

    Raises it again if it is about none of the author's lines.
    """
    if isinstance(cause, BdbQuit):
        click.echo("stopped in the debugger", err=True)
        return matrix.INTERRUPTED
    cell = plan.cells[0] if plan is not None else None
    packages = () if cell is None else tuple(reporting.list_packages(cell))
    place = _find_place(cause, cell)
    if not place and isinstance(cause, FsbenchError | KeyboardInterrupt):
        raise cause
    for line in format_error(cause, packages, whole=asked.traceback):
        click.echo(line, err=True)
    if place:
        more = "--pdb looks around there, --edit opens it, --traceback shows all frames"
        click.echo(f"\nat {printable(place)} ({more})", err=True)
    if isinstance(cause, KeyboardInterrupt):
        return matrix.INTERRUPTED
    if asked.pdb:
        look_around(cause, packages)
    if words and place:
        file, _, line = place.partition(" in ")[0].rpartition(":")
        open_editor(words, file, line)
    return 1


def _find_place(cause: BaseException, cell: RunSpec | None) -> str:
    """`file:line in function` of the author's code; empty if there is none."""
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{short_path(cause.filename)}:{cause.lineno}"
    if stated := _STATED.search(str(cause)):
        return stated[1]
    trace = "".join(traceback.format_exception(cause))
    if cell is None:
        return author_frame(trace, ())
    return reporting.find_frame(cell, type(cause).__name__, str(cause), trace)
