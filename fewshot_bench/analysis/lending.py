"""Records that count in tables of other conditions than their own, since they need less.

A table is named by what it allows, and holds the records that need no more: a method that looks at
each query alone gives the same answers whoever else is there, so its record counts for `queries
all`, too. What needs less than what, and which column of the frame proves it, are declared by
`Condition.allows` and `Condition.proof`. No number changes, and nothing is lent without its proof.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewshot_bench.analysis.filters import select
from fewshot_bench.analysis.frame import frame, group, is_true, load, values
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, LONGEST_NUMBER, RunSpec
from fewshot_bench.utils.errors import unknown
from fewshot_bench.utils.text import limited

# The conditions of which records are lent.
LENT = {name: about for name, about in CONDITIONS.items() if about.proof}


def allow(
    records: Sequence[Record], filters: Mapping[str, str | None]
) -> tuple[list[Record], tuple[str, ...]]:
    """The records that match every filter (`select`), of conditions in `LENT` those that it allows.

    With a note on methods of less that do not count. UsageError for a value that is none.
    """
    texts = {name: text for name in LENT if (text := filters.get(name)) is not None}
    chosen = select(records, {n: text for n, text in filters.items() if n not in texts})
    if not (chosen and texts):
        return chosen, ()
    allowed = {name: _read(records, name, text) for name, text in texts.items()}
    # `select` raises: no record has one of the values, or all of them together.
    lent = lend(chosen, allowed) or select(chosen, texts)
    left = {
        record.spec.label
        for record in chosen
        if record.status == "done"
        and all(LENT[n].allows(value, getattr(record.spec, n)) for n, value in allowed.items())
    } - {record.spec.label for record in lent}
    note = f"{limited(sorted(left), 8)} (run under less, and may depend on it)"
    named = ", ".join(map(" ".join, texts.items()))
    return lent, (f"left out of {named}: {note}",) if left else ()


def _read(records: Sequence[Record], name: str, text: str) -> Any:
    """The value of a filter; UsageError unless it is one of a few, a number, or of a record."""
    about = LENT[name]
    own = {getattr(record.spec, name) for record in records}
    every = {about.text(value): value for value in (*about.words, about.default, *own)}
    if about.kind is int and re.fullmatch(rf"[0-9]{{1,{LONGEST_NUMBER}}}", text):
        every[text] = int(text)
    if text not in every:
        raise unknown(name, text, every, "only what is in the store can be compared")
    return every[text]


def allowed_by(cells: Collection[RunSpec]) -> dict[str, str]:
    """The conditions that the cells of one run allow together, as filters: beside the default."""
    every = {name: {getattr(cell, name) for cell in cells} for name in LENT}
    more = {name: own - {LENT[name].default} for name, own in every.items()}
    return {name: LENT[name].text(max(own)) for name, own in more.items() if own}


def list_proved(records: Sequence[Record]) -> dict[str, frozenset[str]]:
    """By key, the conditions of `LENT` in which each record counts where more is allowed."""
    data = load(frame(records), *(about.proof for about in LENT.values()))
    proved = {name: is_true(data, about.proof) for name, about in LENT.items()}
    return {
        record.spec.key(): frozenset(name for name, rows in proved.items() if rows[index])
        for index, record in enumerate(records)
    }


def lend(records: Sequence[Record], allowed: Mapping[str, Any]) -> list[Record]:
    """The records that count where this is allowed, in their order; their `spec` says `allowed`.

    allowed: values of conditions in `LENT`, by name. Of several records of one cell, the one that
    needs the most counts. What has no result counts where finished records of its row do.
    """
    data = load(frame(records), *allowed, "done", "row", *(LENT[name].proof for name in allowed))
    own, fits, proved = np.ones((3, len(data)), bool)
    for name, value in allowed.items():
        about, has = LENT[name], values(data, name)
        same = np.array([each == value for each in has], bool)
        own &= same
        fits &= np.array([about.allows(value, each) for each in has], bool)
        if name == "bystanders" and value != about.default:
            # No other classes have a cell with bystanders.
            fits &= np.array([record.spec.classes == "base" for record in records], bool)
        proved &= same | is_true(data, about.proof)
    is_done, (rows, _) = is_true(data, "done"), group(data, ("row",))
    lent = fits & ~own & is_done & proved
    lent |= fits & ~own & ~is_done & np.isin(rows, rows[lent])
    counting = {index: records[index] for index in np.flatnonzero(own).tolist()}
    taken = {_cell(record) for record in counting.values()} if lent.any() else set()

    def rank(index: int) -> tuple[Any, ...]:
        spec = records[index].spec
        own = ((getattr(spec, name), value) for name, value in allowed.items())
        return *((has == value, has) for has, value in own), spec.key()

    for index in sorted(np.flatnonzero(lent).tolist(), key=rank, reverse=True):
        record = records[index].lend(**allowed)
        if (cell := _cell(record)) not in taken:
            taken.add(cell)
            counting[index] = record
    return [counting[index] for index in sorted(counting)]


def _cell(record: Record) -> tuple[str, str]:
    """The source of a record, and the key of its cell under the conditions that it is lent."""
    return record.source, replace(record.spec).key()
