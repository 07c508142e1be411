"""`fsbench look`: what a person should know of the pictures of a data set, and a page of them."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.api.dataset import ROLES, Dataset, Undivided, all_items
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.completion import datasets, one_of
from fewshot_bench.cli.options import PathName
from fewshot_bench.cli.output import aligned, check_file, say, write_bytes, write_text
from fewshot_bench.cli.working import working
from fewshot_bench.plugins.page import Tile, draw_small, template
from fewshot_bench.runner.own_data import name_own
from fewshot_bench.store.kept_models import evenly
from fewshot_bench.utils.prefetch import THREADS, spread
from fewshot_bench.utils.text import counted

if TYPE_CHECKING:
    from fewshot_bench.images.looking import Listed, Looks

COLUMNS = ("group", "pool", "image", "class", "kind")
# Classes in the table; pictures on a page, of about 4 kB each.
LARGEST, SMALLEST, MOST_TILES = 6, 5, 3000


@click.command("look", short_help="Show copies, contradictions and counts of a folder of images.")
@click.argument("name", metavar="FOLDER", shell_complete=one_of(datasets))
@click.option("--all", "every", is_flag=True, help="Count the pictures of all classes.")
@click.option(
    "--list",
    "what",
    type=click.Choice(("copies", "contradictions", "unreadable")),
    help="Print these pictures as CSV, and nothing else.",
)
@click.option(
    "--sheet",
    type=PathName(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Write a page of small pictures by class.",
)
def look(name: str, every: bool, what: str | None, sheet: Path | None) -> None:
    """Show what to know of a folder of images before a model is made.

    Copies (also resized, cropped or mirrored), pictures under two labels, files that cannot be
    used, and counts. FOLDER may be a table of images or a data set, too. Nothing is written there.
    """
    from fewshot_bench.images.looking import look_at

    if sheet is not None:
        check_file("--sheet", sheet, (".html", ".htm"))
    # What a data set prints goes to stderr: stdout has the result alone.
    with redirect_stdout(sys.stderr), working("look") as work:
        dataset: Dataset = registry().dataset(name_own(name))
        dataset = dataset.undivided() if isinstance(dataset, Undivided) else dataset
        with registry().blaming(name_own(name)):
            listed = list(all_items(dataset))
        looks = look_at(dataset, [item for _, item in listed], THREADS)
        lines = [*looks.lines(), *_describe_sizes(looks), *dataset.card().left_out]
        both = sum(len({listed[at][0] for at in group}) > 1 for group in looks.copies.members)
        if both:
            lines.append(f"{counted(both, 'picture')} in train and test, as copies: --list copies")
        if sheet is not None:
            work.step("drawing small pictures")
            write_bytes(sheet, _draw_sheet(name, dataset, looks, lines).encode())
            lines.append(f"pictures by class in {sheet}")
    if what is not None:
        write_text(None, write_csv(list(_list(listed, looks, what)), COLUMNS))
        return
    rows = list(_count(listed, every))
    for line in (*lines, *aligned(rows, range(1, len(rows[0])))):
        say(line)


def _describe_sizes(looks: Looks) -> Iterator[str]:
    if sizes := sorted((seen.size for seen in looks.seen.values()), key=math.prod):
        ends = (sizes[0], sizes[-1], sizes[len(sizes) // 2])
        first, last, median = (f"{width} x {height}" for width, height in ends)
        range_text = f"sizes from {first} to {last} pixels, median {median}"
        yield range_text if first != last else f"all of {first} pixels"


def _count(listed: Listed, every: bool) -> Iterator[tuple[str, ...]]:
    """Rows of counts by pool, the largest class first; many classes between share a row."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for role, item in listed:
        counts[item.classname][role] += 1
    pools = [pool for pool in ROLES if any(pool in count for count in counts.values())]
    names = sorted(counts, key=lambda name: (-counts[name].total(), name))
    if not every and len(names) > LARGEST + SMALLEST + 1:
        between = names[LARGEST:-SMALLEST]
        names[LARGEST:-SMALLEST] = [title := f"{len(between):,} classes between (--all)"]
        counts[title] = sum((counts[name] for name in between), Counter())
    yield ("class", *(pools if len(pools) > 1 else ["pictures"]))
    for name in names:
        yield (name, *(f"{counts[name][pool]:,}" for pool in pools))


def _list(listed: Listed, looks: Looks, what: str) -> Iterator[dict[str, Any]]:
    """Rows of `COLUMNS`; the kind of an unreadable file is the reason."""
    groups: dict[str, Sequence[tuple[int, ...]]] = {
        "copies": looks.copies.members,
        "contradictions": looks.copies.contradictions,
        "unreadable": [(at,) for at in looks.problems],
    }
    for number, group in enumerate(groups[what], 1):
        facts = [looks.facts[at] for at in group]
        files = Counter(fact if isinstance(fact, str) else fact.sha for fact in facts)
        for at, fact in zip(group, facts, strict=True):
            pool, item = listed[at]
            kind = fact if isinstance(fact, str) else ("similar", "same file")[files[fact.sha] > 1]
            row = (number, pool, item.id, item.classname, kind)
            yield dict(zip(COLUMNS, row, strict=True))


def _draw_sheet(title: str, dataset: Dataset, looks: Looks, lines: Sequence[str]) -> str:
    """A page of an even part of the pictures: contradictions, and classes with copies together."""
    items, groups, clashes = looks.items, looks.copies.groups, looks.copies.contradictions
    marks = {at: "same" for group in looks.copies.members for at in group}
    marks |= {at: "bad" for group in clashes for at in group}
    labels = [item.label for item in items]
    shown = sorted({*evenly(labels, MOST_TILES), *(at for group in clashes for at in group)})
    drawn = spread(lambda at: draw_small(dataset, items[at]), shown)
    uris = dict(zip(shown, drawn, strict=True))

    def tile(at: int, *lines: str) -> Tile:
        first = int(groups[at])
        note = looks.problems.get(at) or (f"copy of {items[first].id}" if first != at else "")
        return Tile(uris[at], (*lines, note), marks.get(at, ""))

    classes: dict[str, list[Tile]] = {}
    for at in sorted(shown, key=lambda at: (labels[at], groups[at], at)):
        place = items[at].id.rpartition("/")[2]
        classes.setdefault(items[at].classname, []).append(tile(at, place))
    return template("sheet.html").render(
        title=title,
        lines=lines,
        clashes=[
            [tile(at, items[at].classname, items[at].id) for at in group] for group in clashes
        ],
        classes=classes,
        counts=looks.counts,
    )
