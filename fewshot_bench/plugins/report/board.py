"""The leaderboard and the tables of results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.formats.document import INAPPLICABLE, MISSING
from fewshot_bench.analysis.formats.style import MARKERS
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.columns import COSTS
from fewshot_bench.analysis.table.table import Cell, Group
from fewshot_bench.api.paper import Paper
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.grid import Column, Field, Grid, Line, Link
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.pairs import Pair, Pairs

# The characters that look like matplotlib's markers, in the same order.
MARKS = dict(zip(MARKERS, "●■▲◆▼✚✖◀▶★", strict=True))
NOTHING = Field(MISSING, css="none")
LONGEST_REASON = 80
_DIFFERENCE = "difference in points over the seeds that both have, with its 95 % interval"


@dataclass(frozen=True, slots=True)
class Bar:
    """Position of a mean and its interval on a scale from 0 to 100 that all lines share."""

    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the legend."""

    label: str
    mark: str
    color: str
    css: str


def line(
    contestant: Contestant, fields: Sequence[Field], css: str = "", *, cited: bool = False
) -> Line:
    """A line about a method, with its mark. cited: with its paper."""
    look = contestant.look
    head = [Field(contestant.label), *fields]
    classes = f"{look.css} {css}".strip()
    paper = _link(contestant.paper) if cited and contestant.paper else None
    return Line(head, MARKS[look.marker], look.variable, classes, paper)


def _link(paper: Paper) -> Link:
    """Who wrote it and when; the address is that of a plug-in, and must be a page."""
    safe = paper.url.startswith("https://")
    title = text.message(f"{paper.title} ({paper.place})")
    return Link(text.name(paper.label), title, paper.url if safe else "")


def leaderboard(headline: Headline, pairs: Pairs) -> Grid:
    """Accuracy, the difference to the best (and the baseline) with p, costs, calibration."""
    ranked = headline.ranked
    best = ranked[0] if ranked else None
    baseline = _baseline(headline)
    columns = [
        Column("method", False),
        Column("accuracy, %", hint="mean ± 95 % t-interval over seeds, or the range of two"),
        Column("to the best", hint=_DIFFERENCE),
        Column("p", hint="paired test over seeds and test images, corrected after Holm"),
        *(
            [Column(f"to {baseline.label}", hint="difference in points, as well")]
            if baseline
            else []
        ),
        *([Column("p ", hint="of the difference to the baseline")] if baseline else []),
        *(Column(cost.title, hint=cost.hint) for cost in COSTS.values()),
        Column("ECE, %", hint="expected calibration error, 15 bins; lower is better"),
    ]
    lines = []
    for contestant in headline.ordered:
        cell = contestant.cell
        pair = pairs.of(best, contestant) if best and contestant is not best else None
        lead = contestant is best
        fields = [
            _accuracy(headline, contestant),
            Field("best", 0.0, "lead") if lead else _behind(headline, contestant, pair),
            Field("") if lead else p_field(pair),
        ]
        if baseline:
            own = pairs.of(contestant, baseline) if contestant is not baseline else None
            same = contestant is baseline
            fields += [Field("baseline", 0.0) if same else _range(own)]
            fields += [Field("") if same else p_field(own)]
        error = headline.calibration_error(contestant, headline.group) if cell else None
        fields += [*costs(cell), NOTHING if error is None else Field(f"{error:.1f}", error)]
        lines.append(line(contestant, fields, "best" if lead else "", cited=True))
    name = headline.table.main.title
    return Grid("leaderboard", f"Leaderboard by {name}, the best first", columns, lines, True)


def bars(headline: Headline) -> list[Bar | None] | None:
    """Positions of means and intervals, line by line.

    None without any number, or with a baseline, whose columns need the room.
    """
    known = bars_of([headline.estimate(contestant) for contestant in headline.ranked])
    if not known or headline.table.baseline:
        return None
    return [*known, *[None] * (len(headline.ordered) - len(known))]


def bars_of(values: Sequence[Estimate]) -> list[Bar]:
    """Positions of means and intervals between the smallest and the largest bound."""
    low = min((value.bounds[0] for value in values), default=0.0)
    high = max((value.bounds[1] for value in values), default=0.0)

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low) if high > low else 50.0

    return [Bar(place(value.mean), *map(place, value.bounds)) for value in values]


def results(headline: Headline, group: Group, number: int) -> Grid:
    """Methods by shots in one group: the numbers behind a panel."""
    columns = [Column("method", False)]
    columns += [Column(text.shots(k)) for k in group.shots]
    marks = [_marked([headline.table.cell(group, row, k) for row in headline.table.rows], headline)
             for k in group.shots]  # fmt: skip
    lines = []
    for index, contestant in enumerate(headline.contestants):
        lines.append(line(contestant, [column[index] for column in marks]))
    caption = f"{text.name(group.label)}: {headline.table.main.title} in %, by shots"
    return Grid(f"results-{number}", caption, columns, lines)


def by_dataset(headline: Headline) -> Grid | None:
    """Methods by data sets at the headline's shots, as papers print it; None for one data set."""
    if len(headline.members) < 2:
        return None
    columns = [Column("method", False)]
    columns.append(Column("average"))
    columns += [Column(text.short(group.label, 24)) for group in headline.members]
    table = headline.table
    groups = [headline.group, *headline.members]
    found = []
    for group in groups:
        cells = [headline.cell(contestant, group) for contestant in headline.ordered]
        found.append(_marked(cells, headline, short=True))
    lines = list(map(line, headline.ordered, zip(*found, strict=True)))
    where = text.at_shots(headline.shots)
    caption = f"{table.main.title} in % {where} (methods without shots: their only number)"
    return Grid("by-dataset", caption, columns, lines, True)


def legend(headline: Headline) -> list[Key]:
    """The methods in the figures, in the order of the leaderboard."""
    return [
        Key(each.label, MARKS[each.look.marker], each.look.variable, each.look.css)
        for each in headline.drawn
    ]


def calibration(headline: Headline) -> Grid | None:
    """Calibration errors of all methods per data set; None where none is known."""
    columns = [Column("method", False)]
    columns += [Column(text.short(group.label, 24)) for group in headline.members]
    lines = []
    for contestant in headline.ranked:
        errors = [headline.calibration_error(contestant, group) for group in headline.members]
        lines.append(line(contestant, list(map(error_field, errors))))
    if all(field is NOTHING for each in lines for field in each.fields[1:]):
        return None
    caption = "Expected calibration error in % (15 bins of equal width), a mean over seeds"
    return Grid("calibration-table", caption, columns, lines, True)


def error_field(value: float | None) -> Field:
    """A calibration error in percent."""
    return NOTHING if value is None else Field(f"{value:.1f}")


def costs(cell: Cell | None) -> list[Field]:
    """The costs of a cell."""
    values = [(cost, cell.costs.get(name) if cell else None) for name, cost in COSTS.items()]
    return [NOTHING if v is None else Field(cost.words(v), v) for cost, v in values]


def _baseline(headline: Headline) -> Contestant | None:
    name = headline.table.baseline
    return next((c for c in headline.ranked if c.row.label == name), None)


def _accuracy(headline: Headline, contestant: Contestant) -> Field:
    if contestant.cell is None:
        return Field(MISSING, css="none")
    estimate = headline.estimate(contestant)
    fewer = f" (n={estimate.n})" if estimate.n < len(headline.group.seeds) else ""
    return Field(f"{text.interval(estimate)}{fewer}", estimate.mean)


def _behind(headline: Headline, contestant: Contestant, pair: Pair | None) -> Field:
    """The difference to the best; for a method without a number the reason."""
    if contestant.cell is None:
        return Field(text.short(headline.why_not(contestant), LONGEST_REASON), css="none reason")
    return _range(pair.turned() if pair else None)


def _range(pair: Pair | None) -> Field:
    if pair is None:
        return NOTHING
    interval = f"[{text.gap(pair.low)}, {text.gap(pair.high)}]" if pair.bounded else ""
    return Field(text.gap(pair.difference), pair.difference, detail=interval)


def p_field(pair: Pair | None) -> Field:
    """A corrected p-value; marked as a tie if it is not significant."""
    if pair is None:
        return NOTHING
    tie = "" if pair.significant else "tie"
    return Field(plain_p(pair.p), pair.p, tie)


def plain_p(p: float) -> str:
    """A p-value without its equals sign."""
    return text.p_value(p).removeprefix("= ")


def _marked(cells: Sequence[Cell], headline: Headline, short: bool = False) -> list[Field]:
    """Fields of one column, the best in bold."""
    metric = headline.table.metric
    means = [cell.estimates[metric].mean for cell in cells if metric in cell.estimates]
    most = text.percent(max(means)) if len(means) > 1 else ""
    fields = []
    for cell in cells:
        value = cell.estimates.get(metric)
        if value is None:
            fields.append(_without(cell))
            continue
        shown = text.percent(value.mean)
        words = shown if short else text.interval(value)
        if value.n < len(cell.group.seeds):
            words += f" (n={value.n})"
        fields.append(Field(words, value.mean, "best" if shown == most else ""))
    return fields


def _without(cell: Cell) -> Field:
    if cell.status == "inapplicable":
        return Field(INAPPLICABLE, css="none")
    if cell.status == "failed":
        return Field("failed", css="failed")
    return Field(MISSING if cell.expected else "", css="none")
