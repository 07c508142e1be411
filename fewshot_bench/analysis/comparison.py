"""A comparison of methods: a table per set of conditions, and the tables in every format.

`compare` builds the tables for the command line and the library; `Comparison` is the object of the
Python API. `map_blocks` takes records apart by what a run is asked for: `CONDITIONS`, own data and
skipped images. What changed beneath equal conditions, such as code or a revision, would mix inside
a block: `refuse_mixed`.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
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
from fewshot_bench.analysis.lending import LENT, lend
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import DATA, STACKED, Titled, lay_out
from fewshot_bench.api.metrics import METRICS, OF_STREAMS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, plain
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.utils.errors import DataMissingError, PluginError, StoreError, UsageError
from fewshot_bench.utils.text import option_name

if TYPE_CHECKING:
    import pandas as pd

    from fewshot_bench.analysis.formats.document import Document
    from fewshot_bench.analysis.table.build import Options
    from fewshot_bench.analysis.table.significance import Answers
    from fewshot_bench.analysis.table.table import Table

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
    """The result of a block; None if it is refused, for the reason `refusal`."""

    block: Block
    value: T | None
    refusal: str = ""


def map_blocks(
    records: Sequence[Record],
    options: Options,
    make: Callable[[Block, Options], T],
    warn: Callable[[str], None],
) -> list[Made[T]]:
    """The results of `make` for each block, the one with the most records first.

    warn: called for a block that is refused. The error of the first is raised if all are.
    """
    made: list[Made[T]] = []
    errors = []
    blocks = blocks_of(records, mixed=options.allow_mixed)
    titles = frozenset(value for block in blocks for value in block.conditions.values())
    for block in blocks:
        notes = () if made else options.notes
        own = replace(options, elsewhere=block.elsewhere, titles=titles, notes=notes)
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
        return [Block({}, next(iter(parts.values()), data))]
    texts: defaultdict[str, set[str]] = defaultdict(set)
    for key in parts:
        for name, value in key:
            texts[name].add(value)
    shown = {
        name: starts(values) if name in CONDITIONS and CONDITIONS[name].prefix else {}
        for name, values in texts.items()
        if len(values) > 1
    }
    # Those that a block is lent are of another one first.
    there = set(map(id, data["record"]))
    own = {key: sum(id(r) in there for r in part["record"]) for key, part in parts.items()}
    ordered = sorted(
        ((key, part) for key, part in parts.items() if own[key]),
        key=lambda item: (-own[item[0]], [_place(*pair) for pair in item[0]]),
    )
    names = [_names(part) for _, part in ordered]
    every = frozenset[str]().union(*names)
    return [
        Block({n: shown[n].get(v, v) for n, v in key if n in shown}, part, every - own)
        for (key, part), own in zip(ordered, names, strict=True)
    ]


def _parts(data: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    """The records by differing conditions, then by own data where that of a data set differs.

    With each part are the records of others that need less than its conditions allow.
    """
    names = [name for name, texts in values_of(data).items() if len(texts) > 1]
    lending = [name for name in names if name in LENT]
    refining = any(LENT[name].refines for name in lending)
    columns = [CONDITIONS[name].column for name in names if name not in lending]
    for alike in _split(data, columns):
        for part in _split(alike, lending):
            if refining and all(record.less for record in part["record"]):
                # The pooling of texts that nobody here reads: they stand beside those who do.
                continue
            spec = part["record"].iloc[0].spec
            key = tuple((name, CONDITIONS[name].of(spec)) for name in names)
            if lending:
                allowed = {name: getattr(spec, name) for name in lending}
                part = frame(lend(list(alike["record"]), allowed))
            yield from _parts_by_own_data(key, part)


def _parts_by_own_data(key: Key, part: pd.DataFrame) -> Iterator[tuple[Key, pd.DataFrame]]:
    conflict = own_data_conflict(part)
    if not conflict:
        yield key, part
        return
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
    """The result of the only block; UsageError for several. what: that which needs one."""
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


def merge(made: Sequence[Made[Shown]], display: Display, form: str) -> list[Made[list[Titled]]]:
    """The tables of every set of conditions; those that differ in what is stacked are together.

    Weights follow from a backbone. CSV and JSON have every set by itself.
    """
    stack = display.stack if display.layout in STACKED and form not in DATA else ""
    dropped = {stack, "weights"} if stack == "backbone" else {stack}
    by_rest: dict[Key, list[Made[Shown]]] = {}
    for number, part in enumerate(made):
        rest = tuple(pair for pair in part.block.conditions.items() if pair[0] not in dropped)
        refused = (("refused", str(number)),) if part.value is None else ()
        by_rest.setdefault((*rest, *refused), []).append(part)
    merged: list[Made[list[Titled]]] = []
    for rest, own in by_rest.items():
        tables = [part.value[0] for part in own if part.value is not None]
        if not tables:
            merged.append(Made(own[0].block, None, own[0].refusal))
            continue
        own.sort(key=lambda part: _place(stack, part.block.conditions.get(stack, "")))
        titles = [part.block.conditions.get(stack, "") for part in own]
        is_clear = len(set(titles)) == len(titles)
        titled = [
            (_title(part, stack) if is_clear else part.block.title, part.value[0])
            for part in own
            if part.value is not None
        ]
        block = replace(own[0].block, conditions=dict(rest)) if len(own) > 1 else own[0].block
        merged.append(Made(block, titled))
    return merged


def _title(part: Made[Shown], stack: str) -> str:
    """The value of what is stacked, under its new name."""
    value = part.block.conditions.get(stack, "")
    renamed = part.value[0].renamed if part.value else {}
    # `all` or `64` says nothing without the name.
    return renamed.get(value, f"{stack} {value}" if value and stack in LENT else value)


def _place(name: str, value: str) -> tuple[str, int, str]:
    """Sort key of a condition's value: what allows less first, else by text."""
    words = LENT[name].words if name in LENT else ()
    number = int(value) if name in LENT and value.isdigit() else 0
    return name, words.index(value) if value in words else number, value


def _add_conditions(row: Mapping[str, Any], conditions: Mapping[str, str]) -> dict[str, Any]:
    """The row with the conditions that it lacks; averages lack own data, whatever it is."""
    own = {name: value for name, value in conditions.items() if name not in row}
    return {**row, **{name.replace(" ", "_"): value for name, value in own.items()}}


Target = str | PathLike[str] | None
Shown = tuple["Table", Sequence[Record]]


def compare(
    records: Sequence[Record],
    outcomes: Outcomes,
    options: Options,
    warn: Callable[[str], None],
) -> list[Made[Shown]]:
    """A table per set of conditions, and the records that it uses (without damaged logits).

    Metrics of the options are computed from logits for records that lack them, those of other
    sources excepted, whose logits are not read. warn: called for
    metrics that cannot be computed, plug-ins whose columns are left out, and sets of conditions
    that have no table. UsageError when the records of all of these must not share a
    table, DataMissingError if the logits of all are damaged.
    """
    here = outcomes.complete([r for r in records if not r.source], options.metrics)
    for text in outcomes.list_missing(here, options.metrics):
        warn(text)
    completed = [*here, *(record for record in records if record.source)]
    columns = _plugin_columns(warn)

    def make(block: Block, options: Options) -> Shown:
        answers = _answers(outcomes, block.records, options)
        usable = _usable(block.records, outcomes)
        data = block.data if len(usable) == len(block.data) else None
        table = build(usable, options, columns, answers, data)
        if columns is not None and columns.failed:
            # Rebuild without columns of the failed plug-ins, which earlier lines still have.
            table = build(usable, options, columns, answers, data)
        return table, usable

    return map_blocks(completed, options, make, warn)


def find_metrics(asked: Iterable[str]) -> dict[str, Metric]:
    """The built-in metrics, and the requested metrics of plug-ins."""
    from fewshot_bench.api.plugins import has_third_party

    asked = {name.strip() for name in asked}
    found = {**METRICS, **{name: own for name, own in OF_STREAMS.items() if name in asked}}
    if not has_third_party():
        return found
    from fewshot_bench.api.registry import registry

    plugins, wanted = registry(), asked - found.keys()
    for name in wanted:
        plugins.metrics.refuse_conflict(name)
    return found | {n: plugins.metric(n) for n in plugins.metrics.names() if n in wanted}


def _answers(outcomes: Outcomes, records: Sequence[Record], options: Options) -> Answers | None:
    """The reader of predictions for tests; None without a baseline and without crossed seeds."""
    seeds = {(record.spec.split_seed, record.spec.train_seed) for record in records}
    crossed = len(seeds) > max(len({split for split, _ in seeds}), len({t for _, t in seeds}))
    if not (options.baseline or crossed):
        return None
    outcomes.prepare(record for record in records if not record.source)

    def answer(record: Record) -> Any:
        try:
            return None if record.source else outcomes.of(record)
        except StoreError:
            return None

    return answer


def _usable(records: Sequence[Record], outcomes: Outcomes) -> Sequence[Record]:
    """Drop records whose logits are known to be damaged; DataMissingError if none is left."""
    damaged = {damage.path for damage in outcomes.damaged}
    if not damaged:
        return records
    store = outcomes.store
    usable = [
        record
        for record in records
        if record.source or store.file(record.spec.key()).with_suffix(".npz") not in damaged
    ]
    if not usable:
        raise DataMissingError(
            f"the logits of all {len(records)} records are damaged ({outcomes.damaged[0]}); "
            f"fsbench store verify --store {shlex.quote(str(store.path))}"
        )
    return usable


class _PluginColumns:
    """The plug-ins' extra columns; a plug-in that fails is left out, with a warning."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.failed: set[str] = set()

    def __call__(self, records: Sequence[Record]) -> Mapping[str, Any]:
        """{title: value} for the records of one line."""
        from fewshot_bench.api.registry import registry

        columns: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for plugin, part in registry().call("table_columns", self._drop, records=records):
            twice = [title for title in part if title in owners]
            if twice:
                text = f"table_columns of plug-in {plugin} gave '{twice[0]}', as {owners[twice[0]]}"
                self._drop(plugin, PluginError(text))
            if plugin not in self.failed:
                owners |= dict.fromkeys(part, plugin)
                columns |= {
                    title: value.item() if getattr(value, "shape", None) == () else value
                    for title, value in part.items()
                }
        return columns

    def _drop(self, plugin: str, failure: PluginError) -> None:
        if plugin not in self.failed:
            self.failed.add(plugin)
            self._warn(f"{failure}; its columns are left out")


def _plugin_columns(warn: Callable[[str], None]) -> _PluginColumns | None:
    """The plug-ins' extra columns, or None when no plug-in has any."""
    from fewshot_bench.api.plugins import has_third_party

    if not has_third_party():
        return None
    from fewshot_bench.api.registry import registry

    return _PluginColumns(warn) if registry().has_hook("table_columns") else None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Tables of methods, one per set of conditions; `str` gives what `fsbench compare` prints.

    display: how. Every `to_...` returns the text and, where a path is given, writes it there too;
    a caption stands above the tables.

    >>> results.compare(baseline="zero-shot").to_latex("table.tex")
    """

    made: Sequence[Made[Shown]]
    display: Display = field(default_factory=Display)

    @property
    def tables(self) -> list[Table]:
        """The tables."""
        return [part.value[0] for part in self.made if part.value is not None]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes below the tables."""
        return tuple(note for table in self.tables for note in table.notes)

    @property
    def missing_commands(self) -> tuple[str, ...]:
        """Commands that run the missing cells."""
        return tuple(command for table in self.tables for command in table.commands)

    def __str__(self) -> str:
        return self._text("terminal")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._text("html")

    def _text(self, form: str, caption: str = "", label: str = "") -> str:
        from fewshot_bench.analysis import formats

        document = document_of_tables(self.made, form, self.display)
        return formats.render(replace(document, caption=caption, label=label), form)

    def to_html(self, path: Target = None, *, caption: str = "") -> str:
        """HTML tables that stand alone, with the content of the terminal output."""
        return _write(self._text("html", caption), path)

    def to_markdown(self, path: Target = None, *, caption: str = "") -> str:
        """Markdown tables."""
        return _write(self._text("markdown", caption), path)

    def to_latex(self, path: Target = None, *, caption: str = "", label: str = "") -> str:
        """LaTeX tables (booktabs) with this caption and label, of several with their names behind.

        UsageError for a label with other characters than letters, digits and `:._/+-`.
        """
        from fewshot_bench.analysis.formats import latex

        latex.check_label(label, "label")
        return _write(self._text("latex", caption, label), path)

    def to_csv(self, path: Target = None) -> str:
        """One tidy row per data set, method and shots, with all metrics."""
        return _write(self._text("csv"), path)

    def to_json(self, path: Target = None) -> str:
        """The rows of `to_csv`, with metadata that holds for all of them."""
        return _write(self._text("json"), path)

    def to_frame(self) -> pd.DataFrame:
        """The rows of `to_csv` as a pandas data frame."""
        shown = document_of_tables(self.made, "csv", self.display)
        return frame_rows(plain(shown.rows), shown.heads)


def document_of_tables(made: Sequence[Made[Shown]], form: str, display: Display) -> Document:
    """The tables of all sets of conditions as one document."""
    return document_of(merge(made, display, form), lambda own: lay_out(own, form, display))


def frame_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> pd.DataFrame:
    """A pandas data frame of rows; columns: its columns if there are no rows."""
    import pandas as pd

    return pd.DataFrame(list(rows), columns=None if rows else list(columns))


def _write(text: str, path: Target) -> str:
    if path is not None:
        try:
            Path(path).write_bytes(text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    return text
