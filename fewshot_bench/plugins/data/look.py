"""`fsbench look`: what a person should know of the pictures of a data set, and a page of them."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import click

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.api.dataset import Dataset, all_items
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.options import PATH
from fewshot_bench.cli.output import aligned, check_file, replaced, say, write_text
from fewshot_bench.cli.working import working
from fewshot_bench.images.looking import Listed, Looks, look_at
from fewshot_bench.plugins.report.page import Tile, draw_small, template
from fewshot_bench.runner.own_data import name_own, open_whole
from fewshot_bench.store.kept_models import evenly
from fewshot_bench.utils.prefetch import spread
from fewshot_bench.utils.text import counted, few

LISTS = ("copies", "contradictions", "unreadable")
COLUMNS = ("group", "pool", "image", "class", "kind")
# Classes in the table; pictures on a page, of about 4 kB each.
LARGEST, SMALLEST, MOST_TILES = 6, 5, 3000


@click.command("look", short_help="Show copies, contradictions and counts of a folder of images.")
@click.argument("name", metavar="FOLDER", shell_complete=one_of(datasets))
@click.option("--all", "every", is_flag=True, help="Count the pictures of all classes.")
@click.option("--list", "what", type=click.Choice(LISTS), help="Print these as CSV, and no more.")
@click.option("--sheet", type=PATH, metavar="FILE.html", help="Write a page of small pictures.")
def look(name: str, every: bool, what: str | None, sheet: Path | None) -> None:
    """Show what to know of a folder of images before a model is made.

    Copies (also resized, cropped or mirrored), pictures under two labels, files that cannot be
    used, and counts. FOLDER may be a table of images or a data set, too. Nothing is written there.
    """
    if sheet is not None:
        check_file("--sheet", sheet, (".html", ".htm"))
    # What a data set prints goes to stderr: stdout has the result alone.
    with redirect_stdout(sys.stderr), working("look") as work:
        dataset = open_whole(name_own(name), lenient=True)
        with registry().blaming(name_own(name)):
            listed = list(all_items(dataset))
        looks = look_at(dataset, [item for _, item in listed])
        card = dataset.card()
        lines = [*_describe(listed, looks, card.classnames), *card.left_out]
        if sheet is not None:
            work.step("drawing small pictures")
            page = _draw_sheet(name, dataset, looks, lines).encode()
            with replaced(sheet, "--sheet") as file:
                file.write_bytes(page)
            lines.append(f"pictures by class in {sheet}")
    if what is not None:
        write_text(None, write_csv(list(_list(listed, looks, what)), COLUMNS))
        return
    rows = list(_count(listed, every))
    for line in (*lines, *aligned(rows, range(1, len(rows[0])))):
        say(line)


def _describe(listed: Listed, looks: Looks, classnames: Sequence[str]) -> Iterator[str]:
    yield from (*looks.lines(), *looks.across([role for role, _ in listed]))
    trained = {item.label for role, item in listed if role == "train"}
    absent = [name for label, name in enumerate(classnames) if label not in trained]
    if trained and absent:
        yield f"{counted(len(absent), 'class', 'classes')} without train images: {few(absent)}"
    if sizes := sorted((seen.size for seen in looks.seen.values()), key=math.prod):
        ends = (sizes[0], sizes[-1], sizes[len(sizes) // 2])
        first, last, median = (f"{width} x {height}" for width, height in ends)
        range_text = f"sizes from {first} to {last} pixels, median {median}"
        yield range_text if first != last else f"all of {first} pixels"


def _count(listed: Listed, every: bool) -> Iterator[tuple[str, ...]]:
    """Rows of counts by pool, the largest class first; many classes between share a row."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for pool, item in listed:
        counts[item.classname][pool] += 1
    pools = list(dict.fromkeys(pool for pool, _ in listed))
    ranked = sorted(counts.items(), key=lambda row: (-row[1].total(), row[0]))
    if not every and len(ranked) > LARGEST + SMALLEST + 1:
        between = [count for _, count in ranked[LARGEST:-SMALLEST]]
        title = f"{len(between):,} classes between (--all)"
        ranked[LARGEST:-SMALLEST] = [(title, sum(between, Counter()))]
    yield ("class", *(pools if len(pools) > 1 else ["pictures"]))
    for name, count in ranked:
        yield (name, *(f"{count[pool]:,}" for pool in pools))


def _list(listed: Listed, looks: Looks, what: str) -> Iterator[dict[str, Any]]:
    """Rows of `COLUMNS`; the kind of an unreadable file is the reason."""
    copies = looks.copies
    groups = copies.members if what == "copies" else copies.contradictions
    for number, group in enumerate(zip(looks.problems) if what == "unreadable" else groups, 1):
        files = [getattr(looks.facts[at], "sha", None) for at in group]
        for at, sha in zip(group, files, strict=True):
            pool, item = listed[at]
            kind = looks.problems.get(at) or ("similar", "same file")[files.count(sha) > 1]
            yield dict(zip(COLUMNS, (number, pool, item.id, item.classname, kind), strict=True))


def _draw_sheet(title: str, dataset: Dataset, looks: Looks, lines: Sequence[str]) -> str:
    """A page of an even part of the pictures: contradictions, and classes with copies together."""
    items, groups, clashes = looks.items, looks.copies.groups, looks.copies.contradictions
    marks = dict.fromkeys(chain(*looks.copies.members), "same")
    marks |= dict.fromkeys(chain(*clashes), "bad")
    labels = [item.label for item in items]
    shown = list({*evenly(labels, MOST_TILES), *chain(*clashes)})
    shown.sort(key=lambda at: (labels[at], groups[at], at))
    uris = dict(zip(shown, spread(lambda at: draw_small(dataset, items[at]), shown), strict=True))

    def tile(at: int, *lines: str) -> Tile:
        return Tile(uris[at], lines, marks.get(at, ""))

    classes: dict[str, list[Tile]] = defaultdict(list)
    for at in shown:
        note = f"copy of {items[groups[at]].id}" if groups[at] != at else looks.problems.get(at, "")
        classes[items[at].classname].append(tile(at, items[at].id.rpartition("/")[2], note))
    facing = [[tile(at, items[at].classname, items[at].id) for at in group] for group in clashes]
    return template("sheet.html").render(
        title=title, lines=lines, clashes=facing, classes=classes, counts=looks.counts
    )
