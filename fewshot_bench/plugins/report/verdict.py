"""The verdict in words: which method wins, whether that is significant, and what it costs.

`verdict` and `cost` are the entry points; every claim follows from the table and the paired tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.table.columns import BILLED, COSTS
from fewshot_bench.analysis.table.table import Cell
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.pairs import Pair, Pairs
from fewshot_bench.utils.text import counted, joined

# Names that a sentence lists; the rest are counted.
LISTED = 3
# Seeds from which on an interval says something.
ENOUGH = 3
_UNBROKEN = "\N{NO-BREAK SPACE}"

Tested = list[tuple[Contestant, Pair]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`winner`, the `result` text after its name, and `sentences`, each on its own line.

    advice: what to do first, with the commands for it; empty if nothing is urgent.
    """

    winner: str
    result: str
    sentences: Sequence[str] = ()
    advice: str = ""
    commands: Sequence[str] = ()


def verdict(headline: Headline, pairs: Pairs, facts: RecordColumns, store: str) -> Verdict:
    """The verdict in plain sentences with numbers.

    facts: `columns_of` the records of the table. store: its name in commands.
    """
    ranked = headline.ranked
    if not ranked:
        words = (
            "no method has a result in every cell that would be compared; "
            "what is missing is listed at the end."
        )
        return Verdict("No winner yet", words)
    sentences = [
        _significance(headline, pairs),
        _against_baseline(headline, pairs),
        _not_ranked(headline),
    ]
    advice, commands = _more_seeds(headline, facts, store)
    result = _result(headline, pairs)
    return Verdict(ranked[0].label, result, list(filter(None, sentences)), advice, commands)


def _more_seeds(headline: Headline, facts: RecordColumns, store: str) -> tuple[str, Sequence[str]]:
    """Advice to run more seeds, and commands that do; empty with enough of them.

    The commands compute all cells of the table with the seeds that it lacks.
    """
    known = headline.group.seeds
    lacking = ENOUGH - len(known)
    if lacking <= 0 or len(headline.ranked) < 2:
        return "", ()
    free = (seed for seed in itertools.count(1) if seed not in {s for pair in known for s in pair})
    seeds = list(itertools.islice(free, lacking))
    specs = [
        replace(record.spec, split_seed=seed, train_seed=seed)
        for record in facts.records
        for seed in seeds
    ]
    commands, _ = commands_of({spec.key(): spec for spec in specs}.values(), store)
    few = "One seed is" if len(known) == 1 else "Two seeds are"
    more = "a third" if lacking == 1 else "two more"
    return (
        f"{few} too few to tell methods apart. Run {more}, then write the report again:",
        commands,
    )


def subject(headline: Headline) -> str:
    """The subject of the first screen: `top-1 accuracy averaged over 11 data sets at 16 shots`."""
    group, members = headline.group, headline.members
    kinds = {
        "H": ", the harmonic mean of base and new classes,",
        "base": " of base classes",
        "new": " of new classes",
        "transfer": " in transfer",
    }
    if len(members) > 1:
        where = f" averaged over {counted(len(members), 'data set')}"
    elif group.average and not members:
        where = " on average"
    else:
        where = f" on {text.name(members[0].dataset if group.scope == 'H' else members[0].label)}"
    metric = headline.table.main.title
    shots = text.at_shots(headline.shots)
    return f"{metric}{kinds.get(group.scope, '')}{where} {shots}"


def _result(headline: Headline, pairs: Pairs) -> str:
    best, others = headline.ranked[0], headline.ranked[1:]
    estimate = headline.estimate(best)
    half = " (one seed)"
    if estimate.half is not None:
        half = f" (±{_UNBROKEN}{text.percent(estimate.half)}, 95 % interval, {estimate.n} seeds)"
    elif estimate.n > 1:
        ends = tuple(map(text.percent, estimate.bounds))
        two = estimate.n == 2
        half = f" ({' and '.join(ends)}, two seeds)" if two else f" ({' to '.join(ends)})"
    shown = text.percent(estimate.mean)
    level = [c.label for c in others if text.percent(headline.estimate(c).mean) == shown]
    found = [pairs.of(best, other) for other in others]
    if not others:
        verb = "is the only one with a result:"
    elif level:
        verb = f"is level with {_listed(level)} at"
    elif all(pair and pair.better and not pair.conditional for pair in found):
        verb = "wins with"
    else:
        verb = "is ahead with"
    return f"{verb} {shown} % {subject(headline)}{half}."


def _significance(headline: Headline, pairs: Pairs) -> str:
    best, *others = headline.ranked
    if not others:
        return "There is nothing to compare it with."
    if pairs.why:
        return f"Whether its lead is significant cannot be told: {pairs.why}."
    tested = [(other, pair) for other in others if (pair := pairs.of(best, other))]
    ties = [(other, pair) for other, pair in tested if not pair.significant]
    clear = [(other, pair) for other, pair in tested if pair.better]
    worse = [_gap(other, pair) for other, pair in tested if pair.worse]
    parts = [*_not_better(ties), *_better(clear, len(others))]
    if worse:
        parts.append(
            f"On the seeds that both have it is significantly worse than {_listed(worse)}."
        )
    if any(pair.conditional for _, pair in tested):
        parts.append("With one seed to compare, this is about these fits, not about the methods.")
    parts += _visible(headline, ties)
    unknown = [other.label for other in others if not pairs.of(best, other)]
    if unknown:
        parts.append(f"Not compared for want of paired predictions: {_listed(unknown)}.")
    return " ".join(parts)


def _visible(headline: Headline, ties: Tested) -> list[str]:
    """Sentence on the differences that these runs can show; none for few seeds, which show none."""
    found = [pair.visible for _, pair in ties if pair.visible is not None]
    if not found or len(headline.group.seeds) < ENOUGH:
        return []
    least = max(found)
    if headline.table.main.unit == PERCENT and least >= 100:
        return []
    return [
        f"A true difference below about {text.percent(least)} points would be missed here more "
        "than one time in five; more seeds show smaller ones."
    ]


def _not_better(ties: Tested) -> list[str]:
    if not ties:
        return []
    return [f"It is not significantly better than {_listed([_gap(*pair) for pair in ties])}."]


def _better(clear: Tested, others: int) -> list[str]:
    """Sentence on the methods that the best one significantly beats, of `others` methods."""
    if not clear:
        return []
    if len(clear) == 1:
        return [f"It is significantly better than {_gap(*clear[0])}."]
    if len(clear) < others:
        return [f"It is significantly better than {_listed([other.label for other, _ in clear])}."]
    every = "both others" if others == 2 else f"all {others} others"
    return [f"It is significantly better than {every}; the closest is {_gap(*clear[0])}."]


def _gap(other: Contestant, pair: Pair) -> str:
    p = f"p {text.p_value(pair.p)}".replace(" ", _UNBROKEN)
    return f"{other.label} ({text.gap(pair.difference)} points, {p})"


def _against_baseline(headline: Headline, pairs: Pairs) -> str:
    """The number of methods better than the baseline; empty without a baseline."""
    rows = [c for c in headline.contestants if c.row.label == headline.table.baseline]
    if not rows:
        return ""
    baseline = rows[0]
    tested = [pair for c in headline.ranked if (pair := pairs.of(c, baseline))]
    if not tested:
        return f"Nothing could be compared with the baseline {baseline.label}."
    better, worse = sum(pair.better for pair in tested), sum(pair.worse for pair in tested)
    same = len(tested) - better - worse
    counts = [(better, "significantly better"), (worse, "significantly worse")]
    counts += [(same, "not told apart from it")]
    numbers = joined([f"{count} {words}" for count, words in counts if count])
    methods = counted(len(tested), "method")
    return f"Of {methods} compared with the baseline {baseline.label}: {numbers}."


def _not_ranked(headline: Headline) -> str:
    """Methods without a number, each with the reason."""
    names = [f"{c.label} ({headline.why_not(c)})" for c in headline.contestants if not c.cell]
    return f"Not ranked: {_listed(names, '; ')}." if names else ""


def _listed(names: Sequence[str], comma: str = ", ") -> str:
    """The first names and how many more there are."""
    more = len(names) - LISTED
    shown = [*names[:LISTED], *([f"{more} more"] if more > 0 else [])]
    return joined(shown, comma)


def cost(headline: Headline, pairs: Pairs) -> str:
    """Trained parameters, time and memory of the best method, and a cheaper one to consider.

    Empty without a method that has a number.
    """
    best = headline.ranked[:1]
    if not best or best[0].cell is None:
        return ""
    cell = best[0].cell
    known = _costs(cell, _device(headline))
    if not known:
        return f"What {best[0].label} costs is not recorded."
    unknown = [cost.subject for name, cost in COSTS.items() if cell.costs.get(name) is None]
    parts = [f"One run of {best[0].label} (one data set, one seed) {joined(known)}."]
    parts += [f"Not recorded: {joined(unknown)}."] if unknown else []
    return " ".join([*parts, *_cheaper(headline, pairs)])


def _costs(cell: Cell, device: str) -> list[str]:
    """Costs as phrases; the time names the device."""
    return [
        f"{cost.sentence(cost.words(value), value)}{device if cost is BILLED else ''}"
        for name, cost in COSTS.items()
        if (value := cell.costs.get(name)) is not None
    ]


def _device(headline: Headline) -> str:
    devices = headline.table.conditions.get("device", ())
    return f" on {text.name(devices[0])}" if len(devices) == 1 else ""


def _cheaper(headline: Headline, pairs: Pairs) -> list[str]:
    """Sentence on the best method that takes at most half the time of the winner."""
    best, others = headline.ranked[0], headline.ranked[1:]
    own = _time(best)
    times = [(seconds, other) for other in others if (seconds := _time(other)) is not None]
    if not own or not times:
        return []
    if all(seconds >= own for seconds, _ in times):
        return ["No other method is quicker."]
    half = [pair for pair in times if pair[0] <= own / 2]
    if not half:
        return ["No other method takes half as long or less."]
    seconds, other = half[0]
    pair = pairs.of(best, other)
    means = [headline.estimate(contestant).mean for contestant in (best, other)]
    lost = pair.difference if pair else means[0] - means[1]
    side = "behind" if lost >= 0 else "ahead on the seeds that both have"
    tie = ", which is not significant" if pair and not pair.significant else ""
    return [
        f"The best of those that take at most half as long is {other.label}: "
        f"{BILLED.words(seconds)}, {text.percent(abs(lost))} points {side}{tie}."
    ]


def _time(contestant: Contestant) -> float | None:
    return contestant.cell.costs.get(BILLED.name) if contestant.cell else None
