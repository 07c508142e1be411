"""Compares published numbers with ours: difference, expected noise, verdict.

`judge` and `average` make the lines of a `Report`. A difference is only claimed beyond the noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fewshot_bench.analysis.statistics.intervals import FEWEST, quantile, rounded
from fewshot_bench.analysis.table.cells import inapplicable_reason
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.cells import Cell
from fewshot_bench.plugins.reproduce.matching import is_published_data, mixture
from fewshot_bench.plugins.reproduce.numbers import AVERAGE
from fewshot_bench.utils.text import signed

Status = Literal[
    "agrees",
    "differs",
    "noisy",
    "missing",
    "incomplete",
    "failed",
    "inapplicable",
    "mixed",
    "not compared",
    "not shipped",
]
# In this order in the summary.
STATUSES: tuple[Status, ...] = (
    *("agrees", "differs", "noisy", "not compared"),
    *("incomplete", "mixed", "failed", "inapplicable", "missing", "not shipped"),
)
WORDS = {"noisy": "too noisy to tell", "inapplicable": "n/a"}
# Reason for a data set whose images are not there.
NO_DATA = "no data"
# Reason for a data set of which only a mean with others is published.
MEAN_ALONE = "a mean alone is published"


@dataclass(frozen=True, slots=True)
class Line:
    """One published number beside ours; all numbers in percent or points of top-1 accuracy.

    dataset: a data set, or `average` over `over` of the `of` data sets that the table has.
    ours: the mean over `seeds` seeds (0 if there is none), sd their standard deviation.
    difference: ours minus the paper's; None if one is missing or they must not be compared.
    noise: 95 % range of the difference if both are right. test_sampling: 95 % range of ours over
        other test images, for information only: both sides have the same images.
    reason: why there is no number, or no comparison, in a few words.
    classes: `all`, `base`, `new`, or `harmonic` for the harmonic mean of the two means.
    kind, schedule: of the paper's row: `Source.kind`, and its training schedule.
    """

    method: str
    dataset: str
    shots: int
    paper: float | None
    decimals: int
    status: Status
    ours: float | None = None
    sd: float | None = None
    seeds: int = 0
    difference: float | None = None
    noise: float | None = None
    images: int = 0
    test_sampling: float | None = None
    reason: str = ""
    over: int = 0
    of: int = 0
    classes: str = "all"
    kind: str = ""
    schedule: str = ""

    @property
    def ratio(self) -> float | None:
        """The size of the difference in units of the noise."""
        if self.difference is None or not self.noise:
            return None
        return abs(self.difference) / self.noise

    @property
    def average(self) -> bool:
        """True when this is a mean over data sets."""
        return self.of > 0

    @property
    def verdict(self) -> str:
        """The status in words: `agrees`, `differs (+1.3, 2.4 x noise)`, `incomplete (2 of 3)`."""
        word = WORDS.get(self.status, self.status)
        if self.status == "differs" and self.difference is not None and self.ratio is not None:
            digits = 1 if self.ratio >= 1.1 else 2
            return f"{word} ({signed(self.difference)}, {self.ratio:.{digits}f} x noise)"
        if self.status == "not compared":
            return self.reason
        return f"{word} ({self.reason})" if self.reason else word


@dataclass(frozen=True)
class Report:
    """Comparison of a table. conditions: of our runs; differences: from the paper, or unknown."""

    name: str
    title: str
    sources: Sequence[str]
    backbone: str
    conditions: Sequence[str]
    differences: Sequence[str]
    lines: Sequence[Line]
    notes: Sequence[str] = field(default=())
    advice: Sequence[str] = field(default=())

    def counts(self, *, averages: bool) -> dict[Status, int]:
        """Numbers of lines by status, without zeros."""
        found = Counter(line.status for line in self.lines if line.average == averages)
        return {status: found[status] for status in STATUSES if found[status]}


# Number of data sets behind means that papers print without the numbers of the data sets.
SETS_OF_MEANS = 11
# With more noise than this (points), agreement means nothing.
TOO_NOISY = 3.0


@dataclass(frozen=True)
class Judged:
    """A line, and the components of its noise if there is any."""

    line: Line
    noise: Parts | None = None


@dataclass(frozen=True)
class Circumstances:
    """Facts that hold for the whole table.

    other: conditions of all cells that differ from the paper (`backbone`, `limit`), so that nothing
    is compared.
    counts: images per role, and `classes`, of each published data set. absent: why data sets were
        not run, by name: `NO_DATA`, or left out of the plan.
    """

    seeds: tuple[int, ...]
    other: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    absent: Mapping[str, str]


def judge(cell: Cell, records: Sequence[Record], around: Circumstances) -> Judged:
    """Judge one cell by its records."""
    if cell.variant is None:
        return Judged(_line(cell, "not shipped"))
    number = cell.number
    done = [r for r in records if r.status == "done" and _top1(r) is not None]
    if not done:
        return Judged(_empty(cell, records, around))
    mixed = mixture(done)
    if mixed:
        reason = f"records differ in {' and '.join(mixed)}"
        return Judged(_line(cell, "mixed", reason=reason))
    values = [value for record in done if (value := _top1(record)) is not None]
    images = _images(done)
    ours = spread(values)
    mean = rounded(math.fsum(values) / len(values))
    made = parts(ours, _published_spread(cell), images, number.decimals, random=cell.setting.random)
    noise = half_width([made])
    base = _line(
        cell,
        "agrees",
        ours=mean,
        sd=ours.sd,
        seeds=len({record.spec.train_seed for record in done}),
        noise=noise,
        images=images,
        test_sampling=binomial(mean, images),
    )
    other = _other(cell, done, around)
    if other:
        return Judged(_with(base, "not compared", f"other {', '.join(other)}", noise=None))
    wanted = len(around.seeds) if cell.setting.random else 1
    difference = None if cell.paper is None else mean - cell.paper
    if base.seeds < wanted:
        reason = f"{base.seeds} of {wanted} seeds"
        return Judged(_with(base, "incomplete", reason, difference=difference))
    if difference is None:
        return Judged(_with(base, "not compared", MEAN_ALONE), made)
    return Judged(verdict(_with(base, "agrees", difference=difference)), made)


def averaged(lines: Sequence[Judged]) -> list[Judged]:
    """The lines that a mean is over: those that can be compared, or all others if there is none."""
    there = [one for one in lines if one.line.ours is not None and one.line.status != "incomplete"]
    return [one for one in there if one.noise is not None] or there


def average(lines: Sequence[Judged], label: str, shots: int, mean: float | None = None) -> Line:
    """The mean over the data sets that both sides have; `over` is their number.

    Data sets that must not be compared with the paper are averaged only if all of them are such.
    mean: the paper's, if it prints no numbers of data sets: compared if all of ours are there.
    """
    used = averaged(lines)
    compared = [one for one in used if one.noise is not None]
    decimals = max(one.line.decimals for one in lines)
    if not used:
        paper = _mean([one.line.paper for one in lines]) if mean is None else mean
        found = {one.line.status for one in lines}
        status: Status = "missing"
        if len(found) == 1:
            (status,) = found & {"not shipped", "inapplicable"} or {"missing"}
        return Line(label, AVERAGE, shots, paper, decimals, status, of=len(lines))
    paper = _mean([u.line.paper for u in used]) if mean is None else mean
    ours = _mean([u.line.ours for u in used])
    line = Line(
        *(label, AVERAGE, shots, paper, decimals, "agrees"),
        ours=ours,
        seeds=min(one.line.seeds for one in used),
        noise=half_width(_rounded_once(compared, printed=mean is None)),
        over=len(used),
        of=len(lines),
    )
    if not compared:
        reasons = dict.fromkeys(one.line.reason for one in used)
        return _with(line, "not compared", "; ".join(reasons))
    assert paper is not None
    assert ours is not None
    if mean is not None and len(used) < SETS_OF_MEANS:
        return _with(line, "incomplete", f"{len(used)} of {SETS_OF_MEANS} sets", noise=None)
    return verdict(_with(line, "agrees", difference=ours - paper))


def _rounded_once(compared: Sequence[Judged], *, printed: bool) -> list[Parts]:
    """Components of the noise; a mean that is printed alone is rounded only once.

    printed: whether a number is printed for each data set.
    """
    found = [one.noise for one in compared if one.noise is not None]
    if printed:
        return found
    return [dataclasses.replace(part, rounding=len(found) * part.rounding) for part in found]


def harmonic(base: Line, new: Line, printed: float | None, *, same: bool) -> Line:
    """The harmonic mean of two means: H = 2bn / (b + n), not the mean over data sets of their H.

    printed: the paper's; None if it prints none, and it is computed from its means. same: whether
    both means are over the same data sets; otherwise there is no H. The noise follows from
    dH/db = 2 (n / (b + n))^2 and dH/dn, taking the means as independent.
    """
    paper = _harmonic(base.paper, new.paper) if printed is None else printed
    ours = _harmonic(base.ours, new.ours)
    status = base.status if base.ours is None else new.status
    line = Line(
        *(base.method, AVERAGE, base.shots, paper, base.decimals, status),
        ours=ours,
        seeds=min(base.seeds, new.seeds),
        over=min(base.over, new.over),
        of=base.of,
        classes="harmonic",
    )
    if ours is not None and not same:
        reason = "base and new are not of the same sets"
        return _with(line, "incomplete", reason, ours=None, paper=printed, over=0)
    if base.difference is None or new.difference is None or ours is None or paper is None:
        lacking = [one for one in (base, new) if one.ours is None]
        lacking += [one for one in (base, new) if one.difference is None]
        unlike = lacking[0] if lacking else new
        return _with(line, unlike.status, unlike.reason)
    if base.noise is not None and new.noise is not None:
        assert base.ours is not None
        assert new.ours is not None
        share = new.ours / (base.ours + new.ours)
        noise = math.hypot(2 * share**2 * base.noise, 2 * (1 - share) ** 2 * new.noise)
        line = dataclasses.replace(line, noise=noise)
    return verdict(_with(line, "agrees", difference=ours - paper))


def _harmonic(base: float | None, new: float | None) -> float | None:
    """Harmonic mean; None if one is missing, or both are 0."""
    if base is None or new is None or not base + new:
        return None
    return 2 * base * new / (base + new)


def verdict(line: Line) -> Line:
    """The line with the verdict that follows from its difference and noise."""
    assert line.difference is not None
    if line.noise is None:
        return _with(line, "noisy", "the spread over seeds is not known: run three or more")
    if abs(line.difference) > line.noise:
        return _with(line, "differs")
    return _with(line, "noisy" if line.noise > TOO_NOISY else "agrees")


def _other(cell: Cell, done: Sequence[Record], around: Circumstances) -> list[str]:
    """Conditions other than the paper's, under which the numbers must not be compared."""
    found = [*around.other, *(["options"] if cell.changed else [])]
    found += ["schedule"] if cell.setting.other_schedule(done) else []
    counts = around.counts.get(cell.number.dataset, {})
    return found + ([] if all(is_published_data(r, counts) for r in done) else ["data"])


def _empty(cell: Cell, records: Sequence[Record], around: Circumstances) -> Line:
    failed = [record for record in records if record.status == "failed"]
    inapplicable = [record for record in records if record.status == "inapplicable"]
    if failed:
        kinds = sorted({str((r.error or {}).get("type") or "unknown error") for r in failed})
        return _line(cell, "failed", reason=", ".join(kinds))
    if inapplicable:
        return _line(cell, "inapplicable", reason=inapplicable_reason(inapplicable[0]))
    return _line(cell, "missing", reason=around.absent.get(cell.number.dataset, ""))


def _line(cell: Cell, status: Status, **values: Any) -> Line:
    number = cell.number
    place = (cell.label, number.dataset, cell.shots)
    return Line(*place, cell.paper, number.decimals, status, **values)


def _with(line: Line, status: Status, reason: str = "", **values: float | None) -> Line:
    return dataclasses.replace(line, status=status, reason=reason, **values)  # type: ignore[arg-type]


def _published_spread(cell: Cell) -> Spread:
    # A source that does not state its number of seeds is assumed to have one.
    return Spread(cell.number.seeds or 1, cell.number.sd)


def _top1(record: Record) -> float | None:
    value = record.metrics.get("top1")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _images(records: Sequence[Record]) -> int:
    counts = [record.metrics.get("n") for record in records]
    return min((count for count in counts if isinstance(count, int)), default=0)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(math.fsum(known) / len(known)) if known else None


# Two-sided 95 % of the normal distribution.
NORMAL = 1.959964
# Share of test images so close to a class boundary that other arithmetic (device, precision,
# decoder) may change their class: two runs of zero-shot CLIP with one prompt differ by 0.2 points
# on StanfordCars, which this share explains (docs/reproduce.md).
UNDECIDED = 0.01


@dataclass(frozen=True, slots=True)
class Parts:
    """Components of the noise of one difference; variances in squared points.

    seeds: of the difference of the two means, from the spread over seeds; None where the spread is
        not known. freedom: the degrees of freedom of that estimate.
    images: from test images whose class depends on the arithmetic (UNDECIDED). rounding: of the
        printed number.
    """

    seeds: float | None
    freedom: float
    images: float
    rounding: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Values over seeds: how many, and their standard deviation; None where it is not known."""

    n: int
    sd: float | None


def spread(values: Sequence[float]) -> Spread:
    """The standard deviation over seeds (n - 1 in the denominator); None for one seed."""
    n = len(values)
    if n < 2:
        return Spread(n, None)
    mean = math.fsum(values) / n
    return Spread(n, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def parts(ours: Spread, paper: Spread, images: int, decimals: int, *, random: bool) -> Parts:
    """Components of the noise of one cell.

    ours, paper: the two sides; a paper that prints no standard deviation is assumed to have ours.
    images: test images; both sides have the same, so that their choice adds no noise.
    decimals: of the printed number. random: False where seeds change nothing (zero-shot).
    """
    wobble = UNDECIDED * 100**2 / images if images else 0.0
    rounding = (0.5 * 10.0**-decimals) ** 2 / 3
    if not random:
        return Parts(0.0, math.inf, wobble, rounding)
    known = [side for side in (ours, paper) if side.sd is not None and side.n > 1]
    freedom = sum(side.n - 1 for side in known)
    if not freedom or not ours.n:
        return Parts(None, 0, wobble, rounding)
    pooled = math.fsum((side.n - 1) * (side.sd or 0.0) ** 2 for side in known) / freedom
    return Parts(pooled * (1 / ours.n + 1 / max(paper.n, 1)), freedom, wobble, rounding)


def half_width(cells: Sequence[Parts]) -> float | None:
    """Half the width of the 95 % range of the mean difference over these cells, in points.

    Student's t for the seeds (Welch and Satterthwaite's degrees of freedom for several cells,
    rounded down), the normal distribution for the rest; both add as independent errors do. None
    where the spread over seeds is not known for a cell, or from no more than two seeds in all.
    """
    if not cells or any(cell.seeds is None for cell in cells):
        return None
    count = len(cells)
    variances = [cell.seeds or 0.0 for cell in cells]
    freedom = _freedom(variances, cells)
    if freedom < FEWEST - 1:
        return None
    seeds = student(freedom) ** 2 * math.fsum(variances)
    rest = NORMAL**2 * math.fsum(cell.images + cell.rounding for cell in cells)
    return math.sqrt(seeds + rest) / count


def student(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t; the normal one for infinite freedom."""
    return NORMAL if math.isinf(freedom) else quantile(max(int(freedom), 1))


def binomial(accuracy: float, images: int) -> float | None:
    """95 % half-width of an accuracy (percent) over other test images: not part of the noise.

    None where the number of images is not known.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * NORMAL * math.sqrt(share * (1 - share) / images) if images else None


def _freedom(variances: Sequence[float], cells: Sequence[Parts]) -> float:
    below = math.fsum(
        variance**2 / cell.freedom
        for variance, cell in zip(variances, cells, strict=True)
        if variance
    )
    return math.fsum(variances) ** 2 / below if below else math.inf
