"""Tables of paired comparisons: the winner against each other method, and all pairs."""

from __future__ import annotations

from fewshot_bench.analysis.formats.document import MISSING
from fewshot_bench.analysis.table.significance import SIGNED_RANK_FROM
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.board import NOTHING, line, p_field, plain_p
from fewshot_bench.plugins.report.grid import Column, Field, Grid
from fewshot_bench.plugins.report.headline import Headline
from fewshot_bench.plugins.report.pairs import Pair, Pairs

# More methods than this make no table of all pairs.
MOST_IN_MATRIX = 20


def against_best(headline: Headline, pairs: Pairs) -> Grid | None:
    """The best against every other method; None where nothing was compared."""
    ranked = headline.ranked
    if len(ranked) < 2 or not pairs.found:
        return None
    best = ranked[0]
    sets = len(headline.members)
    columns = [Column("against", False), Column("difference"), Column("95 % interval", False)]
    columns += [Column("p", hint="not corrected"), Column("p after Holm")]
    columns += [Column("visible from", hint="what the test, not corrected, finds 4 times in 5")]
    if sets > 1:
        columns += [
            Column("data sets won / tied / lost", False, "each alone at 5 %, not corrected")
        ]
    if sets >= SIGNED_RANK_FROM:
        columns += [Column("Wilcoxon p", hint="signed ranks over data sets, not corrected")]
    lines = []
    for other in ranked[1:]:
        pair = pairs.of(best, other)
        if pair is None:
            key = best.row.label, other.row.label
            fields = [NOTHING, Field(pairs.reasons.get(key, "")), NOTHING, NOTHING, NOTHING]
        else:
            fields = [
                Field(text.gap(pair.difference), pair.difference),
                Field(f"{text.gap(pair.low)} to {text.gap(pair.high)}", pair.low)
                if pair.bounded
                else NOTHING,
                Field(plain_p(pair.raw), pair.raw),
                p_field(pair),
                _visible(pair, headline.table.main),
            ]
        if sets > 1:
            fields += [_counts(pair) if pair else NOTHING]
        if sets >= SIGNED_RANK_FROM:
            rank = pair.signed_rank if pair else None
            fields += [NOTHING if rank is None else Field(plain_p(rank), rank)]
        lines.append(line(other, fields))
    caption = f"{best.label} against each other method, in points of "
    return Grid("against", caption + headline.table.main.title, columns, lines)


def matrix(headline: Headline, pairs: Pairs) -> Grid | None:
    """The difference of every two methods, line minus column; None for too few or too many."""
    ranked = headline.ranked
    if not 3 <= len(ranked) <= MOST_IN_MATRIX or len(pairs.found) < 3:
        return None
    columns = [Column("line minus column", False)]
    columns += [Column(text.short(other.label, 16)) for other in ranked]
    lines = []
    for contestant in ranked:
        fields = []
        for other in ranked:
            pair = pairs.of(contestant, other) if other is not contestant else None
            fields.append(
                _pair_field(pair) if pair else Field("" if other is contestant else MISSING)
            )
        lines.append(line(contestant, fields))
    caption = "Differences of all pairs in points; grey where they are not told apart at 5 %"
    return Grid("matrix", caption, columns, lines)


def _counts(pair: Pair) -> Field:
    return Field(f"{pair.won} / {pair.tied} / {pair.lost}", pair.won)


def _visible(pair: Pair, metric: Metric) -> Field:
    if pair.visible is None:
        return NOTHING
    # Percentages never differ by more than 100.
    beyond = metric.unit == PERCENT and pair.visible > 100
    return Field(">100" if beyond else text.percent(pair.visible), pair.visible)


def _pair_field(pair: Pair) -> Field:
    return Field(text.gap(pair.difference), pair.difference, "" if pair.significant else "tie")
