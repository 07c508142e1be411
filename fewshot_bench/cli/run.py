"""`fsbench run`: parse the options, call `engines.matrix`, print.

The request is checked before anything trains; stored records stay, however a run ends.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click.core import ParameterSource

from fewshot_bench.cli.completion import (
    datasets,
    methods,
    several_of,
    suites,
    suites_of_methods,
)
from fewshot_bench.cli.config import as_defaults, read_config, save_config
from fewshot_bench.cli.engines import DECLARED, RunCommand, engine_options, take_engine
from fewshot_bench.cli.options import (
    NAMES,
    NUMBER,
    NUMBERS,
    SHOTS,
    PathName,
    condition_options,
    keep_stale_option,
    list_option,
    retry_failed_option,
    store_option,
)
from fewshot_bench.cli.output import say
from fewshot_bench.cli.working import working
from fewshot_bench.engines import matrix, progress
from fewshot_bench.engines.choice import Conditions, EngineChoice, take_conditions
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import LONGEST_MESSAGE, join_names, message, printable

if TYPE_CHECKING:
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.runner.request import Request

_NAMES = {"method": "methods", "dataset": "datasets", "option": "options"}


class TerminalReporter:
    """Messages of a run: progress on stdout, problems on stderr.

    Within its context, what happens before the first cell is shown on stderr. title: the command.
    """

    def __init__(self, title: str = "run") -> None:
        self._title = title
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

    def results(self, folder: Path) -> None:
        """Print the folder of the results, with the command that shows them."""
        say(f"results in {folder}; fsbench compare --store {shlex.quote(str(folder))}")

    def progress(
        self, cells: Sequence[RunSpec], workers: int
    ) -> AbstractContextManager[progress.Display]:
        """One bar on a terminal, lines elsewhere; these begin with the first line about a cell."""
        live = sys.stdout.isatty()
        if live or not cells:
            self._before.close()
        return progress.display(cells, workers, live=live, say=self._about_cell)

    def _about_cell(self, text: str) -> None:
        self._before.close()
        say(text)


def request_of(conditions: Conditions, values: Mapping[str, Any]) -> Request:
    """The request for the options of `fsbench run`, given by their names there.

    UsageError for unusable own data (class names, templates, held-out share).
    """
    from fewshot_bench.runner.own_data import read_own_data
    from fewshot_bench.runner.request import OTHERS, Request

    named = {_NAMES.get(name, name): value for name, value in values.items()}
    known = {field.name for field in fields(Request)}
    found = {name: value for name, value in named.items() if name in known and value is not None}
    data = read_own_data(
        values.get("classnames"), values.get("templates", ()), values.get("holdout")
    )
    return Request(
        **found,
        backbone=conditions.backbone,
        device=conditions.device,
        precision=conditions.precision,
        data=data,
        others={name: named[name] for name in OTHERS if name in named},
    )


def run_matrix(
    conditions: Conditions,
    engines: EngineChoice,
    values: Mapping[str, Any],
    reporter: TerminalReporter,
) -> int:
    """Run the matrix that options of `fsbench run` describe; returns the exit code."""
    interrupt_on_signals()
    known = {field.name for field in fields(matrix.CallOptions)}
    call = matrix.CallOptions(**{name: value for name, value in values.items() if name in known})
    request = request_of(conditions, values)
    return matrix.run_matrix(request, conditions, engines, reporter, call).exit_code


_THIS_CALL = ("dry_run", "force", "retry_failed", "keep_stale", "traceback")
_REPEATED = ("option", "templates")


# Key of the config file and its hyper-parameters in `click.Context.meta`.
CONFIG = "fewshot_bench.config"


def _load_config(ctx: click.Context, param: click.Parameter, paths: tuple[Path, ...]) -> None:
    if len(paths) > 1:
        raise UsageError(f"--config {paths[-1]}: stands {len(paths)} times, expected one file")
    for path in paths:
        defaults = as_defaults(read_config(path), ctx.command, path)
        ctx.meta[CONFIG] = path, tuple(defaults.get("option", ()))
        ctx.default_map = {**(ctx.default_map or {}), **defaults}


_PATH: Any = PathName(path_type=Path)


@click.command(
    "run",
    cls=RunCommand,
    short_help="Run methods on data sets: every cell of the matrix that is not done yet.",
)
@click.option(
    "--config",
    type=_PATH,
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="YAML or TOML file with the names of these options.",
)
@list_option(
    "--method",
    "-m",
    type=NAMES,
    required=True,
    help="Methods, suites (fast, prompts, ...), or FILE.py:CLASS.",
    shell_complete=several_of(methods, suites_of_methods),
)
@list_option(
    "--dataset",
    "-d",
    type=NAMES,
    required=True,
    help="Data sets, suites, or FAMILY:ARG.",
    shell_complete=several_of(datasets, suites),
)
@click.option(
    "--shots",
    type=SHOTS,
    default="1,2,4,8,16",
    show_default=True,
    help="Images per class, or all; a class with fewer gives what it has.",
)
@click.option("--seeds", type=NUMBERS, default="1,2,3", show_default=True)
@click.option(
    "--split-seed", type=NUMBER, help="One support set for all seeds (default: the seed)."
)
@click.option(
    "--option",
    "-o",
    multiple=True,
    metavar="[METHOD.]NAME=VALUE[,VALUE]",
    help="Hyper-parameter; several values expand the matrix. Of two -o for one the last counts.",
)
@condition_options
@list_option(
    "--classes",
    type=NAMES,
    default="all",
    show_default=True,
    help="Fit on the first half of the classes; evaluate on it (base), on the others (new). "
    "none: on those of --transfer alone.",
)
@list_option(
    "--transfer",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    help="Evaluate each fit on these data sets or suites too.",
)
@click.option("--classnames", type=_PATH, help="Own class names: one per line, or JSON or YAML.")
@click.option("--templates", multiple=True, help="Own prompt with {}, or a file of prompts.")
@click.option("--holdout", type=float, help="Share of own images held out for testing.")
@click.option("--skip-damaged", is_flag=True, help="Go on without images that cannot be used.")
@click.option(
    "--keep-split",
    type=click.Choice(["store", "data"]),
    default="store",
    show_default=True,
    help="Where a split that is made of own images is kept: in the store, or beside the data.",
)
@store_option()
@engine_options
@click.option("--dry-run", is_flag=True, help="Check, count and estimate hours, run nothing.")
@click.option("--force", is_flag=True, help="Compute cells again that are done.")
@retry_failed_option
@keep_stale_option
@click.option("--traceback", is_flag=True, help="Print the whole traceback of cells that fail.")
@click.option("--save-config", type=_PATH, help="Write these options to a file for --config.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Run methods on data sets: every cell of the matrix that is not done yet.

    Exit code: 0 all cells done, 1 some failed, 2 wrong usage (also if no cell can have a
    result), 3 data missing.
    """
    target = values.pop("save_config")
    config, options = ctx.meta.get(CONFIG, (None, ()))
    if ctx.get_parameter_source("option") is ParameterSource.COMMANDLINE:
        # Those of the command line come last, and of two for one the last counts.
        values["option"] = (*options, *values["option"])
    try:
        with TerminalReporter() as reporter:
            given = dict(values)
            engines = take_engine(values)
            conditions = take_conditions(engines, values)
            if target is not None:
                if config is not None and config.resolve() == target.resolve():
                    text = "is the file of --config; name another"
                    raise UsageError(f"--save-config {target}: {text}")
                save_config(target, _saved(given, conditions))
            code = run_matrix(conditions, engines, values, reporter)
    except KeyboardInterrupt:
        text = "stopped: cells that are done are kept; run the same command again to continue"
        click.echo(text, err=True)
        code = matrix.INTERRUPTED
    ctx.exit(code)


def _saved(values: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Options that describe the run, without those of this call alone (--dry-run ...).

    `auto` is replaced by its resolved value, so that the file gives the same cells anywhere.
    """
    values = {
        name.removeprefix(DECLARED): value
        for name, value in values.items()
        if name not in _THIS_CALL
    }
    values |= dataclasses.asdict(conditions)
    saved = {
        name: list(value) if name in _REPEATED else join_names(map(str, value))
        for name, value in values.items()
        if isinstance(value, tuple) and value
    }
    plain = {k: v for k, v in values.items() if isinstance(v, str | int | float) and v is not False}
    paths = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
    return {name: {**saved, **plain, **paths}.get(name) for name in values}
