"""From a published cell and our records of it to a line with a verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.table.cells import inapplicable_reason
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.cells import Cell
from fewshot_bench.plugins.reproduce.matching import is_published_data, mixture
from fewshot_bench.plugins.reproduce.model import Line, Status
from fewshot_bench.plugins.reproduce.noise import Parts, Spread, binomial, half_width, parts, spread
from fewshot_bench.plugins.reproduce.numbers import AVERAGE

# With more noise than this (points), agreement says nothing.
TOO_NOISY = 3.0


@dataclass(frozen=True)
class Judged:
    """A line, and what its noise is made of where there is any."""

    line: Line
    noise: Parts | None = None


@dataclass(frozen=True)
class Circumstances:
    """Facts that hold for the whole table.

    other: what is not the paper's in any cell (`backbone`, `limit`), so that nothing is compared.
    counts: images per role of each published data set. absent: data sets without data.
    """

    seeds: tuple[int, ...]
    other: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]
    absent: Collection[str]


def judge(cell: Cell, records: Sequence[Record], around: Circumstances) -> Judged:
    """The line of one cell."""
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
    mean = math.fsum(values) / len(values)
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
    difference = mean - number.value
    if base.seeds < wanted:
        reason = f"{base.seeds} of {wanted} seeds"
        return Judged(_with(base, "incomplete", reason, difference=difference))
    return Judged(verdict(_with(base, "agrees", difference=difference)), made)


def average(lines: Sequence[Judged], label: str, shots: int) -> Line:
    """The mean over the data sets that both sides have; `over` says how many these are.

    Data sets that must not be compared with the paper are averaged only where all are such.
    """
    there = [one for one in lines if one.line.ours is not None and one.line.status != "incomplete"]
    compared = [one for one in there if one.noise is not None]
    used = compared or there
    decimals = max(one.line.decimals for one in lines)
    if not used:
        paper = _mean([one.line.paper for one in lines])
        return Line(label, AVERAGE, shots, paper, decimals, "missing", of=len(lines))
    paper, ours = _mean([u.line.paper for u in used]), _mean([u.line.ours for u in used])
    made = [one.noise for one in used if one.noise is not None]
    line = Line(
        *(label, AVERAGE, shots, paper, decimals, "agrees"),
        ours=ours,
        seeds=min(one.line.seeds for one in used),
        noise=half_width(made),
        over=len(used),
        of=len(lines),
    )
    if not compared:
        reasons = dict.fromkeys(one.line.reason for one in used)
        return _with(line, "not compared", "; ".join(reasons))
    assert paper is not None
    assert ours is not None
    return verdict(_with(line, "agrees", difference=ours - paper))


def verdict(line: Line) -> Line:
    """The line with the verdict that its difference and noise lead to."""
    assert line.difference is not None
    if line.noise is None:
        return _with(line, "noisy", "the spread over seeds is not known: run three or more")
    if abs(line.difference) > line.noise:
        return _with(line, "differs")
    return _with(line, "noisy" if line.noise > TOO_NOISY else "agrees")


def _other(cell: Cell, done: Sequence[Record], around: Circumstances) -> list[str]:
    """Conditions other than the paper's, under which the numbers must not be compared."""
    found = [*around.other, *(["options"] if cell.changed else [])]
    counts = around.counts.get(cell.number.dataset, {})
    return found + ([] if all(is_published_data(r, counts) for r in done) else ["data"])


def _empty(cell: Cell, records: Sequence[Record], around: Circumstances) -> Line:
    failed = [record for record in records if record.status == "failed"]
    inapplicable = [record for record in records if record.status == "inapplicable"]
    if failed:
        kinds = sorted({str((r.error or {}).get("type") or "unknown error") for r in failed})
        return _line(cell, "failed", reason=", ".join(kinds))
    if inapplicable:
        return _line(cell, "failed", reason=inapplicable_reason(inapplicable[0]))
    reason = "no data" if cell.number.dataset in around.absent else ""
    return _line(cell, "missing", reason=reason)


def _line(
    cell: Cell,
    status: Status,
    *,
    reason: str = "",
    ours: float | None = None,
    sd: float | None = None,
    seeds: int = 0,
    noise: float | None = None,
    images: int = 0,
    test_sampling: float | None = None,
) -> Line:
    number = cell.number
    return Line(
        *(cell.label, number.dataset, cell.shots, number.value, number.decimals, status),
        ours=ours,
        sd=sd,
        seeds=seeds,
        noise=noise,
        images=images,
        test_sampling=test_sampling,
        reason=reason,
    )


def _with(line: Line, status: Status, reason: str = "", **values: float | None) -> Line:
    return dataclasses.replace(line, status=status, reason=reason, **values)  # type: ignore[arg-type]


def _published_spread(cell: Cell) -> Spread:
    # A source that does not say over how many seeds it averages is taken to have one.
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
    return math.fsum(known) / len(known) if known else None
