"""`fsbench audit`: what methods were allowed to see and did."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fewshot_bench.cli.filters import chosen, filter_options
from fewshot_bench.errors import FsbenchError
from fewshot_bench.spec import DEFAULT_STORE

FORMATS = ("terminal", "markdown", "csv", "json")
WIDTH = 120


@click.command("audit", short_help="What each method was allowed to see and did: is it fair?")
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=DEFAULT_STORE,
    show_default=True,
    metavar="DIR",
    help="Folder of results.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="terminal",
    show_default=True,
    help="How to write it.",
)
@click.option(
    "-O", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file."
)
@click.option("--strict", is_flag=True, help="Exit code 1 when there is a finding.")
@filter_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    store: Path,
    form: str,
    output: Path | None,
    strict: bool,
    **filters: str | None,
) -> None:
    """What each method was allowed to see and did: validation labels, configurations, splits.

    The records that the filters choose count as one comparison. What makes it unfair, incomplete
    or not repeatable comes first; then every known hazard with its answer, and one line per method.

    Exit code: 0; 1 with --strict when there is a finding; 2 wrong usage, 3 store absent or empty.
    """
    from fewshot_bench.audit import rendered
    from fewshot_bench.audit.made import audit
    from fewshot_bench.cli.files import write_text

    found = audit(chosen(store, filters))
    if form == "terminal":
        live = output is None and sys.stdout.isatty()
        text = rendered.render_terminal(found, width=_width(live), styled=live)
    elif form == "markdown":
        text = rendered.render_markdown(found)
    else:
        text = rendered.render_csv(found) if form == "csv" else rendered.render_json(found)
    write_text(output, text)
    ctx.exit(FsbenchError.exit_code if strict and not found.sound else 0)


def _width(live: bool) -> int:
    return max(os.get_terminal_size(sys.stdout.fileno()).columns, 60) if live else WIDTH
