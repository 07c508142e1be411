"""The layouts of a table; `lay_out` is the entry. A layout is a function and a name in `LAYOUTS`.

`compact`: methods in rows, data sets in columns, the average last, a grid per number of shots; a
kind of evaluation with one data set is one grid, with the numbers of shots in columns. `full`: the
latter for every data set, with costs. `paper`: the grids of the compact one, with means alone, as
papers print them. Their grids are of values, of differences to the baseline, and of the evidence.
"""

from __future__ import annotations

import math
import string
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Item,
    Line,
    Section,
)
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.columns import (
    COSTS,
    CURVE,
    curve,
    curve_head,
    has_curve,
    metric_columns,
    sort_rows,
    text_columns,
)
from fewshot_bench.analysis.table.notes import COMMANDS, RANGES, SCREENS, close, marks
from fewshot_bench.analysis.table.table import (
    AVERAGE,
    Cell,
    Group,
    Ranking,
    Row,
    Scope,
    Significance,
    Standing,
    Table,
)
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.utils.text import beside_level, counted, signed

if TYPE_CHECKING:
    from fewshot_bench.analysis.sweep.panels import SweepOptions

# What each shows, in the words of help texts.
LAYOUTS = {
    "compact": "methods x data sets, a table per shots",
    "full": "a table per data set, with costs",
    "paper": "compact without intervals",
    "sweep": "one method over its options",
}
DEFAULT = "compact"
DATA = ("csv", "json")
# Columns of CSV before and behind those of the data sets.
_FIRST = ("shots", "part", "fitted_on", "method")
_LAST = ("n_seeds", "other_seeds")
_SCOPES: dict[Scope, str] = {
    "all": "",
    "base": ", base classes",
    "new": ", new classes",
    "H": ", harmonic mean of base and new classes",
    "transfer": ", transfer",
}
# What a caption says of a grid without room for more.
_LESS = "; intervals of data sets: --layout full"


def lay_out(
    table: Table,
    form: str,
    name: str = DEFAULT,
    caption: str = "",
    options: SweepOptions | None = None,
) -> Document:
    """The table as a document for a format, in the layout of this name.

    caption: of `paper`. options: of `sweep`. CSV and JSON hold all numbers in every layout, except
    for the CSV of `paper`, and for `sweep`, which has the metric that it shows.
    """
    if name == "sweep":
        from fewshot_bench.analysis.sweep import panels as sweep

        return sweep.document(sweep.sweep_of(table, options or sweep.SweepOptions()), form)
    if name == "paper":
        return paper(table, form, caption)
    if form in DATA:
        from fewshot_bench.analysis.table.export import FIRST, meta, rows

        lines = rows(table)
        return Document(rows=lines, heads=FIRST, data={"meta": meta(table), "rows": lines})
    is_screen = form in SCREENS
    grids = full(table, curves=is_screen) if name == "full" else compact(table)
    notes, commands = close(table, COMMANDS if is_screen else None)
    sections = (Section(grids=list(grids)),)
    return Document(sections, notes, commands, table.signatures.get("", ""))


def full(table: Table, *, curves: bool = False) -> Iterator[Grid]:
    """A value grid per group (averages only over several groups), then differences and evidence.

    curves: whether learning curves belong to the default columns.
    """
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        extra = [table.row_extra.get((group.label, row.label), {}) for row in table.rows]
        titles = list(dict.fromkeys(title for own in extra for title in own))
        texts = text_columns(table, titles, curves and has_curve(table, group))
        yield _group_values(table, group, texts)
    if table.baseline is not None:
        for group in groups:
            yield difference_grid(table, _group_block(table, group))
    yield from evidence(table)


def _group_values(table: Table, group: Group, texts: Sequence[str]) -> Grid:
    metrics = [table.metric, *metric_columns(table)]
    grid = value_grid(table, _group_block(table, group), metrics, texts)
    return replace(grid, signature=table.signatures.get(group.label, ""))


def _group_block(table: Table, group: Group) -> Block:
    """One group, with a column per number of shots."""
    heads = tuple(f"{shots}-shot" for shots in group.shots)
    columns = tuple((group, shots) for shots in group.shots)
    return Block(group.name, heads, columns, tuple(sort_rows(table, group)))


def blocks(table: Table) -> Iterator[Block]:
    """One block per number of shots and kind of evaluation; transfers: one per source data set."""
    for shots in table.shots:
        for scope in _SCOPES:
            members = [g for g in table.groups if g.scope == scope and shots in g.shots]
            plain = [group for group in members if not group.average]
            is_transfer = scope == "transfer"
            for source in dict.fromkeys(g.dataset if is_transfer else "" for g in plain):
                own = [group for group in plain if source in ("", group.dataset)]
                means = [g for g in members if g.average and len(table.members(g)) > 1]
                means = [g for g in means if set(table.members(g)) == set(own)]
                yield _block(table, shots, scope, [*own, *means[:1]], source)


def _block(table: Table, shots: int, scope: Scope, groups: Sequence[Group], source: str) -> Block:
    """Groups side by side at one number of shots, with the rows that expect a cell there."""
    source = table.renamed.get(source, source)
    names = [AVERAGE if g.average else g.target or g.dataset for g in groups]
    heads = tuple(
        # The kind of evaluation is in the title of the block.
        table.renamed.get(group.label) or table.renamed.get(name, name)
        for group, name in zip(groups, names, strict=True)
    )
    rows = (
        row
        for row in sort_rows(table, groups[-1], shots)
        if any(table.cell(group, row, shots).expected for group in groups)
    )
    return Block(
        f"{shots}-shot{_SCOPES[scope]}{f' from {source}' if source else ''}",
        heads,
        tuple((group, shots) for group in groups),
        tuple(rows),
        scope,
        source,
    )


def compact(table: Table) -> Iterator[Grid]:
    """Values of every kind of evaluation, then differences to the baseline, then evidence."""
    kinds: defaultdict[tuple[Scope, str], list[Block]] = defaultdict(list)
    for block in blocks(table):
        kinds[block.scope, block.source].append(block)
    order = list(_SCOPES)
    parts = [kinds[key] for key in sorted(kinds, key=lambda key: order.index(key[0]))]
    # This layout has no columns of texts by default.
    texts = [] if table.columns is None else text_columns(table, (), curves=False)
    for part in parts:
        if group := _the_only_group(part):
            yield _group_values(table, group, texts)
            continue
        for block in part:
            for name in (table.metric, *metric_columns(table)):
                own = texts if name == table.metric else []
                grid = value_grid(table, block, [name], own, _drop_said)
                yield _narrow(_sign(table, grid))
    for part in parts if table.baseline is not None else ():
        if group := _the_only_group(part):
            yield difference_grid(table, _group_block(table, group))
        else:
            yield from (_narrow(_sign(table, _differences(table, block))) for block in part)
    yield from evidence(table)


def _the_only_group(part: Sequence[Block]) -> Group | None:
    groups = {group for block in part for group, _ in block.columns}
    return groups.pop() if len(groups) == 1 else None


def _sign(table: Table, grid: Grid) -> Grid:
    return replace(grid, signature=table.signatures.get("", ""))


def _drop_said(entry: Entry, usual: int) -> Entry:
    """The entry without `n=1`, if the caption gives it."""
    return replace(entry, suffix="", short="") if usual == 1 and entry.short == "n=1" else entry


def _differences(table: Table, block: Block) -> Grid:
    rows = [row for row in block.rows if row.label != table.baseline]
    deltas = [cell.delta for row in rows for cell in block.cells(table, row)]
    usual = most_common([delta.n for delta in deltas if delta is not None])
    grid = difference_grid(table, block, usual)
    seeds = f", n = {counted(usual, 'seed')}" if usual else ""
    return replace(grid, name=f"{grid.name}, differences", caption=f"{grid.caption}{seeds}")


def _narrow(grid: Grid) -> Grid:
    """The grid, which a narrow screen shows without the intervals of all but the last column."""
    count = sum(column.kind == "value" for column in grid.columns) - 1
    if not any(entry.around for line in grid.lines for entry in line.entries[:count]):
        return grid
    lines = []
    for line in grid.lines:
        less = (replace(entry, around="") for entry in line.entries[:count])
        lines.append(Line(line.title, (*less, *line.entries[count:])))
    return replace(grid, narrow=replace(grid, caption=grid.caption + _LESS, lines=tuple(lines)))


def paper(table: Table, form: str, caption: str = "") -> Document:
    """The table in the paper layout; the terminal shows fewer commands."""
    if form == "csv":
        return Document(rows=paper_rows(table), heads=(*_FIRST, *_LAST))
    notes, commands = close(table, COMMANDS if form == "terminal" else None)
    # This layout shows neither intervals nor ranges.
    notes = [note for note in notes if note not in RANGES]
    head = [Section(items=[Item(caption)])] if caption else []
    sections = (*head, Section(grids=list(_paper_grids(table))))
    return Document(sections, notes, commands, table.signatures.get("", ""))


def _paper_grids(table: Table) -> Iterator[Grid]:
    """A grid of means per block, then grids of differences to the baseline, then evidence."""
    parts = list(blocks(table))
    for block in parts:
        usual = block.usual_n(table, table.metric)
        seeds = f"mean over {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
        # The caption gives the number of seeds; cells with another number show theirs.
        grid = value_grid(table, block, [table.metric], finish=_drop_around)
        caption = f"{table.main.quantity}, {seeds}{marks(table)}"
        yield _sign(table, replace(grid, caption=caption))
    for block in parts if table.baseline is not None else ():
        grid = difference_grid(table, block, finish=_drop_around)
        # Another name than that of the values, as a caption or a label may end with it.
        yield _sign(table, replace(grid, name=f"{block.title}, differences"))
    yield from evidence(table)


def _drop_around(entry: Entry, usual: int) -> Entry:
    return _drop_said(replace(entry, around=""), usual)


def paper_rows(table: Table) -> list[dict[str, Any]]:
    """The means of the grids as tidy rows; None for a cell without one.

    `n_seeds` is the usual number of seeds of the grid, `other_seeds` names cells with another one.
    """
    parts = list(blocks(table))
    heads = dict.fromkeys(head for block in parts for head in _csv_heads(block))
    rows = []
    for block in parts:
        usual = block.usual_n(table, table.metric)
        shots = block.columns[0][1]
        for row in block.rows:
            cells = zip(_csv_heads(block), block.cells(table, row), strict=True)
            means = {
                head: cell.estimates[table.metric]
                for head, cell in cells
                if table.metric in cell.estimates
            }
            first = (shots, block.scope, block.source, row.title)
            line: dict[str, Any] = dict(zip(_FIRST, first, strict=True))
            for head in heads:
                line[head] = round(means[head].mean, 6) if head in means else None
            odd = [f"{head} n={mean.n}" for head, mean in means.items() if mean.n != usual]
            rows.append(line | dict(zip(_LAST, (usual, odd), strict=True)))
    return rows


def _csv_heads(block: Block) -> list[str]:
    """CSV columns of a block's groups; a data set of the name of another column gets a prefix."""
    taken = (*_FIRST, *_LAST)
    return [f"dataset_{head}" if head in taken else head for head in block.heads]


@dataclass(frozen=True, slots=True)
class Block:
    """The columns of a grid, one per group and number of shots, and its rows in order.

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
