"""Models of `fsbench reproduce`: lines of a table, notes and next steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fewshot_bench.utils.text import signed

Status = Literal[
    "agrees", "differs", "noisy", "missing", "incomplete", "failed", "mixed", "not compared"
]
# In this order in the summary.
STATUSES: tuple[Status, ...] = (
    *("agrees", "differs", "noisy", "not compared"),
    *("incomplete", "mixed", "failed", "missing"),
)
WORDS = {"noisy": "too noisy to tell"}


@dataclass(frozen=True, slots=True)
class Line:
    """One published number beside ours; all numbers in percent or points of top-1 accuracy.

    dataset: a data set, or `average` over `over` of the `of` data sets that the table has.
    ours: the mean over `seeds` seeds (0 where there is none), sd their standard deviation.
    difference: ours minus the paper's; None where the two must not be compared.
    noise: 95 % range of the difference if both are right. test_sampling: that of ours over other
        test images, for information: both sides have the same ones.
    reason: why there is no number, or no comparison, in a few words.
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
    """The whole answer. conditions: how it was run; differences: what is not as in the paper."""

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
