"""Grids of the comparisons with the baseline: who is told apart, ranks, what could be seen."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from fewshot_bench.analysis.formats.document import MISSING, Grid, Line
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.analysis.table.significance import Detectable, Ranking, Significance, Standing
from fewshot_bench.analysis.table.variation import Variation
from fewshot_bench.utils.text import beside_level, signed

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def evidence(table: Table) -> Iterator[Grid]:
    """All grids that speak about differences; none without a baseline or crossed seeds."""
    found = table.significance
    if found is not None:
        for shots in table.shots:
            standings = [one for one in found.standings if one.overall.shots == shots]
            if standings:
                yield _standings(table, shots, standings)
        yield from (_ranking(table, ranking) for ranking in found.rankings)
        if found.detectable:
            yield _detectable(table, found)
    if table.variations:
        yield _variations(table)


def _standings(table: Table, shots: int, standings: list[Standing]) -> Grid:
    sets = max(one.overall.result.datasets for one in standings)
    heads = ["difference", "95 % interval", "p", "p (Holm)"]
    heads += ["win/tie/loss", "Wilcoxon p"] if sets > 1 else []
    heads += ["data sets"]
    lines = []
    for one in standings:
        result = one.overall.result
        texts = [
            f"{signed(result.difference)}{'*' if one.overall.significant else ''}",
            f"{signed(result.low)} to {signed(result.high)}" if result.bounded else MISSING,
            probability(result.p),
            probability(one.overall.adjusted),
        ]
        if sets > 1:
            texts += [f"{one.wins}/{one.ties}/{one.losses}"]
            texts += [MISSING if one.signed_rank is None else probability(one.signed_rank)]
        out = f" of {result.datasets + len(one.left_out)}" if one.left_out else ""
        texts += [f"{result.datasets}{out}"]
        title = next(row.title for row in table.rows if row.label == one.overall.row)
        lines.append(Line(title, (), tuple(texts)))
    conditional = any(one.overall.result.conditional for one in standings)
    caption = (
        f"against {table.baseline} in {table.main.difference}, paired over seeds and "
        f"test images, data sets with equal weight; * p < 0.05 after Holm's correction over "
        f"{len(standings)} {'method' if len(standings) == 1 else 'methods'}"
    )
    caption += "; ONE SEED: about these fits, not about the methods" if conditional else ""
    return _grid(table, f"significance, {shots}-shot", caption, heads, lines)


def _ranking(table: Table, ranking: Ranking) -> Grid:
    groups = _groups(ranking)
    common = "letter" if _lettered(ranking) else "number"
    titles = {row.label: row.title for row in table.rows}
    lines = [
        Line(titles[label], (), (f"{rank:.2f}", groups.get(label, "")))
        for label, rank in zip(ranking.rows, ranking.ranks, strict=True)
    ]
    caption = (
        f"average rank over {ranking.datasets} data sets, 1 is best; Friedman p "
        f"{probability(ranking.p)}; critical difference {ranking.critical:.2f} (Nemenyi, 5 %): "
        f"methods with a {common} in common are not told apart"
    )
    return _grid(table, f"ranks, {ranking.shots}-shot", caption, ["rank", "groups"], lines)


def _lettered(ranking: Ranking) -> bool:
    return len(ranking.cliques) <= len(_LETTERS)


def _groups(ranking: Ranking) -> dict[str, str]:
    """By row the cliques that it is in: letters, or where these run out the range of numbers."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for place, clique in enumerate(ranking.cliques):
        for label in clique:
            found[label].append(place)
    if _lettered(ranking):
        return {label: "".join(_LETTERS[p] for p in places) for label, places in found.items()}
    # Cliques follow each other down the ranks, so those of one row are next to each other.
    return {
        label: "–".join(dict.fromkeys(f"{place + 1}" for place in (places[0], places[-1])))
        for label, places in found.items()
    }


def _detectable(table: Table, found: Significance) -> Grid:
    by_place = {(one.group, one.shots): one for one in found.detectable}
    shots = sorted({one.shots for one in found.detectable})
    labels = dict.fromkeys(one.group for one in found.detectable)
    lines = [
        Line(table.shown(label), (), tuple(_points(by_place.get((label, k))) for k in shots))
        for label in labels
    ]
    caption = (
        f"differences to {table.baseline} in points that can be seen: smaller ones are missed more "
        "than one time in five (the method with the median error); rough with few seeds"
    )
    heads = [f"{k}-shot" for k in shots]
    return _grid(table, "smallest differences", caption, heads, lines, "data set")


def _points(one: Detectable | None) -> str:
    if one is None:
        return MISSING
    return f"{one.points:.1f} (n={one.seeds})"


def _variations(table: Table) -> Grid:
    lines = [
        Line(f"{one.row} on {table.shown(one.group)}, {one.shots}-shot", (), _parts(one))
        for one in table.variations
    ]
    caption = (
        "standard deviations in points, from crossed split and training seeds; negative estimates "
        "of a variance are shown as 0"
    )
    heads = ["support set", "training seed", "test images", "rest"]
    return _grid(table, "where the numbers vary from", caption, heads, lines, "cell")


def _parts(one: Variation) -> tuple[str, ...]:
    found = one.components
    if found is None:
        return (MISSING,) * 4
    parts = found.support, found.training, found.sampling, found.residual
    return tuple(f"{math.sqrt(value):.2f}" for value in parts)


def _grid(
    table: Table,
    name: str,
    caption: str,
    heads: list[str],
    lines: list[Line],
    first: str = "method",
) -> Grid:
    footer = table.signature(table.seeds)
    return Grid(name, caption, (), tuple(heads), tuple(lines), footer, first)


def probability(p: float) -> str:
    """A p-value with two digits that matter, more beside 5 %: 0.031, 0.0498, <0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return beside_level(p, 2 if p >= 0.1 else 3 if p >= 0.01 else 4)
