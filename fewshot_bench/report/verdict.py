"""The report's first words: who wins, whether that is significant, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from fewshot_bench.metrics import METRICS
from fewshot_bench.report import text
from fewshot_bench.report.headline import Contestant, Headline
from fewshot_bench.report.pairs import Pair, Pairs

# Names that a sentence lists; the rest are counted.
LISTED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """`winner` and what follows its name, then whole sentences."""

    winner: str
    result: str
    significance: str
    cost: str


def verdict(headline: Headline, pairs: Pairs) -> Verdict:
    """The verdict in plain sentences with numbers."""
    ranked = headline.ranked
    if not ranked:
        return Verdict(
            "No winner yet",
            "no method has a result in every cell that would be compared; "
            "what is missing is listed at the end.",
            "",
            "",
        )
    best = ranked[0]
    words = _significance(ranked, pairs)
    return Verdict(best.label, _result(headline, best, pairs), words, _cost(headline, ranked))


def subject(headline: Headline) -> str:
    """What the first screen is about: `top-1 accuracy averaged over 11 data sets at 16 shots`."""
    group, members = headline.group, headline.members
    kinds = {
        "H": ", the harmonic mean of base and new classes,",
        "base": " of base classes",
        "new": " of new classes",
        "transfer": " in transfer",
    }
    if len(members) > 1:
        where = f" averaged over {text.counted(len(members), 'data set')}"
    elif group.average and not members:
        where = " on average"
    else:
        where = f" on {text.name(members[0].dataset if group.scope == 'H' else members[0].label)}"
    metric = METRICS[headline.table.metric].title
    shots = text.counted(headline.shots, "shot")
    return f"{metric}{kinds.get(group.scope, '')}{where} at {shots}"


def _result(headline: Headline, best: Contestant, pairs: Pairs) -> str:
    estimate = headline.estimate(best)
    half = " (one seed)"
    if estimate.half is not None:
        half = f" (± {text.percent(estimate.half)}, 95 % interval, {estimate.n} seeds)"
    others = [pairs.of(best, other) for other in headline.ranked[1:]]
    verb = "wins with" if all(pair and pair.significant for pair in others) else "is ahead with"
    verb = verb if others else "is the only one with a result:"
    return f"{verb} {text.percent(estimate.mean)} % {subject(headline)}{half}."


def _significance(ranked: list[Contestant], pairs: Pairs) -> str:
    best, others = ranked[0], ranked[1:]
    if not others:
        return "There is nothing to compare it with."
    if pairs.why:
        return f"Whether its lead is significant cannot be told: {pairs.why}."
    tested = [(other, pairs.of(best, other)) for other in others]
    unknown = [other for other, pair in tested if pair is None]
    ties = [(other, pair) for other, pair in tested if pair and not pair.significant]
    clear = [(other, pair) for other, pair in tested if pair and pair.significant]
    parts = []
    if not ties and clear:
        name, pair = clear[0]
        every = "the other method" if len(clear) == 1 else f"all {len(clear)} others"
        parts.append(f"Its lead over {every} is significant; the closest is {_gap(name, pair)}.")
    if ties:
        names = [_gap(other, pair) for other, pair in ties[:LISTED]]
        more = len(ties) - LISTED
        names += [text.counted(more, "more method")] if more > 0 else []
        parts.append(f"Its lead is not significant over {text.joined(names)}.")
        if clear:
            first = clear[0][0].label
            rest = f"{len(clear)} others, from {first} down" if len(clear) > 1 else first
            parts.append(f"It is significant over {rest}.")
        least = min(pair.visible for _, pair in ties)
        parts.append(
            f"Differences under about {text.percent(least)} points can't be seen here (80 % power)."
        )
    if unknown:
        names = [other.label for other in unknown[:LISTED]]
        more = len(unknown) - LISTED
        names += [text.counted(more, "more")] if more > 0 else []
        parts.append(f"Not compared for want of paired logits: {text.joined(names)}.")
    return " ".join(parts)


def _gap(other: Contestant, pair: Pair) -> str:
    return f"{other.label} ({text.signed(pair.difference)} points, p {text.p_value(pair.p)})"


def _cost(headline: Headline, ranked: list[Contestant]) -> str:
    best = ranked[0]
    own = _costs(best)
    if not own:
        return "What it costs is not recorded."
    parts = [f"One run {text.joined(own)}."]
    if len(ranked) > 1 and best.cell and best.cell.billed:
        cheaper = [
            (other.cell.billed, other)
            for other in ranked[1:]
            if other.cell and other.cell.billed and other.cell.billed < best.cell.billed
        ]
        # The best of those that take at most half the time, as the alternative to consider.
        half = [pair for pair in cheaper if pair[0] <= best.cell.billed / 2]
        if half:
            seconds, other = half[0]
            factor = best.cell.billed / seconds
            lost = headline.estimate(best).mean - headline.estimate(other).mean
            parts.append(
                f"{other.label} takes {text.duration(seconds)}, {factor:.1f} times less, and is "
                f"{text.percent(lost)} points behind."
            )
        elif not cheaper:
            parts.append("No other method is quicker.")
    return " ".join(parts)


def _costs(contestant: Contestant) -> list[str]:
    cell = contestant.cell
    if cell is None:
        return []
    found = []
    if cell.trained is not None:
        found.append(f"trains {text.parameters(cell.trained)} parameters")
    if cell.billed is not None:
        found.append(f"takes {text.duration(cell.billed)} (billed)")
    if cell.memory is not None:
        found.append(f"needs {text.megabytes(cell.memory)} at its peak")
    return found
