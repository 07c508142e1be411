"""What must be true of a cell's files: each rule says what it found wrong, or nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.record import Record, seal_problem
from fewshot_bench.store.record_files import parse_unchecked, parse_values, read_content, stamp_of
from fewshot_bench.utils.files import ARRAYS, Damaged, digest_of_arrays, load_arrays

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

MISSING = "the logits of a finished cell are missing"
# Records round metrics to 6 digits; the rest is room for another order of summation.
ABSOLUTE, RELATIVE = 2e-6, 1e-9
_ATTEMPTS = 3


@dataclass(frozen=True)
class Cell:
    """A record that could be read, the arrays beside it, and what is wrong with either."""

    path: Path
    record: Record
    arrays: Arrays | None
    problems: tuple[str, ...]

    @property
    def missing(self) -> bool:
        """Whether all that is wrong is that there are no logits, so that it counts as not done."""
        return self.problems == (MISSING,)


def examine(path: Path) -> Cell:
    """A cell whose record lies at `path`, its logits read in full.

    Raises FileNotFoundError, StoreError for a file that a newer version wrote or that cannot be
    read, and Damaged for a record that cannot be used. What a writer replaces meanwhile is read
    again.
    """
    for attempt in range(_ATTEMPTS):
        before = stamp_of(path.stat())
        cell = _examine(path)
        if not cell.problems or attempt == _ATTEMPTS - 1 or stamp_of(path.stat()) == before:
            break
    return cell


def _examine(path: Path) -> Cell:
    content = read_content(path)
    record = parse_unchecked(path, content)
    values = parse_values(path, content)
    problems = list(_record_problems(values))
    arrays = None
    try:
        arrays = load_arrays(path.with_suffix(".npz"))
        problems += _array_problems(record, arrays)
    except FileNotFoundError:
        if record.status == "done" or "logits" in record.digests:
            problems.append(MISSING)
    except Damaged as error:
        problems.append(f"the logits cannot be read: {error}")
    return Cell(path, record, arrays, tuple(problems))


def _record_problems(values: Mapping[str, Any]) -> Iterator[str]:
    expected = {field.name for field in dataclasses.fields(Record)}
    if set(values) != expected:
        yield f"the record has keys {sorted(set(values) ^ expected)} too many or too few"
    elif problem := seal_problem(values):
        yield problem


def _array_problems(record: Record, arrays: Arrays) -> Iterator[str]:
    """Wrong types or shapes hide the other rules, since these could not be applied."""
    found = list(_form_problems(arrays))
    yield from found
    if found or (record.status != "done" and "logits" not in record.digests):
        return
    stated, actual = record.digests.get("logits"), digest_of_arrays(arrays)
    if stated != actual:
        yield f"the record states the digest {stated!r:.14} of its logits, they have {actual:.12}"
    yield from _value_problems(arrays)
    if record.status == "done":
        yield from _count_problems(record, arrays)
        yield from _metric_problems(record, arrays)


def _form_problems(arrays: Arrays) -> Iterator[str]:
    count = arrays["logits"].shape[:1]
    shapes = {"logits": (*count, *arrays["logits"].shape[1:2]), "labels": count, "ids": count}
    for name, kind in zip(ARRAYS, ("f4", "i8", "U"), strict=True):
        array = arrays[name]
        if not array.dtype.str[1:].startswith(kind) or array.shape != shapes[name]:
            yield f"{name} are {array.dtype} {array.shape}, expected {kind} {shapes[name]}"
    if arrays["logits"].ndim != 2 or 0 in arrays["logits"].shape:
        yield f"logits have the shape {arrays['logits'].shape}, expected (queries, classes)"


def _value_problems(arrays: Arrays) -> Iterator[str]:
    import numpy as np

    logits, labels, ids = (arrays[name] for name in ARRAYS)
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        yield f"{bad} of {len(logits)} rows of logits are not finite"
    outside = int(((labels < 0) | (labels >= logits.shape[1])).sum())
    if outside:
        yield f"{outside} labels are outside of 0 to {logits.shape[1] - 1}"
    twice = len(ids) - len(np.unique(ids))
    if twice:
        yield f"{twice} ids stand there more than once"


def _count_problems(record: Record, arrays: Arrays) -> Iterator[str]:
    for name, count in zip(("test", "classes"), arrays["logits"].shape, strict=True):
        if record.split.get(name, count) != count:
            yield f"the record has split.{name} {record.split[name]!r}, its logits have {count}"


def _metric_problems(record: Record, arrays: Arrays) -> Iterator[str]:
    if any(_value_problems(arrays)):
        return
    from fewshot_bench.api.metrics import measured

    for name, value in measured(arrays["logits"], arrays["labels"]).items():
        stated = record.metrics.get(name)
        if not _agrees(stated, value):
            yield f"the record has {name} {stated!r:.40}, its logits give {value:.6f}"


def _agrees(stated: object, value: float) -> bool:
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        return False
    return math.isclose(stated, value, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
