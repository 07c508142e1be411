"""The leaderboard, the tables of results and those of paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from fewshot_bench.analysis.formats import latex
from fewshot_bench.analysis.formats.document import INAPPLICABLE, MISSING, Column, Grid
from fewshot_bench.analysis.signature import break_line
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import lay_out
from fewshot_bench.analysis.table.notes import mark_notes, toy_notes
from fewshot_bench.analysis.table.significance import SIGNED_RANK_FROM
from fewshot_bench.analysis.table.table import Cell, Group, Table
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.pairs import Pair, Pairs
from fewshot_bench.plugins.report.rows import NOTHING, Field, method_row
from fewshot_bench.plugins.report.verdict import subject
from fewshot_bench.utils.text import counted, limited, printable_lines

LONGEST_REASON = 80
# More methods than this make no table of all pairs.
MOST_IN_MATRIX = 20
_DIFFERENCE = "difference in points over the seeds that both have, with its 95 % interval"
# Methods, and lines of the signature, on a card.
ROWS, LINES = 5, 3
# Characters of a title, of a name, and of a line of small print that fit on a card.
_TITLE, _NAME, _PRINT = 50, 26, 118
MOST_NAMES = 5


class Bar(NamedTuple):
    """Position of a mean and its interval on a scale from 0 to 100 that all lines share."""

    at: float
    low: float
    high: float


def leaderboard(headline: Headline, pairs: Pairs) -> Grid:
    """Accuracy, the difference to the best (and the baseline) with p, costs, calibration."""
    best = next(iter(headline.ranked), None)
    label = headline.table.baseline
    baseline = next((c for c in headline.ranked if c.row.label == label), None)
    columns = [
        Column("accuracy, %", "side", "mean ± 95 % t-interval over seeds, or the range of two"),
        Column("to the best", "side", _DIFFERENCE),
        Column("p", "side", "paired test over seeds and test images, corrected after Holm"),
    ]
    if baseline:
        columns.append(Column(f"to {baseline.label}", "side", "difference in points, as well"))
        columns.append(Column("p ", "side", "of the difference to the baseline"))
    columns += [Column(cost.title, "side", cost.hint) for cost in COSTS.values()]
    columns.append(Column("ECE, %", "side", "expected calibration error, 15 bins; lower is better"))
    lines = []
    for contestant in headline.ordered:
        cell, lead = contestant.cell, contestant is best
        if cell is None:
            reason = text.short(headline.why_not(contestant), LONGEST_REASON)
            fields = [NOTHING, Field(reason, css="none reason"), NOTHING]
        else:
            estimate = headline.estimate(contestant)
            fewer = f" (n={estimate.n})" if estimate.n < len(headline.group.seeds) else ""
            fields = [Field(f"{text.interval(estimate)}{fewer}", sort=estimate.mean)]
            fields += _compare(pairs, contestant, best, Field("best", sort=0.0, css="lead"))
        if baseline:
            fields += _compare(pairs, contestant, baseline, Field("baseline", sort=0.0))
        for name, cost in COSTS.items():
            value = cell.costs.get(name) if cell else None
            fields.append(NOTHING if value is None else Field(cost.words(value), sort=value))
        error = headline.calibration_error(contestant, headline.group) if cell else None
        fields.append(NOTHING if error is None else Field(f"{error:.1f}", sort=error))
        row = method_row(contestant, fields, "best" if lead else "")
        lines.append(replace(row, paper=contestant.paper))
    caption = f"Leaderboard by {headline.table.main.title}, the best first"
    return Grid("leaderboard", caption, tuple(columns), tuple(lines))


def _compare(
    pairs: Pairs, contestant: Contestant, other: Contestant | None, same: Field
) -> list[Field]:
    """The difference to another method with its p-value; same: in its own line."""
    if other is None or contestant is other:
        return [same, Field("")]
    pair = pairs.of(contestant, other)
    if pair is None:
        return [NOTHING, NOTHING]
    interval = f"[{text.gap(pair.low)}, {text.gap(pair.high)}]" if pair.bounded else ""
    return [
        Field(text.gap(pair.difference), interval, sort=pair.difference),
        _format_corrected(pair),
    ]


def _format_corrected(pair: Pair) -> Field:
    """A corrected p-value; marked as a tie if it is not significant."""
    return _format_p(pair.p, css="" if pair.significant else "tie")


def _format_p(p: float, css: str = "") -> Field:
    """A p-value without its equals sign."""
    return Field(text.p_value(p).removeprefix("= "), sort=p, css=css)


def bars(headline: Headline) -> list[Bar | None] | None:
    """Positions of means and intervals, line by line.

    None without any number, or with a baseline, whose columns need the room.
    """
    placed = bars_of([headline.estimate(contestant) for contestant in headline.ranked])
    if not placed or headline.table.baseline:
        return None
    return [*placed, *[None] * (len(headline.ordered) - len(placed))]


def bars_of(values: Sequence[Estimate]) -> list[Bar]:
    """Positions of means and intervals between the smallest and the largest bound."""
    low = min((value.bounds[0] for value in values), default=0.0)
    high = max((value.bounds[1] for value in values), default=0.0)

    def scale(value: float) -> float:
        return 100 * (value - low) / (high - low) if high > low else 50.0

    return [Bar(scale(value.mean), *map(scale, value.bounds)) for value in values]


def card(
    headline: Headline, title: str, marks: Sequence[str], signature: str
) -> Mapping[str, Any] | None:
    """A picture of 1200 x 630 points for a slide or a post; None without any number.

    It has the best methods of the headline, its marks and signature, for the template card.svg.
    """
    best = headline.ranked[:ROWS]
    if not best:
        return None
    estimates = [headline.estimate(contestant) for contestant in best]
    rows = [
        replace(method_row(c, [Field(text.interval(value))]), title=text.short(c.label, _NAME))
        for c, value in zip(best, estimates, strict=True)
    ]
    about = subject(headline)
    values = [f"{row.title} {row.entries[0].text} %" for row in rows]
    more = len(headline.contestants) - len(rows)
    printed = [text.short(mark, _PRINT) for mark in marks[:1]]
    line = break_line(signature, _PRINT)
    # What a line has no room for would make it another comparison.
    printed += line if len(line) <= LINES else [*line[: LINES - 1], f"{line[LINES - 1][:-1]}…"]
    return {
        "title": text.short(title, _TITLE),
        "subject": about,
        "description": "; ".join([about, *values]),
        "rows": list(zip(rows, bars_of(estimates), strict=True)),
        "more": f"and {counted(more, 'more method')}" if more else "",
        "small": printed,
    }


def results(headline: Headline, group: Group, number: int) -> Grid:
    """Methods by shots in one group: the numbers behind a panel."""
    table = headline.table
    columns = [
        _value_column(headline, [table.cell(group, row, shots) for row in table.rows])
        for shots in group.shots
    ]
    caption = f"{text.name(group.label)}: {table.main.title} in %, by shots"
    heads = list(map(text.shots, group.shots))
    return _grid(f"results-{number}", caption, heads, headline.contestants, columns)


def by_dataset(headline: Headline) -> Grid | None:
    """Methods by data sets at the headline's shots, as papers print it; None for one data set."""
    if len(headline.members) < 2:
        return None
    columns = []
    for group in (headline.group, *headline.members):
        cells = [headline.cell(contestant, group) for contestant in headline.ordered]
        columns.append(_value_column(headline, cells, short=True))
    where = text.at_shots(headline.shots)
    title = headline.table.main.title
    caption = f"{title} in % {where} (methods without shots: their only number)"
    heads = ["average", *_member_heads(headline)]
    return _grid("by-dataset", caption, heads, headline.ordered, columns)


def calibration(headline: Headline) -> Grid | None:
    """Calibration errors of all methods per data set; None where none is known."""
    methods = headline.ranked
    columns = []
    for group in headline.members:
        errors = [headline.calibration_error(contestant, group) for contestant in methods]
        columns.append([NOTHING if e is None else Field(f"{e:.1f}") for e in errors])
    if all(field is NOTHING for column in columns for field in column):
        return None
    caption = "Expected calibration error in % (15 bins of equal width), a mean over seeds"
    return _grid("calibration-table", caption, _member_heads(headline), methods, columns)


def _member_heads(headline: Headline) -> list[str]:
    return [text.short(group.label, 24) for group in headline.members]


def _grid(
    name: str,
    caption: str,
    heads: Sequence[str],
    methods: Sequence[Contestant],
    columns: Sequence[Sequence[Field]],
) -> Grid:
    """A table of numbers with a line per method."""
    rows = zip(*columns, strict=True) if columns else [()] * len(methods)
    lines = tuple(map(method_row, methods, rows))
    return Grid(name, caption, Column.sides(*heads), lines)


def _value_column(headline: Headline, cells: Sequence[Cell], *, short: bool = False) -> list[Field]:
    """Fields of one column, the best in bold; short: without intervals."""
    metric = headline.table.metric
    means = [cell.estimates[metric].mean for cell in cells if metric in cell.estimates]
    most = text.percent(max(means)) if len(means) > 1 else ""
    fields = []
    for cell in cells:
        value = cell.estimates.get(metric)
        if value is not None:
            shown = text.percent(value.mean)
            words = shown if short else text.interval(value)
            fewer = f" (n={value.n})" if value.n < len(cell.group.seeds) else ""
            css = "best" if shown == most else ""
            fields.append(Field(f"{words}{fewer}", sort=value.mean, css=css))
        elif cell.status == "failed":
            fields.append(Field("failed", css="failed"))
        else:
            nothing = MISSING if cell.expected else ""
            shown = INAPPLICABLE if cell.status == "inapplicable" else nothing
            fields.append(Field(shown, css="none"))
    return fields


def against_best(headline: Headline, pairs: Pairs) -> Grid | None:
    """The best against every other method; None where nothing was compared."""
    ranked, sets = headline.ranked, len(headline.members)
    if len(ranked) < 2 or not pairs.by_labels:
        return None
    best, metric = ranked[0], headline.table.main
    columns = [
        Column("difference", "side"),
        Column("95 % interval", "text"),
        Column("p", "side", "not corrected"),
        Column("p after Holm", "side"),
        Column("visible from", "side", "what the test, not corrected, finds 4 times in 5"),
    ]
    if sets > 1:
        hint = "each alone at 5 %, not corrected"
        columns.append(Column("data sets won / tied / lost", "text", hint))
    if sets >= SIGNED_RANK_FROM:
        columns.append(Column("Wilcoxon p", "side", "signed ranks over data sets, not corrected"))
    lines = []
    for other in ranked[1:]:
        pair = pairs.of(best, other)
        if pair is None:
            reason = pairs.reasons.get((best.row.label, other.row.label), "")
            fields = [NOTHING, Field(reason), *[NOTHING] * (len(columns) - 2)]
        else:
            ends = f"{text.gap(pair.low)} to {text.gap(pair.high)}"
            fields = [
                Field(text.gap(pair.difference), sort=pair.difference),
                Field(ends, sort=pair.low) if pair.bounded else NOTHING,
                _format_p(pair.raw),
                _format_corrected(pair),
                NOTHING,
            ]
            if pair.visible is not None:
                # Percentages never differ by more than 100.
                beyond = metric.unit == PERCENT and pair.visible > 100
                shown = ">100" if beyond else text.percent(pair.visible)
                fields[-1] = Field(shown, sort=pair.visible)
            if sets > 1:
                fields.append(Field(f"{pair.won} / {pair.tied} / {pair.lost}", sort=pair.won))
            if sets >= SIGNED_RANK_FROM:
                rank = pair.signed_rank
                fields.append(NOTHING if rank is None else _format_p(rank))
        lines.append(method_row(other, fields))
    caption = f"{best.label} against each other method, in points of {metric.title}"
    return Grid("against", caption, tuple(columns), tuple(lines), first="against")


def matrix(headline: Headline, pairs: Pairs) -> Grid | None:
    """The difference of every two methods, line minus column; None for too few or too many."""
    ranked = headline.ranked
    if not 3 <= len(ranked) <= MOST_IN_MATRIX or len(pairs.by_labels) < 3:
        return None
    lines = []
    for contestant in ranked:
        fields = []
        for other in ranked:
            pair = pairs.of(contestant, other) if other is not contestant else None
            if pair:
                css = "" if pair.significant else "tie"
                fields.append(Field(text.gap(pair.difference), sort=pair.difference, css=css))
            else:
                fields.append(Field("" if other is contestant else MISSING))
        lines.append(method_row(contestant, fields))
    columns = Column.sides(*(text.short(other.label, 16) for other in ranked))
    caption = "Differences of all pairs in points; grey where they are not told apart at 5 %"
    return Grid("matrix", caption, columns, tuple(lines), first="line minus column")


def write_latex(chosen: Headline) -> str:
    """The table at the headline's shots in the paper layout, as `fsbench compare` writes it."""
    shots = (chosen.shots,)
    groups = (replace(g, shots=shots) for g in chosen.table.groups if chosen.shots in g.shots)
    table = replace(chosen.table, shots=shots, groups=tuple(groups), commands=())
    return printable_lines(latex.write(lay_out(table, "latex", Display("paper", digits=2))))


def list_marks(table: Table) -> list[str]:
    """Marks that qualify all numbers: unfair validation, limited runs."""
    unfair = [text.name(row.label) for row in table.rows if row.spec.val == "full"]
    limits = sorted({row.spec.limit for row in table.rows if row.spec.limit is not None})
    marks = list(toy_notes(row.spec for row in table.rows))
    marks += [
        f"limited to {limit} test images per data set: these are not the data sets' accuracies"
        for limit in limits
    ]
    if unfair:
        marks.append(
            f"unfair validation: {limited(unfair, MOST_NAMES)} had the full validation set, which "
            "has many more labels than the shots"
        )
    marks += map(text.message, mark_notes((row.label, row.stated) for row in table.rows))
    return [f"{mark[0].upper()}{mark[1:]}." for mark in marks]
