"""`fsbench run`: expand the matrix, check it, run what is not done yet."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.defaults import AUTO
from fewshot_bench.api.spec import DEFAULT_STORE, EXIF, IMPORTED, PRESETS
from fewshot_bench.cli.completion import (
    backbones,
    datasets,
    everything,
    methods,
    one_of,
    several_of,
    suites,
)
from fewshot_bench.cli.config import as_defaults, read_config, save_config
from fewshot_bench.cli.engines import DECLARED, RunCommand, engine_options, take_engine
from fewshot_bench.cli.options import NAMES, NUMBER, NUMBERS, SHOTS
from fewshot_bench.cli.running import INTERRUPTED, run_matrix
from fewshot_bench.engines.conditions import Conditions, take_conditions
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.text import join_names

_THIS_CALL = ("dry_run", "force", "retry_failed", "keep_stale", "traceback")
_REPEATED = ("option", "templates")


def _load_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        defaults = as_defaults(read_config(value), ctx.command, value)
        ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return value


_PATH: Any = click.Path(path_type=Path)


@click.command(
    "run",
    cls=RunCommand,
    short_help="Run methods on data sets: every cell of the matrix that is not done yet.",
)
@click.option(
    "--config",
    type=_PATH,
    is_eager=True,
    expose_value=False,
    callback=_load_config,
    help="YAML or TOML file with the names of these options.",
)
@click.option(
    "--method",
    "-m",
    type=NAMES,
    required=True,
    help="Methods, all, or FILE.py:CLASS.",
    shell_complete=several_of(methods, everything),
)
@click.option(
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
@click.option(
    "--backbone",
    shell_complete=one_of(backbones),
    default=AUTO,
    show_default=True,
    help="MODEL/TAG[@FILE] or a name; auto: the toy tiny where all data sets are of the suite demo,"
    " else ViT-B-16/openai.",
)
@click.option(
    "--precision",
    default=AUTO,
    show_default=True,
    help="fp32, bf16 or fp16; auto: fp32 on a CPU, bf16 or fp16 on CUDA.",
)
@click.option(
    "--protocol",
    default="fair",
    show_default=True,
    help=f"{', '.join(PRESETS)}, or how picks are drawn: {', '.join((*SAMPLERS, IMPORTED))}.",
)
@click.option("--val", help=f"Validation policy: {', '.join(VALIDATION)} (default: protocol's).")
@click.option("--prompts", help=f"Template set: {', '.join(TEMPLATE_SETS)} (default: protocol's).")
@click.option(
    "--classes",
    type=NAMES,
    default="all",
    show_default=True,
    help="Fit on the first half of the classes; evaluate on it (base), on the others (new). "
    "none: on those of --transfer alone.",
)
@click.option(
    "--transfer",
    type=NAMES,
    shell_complete=several_of(datasets, suites),
    help="Evaluate each fit on these data sets or suites too.",
)
@click.option("--classnames", type=_PATH, help="Own class names: one per line, or JSON or YAML.")
@click.option("--templates", multiple=True, help="Own prompt with {}, or a file of prompts.")
@click.option("--holdout", type=float, help="Share of own images held out for testing.")
@click.option(
    "--exif",
    type=click.Choice(EXIF),
    default="ignore",
    show_default=True,
    help="Turn images as their EXIF orientation asks (rotate), or not, as open_clip.",
)
@click.option("--skip-damaged", is_flag=True, help="Go on without images that cannot be used.")
@click.option(
    "--keep-split",
    type=click.Choice(["store", "data"]),
    default="store",
    show_default=True,
    help="Where a split that is made of own images is kept: in the store, or beside the data.",
)
@click.option("--limit", type=NUMBER, help="Evaluate on at most N test images (marked in tables).")
@click.option("--store", type=_PATH, default=DEFAULT_STORE, show_default=True)
@engine_options
@click.option("--dry-run", is_flag=True, help="Check and count, run nothing.")
@click.option("--force", is_flag=True, help="Compute cells again that are done.")
@click.option("--retry-failed", is_flag=True, help="Compute cells again that failed.")
@click.option(
    "--keep-stale",
    is_flag=True,
    help="Keep results of cells whose method's code or images have changed since.",
)
@click.option("--traceback", is_flag=True, help="Print the whole traceback of cells that fail.")
@click.option("--save-config", type=_PATH, help="Write these options to a file for --config.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Run methods on data sets: every cell of the matrix that is not done yet.

    Exit code: 0 all cells done, 1 some failed, 2 wrong usage, 3 data missing.
    """
    target = values.pop("save_config")
    try:
        given = dict(values)
        engines = take_engine(values)
        conditions = take_conditions(engines, values)
        if target is not None:
            save_config(target, _saved(given, conditions))
        code = run_matrix(conditions, engines, values)
    except KeyboardInterrupt:
        click.echo("stopped before the first cell; run the same command again", err=True)
        code = INTERRUPTED
    ctx.exit(code)


def _saved(values: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Options that describe the run, without those of this call alone (--dry-run ...).

    In the place of `auto` stands what it was, so that the file gives the same cells anywhere.
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
