"""`fsbench store verify`."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.cli.store_options import FOUND, counted, opened, show, store_option


@click.command("verify", short_help="Check every record and its logits in full.")
@store_option
def command(folder: Path) -> None:
    """Check every record and its logits in full; nothing is changed.

    Digests, shapes and values are checked, metrics are computed again from the logits, and cells of
    one split must have the same queries. The exit code is 1 when something was found; what killed
    processes left beside whole records is only told.
    """
    from collections import Counter

    from fewshot_bench.api.record import STATUSES
    from fewshot_bench.store.verify import NEXT, REMAINS, verify

    report = verify(opened(folder))
    for finding in report.findings:
        show(finding.kind, finding.path, finding.text)
    total = f"{sum(report.statuses.values()):,} records read in full"
    click.echo(f"{total}: {counted(report.statuses, STATUSES, 'none')}")
    if report.splits:
        click.echo(f"{report.splits:,} files of imported picks")
    kinds = Counter(finding.kind for finding in report.findings)
    wrong = sorted(set(kinds) - set(REMAINS))
    if not wrong:
        click.echo("all records are well" if kinds else "all is well")
    if not kinds:
        return
    click.echo(f"found: {counted(kinds, tuple(NEXT), '')}")
    for kind in kinds:
        click.echo(f"next, {kind}: {NEXT[kind]}")
    if wrong:
        raise click.exceptions.Exit(FOUND)
