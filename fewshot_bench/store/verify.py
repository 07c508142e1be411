"""Consistency rules of a store's files, all checked by `fsbench store verify`.

`verify` is the entry point; leftovers of killed processes affect no result and are listed apart.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.metrics import BUILT_IN, measured
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALONE
from fewshot_bench.splits.imported import read_imported, split_paths
from fewshot_bench.store import clean
from fewshot_bench.store.answer_files import (
    FILE,
    WHOLE,
    Stored,
    build_stored,
    list_problems,
    read,
)
from fewshot_bench.store.index import Index, index_file
from fewshot_bench.store.kept_code import list_damaged_code
from fewshot_bench.store.kept_files import list_damaged_files, list_lacking
from fewshot_bench.store.kept_methods import list_damaged
from fewshot_bench.store.kept_models import model_problem
from fewshot_bench.store.log_files import LOG, log_problem
from fewshot_bench.store.predictions import Queries
from fewshot_bench.store.record_files import read_record, record_files, stamp_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import Damaged
from fewshot_bench.utils.progress import over

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
        return None if self.arrays is None else build_stored(self.arrays, self.record)

    @property
    def missing(self) -> bool:
        """True if the only problem is that logits are missing: the cell counts as not done."""
        return self.problems == (_NO_LOGITS,)


def examine(path: Path) -> Cell:
    """Read and check the record at `path` and all arrays beside it.

    Raises FileNotFoundError, StoreError for a file that a newer version wrote or that cannot be
    read, and Damaged for an unusable record.
    """
    for _ in range(_ATTEMPTS):
        before = stamp_of(path.stat())
        record, arrays, problems = read_record(path), None, list[str]()
        try:
            arrays, digest = read(path.with_suffix(".npz"))
            problems += _check_answers(record, arrays, digest)
        except FileNotFoundError:
            if record.status == "done" or WHOLE in record.digests:
                problems.append(_NO_LOGITS)
        except Damaged as error:
            problems.append(f"the logits cannot be read: {error}")
        # A writer may have replaced the cell meanwhile.
        if not problems or stamp_of(path.stat()) == before:
            break
    return Cell(path, record, arrays, tuple(problems))


def _check_answers(record: Record, arrays: Arrays, digest: str) -> Iterator[str]:
    """Problems of the arrays; invalid values end the checks, as later rules assume valid ones.

    digest: of their file.
    """
    if record.status != "done" and WHOLE not in record.digests:
        return
    if not record.logits_digest:
        yield "the record states no digest of its logits"
    stated = record.digests.get(FILE)
    if stated != digest:
        yield f"the record states the digest {stated!s:.12} of its answers, they have {digest:.12}"
    stored = build_stored(arrays, record)
    wrong = list(list_problems(arrays, stored))
    yield from wrong
    if wrong:
        return
    if record.status != "done":
        return
    answers, split = stored.answers, record.split
    for name, count in (("test", len(answers.labels)), ("classes", answers.classes)):
        if split.get(name, count) != count:
            yield f"the record has split.{name} {split[name]!r}, its answers have {count}"
    if (answers.groups is None) != (record.spec.queries == ALONE):
        found = "no" if answers.groups is None else "some"
        yield f"the record has queries {record.spec.queries}, its answers have {found} groups"
    # A metric that the record does not state may be newer than the record.
    known = [metric for name, metric in BUILT_IN.items() if name in record.metrics]
    for name, value in measured(answers, known).items():
        number = record.metrics.get(name, value)
        if not math.isclose(number, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            yield f"the record has {name} {number!r:.40}, its answers give {value:.6f}"


DAMAGED, MISSING, NEWER, DIFFERS = "damaged", "no logits", "not read", "differs"
MODEL, CODE = "model", "code"
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
    LOG: "the numbers hold; only what the cell printed is lost",
    CODE: "run the method's file again with this store, or merge a store that has it",
    ORPHAN: "fsbench store gc removes logits, logs, models and code without a record",
    LEFT_OVER: "fsbench store gc removes what killed processes left",
    SET_ASIDE: "look at these files if you like, then: fsbench store gc --damaged",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: its kind (a key of NEXT), the file, and a description."""

    kind: str
    path: Path
    text: str


# What `fsbench store gc` removes: the kind here, and the text.
_LEFTOVERS = {
    clean.ORPHANS: (ORPHAN, "logits or a log without a record that they belong to"),
    clean.UNCLAIMED: (ORPHAN, "a model without a record that states it"),
    clean.UNUSED: (ORPHAN, "code of a method without a record"),
    clean.CLAIMS: (LEFT_OVER, "claimed by a process that is gone"),
    clean.TEMPORARIES: (LEFT_OVER, "half-written by a process that is gone"),
    clean.SET_ASIDE: (SET_ASIDE, "was found damaged earlier"),
}


@dataclass
class Report:
    """Numbers of records by status, and the findings."""

    statuses: Counter[str] = field(default_factory=Counter)
    splits: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, path: Path, text: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, path, text))


def verify(store: Store) -> Report:
    """Check records with their logits and models, the index, imported picks and leftovers."""
    report = Report()
    queries: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    index = Index(store.path)
    for file in over(list(record_files(store.root)), "records"):
        path = file.path
        try:
            cell = examine(path)
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            report.add(DAMAGED if isinstance(error, Damaged) else NEWER, path, str(error))
            continue
        record = cell.record
        report.statuses[record.status] += 1
        if cell.problems:
            report.add(MISSING if cell.missing else DAMAGED, path, "; ".join(cell.problems))
        row = index.find(file.key, file.stamp)
        if row is not None and row.record() != record:
            text = f"it says something else of {path.name} than the file: delete the index"
            report.add(DAMAGED, index_file(store.path), text)
        for name in list_lacking(store.path, record.spec.files):
            report.add(CODE, path, f"the store lacks {name}, a file of its hyper-parameters")
        if problem := model_problem(store.path, record):
            report.add(MODEL, path, problem)
        if problem := log_problem(path, record):
            report.add(LOG, path, problem)
        split = record.split.get("digest")
        if record.status == "done" and not cell.problems and isinstance(split, str):
            assert cell.stored is not None
            queries[split][Queries.of(cell.stored).digest].append(path)
    for split, by_queries in queries.items():
        # Those of most cells of the split are taken for right.
        usual = max(by_queries.values(), key=len)
        text = f"other ids or labels than {usual[0].stem[:12]}, which has split {split:.12} too"
        for paths in by_queries.values():
            for path in paths if paths is not usual else ():
                report.add(DIFFERS, path, text)
    for path in split_paths(store.path):
        report.splits += 1
        try:
            read_imported(path)
        except FsbenchError as error:
            report.add(DAMAGED, path, str(error))
    damaged = (list_damaged, list_damaged_code, list_damaged_files)
    for path, problem in chain.from_iterable(each(store.path) for each in damaged):
        report.add(CODE, path, problem)
    for kind, path in clean.list_leftovers(store):
        report.add(_LEFTOVERS[kind][0], path, _LEFTOVERS[kind][1])
    return report
