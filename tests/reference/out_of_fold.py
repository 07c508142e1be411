"""Results of out-of-fold answers, counted picture by picture with loops and exact fractions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction

from scipy.stats import binomtest


def interval(right: int, images: int) -> tuple[float, float]:
    """Wilson's interval at 95 % of a whole number of images."""
    found = binomtest(right, images).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def confusion(
    labels: Sequence[int], groups: Sequence[int], answers: Sequence[Sequence[int]], classes: int
) -> list[list[Fraction]]:
    """Pictures by label and answer; answers: by repeat. Copies share the weight of one picture."""
    members = defaultdict(list)
    for index, unit in enumerate(zip(labels, groups, strict=True)):
        members[unit].append(index)
    table = [[Fraction(0)] * classes for _ in range(classes)]
    for (label, _), places in members.items():
        for repeat in answers:
            for place in places:
                table[label][repeat[place]] += Fraction(1, len(places) * len(answers))
    return table


def top1(table: Sequence[Sequence[Fraction]]) -> Fraction:
    """Share of all pictures that are right."""
    right = sum((row[at] for at, row in enumerate(table)), Fraction(0))
    return right / sum(sum(row) for row in table)


def macro(table: Sequence[Sequence[Fraction]]) -> Fraction:
    """Mean recall of the classes that have pictures."""
    recalls = [row[at] / sum(row) for at, row in enumerate(table) if any(row)]
    return sum(recalls, Fraction(0)) / len(recalls)
