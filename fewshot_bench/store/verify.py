"""Whether a store can be trusted: every file read in full, nothing changed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fewshot_bench.splits.imported import checked, split_paths
from fewshot_bench.store.check import Cell, examine
from fewshot_bench.store.index import INDEX, Index
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.record_files import record_files
from fewshot_bench.store.remains import orphans, set_aside, temporary_files
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from fewshot_bench.utils.files import Damaged

DAMAGED, MISSING, NEWER, DIFFERS = "damaged", "no logits", "not read", "differs"
ORPHAN, LEFT_OVER, SET_ASIDE = "no record", "left over", "set aside"
# What lies about and speaks against no result.
REMAINS = (ORPHAN, LEFT_OVER, SET_ASIDE)
NEXT = {
    DAMAGED: "bring such a cell back from another store (fsbench store merge), or rename its "
    ".json and .npz and give the command of the run again",
    MISSING: "these cells count as not done: the next run computes them again",
    NEWER: "upgrade fewshot_bench, or make the file readable",
    DIFFERS: "cells of one split must have the same queries: compute them again with --force",
    ORPHAN: "fsbench store gc removes logits without a record",
    LEFT_OVER: "fsbench store gc removes what killed processes left",
    SET_ASIDE: "look at these files if you like, then: fsbench store gc --damaged",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: its kind (a key of NEXT), the file, and what was found."""

    kind: str
    path: Path
    text: str


@dataclass
class Report:
    """How many records of each status there are, and what was found."""

    statuses: Counter[str] = field(default_factory=Counter)
    splits: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(store: Store) -> Report:
    """Check every record, its logits, imported picks and what else lies between them."""
    report = Report()
    queries: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    index = Index.load(store.path / INDEX)
    for path, stamp in record_files(store.root):
        if index.contradicts(path, stamp):
            text = f"it says something else of {path.name} than the file: delete the index"
            report.findings.append(Finding(DAMAGED, store.path / INDEX, text))
        cell = _examined(path, report)
        if cell is None:
            continue
        report.statuses[cell.record.status] += 1
        split = cell.record.split.get("digest")
        if cell.record.status == "done" and not cell.problems and isinstance(split, str):
            queries[split][_queries(cell)].append(path)
    for split, found in queries.items():
        report.findings += _differing(split, found)
    for path in split_paths(store.path):
        report.splits += 1
        try:
            checked(path)
        except FsbenchError as error:
            report.findings.append(Finding(DAMAGED, path, str(error)))
    report.findings += _remains(store)
    return report


def _examined(path: Path, report: Report) -> Cell | None:
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
    assert cell.arrays is not None
    lines = zip(cell.arrays["ids"].tolist(), cell.arrays["labels"].tolist(), strict=True)
    return hashlib.sha256(repr(list(lines)).encode()).hexdigest()


def _differing(split: str, found: dict[str, list[Path]]) -> Iterator[Finding]:
    """The cells of a split whose queries are not those that most of them have."""
    usual = max(found.values(), key=len)
    for paths in found.values():
        for path in paths if paths is not usual else ():
            text = f"other ids or labels than {usual[0].stem[:12]}, which has split {split:.12} too"
            yield Finding(DIFFERS, path, text)


def _remains(store: Store) -> Iterator[Finding]:
    for path in orphans(store):
        yield Finding(ORPHAN, path, "logits without a record that they belong to")
    for path in Leases(store, "").dead():
        yield Finding(LEFT_OVER, path, "claimed by a process that is gone")
    for path in temporary_files(store):
        yield Finding(LEFT_OVER, path, "half-written by a process that is gone")
    for path in set_aside(store):
        yield Finding(SET_ASIDE, path, "was found damaged earlier")
