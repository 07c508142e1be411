"""The verdict on answers in other company: `judge` compares logits, and runs no code of a method.

The process that holds the labels calls it, so that nothing in a method's own process decides.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewshot_bench.api.metrics import TOLERANCE, gap

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.profiling.meter import Meter

# Queries that are asked for again.
ASKED = 16


class Comparison(NamedTuple):
    """Logits of some queries and those of a second answer, (n, classes); None if that failed.

    violation: what a difference is; empty for what the card allows. company: True if the second
    answer is one in other company.
    """

    violation: str
    company: bool
    expected: np.ndarray
    again: np.ndarray | None

    def gap(self, answers: np.ndarray) -> float:
        """The gap of both (`metrics.gap`), given all answers of the cell."""
        return math.inf if self.again is None else gap(self.again, self.expected, answers)

    def pack(self) -> list[Any]:
        """The inverse of `unpack`, as JSON holds it."""
        both = (self.expected, self.again)
        texts = (None if rows is None else b64encode(rows.tobytes()).decode() for rows in both)
        return [self.violation, self.company, *texts]


class Answered(NamedTuple):
    """A record without its metrics; of one that is done, logits (queries, classes) in their order.

    scores: those for all classes of the classifier. meter: the bill. compared: logits that say
    whether they depend on other queries.
    """

    record: Record
    answers: Any = None
    scores: Any = None
    meter: Meter | None = None
    compared: Sequence[Comparison] = ()


def unpack(packed: Sequence[Any], classes: int) -> Comparison:
    """The comparison of float32 logits that was packed."""
    violation, company, *texts = packed
    expected, again = (
        np.frombuffer(b64decode(text or ""), np.float32).reshape(-1, classes) for text in texts
    )
    return Comparison(str(violation), bool(company), expected, None if texts[1] is None else again)


def count_asked(queries: int) -> int:
    """The number of queries that are asked for again."""
    return min(ASKED, max(1, queries // 2))


def judge(compared: Sequence[Comparison], answers: np.ndarray, precision: str) -> Mapping[str, Any]:
    """Facts for a footprint, from all answers (n, classes) of a cell.

    Whether logits depend on other queries, and by how much (`metrics.gap`; None if the method
    failed); the share of answers that others change; what is not as declared (`VIOLATIONS`). None
    stands for what too few queries were asked for.
    """
    gaps = [one.gap(answers) for one in compared]
    found = [not distance <= TOLERANCE[precision] for distance in gaps]
    violations = [one.violation for one, differs in zip(compared, found, strict=True) if differs]
    others = [at for at, one in enumerate(compared) if one.company]
    facts: dict[str, Any] = dict.fromkeys(("depends_on_queries", "query_gap", "moved"))
    if others and min(len(compared[at].expected) for at in others) >= count_asked(len(answers)):
        largest, first = max(gaps[at] for at in others), compared[others[0]]
        facts["depends_on_queries"] = any(found[at] for at in others)
        facts["query_gap"] = largest if math.isfinite(largest) else None
        if first.again is not None:
            moved = first.again.argmax(axis=1) != first.expected.argmax(axis=1)
            facts["moved"] = float(moved.mean())
    return facts | {"violations": [*dict.fromkeys(filter(None, violations))]}
