"""Merge one store into another: decide between two records of a cell, and copy files.

`merge` is the entry point; a kill at any moment leaves both stores valid.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import KEPT_SPLITS
from fewshot_bench.api.split_file import MAX_BYTES
from fewshot_bench.splits.formats import read_split_file
from fewshot_bench.splits.imported import FOLDER, read_imported, split_paths
from fewshot_bench.store.answer_files import largest_gap
from fewshot_bench.store.kept_models import MODELS, copy_model
from fewshot_bench.store.method_copies import source_place
from fewshot_bench.store.outcome_cache import Queries
from fewshot_bench.store.record_files import record_files
from fewshot_bench.store.store import METHODS, Store
from fewshot_bench.store.verify import Cell, examine
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from fewshot_bench.utils.files import Damaged, read_regular, write_whole
from fewshot_bench.utils.progress import over

_FACTS = ("device_name", "threads", "fewshot_bench", "commit", "python", "platform")
HERE, THERE = "here", "there"


def same_result(one: Cell, other: Cell) -> bool:
    """True if both have equal logits, or equal shared metrics of the same queries."""
    if one.record.status != other.record.status:
        return False
    if one.arrays is None or other.arrays is None:
        return one.arrays is other.arrays
    if one.record.logits_digest == other.record.logits_digest:
        return True
    return _same_queries(one, other) and same_metrics(one.record, other.record)


def same_metrics(one: Record, other: Record) -> bool:
    """True if the records share at least one metric and agree on all shared ones."""
    both = set(one.metrics) & set(other.metrics)
    return bool(both) and all(one.metrics[name] == other.metrics[name] for name in both)


def describe_conflict(mine: Cell, theirs: Cell) -> tuple[str, ...]:
    """Lines to show: top-1 of both, largest difference of answers, differing conditions."""
    return (
        mine.record.spec.describe(),
        f"top-1 {_top1(mine.record)} {HERE}, {_top1(theirs.record)} {THERE}",
        _distance(mine, theirs),
        *_conditions(mine.record.environment, theirs.record.environment),
    )


def _top1(record: Record) -> str:
    return f"{record.metrics['top1']:.4f} %" if record.status == "done" else record.status


def _distance(mine: Cell, theirs: Cell) -> str:
    if not _same_queries(mine, theirs):
        return "their queries differ, so that answers cannot be compared"
    assert mine.stored is not None
    assert theirs.stored is not None
    gap = largest_gap(mine.stored.answers, theirs.stored.answers)
    return f"largest difference of the labels' log-probabilities {gap:.3g}"


def _same_queries(one: Cell, other: Cell) -> bool:
    if one.stored is None or other.stored is None:
        return False
    same = Queries.of(one.stored).digest == Queries.of(other.stored).digest
    return same and one.stored.answers.classes == other.stored.answers.classes


def _conditions(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Device, threads, versions and method code that differ."""
    ours, others = _facts(mine), _facts(theirs)
    for name in sorted(ours.keys() | others.keys()):
        if ours.get(name) != others.get(name):
            yield f"{name}: {ours.get(name)} {HERE}, {others.get(name)} {THERE}"


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages")
    facts = {name: environment.get(name) for name in _FACTS}
    code = environment.get("code")
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
        yield _split(path, "picks", _picks_digest, destination, dry_run)
    for path in sorted((source / KEPT_SPLITS).glob("*.json")):
        yield _split(path, "a split of own images", _digest_split, destination, dry_run)
    for file in over(list(record_files(Store(source).root)), f"records of {source}"):
        try:
            theirs = examine(file.path)
            step = _step(theirs, destination)
        except FileNotFoundError:
            continue
        except (Damaged, StoreError) as error:
            yield Step(UNUSABLE, file.path, (str(error),))
            continue
        if not dry_run and step.outcome in (COPIED, REPLACED):
            _bring(theirs, destination, step.lines)
        yield step


def _split(path: Path, of: str, digest: Callable[[Path], str], to: Store, dry_run: bool) -> Step:
    """Copy a split `of` some kind, unless there is one of this name; digest: of its lists."""
    target = to.path / path.relative_to(path.parents[2])
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
        try:
            write_whole(target, read_regular(path, MAX_BYTES))
        except OSError as error:
            raise to.cannot_write(target, error) from error
    return Step(COPIED, path)


def _picks_digest(path: Path) -> str:
    return read_imported(path).digest


def _digest_split(path: Path) -> str:
    """The digest of a split of own images; DataMissingError if the file holds no split."""
    read_split_file(path)
    return hashlib.sha256(read_regular(path, MAX_BYTES)).hexdigest()


def _step(theirs: Cell, destination: Store) -> Step:
    if theirs.problems:
        return Step(UNUSABLE, theirs.path, theirs.problems)
    outcome, lines = _decide(theirs, destination.file(theirs.record.spec.key()))
    return Step(outcome, theirs.path, lines)


def _bring(theirs: Cell, destination: Store, problems: Sequence[str]) -> None:
    """Write a cell into the destination, setting aside files with problems; StoreError if full."""
    target = destination.file(theirs.record.spec.key())
    if problems:
        for file in (target, target.with_suffix(".npz")):
            if file.exists():
                destination.set_aside(file, "; ".join(problems))
    source = theirs.path.parents[2]
    try:
        copy_model(source, theirs.record, destination.path)
    except OSError as error:
        raise destination.cannot_write(destination.path / MODELS, error) from error
    try:
        _copy_method(source, theirs.record, destination.path)
    except OSError as error:
        raise destination.cannot_write(destination.path / METHODS, error) from error
    if theirs.record.status == "done" and theirs.arrays is not None:
        destination.put(theirs.record, theirs.arrays)
    else:
        destination.write(theirs.record)


def _copy_method(source: Path, record: Record, destination: Path) -> None:
    """Copy the source of a method that was a class of a script or notebook; may raise OSError."""
    place = source_place(record.spec.method)
    if place and (source / place).is_file() and not (destination / place).exists():
        write_whole(destination / place, read_regular(source / place))


def _decide(theirs: Cell, target: Path) -> tuple[str, tuple[str, ...]]:
    """The outcome for a cell; with REPLACED, lines list problems of the destination's record.

    With CONFLICT, they describe the difference. StoreError for a destination file of a newer
    version.
    """
    failed = theirs.record.status == "failed"
    try:
        mine = examine(target)
    except FileNotFoundError:
        return COPIED, ()
    except Damaged as error:
        said = (f"the one at the destination is damaged: {error}",)
        return (KEPT, ()) if failed else (REPLACED, said)
    if failed:
        return (EQUAL if mine.record.status == "failed" else KEPT), ()
    if mine.missing:
        return REPLACED, ()
    if mine.problems:
        return REPLACED, tuple(f"at the destination, {problem}" for problem in mine.problems)
    if mine.record.status == "failed":
        return REPLACED, ()
    if same_result(mine, theirs):
        return EQUAL, ()
    return CONFLICT, describe_conflict(mine, theirs)
