"""Consistency rules of a store's files, all checked by `fsbench store verify`.

`verify` is the entry point; leftovers of killed processes affect no result and are listed apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.metrics import Answers, measured
from fewshot_bench.api.record import Record, seal_problem
from fewshot_bench.splits.imported import read_imported, split_paths
from fewshot_bench.store.answer_files import (
    FILE,
    Stored,
    contradictions,
    digest_of_file,
    read,
    stored_of,
    value_problems,
)
from fewshot_bench.store.clean import (
    PUBLISHING_SECONDS,
    orphans,
    set_aside,
    temporary_files,
)
from fewshot_bench.store.index import Index
from fewshot_bench.store.index_file import index_file
from fewshot_bench.store.kept_models import list_unclaimed, model_problem
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.outcome_cache import Queries
from fewshot_bench.store.record_files import (
    parse_values,
    read_content,
    record_files,
    record_of,
    stamp_of,
)
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import Damaged
from fewshot_bench.utils.progress import over
from fewshot_bench.utils.text import few

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


_NO_LOGITS = "the logits of a finished cell are missing"
# Records round metrics to 6 digits; the margin allows for another order of summation.
ABSOLUTE, RELATIVE = 2e-6, 1e-9
_ATTEMPTS = 3


@dataclass(frozen=True)
class Cell:
    """A readable record, the arrays beside it, and the problems of both."""

    path: Path
    record: Record
    arrays: Arrays | None
    problems: tuple[str, ...]

    @cached_property
    def stored(self) -> Stored | None:
        """The answers of the arrays, which must be free of problems."""
        return None if self.arrays is None else stored_of(self.arrays, self.record)

    @property
    def missing(self) -> bool:
        """True if the only problem is that logits are missing: the cell counts as not done."""
        return self.problems == (_NO_LOGITS,)


def examine(path: Path) -> Cell:
    """Read and check the record at `path` and all arrays beside it.

    Raises FileNotFoundError, StoreError for a file that a newer version wrote or that cannot be
    read, and Damaged for an unusable record. A cell with problems that a writer replaced meanwhile
    is read again.
    """
    for attempt in range(_ATTEMPTS):
        before = stamp_of(path.stat())
        cell = _examine(path)
        if not cell.problems or attempt == _ATTEMPTS - 1 or stamp_of(path.stat()) == before:
            break
    return cell


def _examine(path: Path) -> Cell:
    content = read_content(path)
    values = parse_values(path, content)
    record = record_of(path, values)
    problems = list(_record_problems(values, content))
    arrays = None
    try:
        file = path.with_suffix(".npz")
        arrays = read(file)
        problems += _array_problems(record, arrays, digest_of_file(file))
    except FileNotFoundError:
        if record.status == "done" or "logits" in record.digests:
            problems.append(_NO_LOGITS)
    except Damaged as error:
        problems.append(f"the logits cannot be read: {error}")
    return Cell(path, record, arrays, tuple(problems))


def _record_problems(values: Mapping[str, Any], content: bytes) -> Iterator[str]:
    names = {field.name for field in dataclasses.fields(Record)}
    if set(values) != names:
        yield f"the record has keys {few(sorted(set(values) ^ names))} too many or too few"
    elif problem := seal_problem(content):
        yield problem


def _array_problems(record: Record, arrays: Arrays, digest: str) -> Iterator[str]:
    """Problems of the arrays; invalid values end the checks, as later rules assume valid ones.

    digest: of their file.
    """
    if record.status != "done" and "logits" not in record.digests:
        return
    if not record.logits_digest:
        yield "the record states no digest of its logits"
    stated = record.digests.get(FILE)
    if stated != digest:
        yield f"the record states the digest {stated!s:.12} of its answers, they have {digest:.12}"
    wrong = list(value_problems(arrays))
    yield from wrong
    if wrong:
        return
    stored = stored_of(arrays, record)
    twice = len(stored.ids) - len(set(stored.ids))
    if twice:
        yield f"{twice} ids stand there more than once"
    yield from contradictions(arrays, stored)
    if record.status == "done":
        yield from _count_problems(record, stored.answers)
        yield from _metric_problems(record, stored.answers)


def _count_problems(record: Record, answers: Answers) -> Iterator[str]:
    counts = {"test": len(answers.labels), "classes": answers.classes}
    for name, count in counts.items():
        if record.split.get(name, count) != count:
            yield f"the record has split.{name} {record.split[name]!r}, its answers have {count}"


def _metric_problems(record: Record, answers: Answers) -> Iterator[str]:
    for name, value in measured(answers).items():
        stated = record.metrics.get(name)
        if not _agrees(stated, value):
            yield f"the record has {name} {stated!r:.40}, its answers give {value:.6f}"


def _agrees(stated: object, value: float) -> bool:
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        return False
    return math.isclose(stated, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


DAMAGED, MISSING, NEWER, DIFFERS = "damaged", "no logits", "not read", "differs"
MODEL = "model"
ORPHAN, LEFT_OVER, SET_ASIDE = "no record", "left over", "set aside"
# Kinds of leftovers, which invalidate no result.
REMAINS = (ORPHAN, LEFT_OVER, SET_ASIDE)
NEXT = {
    DAMAGED: "bring such a cell back from another store (fsbench store merge), or rename its "
    ".json and .npz and give the command of the run again",
    MISSING: "these cells count as not done: the next run computes them again",
    NEWER: "upgrade fewshot_bench, or make the file readable",
    DIFFERS: "cells of one split must have the same queries: compute them again with --force",
    MODEL: "the numbers hold; compute the cells again with --keep-models --force for models",
    ORPHAN: "fsbench store gc removes logits and models without a record",
    LEFT_OVER: "fsbench store gc removes what killed processes left",
    SET_ASIDE: "look at these files if you like, then: fsbench store gc --damaged",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its kind (a key of NEXT), the file, and a description."""

    kind: str
    path: Path
    text: str


@dataclass
class Report:
    """Numbers of records by status, and the findings."""

    statuses: Counter[str] = field(default_factory=Counter)
    splits: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(store: Store) -> Report:
    """Check records with their logits and models, the index, imported picks and leftovers."""
    report = Report()
    queries: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    index = Index(store.path)
    for file in over(list(record_files(store.root)), "records"):
        path = file.path
        cell = _examine_or_report(path, report)
        if cell is None:
            continue
        row = index.find(file.key, file.stamp)
        if row is not None and row.record() != cell.record:
            text = f"it says something else of {path.name} than the file: delete the index"
            report.findings.append(Finding(DAMAGED, index_file(store.path), text))
        report.statuses[cell.record.status] += 1
        if problem := model_problem(store.path, cell.record):
            report.findings.append(Finding(MODEL, path, problem))
        split = cell.record.split.get("digest")
        if cell.record.status == "done" and not cell.problems and isinstance(split, str):
            queries[split][_queries(cell)].append(path)
    for split, paths in queries.items():
        report.findings += _find_differing(split, paths)
    for path in split_paths(store.path):
        report.splits += 1
        try:
            read_imported(path)
        except FsbenchError as error:
            report.findings.append(Finding(DAMAGED, path, str(error)))
    report.findings += _remains(store)
    return report


def _examine_or_report(path: Path, report: Report) -> Cell | None:
    try:
        cell = examine(path)
    except FileNotFoundError:
        return None
    except Damaged as error:
        report.findings.append(Finding(DAMAGED, path, str(error)))
        return None
    except StoreError as error:
        report.findings.append(Finding(NEWER, path, str(error)))
        return None
    if cell.problems:
        kind = MISSING if cell.missing else DAMAGED
        report.findings.append(Finding(kind, path, "; ".join(cell.problems)))
    return cell


def _queries(cell: Cell) -> str:
    """A digest of the ids and labels of a cell's queries."""
    assert cell.stored is not None
    return Queries.of(cell.stored).digest


def _find_differing(split: str, by_queries: dict[str, list[Path]]) -> Iterator[Finding]:
    """Findings for cells of a split whose queries differ from those of most of its cells."""
    usual = max(by_queries.values(), key=len)
    for paths in by_queries.values():
        for path in paths if paths is not usual else ():
            text = f"other ids or labels than {usual[0].stem[:12]}, which has split {split:.12} too"
            yield Finding(DIFFERS, path, text)


def _remains(store: Store) -> Iterator[Finding]:
    for path in orphans(store):
        yield Finding(ORPHAN, path, "logits without a record that they belong to")
    for path in list_unclaimed(store.path, PUBLISHING_SECONDS):
        yield Finding(ORPHAN, path, "a model without a record that states it")
    for path in Leases(store, "").dead():
        yield Finding(LEFT_OVER, path, "claimed by a process that is gone")
    for path in temporary_files(store):
        yield Finding(LEFT_OVER, path, "half-written by a process that is gone")
    for path in set_aside(store):
        yield Finding(SET_ASIDE, path, "was found damaged earlier")
