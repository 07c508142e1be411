"""`fsbench run`: parse the options, call `engines.matrix`, print.

The request is checked before anything trains; stored records stay, however a run ends.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click.core import ParameterSource

from fewshot_bench.api.options import HERE, RUN_OPTIONS, is_given
from fewshot_bench.cli.config import as_defaults, read_config, save_config
from fewshot_bench.cli.engines import DebugOption, RunCommand, split_values
from fewshot_bench.cli.options import PATH, run_options
from fewshot_bench.cli.output import say
from fewshot_bench.cli.panels import option
from fewshot_bench.cli.working import working
from fewshot_bench.engines import matrix, reporting
from fewshot_bench.engines.asking import ask
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import LONGEST_MESSAGE, join_names, message, printable

if TYPE_CHECKING:
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.runner.request import Request


class TerminalReporter(reporting.Reporter):
    """Messages of a run: progress on stdout, problems on stderr.

    Within its context, what happens before the first cell is shown on stderr. title: the command.
    quiet: neither progress of cells nor the store is shown.
    """

    def __init__(self, title: str = "run", *, quiet: bool = False) -> None:
        self._title = title
        self._quiet = quiet
        # False where cells run in this process, whose debugger needs a terminal that stands still.
        self.moves = True
        self._before = ExitStack()

    def __enter__(self) -> Self:
        self._before.enter_context(working(self._title, "reading methods and data sets"))
        return self

    def __exit__(self, *error: object) -> None:
        self._before.close()

    def info(self, text: str) -> None:
        """Print a line on stdout."""
        say(text)

    def notice(self, text: str) -> None:
        """Print a line on stderr."""
        with current().aside():
            click.echo(message(text), err=True)

    def output(self, text: str) -> None:
        """Print a line on stderr, with its blanks."""
        with current().aside():
            click.echo(printable(text, LONGEST_MESSAGE), err=True)

    def warning(self, text: str) -> None:
        """Print a warning on stderr."""
        self.notice(f"warning: {text}")

    def unusable(self, text: str) -> None:
        """Print an error on stderr."""
        self.notice(f"error: {text}")

    def failures(self, lines: Sequence[str]) -> None:
        """Print lines on stderr."""
        for line in lines:
            click.echo(printable(line, LONGEST_MESSAGE), err=True)

    def results(self, folder: Path, filters: Sequence[str] = ()) -> None:
        """Print the folder of the results, with the command that shows them."""
        if not self._quiet:
            words = ["fsbench", "compare", "--store", str(folder), *filters]
            say(f"results in {folder}; {shlex.join(words)}")

    def progress(
        self, cells: Sequence[RunSpec], workers: int
    ) -> AbstractContextManager[reporting.Display]:
        """One bar on a terminal, lines elsewhere; these begin with the first line about a cell."""
        if self._quiet:
            return nullcontext(reporting.Display(cells, workers, say=lambda text: None))
        live = self.moves and sys.stdout.isatty()
        if live or not self.moves or not cells:
            self._before.close()
        return reporting.display(cells, workers, live=live, say=self._about_cell)

    def _about_cell(self, text: str) -> None:
        self._before.close()
        say(text)


def run_request(request: Request, reporter: TerminalReporter) -> int:
    """Run the matrix that was asked for; returns the exit code."""
    interrupt_on_signals()
    reporter.moves = request.engine != HERE
    return matrix.run_matrix(request, reporter).exit_code


# Key of the config file and its hyper-parameters in `click.Context.meta`.
CONFIG = "fewshot_bench.config"


def _load_config(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> None:
    if len(paths) > 1:
        raise UsageError(f"--config {paths[-1]}: stands {len(paths)} times, expected one file")
    for path in paths:
        defaults = as_defaults(read_config(path), ctx, path)
        ctx.meta[CONFIG] = path, tuple(defaults.get("options", ()))
        ctx.default_map = {**(ctx.default_map or {}), **defaults}


@click.command(
    "run",
    cls=RunCommand,
    short_help="Run methods on data sets: every cell of the matrix that is not done yet.",
)
@run_options()
@option("--save-config", type=PATH, help="Write options.", panel="advanced")
@option(
    "--config",
    type=PATH,
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    metavar="FILE",
    help="Read options.",
    panel="advanced",
)
@option(
    "--debug",
    is_flag=True,
    help="One cell (run --debug --help).",
    panel="advanced",
)
@option("--pdb", cls=DebugOption, help="Open the debugger where the cell's error was raised.")
@option("--edit", cls=DebugOption, help="Open $VISUAL or $EDITOR at the line of its error.")
@option("--profile", cls=DebugOption, help="Write a trace; print the ten dearest operators.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Run methods on data sets: every cell of the matrix that is not done yet."""
    config, options = ctx.meta.get(CONFIG, (None, ()))
    if ctx.get_parameter_source("options") is ParameterSource.COMMANDLINE:
        # Those of the command line come last, and of two for one the last counts.
        values["options"] = (*options, *values["options"])
    target = values["save_config"]
    chosen = {name: values[name] for name in ("pdb", "edit", "profile")}
    if any(chosen.values()) and not values["debug"]:
        (first, *_) = (name for name in chosen if chosen[name])
        raise UsageError(f"--{first} goes with --debug, which runs one cell in this process")
    try:
        own, declared = split_values(values)
        if values["debug"]:
            from fewshot_bench.cli.debug import Debugging, debug

            asked = Debugging(traceback=own["traceback"], **chosen)
            ctx.exit(debug(ctx, own, declared, asked, TerminalReporter(quiet=True)))
        with TerminalReporter() as reporter:
            request = ask(own, declared)
            if target is not None:
                if config is not None and config.resolve() == target.resolve():
                    text = "is the file of --config; name another"
                    raise UsageError(f"--save-config {target}: {text}")
                save_config(target, _values_to_save(own, request) | declared)
            code = run_request(request, reporter)
    except KeyboardInterrupt:
        text = "stopped: cells that are done are kept; run the same command again to continue"
        click.echo(text, err=True)
        code = matrix.INTERRUPTED
    ctx.exit(code)


def _values_to_save(values: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The options that describe the run, without those of this call alone (--dry-run ...).

    `auto` is replaced by its resolved value, so that the file gives the same cells anywhere.
    """
    resolved = {name: getattr(request, name) for name in ("backbone", "devices", "precision")}
    saved = {}
    for name, row in RUN_OPTIONS.items():
        value = resolved.get(name, values[name])
        if row.scope == "call" or not is_given(value):
            continue
        if isinstance(value, tuple):
            listed = row.kind in ("settings", "texts")
            value = list(value) if listed else join_names(map(str, value))
        saved[row.flag or name] = str(value) if isinstance(value, Path) else value
    return saved
