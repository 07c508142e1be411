"""Blocks: the records of an output apart by the conditions that they were made under.

`map_blocks` is the entry: it makes of each block what is made of a store of one set of conditions.
Conditions are what a run is asked for: `CONDITIONS`, own data and skipped images. What changed
beneath equal conditions, such as code or a revision, would mix inside a block: `refuse_mixed`.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from fewshot_bench.analysis.conditions import (
    OWN_DATA,
    SKIPPED_IMAGES,
    own_data_conflict,
    starts,
    values_of,
)
from fewshot_bench.analysis.filters import dataset_names, method_names
from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.frame import frame, group, load
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import option_name

if TYPE_CHECKING:
    import pandas as pd

    from fewshot_bench.analysis.table.build import Options

T = TypeVar("T")
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Block:
    """The records of one set of conditions.

    conditions: those that distinguish it from other blocks, as text by name. data: the frame of its
    records. elsewhere: names of methods and data sets that only other blocks have.
    """

    conditions: Mapping[str, str]
    data: pd.DataFrame
    elsewhere: frozenset[str] = frozenset()

    @property
    def records(self) -> list[Record]:
        """Its records."""
        return list(self.data["record"])

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
        return shlex.join(
            word for name, value in words.items() for word in (option_name(name), value)
        )


@dataclass(frozen=True)
class Made(Generic[T]):
    """What was made of a block; None if that is refused, for the reason `refusal`."""

    block: Block
    value: T | None
    refusal: str = ""


def map_blocks(
    records: Sequence[Record],
    options: Options,
    make: Callable[[Block, Options], T],
    warn: Callable[[str], None],
) -> list[Made[T]]:
    """What `make` makes of each block, the one with the most records first.

    warn: called for a block that is refused. The error of the first is raised if all are.
    """
    made: list[Made[T]] = []
    errors = []
    for block in blocks_of(records, mixed=options.allow_mixed):
        own = replace(options, elsewhere=block.elsewhere, notes=() if made else options.notes)
        try:
            made.append(Made(block, make(block, own)))
        except (UsageError, DataMissingError) as error:
            errors.append(error)
            made.append(Made(block, None, str(error)))
    if len(errors) == len(made):
        raise errors[0]
    for part in made:
        if part.refusal:
            warn(f"{part.block.title} left out: {part.refusal}")
    return made


def blocks_of(records: Sequence[Record], *, mixed: bool = False) -> list[Block]:
    """The records by their conditions; mixed: all in one block."""
    data = frame(records)
    parts = {} if mixed else dict(_parts(data))
    if len(parts) < 2:
        return [Block({}, data)]
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for key in parts:
        for name, value in key:
            texts[name].add(value)
    shown = {
        name: starts(values) if name in CONDITIONS and CONDITIONS[name].prefix else {}
        for name, values in texts.items()
        if len(values) > 1
    }
    ordered = sorted(parts.items(), key=lambda item: (-len(item[1]), item[0]))
    names = [_names(part) for _, part in ordered]
    every = frozenset[str]().union(*names)
    return [
        Block({n: shown[n].get(v, v) for n, v in key if n in shown}, part, every - own)
        for (key, part), own in zip(ordered, names, strict=True)
    ]


def _parts(data: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    """The records by differing conditions, then by own data where that of a data set differs."""
    names = [name for name, texts in values_of(data).items() if len(texts) > 1]
    for part in _split(data, names):
        spec = part["record"].iloc[0].spec
        key = tuple((name, CONDITIONS[name].text(getattr(spec, name))) for name in names)
        conflict = own_data_conflict(part)
        if not conflict:
            yield key, part
            continue
        for own in _split(part, ["own data"]):
            yield (*key, (conflict, str(own["own data"].iloc[0]))), own


def _split(data: pd.DataFrame, names: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The records by the values of some columns."""
    numbers, first = group(data, names)
    if len(first) == 1:
        yield data
        return
    for number in range(len(first)):
        yield data.iloc[np.flatnonzero(numbers == number)].reset_index(drop=True)


def _names(data: pd.DataFrame) -> frozenset[str]:
    """Names of the methods and data sets, as filters spell them."""
    _, first = group(load(data, "row", "evaluated"), ("row", "evaluated"))
    specs = [record.spec for record in data["record"].iloc[first]]
    return frozenset(name for spec in specs for name in (*method_names(spec), *dataset_names(spec)))


def the_only(made: Sequence[Made[T]], what: str) -> T:
    """What was made of the only block; UsageError for several. what: that which needs one."""
    first = made[0].value
    if len(made) == 1 and first is not None:
        return first
    titles = "; ".join(part.block.title for part in made)
    raise UsageError(
        f"{what} is of one set of conditions, and there are {len(made)} ({titles}): choose one, "
        f"as with {made[0].block.filters}"
    )


def document_of(made: Sequence[Made[T]], lay_out: Callable[[T], Document]) -> Document:
    """The documents of all blocks as one; the only one as it is.

    Rows of several blocks have the union of their columns, and columns of the conditions.
    """
    parts = []
    for block in made:
        refused = Document(notes=[block.refusal], data={"refused": block.refusal})
        document = refused if block.value is None else lay_out(block.value)
        parts.append(replace(document, title=block.block.title))
    if len(parts) == 1:
        return parts[0]
    pairs = list(zip((block.block.conditions for block in made), parts, strict=True))
    rows = [_add_conditions(row, own) for own, part in pairs for row in part.rows]
    heads = dict.fromkeys(name for row in rows for name in row)
    return Document(
        parts=tuple(parts),
        rows=[{name: row.get(name) for name in heads} for row in rows],
        heads=max((part.heads for part in parts), key=len),
        data={"blocks": [{"conditions": dict(own), **part.data} for own, part in pairs]},
    )


def _add_conditions(row: Mapping[str, Any], conditions: Mapping[str, str]) -> dict[str, Any]:
    """The row with the conditions that it lacks; averages lack own data, whatever it is."""
    own = {name: value for name, value in conditions.items() if name not in row}
    return {**row, **{name.replace(" ", "_"): value for name, value in own.items()}}
