"""`fsbench audit`: what methods were allowed to see and did."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.formats import FORMATS
from fewshot_bench.cli.filters import choose_records
from fewshot_bench.cli.options import filter_options, format_option, output_option, store_option
from fewshot_bench.cli.panels import PanelCommand
from fewshot_bench.cli.working import working
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError


@click.command(
    "audit", cls=PanelCommand, short_help="What each method was allowed to see and did: is it fair?"
)
@store_option()
@format_option([name for name in FORMATS if name != "latex"], "How to write it.")
@output_option()
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
    """Audit records: validation labels used, configurations tried, splits.

    The records that the filters choose count as one comparison. What makes it unfair, incomplete
    or not repeatable comes first; then every known hazard with its answer, and one line per method.
    """
    from fewshot_bench.analysis.audit.audit import audit, document
    from fewshot_bench.cli.output import terminal_style, write_text

    with working("audit"):
        records, notes, _ = choose_records(Store(store), filters)
        result = audit(records, notes)
        text = formats.render(document(result, form), form, **terminal_style(output))
    write_text(output, text)
    ctx.exit(FsbenchError.exit_code if strict and not result.sound else 0)
