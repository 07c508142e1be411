"""Compares published numbers with ours: difference, expected noise, verdict.

`judge` and `average` make the lines of a `Report`. A difference is only claimed beyond the noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from fewshot_bench.analysis.statistics.intervals import rounded
from fewshot_bench.analysis.table.build import inapplicable_reason
from fewshot_bench.analysis.table.columns import number as finite
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.cells import Cell
from fewshot_bench.plugins.reproduce.matching import is_published_data, mixture
from fewshot_bench.plugins.reproduce.noise import (
    Parts,
    Spread,
    binomial,
    half_width,
    parts,
    spread,
)
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, HARMONIC
from fewshot_bench.utils.text import signed

Status = Literal[
    # In this order in the summary.
    "agrees",
    "differs",
    "noisy",
    "not compared",
    "incomplete",
    "mixed",
    "failed",
    "inapplicable",
    "missing",
    "not shipped",
]
WORDS = {"noisy": "too noisy to tell", "inapplicable": "n/a"}
# Reason for a data set whose images are not there.
NO_DATA = "no data"
# Reason for a data set of which only a mean with others is published.
MEAN_ALONE = "a mean alone is published"
# Number of data sets behind means that papers print without the numbers of the data sets.
SETS_OF_MEANS = 11
# With more noise than this (points), agreement means nothing.
TOO_NOISY = 3.0


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
    parts: components of the noise; None where nothing must be compared.
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
    parts: Parts | None = None

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

    def become(self, status: Status, reason: str = "", **values: Any) -> Line:
        """The line with another status, and other values of fields."""
        return dataclasses.replace(self, status=status, reason=reason, **values)

    def compare(self) -> Line:
        """The line with the verdict that follows from its difference and noise."""
        assert self.difference is not None
        if self.noise is None:
            return self.become("noisy", "the spread over seeds is not known: run three or more")
        if abs(self.difference) > self.noise:
            return self.become("differs")
        return self.become("noisy" if self.noise > TOO_NOISY else "agrees")


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
        counts = Counter(line.status for line in self.lines if line.average == averages)
        return {status: counts[status] for status in get_args(Status) if counts[status]}


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


def judge(cell: Cell, records: Sequence[Record], around: Circumstances) -> Line:
    """Judge one cell by its records."""
    number, random = cell.number, cell.setting.random
    missing = around.absent.get(number.dataset, "")
    line = Line(cell.label, number.dataset, cell.shots, cell.paper, number.decimals, "missing")
    if cell.variant is None:
        return line.become("not shipped")
    done = [record for record in records if record.status == "done"]
    tops = [(record, value) for record in done if (value := _top1(record)) is not None]
    if not tops:
        return line.become(*(_explain_absence(records) or ("missing", missing)))
    done = [record for record, _ in tops]
    mixed = mixture(done)
    if mixed:
        return line.become("mixed", f"records differ in {' and '.join(mixed)}")
    values = [value for _, value in tops]
    ours, mean = spread(values), rounded(math.fsum(values) / len(values))
    counts = [record.metrics.get("n") for record in done]
    images = min((count for count in counts if isinstance(count, int)), default=0)
    # A source that does not state its number of seeds is assumed to have one.
    paper = Spread(number.seeds or 1, number.sd)
    noise = parts(ours, paper, images, number.decimals, random=random)
    line = line.become(
        "agrees",
        ours=mean,
        sd=ours.sd,
        seeds=len({record.spec.train_seed for record in done}),
        noise=half_width([noise]),
        images=images,
        test_sampling=binomial(mean, images),
    )
    other = _list_other_conditions(cell, done, around)
    if other:
        return line.become("not compared", f"other {', '.join(other)}", noise=None)
    difference = None if cell.paper is None else mean - cell.paper
    wanted = len(around.seeds) if random else 1
    if line.seeds < wanted:
        reason = f"{line.seeds} of {wanted} seeds"
        return line.become("incomplete", reason, difference=difference)
    if difference is None:
        return line.become("not compared", MEAN_ALONE, parts=noise)
    return line.become("agrees", difference=difference, parts=noise).compare()


def _top1(record: Record) -> float | None:
    value = finite(record.metrics.get("top1"))
    return None if value is None else float(value)


def _explain_absence(records: Sequence[Record]) -> tuple[Status, str] | None:
    """Status and reason of a cell without a number, from its records; None if they say nothing."""
    failed = [record for record in records if record.status == "failed"]
    if failed:
        kinds = {str((record.error or {}).get("type") or "unknown error") for record in failed}
        return "failed", ", ".join(sorted(kinds))
    reasons = [inapplicable_reason(r) for r in records if r.status == "inapplicable"]
    return ("inapplicable", reasons[0]) if reasons else None


def _list_other_conditions(cell: Cell, done: Sequence[Record], around: Circumstances) -> list[str]:
    """Conditions other than the paper's, under which the numbers must not be compared."""
    counts = around.counts.get(cell.number.dataset, {})
    differing = {
        "options": cell.changed,
        "schedule": cell.setting.other_schedule(done),
        "data": not all(is_published_data(record, counts) for record in done),
    }
    return [*around.other, *(name for name, differs in differing.items() if differs)]


def select_averaged(lines: Sequence[Line]) -> list[Line]:
    """The lines that a mean is over: those that can be compared, or all others if there is none."""
    there = [line for line in lines if line.ours is not None and line.status != "incomplete"]
    return [line for line in there if line.parts is not None] or there


def average(lines: Sequence[Line], label: str, shots: int, mean: float | None = None) -> Line:
    """The mean over the data sets that both sides have; `over` is their number.

    Data sets that must not be compared with the paper are averaged only if all of them are such.
    mean: the paper's, if it prints no numbers of data sets: compared if all of ours are there.
    """
    used = select_averaged(lines)
    paper = _mean([line.paper for line in used or lines]) if mean is None else mean
    decimals = max(line.decimals for line in lines)
    whole = Line(label, AVERAGE, shots, paper, decimals, "missing", of=len(lines))
    if not used:
        statuses = {line.status for line in lines}
        alike = statuses if len(statuses) == 1 else set()
        return whole.become(next(iter(alike & {"not shipped", "inapplicable"}), "missing"))
    noises = [line.parts for line in used if line.parts is not None]
    whole = whole.become(
        "agrees",
        ours=_mean([line.ours for line in used]),
        seeds=min(line.seeds for line in used),
        noise=half_width(noises, printed_once=mean is not None),
        over=len(used),
    )
    if not noises:
        return whole.become("not compared", "; ".join(dict.fromkeys(line.reason for line in used)))
    if mean is not None and len(used) < SETS_OF_MEANS:
        reason = f"{len(used)} of {SETS_OF_MEANS} sets"
        return whole.become("incomplete", reason, noise=None)
    assert whole.paper is not None
    assert whole.ours is not None
    return whole.become("agrees", difference=whole.ours - whole.paper).compare()


def harmonic(base: Line, new: Line, printed: float | None, *, same: bool) -> Line:
    """The harmonic mean of two means: H = 2bn / (b + n), not the mean over data sets of their H.

    printed: the paper's; None if it prints none, and it is computed from its means. same: whether
    both means are over the same data sets; otherwise there is no H. The noise follows from
    dH/db = 2 (n / (b + n))^2 and dH/dn, taking the means as independent.
    """
    paper = _harmonic_mean(base.paper, new.paper) if printed is None else printed
    ours = _harmonic_mean(base.ours, new.ours)
    status = base.status if base.ours is None else new.status
    line = Line(
        *(base.method, AVERAGE, base.shots, paper, base.decimals, status),
        ours=ours,
        seeds=min(base.seeds, new.seeds),
        over=min(base.over, new.over),
        of=base.of,
        classes=HARMONIC,
    )
    if ours is not None and not same:
        reason = "base and new are not of the same sets"
        return line.become("incomplete", reason, ours=None, paper=printed, over=0)
    if base.difference is None or new.difference is None or ours is None or paper is None:
        lacking = [half for half in (base, new) if half.ours is None]
        lacking += [half for half in (base, new) if half.difference is None]
        unlike = lacking[0] if lacking else new
        return line.become(unlike.status, unlike.reason)
    noise = None
    if base.noise is not None and new.noise is not None:
        assert base.ours is not None
        assert new.ours is not None
        share = new.ours / (base.ours + new.ours)
        noise = math.hypot(2 * share**2 * base.noise, 2 * (1 - share) ** 2 * new.noise)
    return line.become("agrees", difference=ours - paper, noise=noise).compare()


def _harmonic_mean(base: float | None, new: float | None) -> float | None:
    """Harmonic mean; None if one is missing, or both are 0."""
    if base is None or new is None or not base + new:
        return None
    return 2 * base * new / (base + new)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return rounded(math.fsum(numbers) / len(numbers)) if numbers else None
