"""What the best method costs, in words."""

from __future__ import annotations

from fewshot_bench.analysis.table.columns import BILLED, COSTS
from fewshot_bench.analysis.table.model import Cell
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.pairs import Pairs


def cost(headline: Headline, pairs: Pairs) -> str:
    """Trained parameters, time and memory of the best method, and a cheaper one to consider."""
    cell = headline.ranked[0].cell
    known = _costs(cell, _device(headline)) if cell else []
    if cell is None or not known:
        return "What it costs is not recorded."
    unknown = [cost.subject for name, cost in COSTS.items() if cell.costs.get(name) is None]
    parts = [f"One run (one data set, one seed) {text.joined(known)}."]
    parts += [f"Not recorded: {text.joined(unknown)}."] if unknown else []
    return " ".join([*parts, *_cheaper(headline, pairs)])


def _costs(cell: Cell, device: str) -> list[str]:
    """What is known as sentences, the device behind the time."""
    return [
        f"{cost.sentence(cost.words(value), value)}{device if cost is BILLED else ''}"
        for name, cost in COSTS.items()
        if (value := cell.costs.get(name)) is not None
    ]


def _device(headline: Headline) -> str:
    devices = headline.table.conditions.get("device", ())
    return f" on {text.name(devices[0])}" if len(devices) == 1 else ""


def _cheaper(headline: Headline, pairs: Pairs) -> list[str]:
    """The best of those that take at most half the time, as the alternative to consider."""
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
