"""The verdict in words: which method wins, whether that is significant, and what it costs.

`verdict` and `cost` are the entry points; every claim follows from the table and the paired tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.table.costs import BILLED, COSTS
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.pairs import Pair, Pairs
from fewshot_bench.utils.text import counted, joined

# Names that a sentence lists; the rest are counted.
LISTED = 3
# Seeds from which on an interval says something.
ENOUGH = 3
_UNBROKEN = "\N{NO-BREAK SPACE}"


class Verdict(NamedTuple):
    """`winner`, the `result` text after its name, and `sentences`, each on its own line.

    advice: what to do first, with the commands for it; empty if nothing is urgent.
    """

    winner: str
    result: str
    sentences: Sequence[str] = ()
    advice: str = ""
    commands: Sequence[str] = ()


def verdict(headline: Headline, pairs: Pairs, records: Sequence[Record], store: str) -> Verdict:
    """The verdict in plain sentences with numbers.

    records: of the table. store: its name in commands.
    """
    ranked = headline.ranked
    if not ranked:
        words = "no method has a result in every cell that would be compared"
        return Verdict("No winner yet", f"{words}; what is missing is listed at the end.")
    left = [f"{c.label} ({headline.why_not(c)})" for c in headline.contestants if not c.cell]
    sentences = [
        _significance(headline, pairs),
        _against_baseline(headline, pairs),
        f"Not ranked: {_list(left, '; ')}." if left else "",
    ]
    advice, commands = _more_seeds(headline, records, store)
    result = _result(headline, pairs)
    return Verdict(ranked[0].label, result, list(filter(None, sentences)), advice, commands)


def _more_seeds(
    headline: Headline, records: Sequence[Record], store: str
) -> tuple[str, Sequence[str]]:
    """Advice to run more seeds, and commands that do; empty with enough of them.

    The commands compute all cells of the table with the seeds that it lacks.
    """
    seeds = headline.group.seeds
    lacking = ENOUGH - len(seeds)
    if lacking <= 0 or len(headline.ranked) < 2:
        return "", ()
    taken = {number for seed in seeds for number in seed}
    free = (number for number in itertools.count(1) if number not in taken)
    more = list(itertools.islice(free, lacking))
    specs = [
        replace(record.spec, split_seed=seed, train_seed=seed)
        for record in records
        for seed in more
    ]
    commands, _ = commands_of({spec.key(): spec for spec in specs}.values(), store)
    few, further = {1: ("Two seeds are", "a third")}.get(lacking, ("One seed is", "two more"))
    return (
        f"{few} too few to tell methods apart. Run {further}, then write the report again:",
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
    best, *others = headline.ranked
    estimate = headline.estimate(best)
    ends = tuple(map(text.percent, estimate.bounds))
    if estimate.half is not None:
        half = f"±{_UNBROKEN}{text.percent(estimate.half)}, 95 % interval, {estimate.n} seeds"
    elif estimate.n == 2:
        half = f"{' and '.join(ends)}, two seeds"
    else:
        half = " to ".join(ends) if estimate.n > 1 else "one seed"
    shown = text.percent(estimate.mean)
    level = [c.label for c in others if text.percent(headline.estimate(c).mean) == shown]
    tested = [pairs.of(best, other) for other in others]
    if not others:
        verb = "is the only one with a result:"
    elif level:
        verb = f"is level with {_list(level)} at"
    elif all(pair and pair.better and not pair.conditional for pair in tested):
        verb = "wins with"
    else:
        verb = "is ahead with"
    return f"{verb} {shown} % {subject(headline)} ({half})."


def _significance(headline: Headline, pairs: Pairs) -> str:
    best, *others = headline.ranked
    if not others:
        return "There is nothing to compare it with."
    if pairs.why:
        return f"Whether its lead is significant cannot be told: {pairs.why}."
    tested = [(other, pair) for other in others if (pair := pairs.of(best, other))]
    ties = [(other, pair) for other, pair in tested if not pair.significant]
    worse = [_gap(other, pair) for other, pair in tested if pair.worse]
    clear = [(other, pair) for other, pair in tested if pair.better]
    parts = []
    if ties:
        parts.append(f"It is not significantly better than {_list([_gap(*tie) for tie in ties])}.")
    if clear:
        names = _list([other.label for other, _ in clear])
        if len(clear) == 1:
            names = _gap(*clear[0])
        elif len(clear) == len(others):
            every = "both others" if len(others) == 2 else f"all {len(others)} others"
            names = f"{every}; the closest is {_gap(*clear[0])}"
        parts.append(f"It is significantly better than {names}.")
    if worse:
        parts.append(f"On the seeds that both have it is significantly worse than {_list(worse)}.")
    if any(pair.conditional for _, pair in tested):
        parts.append("With one seed to compare, this is about these fits, not about the methods.")
    if any(pair.together for _, pair in tested):
        parts.append("Images were answered together: this is about these test sets, not others.")
    parts += _visible(headline, ties)
    untested = [other.label for other in others if not pairs.of(best, other)]
    if untested:
        parts.append(f"Not compared for want of paired predictions: {_list(untested)}.")
    return " ".join(parts)


def _visible(headline: Headline, ties: Sequence[tuple[Contestant, Pair]]) -> list[str]:
    """Sentence on the differences that these runs can show; none for few seeds, which show none."""
    visible = [pair.visible for _, pair in ties if pair.visible is not None]
    beyond = headline.table.main.unit == PERCENT and max(visible, default=0) >= 100
    if not visible or beyond or len(headline.group.seeds) < ENOUGH:
        return []
    return [
        f"A true difference below about {text.percent(max(visible))} points would be missed here "
        "more than one time in five; more seeds show smaller ones."
    ]


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
    counts = {
        "significantly better": better,
        "significantly worse": worse,
        "not told apart from it": len(tested) - better - worse,
    }
    numbers = joined([f"{count} {words}" for words, count in counts.items() if count])
    methods = counted(len(tested), "method")
    return f"Of {methods} compared with the baseline {baseline.label}: {numbers}."


def _list(names: Sequence[str], comma: str = ", ") -> str:
    """The first names and how many more there are."""
    more = len(names) - LISTED
    return joined([*names[:LISTED], *([f"{more} more"] if more > 0 else [])], comma)


def cost(headline: Headline, pairs: Pairs) -> str:
    """Trained parameters, time and memory of the best method, and a cheaper one to consider.

    Empty without a method that has a number.
    """
    best = next(iter(headline.ranked), None)
    if best is None or best.cell is None:
        return ""
    devices = headline.table.conditions.get("device", ())
    phrases, unknown = [], []
    for name, column in COSTS.items():
        value = best.cell.costs.get(name)
        if value is None:
            unknown.append(column.subject)
            continue
        # The time names the device.
        where = f" on {text.name(devices[0])}" if column is BILLED and len(devices) == 1 else ""
        phrases.append(f"{column.sentence(column.words(value), value)}{where}")
    if not phrases:
        return f"What {best.label} costs is not recorded."
    parts = [f"One run of {best.label} (one data set, one seed) {joined(phrases)}."]
    parts += [f"Not recorded: {joined(unknown)}."] if unknown else []
    return " ".join([*parts, *_cheaper(headline, pairs)])


def _cheaper(headline: Headline, pairs: Pairs) -> list[str]:
    """Sentence on the best method that takes at most half the time of the winner."""
    best, *others = headline.ranked
    own = _time(best)
    times = [(seconds, other) for other in others if (seconds := _time(other)) is not None]
    if not own or not times:
        return []
    if all(seconds >= own for seconds, _ in times):
        return ["No other method is quicker."]
    half = [(seconds, other) for seconds, other in times if seconds <= own / 2]
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
