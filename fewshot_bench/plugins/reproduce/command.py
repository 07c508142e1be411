"""`fsbench reproduce`: a published table beside our own numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.filters import split_version
from fewshot_bench.analysis.formats import FORMATS
from fewshot_bench.api.defaults import full_name
from fewshot_bench.api.options import names_of
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, PRECISIONS
from fewshot_bench.cli.completion import backbones, datasets, methods, one_of, several_of, suites
from fewshot_bench.cli.engines import RunCommand, split_values
from fewshot_bench.cli.filters import list_records, refuse_file
from fewshot_bench.cli.options import (
    NAMES,
    NUMBERS,
    caption_options,
    format_option,
    rename_option,
    run_options,
    with_caption,
)
from fewshot_bench.cli.output import terminal_style
from fewshot_bench.cli.panels import list_option
from fewshot_bench.cli.run import TerminalReporter
from fewshot_bench.cli.working import working
from fewshot_bench.engines.asking import precision_in, read_request, settle
from fewshot_bench.engines.matrix import INTERRUPTED, run_plan
from fewshot_bench.plugins.reproduce.cells import Wanted, cells, plan
from fewshot_bench.plugins.reproduce.published import reproduction, reproductions
from fewshot_bench.plugins.reproduce.report import NO_DATA, build, document, list_needs, no_data
from fewshot_bench.runner.request import Request
from fewshot_bench.store.store import Store
from fewshot_bench.utils.devices import CPU
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.processes import interrupt_on_signals
from fewshot_bench.utils.text import encodable, option_name, printable

_THIS_CALL = (
    *("name", "only_existing", "dry_run", "retry_failed", "keep_stale", "full", "form"),
    *("rename", "caption", "label"),
)


@click.command(
    "reproduce", cls=RunCommand, short_help="Repeat a published table: paper, ours, noise, verdict."
)
@click.argument("name", required=False, shell_complete=one_of(reproductions))
@list_option(
    "--method",
    "-m",
    type=NAMES,
    shell_complete=several_of(methods),
    help="Only these methods or rows of the table.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE[,VALUE]",
    help="Only rows whose configuration has this, such as rank=2 or queries=all.",
)
@list_option(
    "--dataset",
    "-d",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    help="Only these data sets of the table, or suites.",
)
@click.option("--shots", type=NUMBERS, help="Only these numbers of shots.")
@click.option("--seeds", type=NUMBERS, default="1,2,3", show_default=True)
@click.option(
    "--option",
    "-o",
    multiple=True,
    metavar="[METHOD.]NAME=VALUE",
    help="Another hyper-parameter than the paper's: shown, not compared.",
)
@click.option(
    "--backbone",
    shell_complete=one_of(backbones),
    help="Another backbone than the paper's: shown, not compared.",
)
@click.option(
    "--precision",
    default=AUTO,
    show_default=True,
    help="fp32, bf16 or fp16; auto: the paper's on CUDA, fp32 on a CPU.",
)
@click.option("--limit", type=click.IntRange(1), help="At most N test images: shown, not compared.")
@click.option("--only-existing", is_flag=True, help="Run nothing, show what the store holds.")
@click.option("--full", is_flag=True, help="Print every number, also while there is no result.")
@run_options(*names_of("engine"), "dry_run", "retry_failed", "keep_stale")
@format_option(FORMATS, "How to write the table.")
@caption_options
@rename_option("as printed")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Repeat a published table: paper, ours, difference, noise to expect, verdict.

    Runs what the store does not hold yet, under the conditions of that table, on the data sets that
    are there. Without NAME: lists what can be repeated.
    """
    own, declared = split_values(values)
    request = read_request(own | {"methods": (), "datasets": (), "options": ()}, declared)
    if values["name"] is not None:
        ctx.exit(_reproduce(ctx, request, **values))
    for param in _given(ctx):
        raise UsageError(
            f"{param.opts[0]} belongs to a reproduction: name one ('fsbench reproduce' alone "
            "lists them)"
        )
    width = max(map(len, reproductions()))
    for name, table in reproductions().items():
        methods = ", ".join(dict.fromkeys(number.method for number in table.numbers()))
        click.echo(f"{name:<{width}}  {table.title} ({methods})")


def _given(ctx: click.Context) -> list[click.Parameter]:
    """The parameters that the command line names."""
    source = ctx.get_parameter_source
    params = ctx.command.get_params(ctx)
    return [p for p in params if source(p.name or "") is ParameterSource.COMMANDLINE]


def _reproduce(
    ctx: click.Context,
    request: Request,
    *,
    name: str,
    only_existing: bool,
    full: bool,
    form: str,
    **values: Any,
) -> int:
    store, dry_run = request.store, request.dry_run
    for option in ("dry_run", "retry_failed", "keep_stale"):
        if only_existing and values[option]:
            flag = option_name(option)
            raise UsageError(f"--only-existing runs nothing; leave it out, or leave out {flag}")
    table = reproduction(name)
    wanted = _read_wanted(values)
    if wanted.versions and not only_existing:
        names = ", ".join(f"{name}@{version}" for name, version in wanted.versions.items())
        raise UsageError(f"{names}: only the installed version can be run; add --only-existing")
    with working("reproduce", "reading the table"):
        chosen = cells(table, wanted)
    code, absent = 0, {}
    backbone = wanted.backbone or table.backbone
    if only_existing or not any(cell.variant for cell in chosen):
        if only_existing and not store.is_dir():
            click.echo(
                f"warning: there is no store '{printable(str(store))}': all is missing", err=True
            )
        precision = precision_in(store, backbone, wanted.precision)
        wanted = dataclasses.replace(wanted, precision=precision)
    else:
        request = settle(dataclasses.replace(request, backbone=backbone))
        if wanted.precision == AUTO and request.device != CPU:
            request = dataclasses.replace(request, precision=table.precision)
        wanted = dataclasses.replace(wanted, precision=request.precision)
        apart = contextlib.redirect_stdout(sys.stdout if form == "terminal" else sys.stderr)
        with apart, TerminalReporter("reproduce") as reporter:
            planned = plan(chosen, wanted, backbone, request.device, store)
            # Missing data sets are part of the report, not errors.
            problems, planned.problems = planned.problems, {}
            interrupt_on_signals()
            code = run_plan(planned, request, reporter).exit_code
        # Images that turned out to be missing or damaged are named by the run.
        problems |= planned.problems
        if dry_run and problems:
            click.echo(no_data(list(problems)))
        absent = dict.fromkeys(problems, NO_DATA) | dict.fromkeys(planned.left_out, "left out")
        if dry_run or code == INTERRUPTED:
            return code if code == INTERRUPTED else 0
    again = _again(ctx)
    with working("reproduce"):
        refuse_file(store)
        records = list_records(Store(store))
        report = build(table, wanted, chosen, records, absent, "" if wanted.versions else again)
    has_results = any(line.status not in ("missing", "not shipped") for line in report.lines)
    if form != "terminal" or full or wanted.versions or has_results:
        shown = with_caption(document(report, values["rename"]), form, values)
    else:
        shown = list_needs(report, chosen, wanted, again)
    text = formats.render(shown, form, **terminal_style(None))
    click.echo(encodable(text), nl=False)
    return 1 if code == 1 or any(line.status == "failed" for line in report.lines) else 0


def _read_wanted(values: Mapping[str, Any]) -> Wanted:
    seeds = values["seeds"]
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds {list(seeds)}: a value stands there twice")
    allowed = (AUTO, *PRECISIONS)
    if values["precision"] not in allowed:
        raise unknown("precision", values["precision"], allowed, "fsbench reproduce --help")
    pairs = [split_version(name) for name in values["method"] or ()]
    return Wanted(
        methods=tuple(name for name, _ in pairs),
        versions={name: version for name, version in pairs if version},
        datasets=tuple(registry().expand_datasets(values["dataset"] or ())),
        shots=values["shots"] or (),
        where=values["where"],
        options=values["option"],
        seeds=seeds,
        backbone=full_name(values["backbone"] or ""),
        precision=values["precision"],
        limit=values["limit"],
    )


def _again(ctx: click.Context) -> str:
    """The same call for display, with the options that choose cells and how they run."""
    words = ["fsbench", "reproduce", str(ctx.params["name"])]
    for param in _given(ctx):
        value, flag = ctx.params[str(param.name)], param.opts[0]
        if param.name in _THIS_CALL:
            continue
        if isinstance(value, bool):
            words.append(flag)
        elif param.multiple:
            words += [word for part in value for word in (flag, str(part))]
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)
