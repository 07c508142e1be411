"""The full layout: values of every group, differences, and their significance.

`document` is the entry. The other layouts use its parts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Line,
    Section,
)
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.axes import Group, Row
from fewshot_bench.analysis.table.columns import (
    COSTS,
    CURVE,
    curve,
    curve_head,
    has_curve,
    metric_columns,
    sorted_rows,
    text_columns,
)
from fewshot_bench.analysis.table.contrasts import (
    Detectable,
    Ranking,
    Significance,
    Standing,
    Variation,
)
from fewshot_bench.analysis.table.model import Cell, Table
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.utils.text import beside_level, signed

# Number of commands shown on a screen; the rest is only counted.
COMMANDS = 8
SCREENS = ("terminal", "html")


def document(table: Table, form: str) -> Document:
    """The table in the full layout; screens show curves and fewer commands."""
    screen = form in SCREENS
    notes, commands = closing(table, COMMANDS if screen else None)
    shown = list(grids(table, curves=screen))
    return Document((Section(grids=shown),), notes, commands, table.signatures.get("", ""))


def grids(table: Table, *, curves: bool = False) -> Iterator[Grid]:
    """A value grid per group (averages only over several groups), then differences and evidence.

    curves: whether learning curves belong to the default columns.
    """
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        titles = _extra_titles(table, group)
        yield value_grid(
            table, group, text_columns(table, titles, curves and has_curve(table, group))
        )
    if table.baseline is not None:
        for group in groups:
            yield difference_grid(table, group)
    yield from evidence(table)


def value_grid(table: Table, group: Group, texts: Sequence[str]) -> Grid:
    """The values of a group, a column per number of shots; texts: names of the other columns."""
    usual = _usual_n(table, group)
    metrics = [table.metric, *metric_columns(table)]
    rows = sorted_rows(table, group)
    entries = [
        ranked_column(table, group, rows, shots, usual, name)
        for name in metrics
        for shots in group.shots
    ]
    lines = [
        Line(
            row.title,
            (
                *(column[index] for column in entries),
                *map(Entry, line_texts(table, group, row, texts)),
            ),
        )
        for index, row in enumerate(rows)
    ]
    heads = [head for name in metrics for head in _heads(table, group, name)]
    sides = [text_head(table, group, name) for name in texts]
    more = "".join(f"; {table.metrics[name].quantity}" for name in metrics[1:])
    return Grid(
        group.name,
        f"{quantity_and_seeds(table.main, usual)}{more}{marks(table)}",
        (*map(Column, heads), *Column.sides(*sides)),
        tuple(lines),
        _footer(table, group),
        signature=table.signatures.get(group.label, ""),
    )


def quantity_and_seeds(metric: Metric, usual: int) -> str:
    """The start of a caption: metric, interval, and the usual number of seeds."""
    seeds = f"n = {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    interval = "" if usual == 1 else " (range)" if usual == 2 else " ± 95 % t-interval"
    return f"{metric.quantity}, mean{interval}, {seeds}"


def line_texts(
    table: Table, group: Group, row: Row, names: Sequence[str], shots: Sequence[int] = ()
) -> Iterator[str]:
    """The texts of a line, one per named column; shots: those of its costs, none for all."""
    cells = [cell for cell in table.line(group, row) if not shots or cell.shots in shots]
    nothing = _nothing(table, group, row)
    extra = table.row_extra.get((group.label, row.label), {})
    for name in names:
        if name == CURVE:
            yield curve(table, group, row)
        elif name in COSTS:
            yield COSTS[name].shown([cell.costs.get(name) for cell in cells]) or nothing
        else:
            value = extra.get(name)
            yield nothing if value is None else str(value)


def text_head(table: Table, group: Group, name: str) -> str:
    """The head of a column of texts."""
    if name == CURVE:
        return curve_head(table, group)
    return COSTS[name].head if name in COSTS else name


def difference_grid(table: Table, group: Group) -> Grid:
    """The differences of a group to the baseline, a column per number of shots."""
    metric = table.main
    lines = []
    for row in sorted_rows(table, group):
        if row.label != table.baseline:
            entries = (difference(table, cell, metric) for cell in table.line(group, row))
            lines.append(Line(row.title, tuple(entries)))
    heads = tuple(map(Column, _heads(table, group, table.metric)))
    caption = difference_caption(table)
    return Grid(group.name, caption, heads, tuple(lines), _footer(table, group))


def difference_caption(table: Table) -> str:
    """The caption of differences to the baseline."""
    return (
        f"difference to {table.baseline} in {table.main.difference}, paired over seeds "
        f"on identical splits{stars(table)}{marks(table)}"
    )


# The mark of tests that are over test images alone.
ONE_SEED = "; ONE SEED: about these fits, not about the methods"


def stars(table: Table) -> str:
    """Explanation of the star beside a difference, for the caption; empty without tests."""
    tested = table.significance.contrasts if table.significance is not None else ()
    if not tested:
        return ""
    text = "; * p < 0.05, paired over test images too, after Holm's correction"
    return text + (ONE_SEED if any(one.result.conditional for one in tested) else "")


def _footer(table: Table, group: Group) -> str:
    return table.signature(group.seeds)


def marks(table: Table) -> str:
    """Marks that qualify the comparison, for a caption."""
    marks = sorted({mark for row in table.rows for mark in row.marks})
    return f"; {'; '.join(marks)}".upper() if marks else ""


def _heads(table: Table, group: Group, name: str) -> tuple[str, ...]:
    """A head per number of shots, prefixed with the metric unless it is the main one."""
    before = "" if name == table.metric else f"{table.metrics[name].short} "
    return tuple(f"{before}{shots}-shot" for shots in group.shots)


def _usual_n(table: Table, group: Group) -> int:
    """The most common number of seeds in the grid; only other cells show theirs."""
    cells = [cell for row in table.rows for cell in table.line(group, row)]
    return usual_n(cells, table.metric)


def usual_n(cells: Sequence[Cell], metric: str) -> int:
    """The most common number of seeds of these cells' estimates."""
    return most_common([cell.estimates[metric].n for cell in cells if metric in cell.estimates])


def most_common(counts: Sequence[int]) -> int:
    """The most common of these numbers of seeds, the largest if several are; 0 for none."""
    return max(sorted(set(counts), reverse=True), key=counts.count, default=0)


def ranked_column(
    table: Table, group: Group, rows: Sequence[Row], shots: int, usual: int, name: str
) -> list[Entry]:
    """One metric at one number of shots; best and second are ranked by their rounded numbers."""
    metric = table.metrics[name]
    cells = [table.cell(group, row, shots) for row in rows]
    values = [cell.estimates.get(name) for cell in cells]
    shown = [metric.text(value.mean) if value else "" for value in values]
    distinct = {float(text) for text in shown if text}
    ranked = sorted(distinct, reverse=metric.higher_is_better)
    several = sum(bool(text) for text in shown) > 1
    entries = []
    for cell, value, text in zip(cells, values, shown, strict=True):
        if value is None and group.scope == "H" and not metric.higher_is_better:
            entries.append(Entry(INAPPLICABLE))
            continue
        rank = ranked.index(float(text)) + 1 if text and several else 0
        rank = rank if rank in (BEST, SECOND) else 0
        entries.append(_entry(cell, value, usual, rank, metric))
    return entries


def _entry(cell: Cell, value: Estimate | None, usual: int, rank: int, metric: Metric) -> Entry:
    if value is None:
        return _without_number(cell)
    special = value.n != usual or value.n == 1 or cell.failed > 0
    parts = [f"n={value.n}"] if special else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    suffix = f"({', '.join(parts)})" if parts else ""
    short = " ".join([*parts[:1], *(["!"] if cell.failed else [])])
    return Entry(metric.text(value.mean), value.around(metric.digits), suffix, rank, short)


def _without_number(cell: Cell) -> Entry:
    if cell.status == "inapplicable":
        return Entry(INAPPLICABLE)
    if cell.status == "failed":
        return Entry("failed", suffix=f"x{cell.failed}", short=f"x{cell.failed}")
    return Entry(MISSING if cell.expected else "")


def difference(table: Table, cell: Cell, metric: Metric, usual: int = 0) -> Entry:
    """The entry for the difference of a cell to the baseline; usual: the seeds not to be named."""
    if cell.no_delta:
        return Entry(INAPPLICABLE)
    if cell.delta is None:
        return Entry(MISSING if cell.expected else "")
    contrast = table.contrast(cell)
    star = "*" if contrast is not None and contrast.significant else ""
    count = "" if cell.delta.n == usual else f"n={cell.delta.n}"
    suffix = f"({count}){star}" if count else star
    short = f"{count}{star}"
    mean = signed(cell.delta.mean, metric.digits)
    return Entry(mean, cell.delta.around(metric.digits, sign=True), suffix, short=short)


def _nothing(table: Table, group: Group, row: Row) -> str:
    """Placeholder for an empty text: INAPPLICABLE if all expected cells are, else MISSING."""
    expected = [cell for cell in table.line(group, row) if cell.expected]
    inapplicable = expected and all(cell.status == "inapplicable" for cell in expected)
    return INAPPLICABLE if inapplicable else MISSING


def _extra_titles(table: Table, group: Group) -> list[str]:
    found = [table.row_extra.get((group.label, row.label), {}) for row in table.rows]
    return list(dict.fromkeys(title for extra in found for title in extra))


def closing(table: Table, limit: int | None = None) -> tuple[list[str], list[str]]:
    """Notes, and commands that run missing cells (at most `limit`; a note counts the rest)."""
    notes = list(table.notes)
    shown = list(table.commands[:limit])
    hidden = len(table.commands) - len(shown)
    if hidden:
        notes.append(f"{hidden} more commands for missing cells in --format json")
    return notes, shown


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def evidence(table: Table) -> Iterator[Grid]:
    """Grids on the evidence for differences; none without a baseline or crossed seeds."""
    found = table.significance
    if found is not None:
        for shots in table.shots:
            standings = [one for one in found.standings if one.overall.shots == shots]
            if standings:
                yield _standings(table, shots, standings)
        yield from (_ranking(table, ranking) for ranking in found.rankings)
        if found.detectable:
            yield _detectable(table, found)
    if table.variations:
        yield _variations(table)


def _standings(table: Table, shots: int, standings: list[Standing]) -> Grid:
    sets = max(one.overall.result.datasets for one in standings)
    digits = table.main.digits
    heads = ["difference", "95 % interval", "p", "p (Holm)"]
    heads += ["win/tie/loss", "Wilcoxon p"] if sets > 1 else []
    heads += ["data sets"]
    lines = []
    for one in standings:
        result = one.overall.result
        texts = [
            f"{signed(result.difference, digits)}{'*' if one.overall.significant else ''}",
            f"{signed(result.low, digits)} to {signed(result.high, digits)}"
            if result.bounded
            else MISSING,
            probability(result.p),
            probability(one.overall.adjusted),
        ]
        if sets > 1:
            texts += [f"{one.wins}/{one.ties}/{one.losses}"]
            texts += [MISSING if one.signed_rank is None else probability(one.signed_rank)]
        out = f" of {result.datasets + len(one.left_out)}" if one.left_out else ""
        texts += [f"{result.datasets}{out}"]
        title = next(row.title for row in table.rows if row.label == one.overall.row)
        lines.append(Line.of(title, *texts))
    conditional = any(one.overall.result.conditional for one in standings)
    caption = (
        f"against {table.baseline} in {table.main.difference}, paired over seeds and "
        f"test images, data sets with equal weight; * p < 0.05 after Holm's correction over "
        f"{len(standings)} {'method' if len(standings) == 1 else 'methods'}"
    )
    caption += ONE_SEED if conditional else ""
    return _grid(table, f"significance, {shots}-shot", caption, heads, lines)


def _ranking(table: Table, ranking: Ranking) -> Grid:
    groups = _groups(ranking)
    common = "letter" if _lettered(ranking) else "number"
    titles = {row.label: row.title for row in table.rows}
    lines = [
        Line.of(titles[label], f"{rank:.2f}", groups.get(label, ""))
        for label, rank in zip(ranking.rows, ranking.ranks, strict=True)
    ]
    caption = (
        f"average rank over {ranking.datasets} data sets, 1 is best; Friedman p "
        f"{probability(ranking.p)}; critical difference {ranking.critical:.2f} (Nemenyi, 5 %): "
        f"methods with a {common} in common are not told apart"
    )
    return _grid(table, f"ranks, {ranking.shots}-shot", caption, ["rank", "groups"], lines)


def _lettered(ranking: Ranking) -> bool:
    return len(ranking.cliques) <= len(_LETTERS)


def _groups(ranking: Ranking) -> dict[str, str]:
    """Cliques of each row, as letters, or as a range of numbers if there are too many."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place, clique in enumerate(ranking.cliques):
        for label in clique:
            found[label].append(place)
    if _lettered(ranking):
        return {label: "".join(_LETTERS[p] for p in places) for label, places in found.items()}
    # Cliques are sorted by rank, so those of one row are consecutive.
    return {
        label: "–".join(dict.fromkeys(f"{place + 1}" for place in (places[0], places[-1])))
        for label, places in found.items()
    }


def _detectable(table: Table, found: Significance) -> Grid:
    by_place = {(one.group, one.shots): one for one in found.detectable}
    shots = sorted({one.shots for one in found.detectable})
    labels = dict.fromkeys(one.group for one in found.detectable)
    lines = [
        Line.of(table.shown(label), *(_points(by_place.get((label, k)), table.main) for k in shots))
        for label in labels
    ]
    single = (
        "; n=1 leaves out the noise of seeds" if 1 in {d.seeds for d in found.detectable} else ""
    )
    caption = (
        f"differences to {table.baseline} in {table.main.points} that can be seen: smaller ones "
        "are missed more than one time in five (the method with the median error); rough with few "
        f"seeds{single}{marks(table)}"
    )
    heads = [f"{k}-shot" for k in shots]
    return _grid(table, "smallest differences", caption, heads, lines, "data set")


def _points(one: Detectable | None, metric: Metric) -> str:
    if one is None:
        return MISSING
    # Percentages never differ by more than 100, but two seeds may require it.
    whole = metric.unit == PERCENT and one.points > 100
    digits = max(1, metric.digits - 1)
    return f"{'>100' if whole else f'{one.points:.{digits}f}'} (n={one.seeds})"


def _variations(table: Table) -> Grid:
    lines = [
        Line.of(
            f"{one.row} on {table.shown(one.group)}, {one.shots}-shot",
            *_parts(one, table.main.digits),
        )
        for one in table.variations
    ]
    caption = (
        f"standard deviations in {table.main.points}, from crossed split and training seeds; "
        f"negative estimates of a variance are shown as 0{marks(table)}"
    )
    heads = ["support set", "training seed", "test images", "rest"]
    return _grid(table, "where the numbers vary from", caption, heads, lines, "cell")


def _parts(one: Variation, digits: int) -> tuple[str, ...]:
    found = one.components
    if found is None:
        return (MISSING,) * 4
    parts = found.support, found.training, found.sampling, found.residual
    return tuple(f"{math.sqrt(value):.{digits}f}" for value in parts)


def _grid(
    table: Table,
    name: str,
    caption: str,
    heads: list[str],
    lines: list[Line],
    first: str = "method",
) -> Grid:
    footer = table.signature(table.seeds)
    return Grid(name, caption, Column.sides(*heads), tuple(lines), footer, first)


def probability(p: float) -> str:
    """A p-value with two significant digits, more near 5 %: 0.031, 0.0498, <0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return beside_level(p, 2 if p >= 0.1 else 3 if p >= 0.01 else 4)
