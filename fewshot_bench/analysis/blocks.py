"""Blocks: the records of an output apart by the conditions that they were made under.

`made_of` is the entry: it makes of each block what is made of a store with one set of conditions.
Conditions are what a run is asked for: `CONDITIONS`, own data and skipped images. What changed
beneath equal conditions, such as code or a revision, would mix inside a block: `refuse_mixed`.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from fewshot_bench.analysis.conditions import (
    OWN_DATA,
    SKIPPED_IMAGES,
    columns_of,
    own_data_conflict,
    starts,
    values_of,
)
from fewshot_bench.analysis.filters import dataset_names, method_names
from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.analysis.table.build import Options
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import option_name

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """The records of one set of conditions.

    conditions: those that distinguish it from other blocks, as text by name. columns: `columns_of`
    its records. elsewhere: names of methods and data sets that only other blocks have.
    """

    conditions: Mapping[str, str]
    columns: RecordColumns
    elsewhere: frozenset[str] = frozenset()

    @property
    def records(self) -> Sequence[Record]:
        """Its records."""
        return self.columns.records

    @property
    def title(self) -> str:
        """The conditions in one line: `backbone tiny, precision fp32`; empty for the only block."""
        return ", ".join(f"{name} {value or 'none'}" for name, value in self.conditions.items())

    @property
    def filters(self) -> str:
        """The options of `fsbench compare` that choose this block."""
        words = {
            "own_data" if name in (OWN_DATA, SKIPPED_IMAGES) else name: value
            for name, value in self.conditions.items()
        }
        parts = [[option_name(name), value] for name, value in words.items()]
        return shlex.join(word for pair in parts for word in pair)


@dataclass(frozen=True)
class Made(Generic[T]):
    """What was made of a block; None if that is refused, for the reason `refusal`."""

    block: Block
    value: T | None
    refusal: str = ""


def made_of(
    records: Sequence[Record],
    options: Options,
    make: Callable[[Block, Options], T],
    warn: Callable[[str], None],
) -> list[Made[T]]:
    """What `make` makes of each block, the one with the most records first.

    warn: called for a block that is refused. The error of the first is raised if all are.
    """
    found: list[Made[T]] = []
    errors = []
    for block in blocks_of(records, mixed=options.allow_mixed):
        own = replace(options, elsewhere=block.elsewhere, notes=() if found else options.notes)
        try:
            found.append(Made(block, make(block, own)))
        except (UsageError, DataMissingError) as error:
            errors.append(error)
            found.append(Made(block, None, str(error)))
    if len(errors) == len(found):
        raise errors[0]
    for one in found:
        if one.refusal:
            warn(f"{one.block.title} left out: {one.refusal}")
    return found


def blocks_of(records: Sequence[Record], *, mixed: bool = False) -> list[Block]:
    """The records by their conditions; mixed: all in one block."""
    columns = columns_of(records)
    parts = {} if mixed else dict(_parts(columns))
    if len(parts) < 2:
        return [Block({}, columns)]
    shown = {
        name: starts(values) if name in CONDITIONS and CONDITIONS[name].prefix else {}
        for name, values in _values(parts).items()
        if len(values) > 1
    }
    ordered = sorted(parts.items(), key=lambda item: (-len(item[1].records), item[0]))
    names = [_names(part) for _, part in ordered]
    every = frozenset[str]().union(*names)
    return [
        Block({n: shown[n].get(v, v) for n, v in key if n in shown}, part, every - own)
        for (key, part), own in zip(ordered, names, strict=True)
    ]


Key = tuple[tuple[str, str], ...]


def _values(parts: Mapping[Key, object]) -> dict[str, set[str]]:
    """The values of each condition; own data is named in some parts only."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for key in parts:
        for name, value in key:
            found[name].add(value)
    return found


def _parts(columns: RecordColumns) -> Iterator[tuple[Key, RecordColumns]]:
    """The records by differing conditions, then by own data where that of a data set differs."""
    names = [name for name, values in values_of(columns).items() if len(values) > 1]
    for values, part in _parted(columns, names):
        texts = [CONDITIONS[name].text(value) for name, value in zip(names, values, strict=True)]
        key = tuple(zip(names, texts, strict=True))
        conflict = own_data_conflict(part)
        if not conflict:
            yield key, part
            continue
        for (value,), own in _parted(part, ["own data"]):
            yield (*key, (conflict, value)), own


def _parted(
    columns: RecordColumns, names: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], RecordColumns]]:
    """The records by the values of some columns."""
    lines = columns.rows(names)
    for place, values in enumerate(lines.values):
        yield values, columns.part(np.flatnonzero(lines.codes == place))


def _names(columns: RecordColumns) -> frozenset[str]:
    """Names of the methods and data sets, as filters spell them."""
    codes = columns.rows(("row", "evaluated")).codes.tolist()
    specs = [record.spec for record in dict(zip(codes, columns.records, strict=True)).values()]
    return frozenset(name for spec in specs for name in (*method_names(spec), *dataset_names(spec)))


def the_only(made: Sequence[Made[T]], what: str) -> T:
    """What was made of the only block; UsageError for several. what: that which needs one."""
    first = made[0].value
    if len(made) == 1 and first is not None:
        return first
    titles = "; ".join(one.block.title for one in made)
    raise UsageError(
        f"{what} is of one set of conditions, and there are {len(made)} ({titles}): choose one, "
        f"as with {made[0].block.filters}"
    )


def document_of(made: Sequence[Made[T]], lay_out: Callable[[T], Document]) -> Document:
    """The documents of all blocks as one; the only one as it is.

    Rows of several blocks have the union of their columns, and columns of the conditions.
    """
    parts = [replace(_document(one, lay_out), title=one.block.title) for one in made]
    if len(parts) == 1:
        return parts[0]
    pairs = list(zip((one.block.conditions for one in made), parts, strict=True))
    rows = [_with_conditions(row, own) for own, part in pairs for row in part.rows]
    heads = dict.fromkeys(name for row in rows for name in row)
    return Document(
        parts=tuple(parts),
        rows=[{name: row.get(name) for name in heads} for row in rows],
        heads=max((part.heads for part in parts), key=len),
        data={"blocks": [{"conditions": dict(own), **part.data} for own, part in pairs]},
    )


def _document(one: Made[T], lay_out: Callable[[T], Document]) -> Document:
    if one.value is not None:
        return lay_out(one.value)
    return Document(notes=[one.refusal], data={"refused": one.refusal})


def _with_conditions(row: Mapping[str, Any], conditions: Mapping[str, str]) -> dict[str, Any]:
    """The row with the conditions that it lacks; averages lack own data, whatever it is."""
    own = {name: value for name, value in conditions.items() if name not in row}
    return {**row, **{name.replace(" ", "_"): value for name, value in own.items()}}
