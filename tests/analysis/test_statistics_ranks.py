"""Holm and the rank tests against statsmodels, scipy and Demsar's table."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fewshot_bench.analysis.statistics.intervals import holm
from fewshot_bench.analysis.statistics.ranks import (
    Wins,
    average_ranks,
    cliques,
    critical_difference,
    friedman,
    signed_rank,
    wins,
)
from fewshot_bench.utils.errors import UsageError

EXACT = {"rel": 1e-9, "abs": 1e-9}

tables = st.tuples(st.integers(2, 12), st.integers(3, 7)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(0, 8).map(float))
)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=12)
def test_holm_is_statsmodels_holm(p: list[float]) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], **EXACT)


def test_holm_of_nothing_and_of_what_is_no_probability() -> None:
    assert holm([]) == []
    for value in (float("nan"), -0.1, 1.1):
        with pytest.raises(UsageError, match="expected a number from 0 to 1"):
            holm([0.5, value])


@given(tables)
def test_ranks_and_friedman_are_scipys_with_ties(table: np.ndarray) -> None:
    ranks = stats.rankdata(-table, axis=1).mean(axis=0)
    assert average_ranks(table) == pytest.approx(ranks, **EXACT)
    statistic, p = friedman(table)
    if (table == table[:, :1]).all():
        assert (statistic, p) == (0.0, 1.0)
    else:
        oracle = stats.friedmanchisquare(*table.T)
        assert statistic == pytest.approx(oracle.statistic, **EXACT)
        assert p == pytest.approx(oracle.pvalue, **EXACT)


def test_friedman_of_two_methods_counts_signs() -> None:
    statistic, _ = friedman([[2, 1], [2, 1], [2, 1], [1, 2]])
    assert statistic == pytest.approx((3 - 1) ** 2 / 4)


# Demsar 2006, table 5(a): q at 5 % and 10 % for 2 to 10 classifiers.
DEMSAR_5 = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
DEMSAR_10 = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)


@pytest.mark.parametrize(("alpha", "row"), [(0.05, DEMSAR_5), (0.1, DEMSAR_10)])
def test_critical_differences_are_those_of_demsars_table(
    alpha: float, row: tuple[float, ...]
) -> None:
    for methods, q in enumerate(row, start=2):
        error = np.sqrt(methods * (methods + 1) / (6 * 11))
        assert critical_difference(methods, 11, alpha) == pytest.approx(q * error, abs=2e-3)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("methods", [2, 3, 6, 12, 20, 40])
def test_critical_differences_are_scipys(methods: int, alpha: float) -> None:
    q = stats.studentized_range.isf(alpha, methods, np.inf) / np.sqrt(2)
    expected = q * np.sqrt(methods * (methods + 1) / (6 * 11))
    assert critical_difference(methods, 11, alpha) == pytest.approx(expected, **EXACT)


def test_critical_difference_of_an_example() -> None:
    # Demsar 2006, section 3.2.2: four classifiers on 14 data sets, 1.25.
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_cliques_are_the_largest_groups_that_are_not_told_apart() -> None:
    ranks = [3.0, 1.0, 2.0, 5.5, 1.5]
    assert cliques(ranks, 1.1) == [(1, 4, 2), (2, 0)]
    assert cliques(ranks, 0.4) == []
    assert cliques(ranks, 10) == [(1, 4, 2, 0, 3)]
    assert cliques([1.0, 3.0], 2.0) == []  # a difference of just cd is one
    assert cliques([2.0, 2.0], 0.5) == [(0, 1)]


@given(st.lists(st.floats(1, 6), min_size=2, max_size=8), st.floats(0.1, 4))
def test_every_pair_is_in_a_clique_just_when_it_is_near(ranks: list[float], cd: float) -> None:
    found = cliques(ranks, cd)
    for i, j in itertools.combinations(range(len(ranks)), 2):
        assert any({i, j} <= set(c) for c in found) == (abs(ranks[i] - ranks[j]) < cd)
    assert not any(set(a) < set(b) for a, b in itertools.permutations(found, 2))


@given(st.lists(st.integers(-40, 40).filter(bool), min_size=1, max_size=12, unique_by=abs))
def test_signed_rank_is_scipys_exact_test(differences: list[int]) -> None:
    assert signed_rank(differences) == pytest.approx(
        stats.wilcoxon(differences, method="exact").pvalue, **EXACT
    )


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=7).filter(any))
@settings(max_examples=40)
def test_signed_rank_with_ties_and_zeros_is_the_exact_permutation(differences: list[int]) -> None:
    for zeros in ("pratt", "zsplit"):
        oracle = stats.wilcoxon(
            np.array(differences, dtype=float),
            zero_method=zeros,
            method=stats.PermutationMethod(n_resamples=np.inf),
        )
        assert signed_rank(differences) == pytest.approx(oracle.pvalue, **EXACT)


def test_signed_rank_by_chance_and_without_differences() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(0.1, 1, 300)
    oracle = stats.wilcoxon(many, method="approx", correction=False).pvalue
    assert signed_rank(many) == pytest.approx(oracle, **EXACT)
    assert signed_rank([0.0, 0.0]) == 1
    assert signed_rank([1.0]) == 1
    assert signed_rank([1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    assert signed_rank([0.1 + 0.2, -0.3]) == 1  # a tie but for rounding
    with pytest.raises(UsageError, match="one finite number each"):
        signed_rank([1.0, float("nan")])


def test_ties_but_for_rounding_are_ties() -> None:
    assert average_ranks([[0.1 + 0.2, 0.3, 0.4]]).tolist() == [2.5, 2.5, 1]


@dataclass
class Found:
    difference: float
    p: float


def test_wins_count_what_is_told_apart() -> None:
    found = [Found(2, 0.01), Found(1, 0.2), Found(-3, 0.001), Found(4, 0.0), Found(0, 1)]
    assert wins(found) == Wins(win=2, tie=2, loss=1)
    assert wins(found, alpha=0.005) == Wins(win=1, tie=3, loss=1)
    assert wins([]) == Wins(0, 0, 0)


@pytest.mark.parametrize("scores", [[1, 2, 3], [[1], [2]], [[1, float("nan")]]])
def test_tables_with_gaps_or_of_another_shape_are_refused(scores: list[object]) -> None:
    for test in (average_ranks, friedman):
        with pytest.raises(UsageError, match=r"scores .*for ranks"):
            test(scores)
    with pytest.raises(UsageError, match="at least 2 methods"):
        critical_difference(1, 5)
