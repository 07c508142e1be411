"""`fsbench sweep`: ablations of a method, run and drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fewshot_bench.api.defaults import AUTO
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.cli.completion import datasets, methods, one_of, several_of, suites
from fewshot_bench.cli.drawn import drawn
from fewshot_bench.cli.engines import RunCommand, take_engine
from fewshot_bench.cli.files import terminal_width, write_bytes, write_text
from fewshot_bench.cli.options import NAMES, MetricName, format_option
from fewshot_bench.cli.run import command as run
from fewshot_bench.cli.running import INTERRUPTED, run_matrix
from fewshot_bench.cli.swept import chosen_records, own_store, sweep_axes, with_metric
from fewshot_bench.engines.conditions import take_conditions
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.extras import require

if TYPE_CHECKING:
    from fewshot_bench.analysis.sweep.model import Sweep

FIGURES = (".svg", ".png", ".pdf")
TEXTS = {".csv": "csv", ".json": "json"}
FORMATS = ("terminal", "csv", "json")
WIDTH = 120
# Options of `fsbench run` that the sweep has of its own, or has no use for.
_OWN = ("method", "dataset", "option", "config", "save_config")


def _is_drawn(metric: Metric) -> bool:
    return metric.unit == PERCENT and metric.higher_is_better


DRAWN = MetricName("a sweep draws metrics in percent of which more is better", _is_drawn)


@click.command(
    "sweep", cls=RunCommand, short_help="Ablations: run a method under many options and draw them."
)
@click.argument("method", shell_complete=one_of(methods))
@click.option(
    "--option",
    "-o",
    multiple=True,
    required=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Several values are swept: columns, then rows, then panels, in this order.",
)
@click.option(
    "--dataset",
    "-d",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    help="Run on these first; left out, only the store is drawn.",
)
@click.option("--only-existing", is_flag=True, help="Run nothing, draw what the store has.")
@click.option("--metric", type=DRAWN, default="top1", show_default=True, help="Drawn.")
@click.option("--each", is_flag=True, help="Draw every data set beside the average.")
@format_option(FORMATS, "How to write it to the terminal.")
@click.option(
    "-O",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also draw to FILE: .svg, .png, .pdf, .csv or .json.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    method: str,
    option: tuple[str, ...],
    dataset: tuple[str, ...] | None,
    only_existing: bool,
    metric: str,
    each: bool,
    form: str,
    output: Path | None,
    **values: Any,
) -> None:
    """Ablations: run METHOD under every combination of options, and draw the results.

    With --dataset, cells that are not done yet are run as by fsbench run, and kept in STORE/sweeps,
    apart from the results that tables are made of; both are drawn. Two options give heat maps, one
    gives a curve, more give a panel for each combination. Missing cells are shown as such.

    Exit code: 0; 1 some cells failed; 2 wrong usage; 3 data missing, or nothing to draw.
    """
    _check_output(output)
    engines = take_engine(values)
    axes = sweep_axes(method, option)
    runs = dataset is not None and not only_existing
    code = 0
    if runs and axes.version:
        raise UsageError(
            f"{method}: only the installed version can be run; leave --dataset out, or add "
            "--only-existing"
        )
    asked = values | {"dataset": dataset, "engines": engines}
    if runs:
        matrix = {**values, "method": (method,), "dataset": dataset, "option": option}
        conditions = take_conditions(engines, matrix)
        asked |= {"backbone": conditions.backbone, "precision": conditions.precision}
        with _apart(form):
            matrix["store"] = own_store(values["store"])
            code = run_matrix(conditions, engines, matrix)
        if code == INTERRUPTED or values["dry_run"]:
            ctx.exit(code)
    given = {name for name in values if _is_given(ctx, name) and values[name] != AUTO}
    if runs:
        given = set(asked)
    elif dataset is not None:
        given.add("dataset")
    if _is_given(ctx, "devices"):
        given.add("engines")
    records, others, _ = chosen_records(axes, asked, given)
    from fewshot_bench.analysis.sweep.made import build
    from fewshot_bench.api.registry import registry

    known = registry().metric(metric)
    if known.source:
        records = with_metric(records, known, values["store"])
    found = build(axes.method, axes.swept, records, fixed=axes.fixed, metric=known, each=each)
    found = dataclasses.replace(found, notes=(*others, *found.notes))
    _write(found, form, output)
    ctx.exit(code)


command.params += [option for option in run.params if option.name not in _OWN]


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _apart(form: str) -> Any:
    """Redirect the messages of a run, which must not stand among CSV or JSON."""
    return (
        contextlib.nullcontext() if form == "terminal" else contextlib.redirect_stdout(sys.stderr)
    )


def _check_output(output: Path | None) -> None:
    known = (*FIGURES, *TEXTS)
    if output is not None and output.suffix.lower() not in known:
        raise UsageError(f"--output '{output}': expected a name that ends in {', '.join(known)}")
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise UsageError(f"--output '{output}': expected a file in a folder that is there")
    if output is not None and output.suffix.lower() in FIGURES:
        require("matplotlib", "report", f"--output '{output}'", "name a .csv or .json file")


def _write(sweep: Sweep, form: str, output: Path | None) -> None:
    write_text(None, _text(sweep, form))
    if output is None:
        return
    suffix = output.suffix.lower()
    if suffix in FIGURES:
        from fewshot_bench.analysis.sweep.figure import draw

        write_bytes(output, drawn(lambda: draw(sweep, suffix[1:]), suffix))
    else:
        write_text(output, _text(sweep, TEXTS[suffix]))


def _text(sweep: Sweep, form: str) -> str:
    from fewshot_bench.analysis import formats
    from fewshot_bench.analysis.sweep import terminal, tidy

    if form == "terminal":
        width = terminal_width()
        return terminal.render(sweep, styled=width is not None, width=width or WIDTH)
    return formats.render(tidy.document(sweep), form)
