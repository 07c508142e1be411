"""`fsbench submit`: a bundle of finished cells that others can verify."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.cli.filters import match_records, read_records
from fewshot_bench.cli.options import PATH, filter_options, output_option
from fewshot_bench.cli.output import check_file, say
from fewshot_bench.cli.panels import PanelCommand, option
from fewshot_bench.cli.working import working
from fewshot_bench.store.bundle import pack
from fewshot_bench.store.private import LEFT_OUT, texts_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import counted, limited, size_text


@click.command(
    "submit", cls=PanelCommand, short_help="Pack results into a bundle for others to verify."
)
@click.argument("folder", metavar="STORE", type=PATH)
@output_option("The bundle, a .zip.", required=True)
@option(
    "--submitter",
    default="anonymous",
    show_default=True,
    metavar="NAME",
    help="Whose results these are, as tables name it.",
)
@option("--own-images", is_flag=True, help="Take cells of own images, too: their names are inside.")
@filter_options
@working("submit", live=False)
def command(folder: Path, output: Path, submitter: str, own_images: bool, **filters: Any) -> None:
    """Pack finished cells of a store into a bundle: records, logits, code of methods.

    The filters are those of 'fsbench compare'. No path, user or host name is in a bundle: they are
    removed from what records say of their run, and refused with their place anywhere else.
    """
    check_file("--output", output, (".zip",))
    store = Store(folder)
    chosen = match_records(read_records(store), filters)
    records = [record for record in chosen if record.status == "done"]
    if not records:
        raise DataMissingError(
            f"none of {counted(len(chosen), 'record')} is of a finished cell: expected one or more "
            f"(fsbench compare --store {folder})"
        )
    packed = pack(
        store, records, output, submitter=submitter, sign=signature_of, own_images=own_images
    )
    size = size_text(output.stat().st_size)
    say(f"{output}: {counted(len(packed), 'cell')} of {submitter}, {size}")
    others = Counter(record.status for record in chosen if record.status != "done")
    for status, count in sorted(others.items()):
        say(f"left out: {counted(count, 'cell')} that {'are' if count > 1 else 'is'} {status}")
    if removed := {p for record in packed for p in texts_of(record.environment.get(LEFT_OUT))}:
        say(f"removed from records: {limited(sorted(removed), 10)}")
    say(f"look at it as a reviewer does: fsbench verify {output}")
