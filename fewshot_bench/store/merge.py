"""Merge one store into another: decide between two records of a cell, and copy files.

`merge` is the entry point; a kill at any moment leaves both stores valid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import KEPT_SPLITS
from fewshot_bench.api.split_file import MAX_BYTES
from fewshot_bench.splits.formats import read_split_file
from fewshot_bench.splits.imported import FOLDER, read_imported, split_paths
from fewshot_bench.store.answer_files import largest_gap
from fewshot_bench.store.kept_code import copy_code
from fewshot_bench.store.kept_files import copy_files
from fewshot_bench.store.kept_methods import copy_method
from fewshot_bench.store.kept_models import MODELS, copy_model
from fewshot_bench.store.log_files import read_log
from fewshot_bench.store.predictions import Queries
from fewshot_bench.store.record_files import record_files
from fewshot_bench.store.store import METHODS, Store
from fewshot_bench.store.verify import Cell, examine
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from fewshot_bench.utils.files import Damaged, read_regular, write_whole
from fewshot_bench.utils.progress import over

_FACTS = ("device_name", "threads", "fewshot_bench", "commit", "python", "platform")
HERE, THERE = "here", "there"


def _is_same_result(mine: Cell, theirs: Cell) -> bool:
    """True if both have equal logits, or equal shared metrics of the same queries."""
    if mine.record.status != theirs.record.status:
        return False
    if mine.arrays is None or theirs.arrays is None:
        return mine.arrays is theirs.arrays
    if mine.record.logits_digest == theirs.record.logits_digest:
        return True
    metrics, others = mine.record.metrics, theirs.record.metrics
    shared = metrics.keys() & others.keys()
    is_equal = bool(shared) and all(metrics[name] == others[name] for name in shared)
    return is_equal and _have_same_queries(mine, theirs)


def _describe_conflict(mine: Cell, theirs: Cell) -> tuple[str, ...]:
    """Lines to show: top-1 of both, largest difference of answers, differing conditions."""
    records = mine.record, theirs.record
    tops = [f"{r.metrics['top1']:.4f} %" if "top1" in r.metrics else r.status for r in records]
    distance = "their queries differ, so that answers cannot be compared"
    if _have_same_queries(mine, theirs) and mine.stored is not None and theirs.stored is not None:
        gap = largest_gap(mine.stored.answers, theirs.stored.answers)
        distance = f"largest difference of the labels' log-probabilities {gap:.3g}"
    return (
        records[0].spec.describe(),
        f"top-1 {tops[0]} {HERE}, {tops[1]} {THERE}",
        distance,
        *differing_facts(*records, HERE, THERE),
    )


def differing_facts(mine: Record, theirs: Record, here: str, there: str) -> Iterator[str]:
    """Lines on device, threads, versions and code that differ; here, there: names of both."""
    ours, others = _list_facts(mine.environment), _list_facts(theirs.environment)
    for name in sorted(ours.keys() | others.keys()):
        if ours.get(name) != others.get(name):
            yield f"{name}: {ours.get(name)} {here}, {others.get(name)} {there}"


def _have_same_queries(mine: Cell, theirs: Cell) -> bool:
    if mine.stored is None or theirs.stored is None:
        return False
    same = Queries.of(mine.stored).digest == Queries.of(theirs.stored).digest
    return same and mine.stored.answers.classes == theirs.stored.answers.classes


def _list_facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Device, threads, versions and method code."""
    packages, code = environment.get("packages"), environment.get("code")
    facts = {name: environment.get(name) for name in _FACTS}
    facts["code of the method"] = code.get("digest") if isinstance(code, Mapping) else None
    return facts | (dict(packages) if isinstance(packages, Mapping) else {})


# Outcomes for a cell, imported picks or a split of own images of a source.
COPIED, REPLACED, EQUAL, KEPT = "copied", "replaced", "equal", "kept"
CONFLICT, UNUSABLE = "conflict", "not used"
OUTCOMES = (COPIED, REPLACED, EQUAL, KEPT, CONFLICT, UNUSABLE)


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of a merge for one cell, the imported picks of one setting, or a split.

    COPIED: absent at the destination. REPLACED: it replaced a failed, damaged or incomplete one.
    EQUAL: already there. KEPT: the source's failed, and the destination's did not. CONFLICT: both
    are usable and differ. UNUSABLE: the file of the source or of the destination is unusable.
    """

    outcome: str
    path: Path
    lines: tuple[str, ...] = ()


def check_sources(sources: Sequence[Path], destination: Path) -> None:
    """UsageError for a source that is no store, or that is the destination itself."""
    if destination.exists() and not destination.is_dir():
        raise UsageError(f"store '{destination}' is not a folder; choose another with --store DIR")
    for source in sources:
        if not any((source / name).is_dir() for name in ("records", FOLDER)):
            what = "is no store" if source.exists() else "does not exist"
            raise UsageError(
                f"source '{source}' {what}: expected a folder with records/ in it, as fsbench run "
                "--store makes it"
            )
        if destination.exists() and source.samefile(destination):
            raise UsageError(
                f"source '{source}' is the destination itself; name another one with --store DIR"
            )


def merge(source: Path, destination: Store, *, dry_run: bool) -> Iterator[Step]:
    """Copy the cells, imported picks and splits of own images of one store into another.

    Yields each outcome. Every file of the source is read in full and checked before it is used.
    With `dry_run` nothing is written. StoreError if the destination cannot be written; a second
    call completes a merge that was stopped or killed.
    """
    for path in split_paths(source):
        yield _copy_split(path, "picks", _digest_picks, destination, dry_run)
    for path in sorted((source / KEPT_SPLITS).glob("*.json")):
        yield _copy_split(path, "a split of own images", _digest_split, destination, dry_run)
    for file in over(list(record_files(Store(source).root)), f"records of {source}"):
        try:
            theirs = examine(file.path)
            outcome, lines = _decide(theirs, destination.file(theirs.record.spec.key()))
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            yield Step(UNUSABLE, file.path, (str(error),))
            continue
        if not dry_run and outcome in (COPIED, REPLACED):
            _copy_cell(theirs, destination, lines)
        yield Step(outcome, file.path, lines)


def _copy_split(
    path: Path, of: str, digest: Callable[[Path], str], destination: Store, dry_run: bool
) -> Step:
    """Copy a split `of` some kind, unless there is one of this name; digest: of its lists."""
    target = destination.path / path.relative_to(path.parents[2])
    try:
        theirs = digest(path)
    except DataMissingError as error:
        return Step(UNUSABLE, path, (str(error),))
    if target.exists():
        try:
            mine = digest(target)
        except DataMissingError as error:
            return Step(UNUSABLE, target, (str(error), "rename it, then merge again"))
        if mine == theirs:
            return Step(EQUAL, path)
        return Step(CONFLICT, path, (f"{of} with digest {theirs:.12}, here with {mine:.12}",))
    if not dry_run:
        with _guard_writes(destination, target):
            write_whole(target, read_regular(path, MAX_BYTES))
    return Step(COPIED, path)


def _digest_picks(path: Path) -> str:
    return read_imported(path).digest


def _digest_split(path: Path) -> str:
    """The digest of a split of own images; DataMissingError if the file holds no split."""
    read_split_file(path)
    return hashlib.sha256(read_regular(path, MAX_BYTES)).hexdigest()


@contextmanager
def _guard_writes(store: Store, path: Path) -> Iterator[None]:
    """Turn an OSError inside into the StoreError for a file or folder of a store."""
    try:
        yield
    except OSError as error:
        raise store.cannot_write(path, error) from error


def _copy_cell(theirs: Cell, destination: Store, problems: Sequence[str]) -> None:
    """Write a cell into the destination, setting aside files with problems; StoreError if full."""
    target = destination.file(theirs.record.spec.key())
    if problems:
        for file in (target, target.with_suffix(".npz")):
            if file.exists():
                destination.set_aside(file, "; ".join(problems))
    source = theirs.path.parents[2]
    with _guard_writes(destination, destination.path / MODELS):
        copy_model(source, theirs.record, destination.path)
    with _guard_writes(destination, destination.path / METHODS):
        copy_method(source, theirs.record.spec, destination.path)
        copy_code(source, theirs.record, destination.path)
        copy_files(source, theirs.record.spec.files, destination.path)
    done = theirs.record.status == "done" and theirs.arrays is not None
    log = ""
    with suppress(StoreError):
        log = read_log(theirs.path, theirs.record)
    destination.put(theirs.record, theirs.arrays or {} if done else {}, log)


def _decide(theirs: Cell, target: Path) -> tuple[str, tuple[str, ...]]:
    """The outcome for a cell; with REPLACED, lines list problems of the destination's record.

    With CONFLICT, they describe the difference. StoreError for a destination file of a newer
    version.
    """
    if theirs.problems:
        return UNUSABLE, theirs.problems
    failed = theirs.record.status == "failed"
    try:
        mine = examine(target)
    except FileNotFoundError:
        return COPIED, ()
    except Damaged as error:
        problem = f"the one at the destination is damaged: {error}"
        return (KEPT, ()) if failed else (REPLACED, (problem,))
    if failed:
        return (EQUAL if mine.record.status == "failed" else KEPT), ()
    if mine.problems and not mine.missing:
        return REPLACED, tuple(f"at the destination, {problem}" for problem in mine.problems)
    if mine.missing or mine.record.status == "failed":
        return REPLACED, ()
    if _is_same_result(mine, theirs):
        return EQUAL, ()
    return CONFLICT, _describe_conflict(mine, theirs)
