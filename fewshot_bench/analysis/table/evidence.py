"""The evidence below a table, as grids: tests against the baseline, ranks, variances.

`evidence` is the entry.
"""

from __future__ import annotations

import math
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.analysis.formats.document import MISSING, Column, Grid, Line
from fewshot_bench.analysis.table.notes import marks
from fewshot_bench.analysis.table.table import Ranking, Significance, Standing, Table
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.utils.text import beside_level, joined, signed

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.paired import Comparison

# The mark of tests that are over test images alone.
ONE_SEED = "; ONE SEED: about these fits, not about the methods"


def explain_stars(table: Table) -> str:
    """Explanation of the star beside a difference, for the caption; empty without tests."""
    tests = table.significance.contrasts if table.significance is not None else ()
    if not tests:
        return ""
    over = _paired_over(test.result for test in tests)
    paired = f"paired over {over} too" if over else "paired over seeds"
    halves = (
        " (of base and new, only H is tested)" if any(g.scope == "H" for g in table.groups) else ""
    )
    text = f"; * p < 0.05{halves}, {paired}, after Holm's correction"
    return text + (ONE_SEED if any(test.result.conditional for test in tests) else "")


def _paired_over(results: Iterable[Comparison]) -> str:
    """The draws that tests count beside seeds: `test images`; empty if each test set is one."""
    words = {"test images": {"image", "anew"}, "batches of test images": {"batch"}}
    units = frozenset[str]().union(*(result.units for result in results))
    return joined([text for text, of in words.items() if of & units])


def evidence(table: Table) -> Iterator[Grid]:
    """The grids; none without a baseline or crossed seeds."""
    tests = table.significance
    if tests is not None:
        for shots in table.shots:
            standings = [part for part in tests.standings if part.overall.shots == shots]
            if standings:
                yield _standings_grid(table, shots, standings)
        yield from (_rank_grid(table, ranking) for ranking in tests.rankings)
        if tests.detectable:
            yield _detectable_grid(table, tests)
    if table.variations:
        yield _variations_grid(table)


def _standings_grid(table: Table, shots: int, standings: Sequence[Standing]) -> Grid:
    sets = max(standing.overall.result.datasets for standing in standings)
    digits = table.main.digits
    heads = ["difference", "95 % interval", "p", "p (Holm)"]
    heads += ["win/tie/loss", "Wilcoxon p"] if sets > 1 else []
    titles = {row.label: row.title for row in table.rows}
    lines = []
    for standing in standings:
        result, overall = standing.overall.result, standing.overall
        bounds = f"{signed(result.low, digits)} to {signed(result.high, digits)}"
        texts = [
            f"{signed(result.difference, digits)}{'*' if overall.significant else ''}",
            bounds if result.bounded else MISSING,
            probability(result.p) if result.tested else MISSING,
            probability(overall.adjusted) if result.tested else MISSING,
        ]
        if sets > 1:
            wilcoxon = standing.signed_rank
            texts += [f"{standing.wins}/{standing.ties}/{standing.losses}"]
            texts += [MISSING if wilcoxon is None else probability(wilcoxon)]
        out = len(standing.left_out)
        texts += [f"{result.datasets}{f' of {result.datasets + out}' if out else ''}"]
        lines.append(Line.of(titles[overall.row], *texts))
    over = _paired_over(standing.overall.result for standing in standings)
    caption = (
        f"against {table.baseline} in {table.main.difference}, paired over seeds"
        f"{over and f' and {over}'}, data sets with equal weight; * p < 0.05 after Holm's "
        f"correction over {len(standings)} {'method' if len(standings) == 1 else 'methods'}"
    )
    caption += ONE_SEED if any(s.overall.result.conditional for s in standings) else ""
    return _grid(table, f"significance, {shots}-shot", caption, [*heads, "data sets"], lines)


def _rank_grid(table: Table, ranking: Ranking) -> Grid:
    has_letters = len(ranking.cliques) <= len(string.ascii_lowercase)
    cliques: defaultdict[str, list[int]] = defaultdict(list)
    for number, clique in enumerate(ranking.cliques):
        for label in clique:
            cliques[label].append(number)
    titles = {row.label: row.title for row in table.rows}
    lines = []
    for label, rank in zip(ranking.rows, ranking.ranks, strict=True):
        own = cliques[label]
        if has_letters:
            text = "".join(string.ascii_lowercase[number] for number in own)
        else:
            # Cliques are sorted by rank, so those of one row are consecutive.
            text = "–".join(dict.fromkeys(f"{number + 1}" for number in (*own[:1], *own[-1:])))
        lines.append(Line.of(titles[label], f"{rank:.2f}", text))
    caption = (
        f"average rank over {ranking.datasets} data sets, 1 is best; Friedman p "
        f"{probability(ranking.p)}; critical difference {ranking.critical:.2f} (Nemenyi, 5 %): "
        f"methods with a {'letter' if has_letters else 'number'} in common are not told apart"
    )
    return _grid(table, f"ranks, {ranking.shots}-shot", caption, ["rank", "groups"], lines)


def _detectable_grid(table: Table, tests: Significance) -> Grid:
    points = {}
    for part in tests.detectable:
        # Percentages never differ by more than 100, but two seeds may require it.
        whole = table.main.unit == PERCENT and part.points > 100
        digits = max(1, table.main.digits - 1)
        text = ">100" if whole else f"{part.points:.{digits}f}"
        points[part.group, part.shots] = f"{text} (n={part.seeds})"
    shots = sorted({part.shots for part in tests.detectable})
    labels = dict.fromkeys(part.group for part in tests.detectable)
    lines = [
        Line.of(table.shown(label), *(points.get((label, k), MISSING) for k in shots))
        for label in labels
    ]
    is_single = any(part.seeds == 1 for part in tests.detectable)
    single = "; n=1 leaves out the noise of seeds" if is_single else ""
    caption = (
        f"differences to {table.baseline} in {table.main.points} that can be seen: smaller ones "
        "are missed more than one time in five (the method with the median error); rough with few "
        f"seeds{single}{marks(table)}"
    )
    heads = [f"{k}-shot" for k in shots]
    return _grid(table, "smallest differences", caption, heads, lines, "data set")


def _variations_grid(table: Table) -> Grid:
    lines = []
    for part in table.variations:
        texts = [MISSING] * 4
        if part.components is not None:
            own = part.components
            variances = own.support, own.training, own.sampling, own.residual
            texts = [
                MISSING if value is None else f"{math.sqrt(value):.{table.main.digits}f}"
                for value in variances
            ]
        title = f"{part.row} on {table.shown(part.group)}, {part.shots}-shot"
        lines.append(Line.of(title, *texts))
    caption = (
        f"standard deviations in {table.main.points}, from crossed split and training seeds; "
        f"negative estimates of a variance are shown as 0{marks(table)}"
    )
    heads = ["support set", "training seed", "test images", "rest"]
    return _grid(table, "where the numbers vary from", caption, heads, lines, "cell")


def _grid(
    table: Table,
    name: str,
    caption: str,
    heads: Sequence[str],
    lines: Sequence[Line],
    first: str = "method",
) -> Grid:
    footer = table.signature(table.seeds)
    return Grid(name, caption, Column.sides(*heads), tuple(lines), footer, first)


def probability(p: float) -> str:
    """A p-value with two significant digits, more near 5 %: 0.031, 0.0498, <0.0001."""
    if p < 0.0001:
        return "<0.0001"
    return beside_level(p, 2 if p >= 0.1 else 3 if p >= 0.01 else 4)
