"""Grids of values, of differences to the baseline, and of the evidence: tests and ranks."""

from __future__ import annotations

import math
import string
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Column,
    Entry,
    Grid,
    Line,
)
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.columns import COSTS, CURVE, curve, curve_head
from fewshot_bench.analysis.table.significance import Ranking, Significance, Standing
from fewshot_bench.analysis.table.table import Cell, Group, Row, Scope, Table
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.utils.text import beside_level, signed

SCREENS = ("terminal", "html")
# Number of commands shown on a screen; the rest is only counted.
COMMANDS = 8


@dataclass(frozen=True, slots=True)
class Block:
    """What a grid shows: a column per group and number of shots, and the rows in order.

    heads: of the columns. scope, source: the kind of evaluation, and the data set that transfers
    are from.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[tuple[Group, int], ...]
    rows: tuple[Row, ...]
    scope: Scope = "all"
    source: str = ""

    @property
    def last(self) -> Group:
        """The group of the last column, which is the average where there is one."""
        return self.columns[-1][0]

    def cells(self, table: Table, row: Row) -> list[Cell]:
        """The cells of a row."""
        return [table.cell(group, row, shots) for group, shots in self.columns]

    def usual_n(self, table: Table, metric: str) -> int:
        """The most common number of seeds; only other cells show theirs."""
        cells = [cell for row in self.rows for cell in self.cells(table, row)]
        return most_common([c.estimates[metric].n for c in cells if metric in c.estimates])


def most_common(counts: Sequence[int]) -> int:
    """The most common of these numbers of seeds, the largest if several are; 0 for none."""
    return max(sorted(set(counts), reverse=True), key=counts.count, default=0)


def value_grid(
    table: Table,
    block: Block,
    metrics: Sequence[str],
    texts: Sequence[str] = (),
    finish: Callable[[Entry, int], Entry] = lambda entry, usual: entry,
) -> Grid:
    """The values of a block for each of the metrics, the first of which is that of the caption.

    texts: names of the columns beside them. finish: changes an entry, given the usual number of
    seeds.
    """
    main, *others = (table.metrics[name] for name in metrics)
    usual = block.usual_n(table, main.name)
    columns = []
    entries = []
    for metric in (main, *others):
        for (group, shots), head in zip(block.columns, block.heads, strict=True):
            columns.append(Column(head if metric is main else f"{metric.short} {head}"))
            entries.append(_rank(table, group, block.rows, shots, usual, metric))
    last = block.last
    for name in texts:
        cost = COSTS.get(name)
        head = curve_head(table, last) if name == CURVE else cost.head if cost else name
        columns.append(Column(head, "side"))
    lines = (
        Line(
            row.title,
            (
                *(finish(column[index], usual) for column in entries),
                *map(Entry, _texts(table, block, row, texts)),
            ),
        )
        for index, row in enumerate(block.rows)
    )
    seeds = f"n = {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    interval = "" if usual == 1 else " (range)" if usual == 2 else " ± 95 % t-interval"
    more = "".join(f"; {metric.quantity}" for metric in others)
    return Grid(
        block.title if main.name == table.metric else f"{block.title}, {main.short}",
        f"{main.quantity}, mean{interval}, {seeds}{more}{marks(table)}",
        tuple(columns),
        tuple(lines),
        table.signature(last.seeds),
    )


def _texts(table: Table, block: Block, row: Row, names: Sequence[str]) -> Iterator[str]:
    """The texts of a row beside its values, those of the last group."""
    group = block.last
    shown = {shots for _, shots in block.columns}
    line = table.line(group, row)
    expected = [cell for cell in line if cell.expected]
    never = expected and all(cell.status == "inapplicable" for cell in expected)
    nothing = INAPPLICABLE if never else MISSING
    extra = table.row_extra.get((group.label, row.label), {})
    for name in names:
        if name == CURVE:
            yield curve(table, group, row)
        elif name in COSTS:
            costs = [cell.costs.get(name) for cell in line if cell.shots in shown]
            yield COSTS[name].span(costs) or nothing
        else:
            value = extra.get(name)
            yield nothing if value is None else str(value)


def _rank(
    table: Table, group: Group, rows: Sequence[Row], shots: int, usual: int, metric: Metric
) -> list[Entry]:
    """One metric at one number of shots; best and second are ranked by their rounded numbers."""
    cells = [table.cell(group, row, shots) for row in rows]
    estimates = [cell.estimates.get(metric.name) for cell in cells]
    shown = [metric.text(estimate.mean) if estimate else "" for estimate in estimates]
    ranked = sorted({float(text) for text in shown if text}, reverse=metric.higher_is_better)
    several = sum(bool(text) for text in shown) > 1
    entries = []
    for cell, estimate, text in zip(cells, estimates, shown, strict=True):
        if estimate is None and group.scope == "H" and not metric.higher_is_better:
            entries.append(Entry(INAPPLICABLE))
            continue
        rank = ranked.index(float(text)) + 1 if text and several else 0
        rank = rank if rank in (BEST, SECOND) else 0
        entries.append(_entry(cell, estimate, usual, rank, metric))
    return entries


def _entry(cell: Cell, estimate: Estimate | None, usual: int, rank: int, metric: Metric) -> Entry:
    if estimate is None:
        if cell.status == "inapplicable":
            return Entry(INAPPLICABLE)
        if cell.status == "failed":
            return Entry("failed", suffix=f"x{cell.failed}", short=f"x{cell.failed}")
        return Entry(MISSING if cell.expected else "")
    special = estimate.n != usual or estimate.n == 1 or cell.failed > 0
    parts = [f"n={estimate.n}"] if special else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    suffix = f"({', '.join(parts)})" if parts else ""
    short = " ".join([*parts[:1], *(["!"] if cell.failed else [])])
    around = estimate.around(metric.digits)
    return Entry(metric.text(estimate.mean), around, suffix, rank, short)


def difference_grid(
    table: Table,
    block: Block,
    usual: int = 0,
    finish: Callable[[Entry, int], Entry] = lambda entry, usual: entry,
) -> Grid:
    """The differences of a block to the baseline; usual: the number of seeds not to be named."""
    lines = (
        Line(
            row.title,
            tuple(
                finish(_difference(table, cell, usual), usual) for cell in block.cells(table, row)
            ),
        )
        for row in block.rows
        if row.label != table.baseline
    )
    caption = (
        f"difference to {table.baseline} in {table.main.difference}, paired over seeds "
        f"on identical splits{_stars(table)}{marks(table)}"
    )
    heads = tuple(map(Column, block.heads))
    return Grid(block.title, caption, heads, tuple(lines), table.signature(block.last.seeds))


def _difference(table: Table, cell: Cell, usual: int) -> Entry:
    if cell.no_delta:
        return Entry(INAPPLICABLE)
    if cell.delta is None:
        return Entry(MISSING if cell.expected else "")
    contrast = table.contrast(cell)
    star = "*" if contrast is not None and contrast.significant else ""
    count = "" if cell.delta.n == usual else f"n={cell.delta.n}"
    suffix = f"({count}){star}" if count else star
    digits = table.main.digits
    around = cell.delta.around(digits, sign=True)
    return Entry(signed(cell.delta.mean, digits), around, suffix, short=f"{count}{star}")


# The mark of tests that are over test images alone.
ONE_SEED = "; ONE SEED: about these fits, not about the methods"


def _stars(table: Table) -> str:
    """Explanation of the star beside a difference, for the caption; empty without tests."""
    tests = table.significance.contrasts if table.significance is not None else ()
    if not tests:
        return ""
    text = "; * p < 0.05, paired over test images too, after Holm's correction"
    return text + (ONE_SEED if any(test.result.conditional for test in tests) else "")


def close(table: Table, limit: int | None) -> tuple[list[str], list[str]]:
    """Notes, and commands that run missing cells (at most `limit`; a note counts the rest)."""
    notes, commands = list(table.notes), list(table.commands[:limit])
    hidden = len(table.commands) - len(commands)
    if hidden:
        notes.append(f"{hidden} more commands for missing cells in --format json")
    return notes, commands


def marks(table: Table) -> str:
    """Marks that qualify the comparison, for a caption."""
    every = sorted({mark for row in table.rows for mark in row.marks})
    return f"; {'; '.join(every)}".upper() if every else ""


def evidence(table: Table) -> Iterator[Grid]:
    """The grids; none without a baseline or crossed seeds."""
    tests = table.significance
    if tests is not None:
        for shots in table.shots:
            standings = [part for part in tests.standings if part.overall.shots == shots]
            if standings:
                yield _standings_grid(table, shots, standings)
        yield from (_rank_grid(table, ranking) for ranking in tests.rankings)
        if tests.detectable:
            yield _detectable_grid(table, tests)
    if table.variations:
        yield _variations_grid(table)


def _standings_grid(table: Table, shots: int, standings: Sequence[Standing]) -> Grid:
    sets = max(standing.overall.result.datasets for standing in standings)
    digits = table.main.digits
    heads = ["difference", "95 % interval", "p", "p (Holm)"]
    heads += ["win/tie/loss", "Wilcoxon p"] if sets > 1 else []
    titles = {row.label: row.title for row in table.rows}
    lines = []
    for standing in standings:
        result, overall = standing.overall.result, standing.overall
        bounds = f"{signed(result.low, digits)} to {signed(result.high, digits)}"
        texts = [
            f"{signed(result.difference, digits)}{'*' if overall.significant else ''}",
            bounds if result.bounded else MISSING,
            probability(result.p),
            probability(overall.adjusted),
        ]
        if sets > 1:
            wilcoxon = standing.signed_rank
            texts += [f"{standing.wins}/{standing.ties}/{standing.losses}"]
            texts += [MISSING if wilcoxon is None else probability(wilcoxon)]
        out = len(standing.left_out)
        texts += [f"{result.datasets}{f' of {result.datasets + out}' if out else ''}"]
        lines.append(Line.of(titles[overall.row], *texts))
    caption = (
        f"against {table.baseline} in {table.main.difference}, paired over seeds and "
        f"test images, data sets with equal weight; * p < 0.05 after Holm's correction over "
        f"{len(standings)} {'method' if len(standings) == 1 else 'methods'}"
    )
    caption += ONE_SEED if any(s.overall.result.conditional for s in standings) else ""
    return _grid(table, f"significance, {shots}-shot", caption, [*heads, "data sets"], lines)


def _rank_grid(table: Table, ranking: Ranking) -> Grid:
    has_letters = len(ranking.cliques) <= len(string.ascii_lowercase)
    cliques: defaultdict[str, list[int]] = defaultdict(list)
    for number, clique in enumerate(ranking.cliques):
        for label in clique:
            cliques[label].append(number)
    titles = {row.label: row.title for row in table.rows}
    lines = []
    for label, rank in zip(ranking.rows, ranking.ranks, strict=True):
        own = cliques[label]
        if has_letters:
            text = "".join(string.ascii_lowercase[number] for number in own)
        else:
            # Cliques are sorted by rank, so those of one row are consecutive.
            text = "–".join(dict.fromkeys(f"{number + 1}" for number in (*own[:1], *own[-1:])))
        lines.append(Line.of(titles[label], f"{rank:.2f}", text))
    caption = (
        f"average rank over {ranking.datasets} data sets, 1 is best; Friedman p "
        f"{probability(ranking.p)}; critical difference {ranking.critical:.2f} (Nemenyi, 5 %): "
        f"methods with a {'letter' if has_letters else 'number'} in common are not told apart"
    )
    return _grid(table, f"ranks, {ranking.shots}-shot", caption, ["rank", "groups"], lines)


def _detectable_grid(table: Table, tests: Significance) -> Grid:
    points = {}
    for part in tests.detectable:
        # Percentages never differ by more than 100, but two seeds may require it.
        whole = table.main.unit == PERCENT and part.points > 100
        digits = max(1, table.main.digits - 1)
        text = ">100" if whole else f"{part.points:.{digits}f}"
        points[part.group, part.shots] = f"{text} (n={part.seeds})"
    shots = sorted({part.shots for part in tests.detectable})
    labels = dict.fromkeys(part.group for part in tests.detectable)
    lines = [
        Line.of(table.shown(label), *(points.get((label, k), MISSING) for k in shots))
        for label in labels
    ]
    is_single = any(part.seeds == 1 for part in tests.detectable)
    single = "; n=1 leaves out the noise of seeds" if is_single else ""
    caption = (
        f"differences to {table.baseline} in {table.main.points} that can be seen: smaller ones "
        "are missed more than one time in five (the method with the median error); rough with few "
        f"seeds{single}{marks(table)}"
    )
    heads = [f"{k}-shot" for k in shots]
    return _grid(table, "smallest differences", caption, heads, lines, "data set")


def _variations_grid(table: Table) -> Grid:
    lines = []
    for part in table.variations:
        texts = [MISSING] * 4
        if part.components is not None:
            own = part.components
            variances = own.support, own.training, own.sampling, own.residual
            texts = [f"{math.sqrt(value):.{table.main.digits}f}" for value in variances]
        title = f"{part.row} on {table.shown(part.group)}, {part.shots}-shot"
        lines.append(Line.of(title, *texts))
    caption = (
        f"standard deviations in {table.main.points}, from crossed split and training seeds; "
        f"negative estimates of a variance are shown as 0{marks(table)}"
    )
    heads = ["support set", "training seed", "test images", "rest"]
    return _grid(table, "where the numbers vary from", caption, heads, lines, "cell")


def _grid(
    table: Table,
    name: str,
    caption: str,
    heads: Sequence[str],
    lines: Sequence[Line],
    first: str = "method",
) -> Grid:
    footer = table.signature(table.seeds)
    return Grid(name, caption, Column.sides(*heads), tuple(lines), footer, first)


def probability(p: float) -> str:
    """A p-value with two significant digits, more near 5 %: 0.031, 0.0498, <0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return beside_level(p, 2 if p >= 0.1 else 3 if p >= 0.01 else 4)
