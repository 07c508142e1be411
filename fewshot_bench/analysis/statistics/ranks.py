"""Rank tests over data sets (Demsar 2006), which treat data sets as draws and ignore images.

Scores are arrays (data sets, methods) of means over seeds; higher is better. Scores that agree to
nine decimals are ties, since means of equal numbers may differ by rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.utils.errors import UsageError

DECIMALS = 9
# Nodes of Gauss-Legendre quadrature, and the normal quantile beyond which no mass is left in
# double precision.
NODES, FARTHEST = 128, 9.0
MOST_EXACT = 200


class Tested(Protocol):
    """The part of a comparison that `wins` needs, such as `paired.Comparison`."""

    @property
    def difference(self) -> float: ...

    @property
    def p(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Wins:
    """Numbers of data sets on which one method is better, not distinguishable, and worse."""

    win: int
    tie: int
    loss: int


def wins(comparisons: Iterable[Tested], alpha: float = 0.05) -> Wins:
    """Count comparisons, one per data set: a win or loss is a difference with p below `alpha`.

    Pass adjusted p-values (`intervals.holm`) to control the error over all data sets.
    """
    signs = [np.sign(each.difference) if each.p < alpha else 0 for each in comparisons]
    return Wins(signs.count(1), signs.count(0), signs.count(-1))


def average_ranks(scores: ArrayLike) -> NDArray[np.float64]:
    """(methods,) mean ranks over data sets; 1 is best, ties get the mean of their ranks."""
    ranks: NDArray[np.float64] = _ranks(_table(scores)).mean(axis=0)
    return ranks


def friedman(scores: ArrayLike) -> tuple[float, float]:
    """Friedman's chi-squared statistic, corrected for ties, and p for equal methods.

    p is from the chi-squared distribution, which is conservative for few data sets: with 3 data
    sets a small p is hard to reach. (0, 1) if all methods tie everywhere.
    """
    from scipy import special

    ranks = _ranks(_table(scores))
    datasets, methods = ranks.shape
    # Observed variance of the ranks; equals k (k + 1) / 12 without ties (Conover 1999).
    variance = float(((ranks - (methods + 1) / 2) ** 2).sum()) / (methods - 1)
    if variance == 0:
        return 0.0, 1.0
    sums = ranks.sum(axis=0) - datasets * (methods + 1) / 2
    statistic = float(sums @ sums) / variance
    return statistic, float(special.chdtrc(methods - 1, statistic))


def critical_difference(methods: int, datasets: int, alpha: float = 0.05) -> float:
    """The critical difference of average ranks: Demsar 2006, section 3.2.2."""
    if methods < 2 or datasets < 1:
        raise UsageError(
            f"critical difference of {methods} methods on {datasets} data sets: expected at least "
            "2 methods and 1 data set"
        )
    return _studentized(methods, alpha) / math.sqrt(2) * _rank_error(datasets, methods)


def cliques(ranks: ArrayLike, cd: float) -> list[tuple[int, ...]]:
    """Groups of methods that cannot be distinguished: the bars of a critical-difference diagram.

    ranks: (methods,) average ranks. Each tuple holds indices of methods in order of rank, all
    within less than `cd`; only maximal groups of at least two.
    """
    values = np.asarray(ranks, dtype=float)
    order = np.argsort(values, kind="stable")
    groups: list[tuple[int, ...]] = []
    end = 0
    for start in range(len(order)):
        near = values[order] - values[order[start]] < cd
        stop = int(np.flatnonzero(near)[-1]) + 1
        if stop > end and stop - start > 1:
            groups.append(tuple(int(index) for index in order[start:stop]))
        end = max(end, stop)
    return groups


def signed_rank(differences: ArrayLike) -> float:
    """p of Wilcoxon's signed-rank test for differences of two methods, one per data set.

    Exact up to 200 data sets, also with ties: all sign assignments to the ranks are equally likely.
    Data sets without a difference are ranked but count for neither side (Pratt 1959), which for the
    exact test equals Demsar's split into halves. With five data sets or fewer p cannot be below
    0.05. p is 1 if all differences are 0.
    """
    from scipy import special

    values = np.round(np.asarray(differences, dtype=float), DECIMALS)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise UsageError("differences for the signed-rank test: expected one finite number each")
    if not values.any():
        return 1.0
    doubled = np.rint(2 * _ranks(-np.abs(values)[None, :])[0]).astype(int)
    weights, signs = doubled[values != 0], np.sign(values[values != 0])
    total = int(weights.sum())
    distance = abs(int(signs @ weights))
    if len(weights) > MOST_EXACT:
        return float(2 * special.ndtr(-distance / math.sqrt(weights @ weights)))
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for weight in weights:
        shifted = np.zeros_like(chances)
        shifted[weight:] = chances[: total + 1 - weight]
        chances = (chances + shifted) / 2
    far = np.abs(2 * np.arange(total + 1) - total) >= distance
    return min(1.0, float(chances[far].sum()))


def _table(scores: ArrayLike) -> NDArray[np.float64]:
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise UsageError(
            f"scores of shape {table.shape} for ranks: expected (data sets, methods) with at least "
            "one data set and two methods"
        )
    if not np.isfinite(table).all():
        raise UsageError(
            "scores for ranks are not all there: expected a finite number for every method on "
            "every data set; leave out data sets or methods with gaps"
        )
    return table


def _ranks(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks in each row; 1 is the highest value, ties get the mean of their ranks."""
    values = np.round(table, DECIMALS)
    above = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks: NDArray[np.float64] = above + (equal + 1) / 2
    return ranks


def _rank_error(datasets: int, methods: int) -> float:
    return math.sqrt(methods * (methods + 1) / (6 * datasets))


@functools.cache
def _studentized(methods: int, alpha: float) -> float:
    """Upper `alpha` quantile of the range of `methods` standard normals, by bisection.

    Equals `scipy.stats.studentized_range.isf` with infinite freedom, but importing that package
    takes longer than a whole table.
    """
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _range_beyond(middle, methods) > alpha else (low, middle)
    return (low + high) / 2


def _range_beyond(width: float, methods: int) -> float:
    """Probability that the range of standard normals exceeds `width`."""
    from scipy import special

    # Integrate over the value of the maximum.
    nodes, weights = gauss_legendre(NODES)
    highest = FARTHEST * (2 * nodes - 1)
    density = np.exp(-(highest**2) / 2) / math.sqrt(2 * math.pi)
    below = special.ndtr(highest) - special.ndtr(highest - width)
    return 1 - float(methods * 2 * FARTHEST * (weights @ (density * below ** (methods - 1))))


@functools.cache
def gauss_legendre(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights (count,) of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2
