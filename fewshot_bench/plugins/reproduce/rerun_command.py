"""`fsbench rerun`: repeat the cell of a record and compare."""

from __future__ import annotations

from pathlib import Path

import click

from fewshot_bench.api.record import Record
from fewshot_bench.cli.options import store_option
from fewshot_bench.cli.output import aligned
from fewshot_bench.cli.working import working
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import printable, shown


@click.command("rerun", short_help="Repeat the cell of a record and show what differs.")
@click.argument("record")
@store_option("Store in which a key is looked for.")
@click.option("--anyway", is_flag=True, help="Run even if the method or the data has changed.")
@click.option("--method", metavar="FILE.py:CLASS", help="The method, if its file has moved.")
@click.pass_context
def command(ctx: click.Context, record: str, store: Path, anyway: bool, method: str | None) -> None:
    """Repeat the cell of a record and show what differs.

    RECORD is a record's file, or a cell's key or its beginning. Nothing is stored.

    Exit code: 0 same result or same predictions, 1 different, 2 wrong usage, 3 data missing.
    """
    from fewshot_bench.analysis.signature import commands_of
    from fewshot_bench.plugins.reproduce import rerun
    from fewshot_bench.store.store import find

    kept = rerun.from_file(find(record, store), method)
    spec = kept.record.spec
    click.echo(spec.describe())
    for text in commands_of([spec])[0]:
        click.echo(f"  {printable(text)}")
    if kept.problem:
        click.echo(f"not used: {kept.problem}", err=True)
    changed = rerun.obstacles(kept.record, kept.store)
    for fact in changed:
        click.echo(f"warning: {fact.name} was {fact.then}, is {fact.now}", err=True)
    if changed and not anyway:
        names = " and ".join(fact.name for fact in changed)
        raise UsageError(f"{names} changed since this record: nothing was run; use --anyway")
    _check_device(spec.device)
    with working("rerun"):
        outcome = rerun.repeat(kept)
    facts = rerun.differences(kept.record, outcome.record)
    rows = [("", "then", "now"), *((name, shown(then), shown(now)) for name, then, now in facts)]
    for line in aligned(rows + _other_rows(kept.record, outcome.record)):
        click.echo(line)
    verdict = rerun.verdict(kept, outcome)
    click.echo(verdict.text)
    ctx.exit(0 if verdict.same else FsbenchError.exit_code)


def _check_device(name: str) -> None:
    import torch

    index = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(f"the record was made on '{name}', which this machine does not have")


def _other_rows(then: Record, now: Record) -> list[tuple[str, str, str]]:
    """The times of both, and the last lines of their errors."""
    rows = []
    for name in ("billed_seconds", "elapsed_seconds"):
        times = [record.timings.get(name) for record in (then, now)]
        if None not in times:
            rows.append((name.replace("_", " "), f"{times[0]:.3f}", f"{times[1]:.3f}"))
    for name in ("type", "message", "traceback"):
        texts = [str((record.error or {}).get(name, "")) for record in (then, now)]
        if texts[0] != texts[1] or (texts[0] and name != "traceback"):
            last = [(text.strip().splitlines() or [""])[-1] for text in texts]
            rows.append((f"error {name}", last[0], last[1]))
    return rows
