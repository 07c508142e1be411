"""Compares published numbers with ours: difference, expected noise, verdict.

`judge`, `average` and `harmonic` make the lines of a report. A difference is only claimed beyond
the noise.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fewshot_bench.analysis.statistics.intervals import rounded
from fewshot_bench.analysis.table.build import inapplicable_reason
from fewshot_bench.analysis.table.costs import number as finite
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.cells import Cell
from fewshot_bench.plugins.reproduce.matching import is_published_data, mixture
from fewshot_bench.plugins.reproduce.noise import Parts, Spread, binomial, half_width, parts, spread
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
STATUSES: tuple[Status, ...] = get_args(Status)
WORDS = {"noisy": "too noisy to tell", "inapplicable": "n/a"}
# With more noise than this (points), agreement means nothing.
TOO_NOISY = 3.0


@dataclass(frozen=True, slots=True)
class Line:
    """One published number beside ours; all numbers in percent or points of top-1 accuracy.

    dataset: a data set, or `average` over `datasets` of the `datasets_of` that the table has.
    ours: the mean over `seeds` seeds (0 if there is none), sd their standard deviation.
    difference: ours minus the paper's; None if one is missing or they must not be compared.
    noise: 95 % range of the difference if both are right. test_sampling: 95 % range of ours over
        other test images, for information only: both sides have the same images.
    reason: why there is no number, or no comparison, in a few words.
    classes: `all`, `base`, `new`, or `harmonic` for the harmonic mean of the two means.
    kind, schedule: of the paper's row: `Number.kind`, and its training schedule.
    decimals: of the paper's number. parts: of the noise; None where nothing must be compared.
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
    test_images: int | None = None
    test_sampling: float | None = None
    reason: str = ""
    datasets: int | None = None
    datasets_of: int | None = None
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
    def is_average(self) -> bool:
        """True when this is a mean over data sets."""
        return self.datasets_of is not None

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

    def compare(self, paper: float, ours: float, noise: float | None) -> Line:
        """The line with the verdict on a difference."""
        line = self.become("agrees", difference=ours - paper, noise=noise)
        if noise is None:
            return line.become("noisy", "the spread over seeds is not known: run three or more")
        if abs(ours - paper) > noise:
            return line.become("differs")
        return line.become("noisy" if noise > TOO_NOISY else "agrees")


def judge(
    cell: Cell,
    records: Sequence[Record],
    seeds: int,
    other: Sequence[str],
    counts: Mapping[str, int],
    absent: str = "",
) -> Line:
    """Judge one cell by its records.

    seeds: how many were asked for. other: conditions of all cells that are not the paper's, so that
    nothing is compared. counts: images per role and `classes` of the published data set. absent:
    why its runs are missing.
    """
    number, random = cell.number, cell.setting.random
    line = Line(
        *(cell.label, number.dataset, cell.shots, cell.paper, number.decimals, "missing"),
        classes=number.classes,
        kind=number.kind,
        schedule=cell.setting.schedule,
    )
    if cell.variant is None:
        return line.become("not shipped")
    tops = [(record, _top1(record)) for record in records if record.status == "done"]
    values = [value for _, value in tops if value is not None]
    if not values:
        return line.become(*_explain_absence(records, absent))
    done = [record for record, value in tops if value is not None]
    if mixed := mixture(done):
        return line.become("mixed", f"records differ in {' and '.join(mixed)}")
    ours, mean = spread(values), rounded(math.fsum(values) / len(values))
    images = [record.metrics.get("n") for record in done]
    least = min((count for count in images if isinstance(count, int)), default=0)
    # A source that does not state its number of seeds is assumed to have one.
    paper = Spread(number.seeds or 1, number.sd)
    noise = parts(ours, paper, least, number.decimals, random=random)
    line = line.become(
        "not compared",
        ours=mean,
        sd=ours.sd,
        seeds=len({record.spec.train_seed for record in done}),
        test_images=least or None,
        test_sampling=binomial(mean, least),
    )
    differing = {
        "options": cell.changed,
        "schedule": cell.setting.other_schedule(done),
        "data": not all(is_published_data(record, counts) for record in done),
    }
    if number.incomparable:
        return line.become("not compared", "not comparable")
    unlike = [*other, *(name for name, differs in differing.items() if differs)]
    if unlike:
        return line.become("not compared", f"other {', '.join(unlike)}")
    wanted = seeds if random else 1
    if line.seeds < wanted:
        difference = None if cell.paper is None else mean - cell.paper
        reason = f"{line.seeds} of {wanted} seeds"
        width = half_width([noise])
        return line.become("incomplete", reason, difference=difference, noise=width)
    line = dataclasses.replace(line, parts=noise, noise=half_width([noise]))
    if cell.paper is None:
        return line.become("not compared", "a mean alone is published")
    return line.compare(cell.paper, mean, line.noise)


def _top1(record: Record) -> float | None:
    value = finite(record.metrics.get("top1"))
    return None if value is None else float(value)


def _explain_absence(records: Sequence[Record], absent: str) -> tuple[Status, str]:
    """Status and reason of a cell without a number."""
    failed = [record for record in records if record.status == "failed"]
    if failed:
        kinds = {str((record.error or {}).get("type") or "unknown error") for record in failed}
        return "failed", ", ".join(sorted(kinds))
    reasons = [inapplicable_reason(r) for r in records if r.status == "inapplicable"]
    return ("inapplicable", reasons[0]) if reasons else ("missing", absent)


def select_averaged(lines: Sequence[Line]) -> list[Line]:
    """The lines that a mean is over: those that can be compared, or all others if there is none."""
    there = [line for line in lines if line.ours is not None and line.status != "incomplete"]
    return [line for line in there if line.parts is not None] or there


def average(lines: Sequence[Line], mean: float | None = None, sets: int = 0) -> Line:
    """The mean of a row over the data sets that both sides have.

    Data sets that must not be compared with the paper are averaged only if all of them are such.
    mean: the paper's, if it prints no numbers of data sets: compared if all of ours are there, as
    many as `sets`.
    """
    used = select_averaged(lines)
    paper = _mean([line.paper for line in used or lines]) if mean is None else mean
    decimals = max(line.decimals for line in lines)
    first = lines[0]
    whole = Line(
        *(first.method, AVERAGE, first.shots, paper, decimals, "missing"),
        datasets=len(used),
        datasets_of=len(lines),
        classes=first.classes,
        kind=first.kind,
        schedule=first.schedule,
    )
    if not used:
        statuses = {line.status for line in lines}
        alike = statuses & {"not shipped", "inapplicable"} if len(statuses) == 1 else set()
        return whole.become(next(iter(alike), "missing"))
    ours = _mean([line.ours for line in used])
    whole = dataclasses.replace(whole, ours=ours, seeds=min(line.seeds for line in used))
    noises = [line.parts for line in used if line.parts is not None]
    if not noises:
        return whole.become("not compared", "; ".join(dict.fromkeys(line.reason for line in used)))
    if mean is not None and len(used) < sets:
        return whole.become("incomplete", f"{len(used)} of {sets} sets")
    assert paper is not None
    assert ours is not None
    return whole.compare(paper, ours, half_width(noises, printed_once=mean is not None))


def harmonic(base: Line, new: Line, printed: float | None, *, same: bool) -> Line:
    """The harmonic mean of two means: H = 2bn / (b + n), not the mean over data sets of their H.

    printed: the paper's; None if it prints none, and it is computed from its means. same: whether
    both means are over the same data sets; otherwise there is no H. The noise follows from
    dH/db = 2 (n / (b + n))^2 and dH/dn, taking the means as independent.
    """
    paper = _harmonic_mean(base.paper, new.paper) if printed is None else printed
    ours = _harmonic_mean(base.ours, new.ours)
    line = dataclasses.replace(
        base,
        paper=paper,
        ours=ours,
        seeds=min(base.seeds, new.seeds),
        datasets=min(base.datasets or 0, new.datasets or 0),
        classes=HARMONIC,
        difference=None,
        noise=None,
    )
    if ours is not None and not same:
        reason = "base and new are not of the same sets"
        return line.become("incomplete", reason, ours=None, paper=printed, datasets=0)
    if base.difference is None or new.difference is None or ours is None or paper is None:
        halves = base, new
        lacking = [half for half in halves if half.ours is None]
        lacking += [half for half in halves if half.difference is None]
        unlike = (lacking or [new])[0]
        return line.become(unlike.status, unlike.reason)
    noise = None
    if base.noise is not None and new.noise is not None:
        share = (new.ours or 0.0) / ((base.ours or 0.0) + (new.ours or 0.0))
        noise = math.hypot(2 * share**2 * base.noise, 2 * (1 - share) ** 2 * new.noise)
    return line.compare(paper, ours, noise)


def _harmonic_mean(base: float | None, new: float | None) -> float | None:
    """Harmonic mean; None if one is missing, or both are 0."""
    if base is None or new is None or not base + new:
        return None
    return 2 * base * new / (base + new)


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return rounded(math.fsum(numbers) / len(numbers)) if numbers else None
