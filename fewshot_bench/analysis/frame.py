"""One pandas frame of records, from which tables, audits, sweeps and reports are computed.

    data = frame(records)                        # one row per record; column `record` holds it
    load(data, "status", "split.digest", "own data")
    data[data["status"] == "done"].groupby("dataset", observed=True)["split.digest"].nunique()
    distinct(data, "method", "shots")            # [("coop", 1), ("coop", 4)]: in order of rows
    conflicts(data, MustAgree("revision", ("dataset",), "revision"))    # rows of the data sets
                                                                        # with several revisions

`load` reads columns in batches when they are asked for. A name is one of `COLUMNS` (or of what the
caller declares), a field of `RunSpec` (`shots`) or of `Record` (`status`), or an entry of a part of
the record (`environment.threads`, `footprint.card.papers`).

Columns of numbers hold the records' own Python numbers, all others are categories: texts, and for
dictionaries and lists their canonical JSON, so that equal ones are equal (`decode` gives the value
back). What a record lacks is missing (None in `distinct` and for computed columns). Of a part of a
frame, take a copy before loading more: `part = data[mask].copy()`.
"""

from __future__ import annotations

import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.file_texts import with_files
from fewshot_bench.api.method_card import NO_PROMPTS
from fewshot_bench.api.record import Record, code_digest
from fewshot_bench.api.spec import (
    CONDITIONS,
    IMPORTED,
    KEPT_MODEL,
    AllShots,
    canonical_json,
    method_label,
    plain,
)
from fewshot_bench.utils.text import digest_of

if TYPE_CHECKING:
    import pandas as pd

# Fields of records; other names without a dot are fields of their specifications.
_OF_RECORD = frozenset({"status", "error", "incidents", "source"})
UNKNOWN = "unknown"
# Phases of a cell: those of a fit, and those of its answers.
TRAINING = ("encode_support", "encode_text", "fit")
ANSWERING = ("encode_queries", "predict")


class Computed(NamedTuple):
    """A column that is computed once per distinct line of other columns.

    compute: gets the values of `sources`, None for missing ones.
    """

    sources: tuple[str, ...]
    compute: Callable[..., Any]


class MustAgree(NamedTuple):
    """A fact that must have a single value in each group of records.

    name: the fact, in messages. keys: the columns by which records are grouped. value: the column
    of the fact. needs: columns that must all be true, otherwise the record is left out.
    """

    name: str
    keys: tuple[str, ...]
    value: str
    needs: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the rule reads."""
        return (*self.keys, self.value, *self.needs)


def frame(records: Sequence[Record]) -> pd.DataFrame:
    """A frame with the column `record`, to which `load` adds others."""
    import pandas as pd

    column = np.fromiter(records, object, len(records))
    data = pd.DataFrame({"record": pd.Series(column, dtype=object)})
    # Names that are Python's own texts are found faster than those of Arrow.
    data.columns = data.columns.astype(object)
    return data


def load(
    data: pd.DataFrame, *names: str, declared: Mapping[str, Computed] | None = None
) -> pd.DataFrame:
    """Add the named columns in place, those that are there excepted; returns the frame.

    declared: computed columns beside `COLUMNS`.
    """
    every = {**COLUMNS, **(declared or {})}
    fields: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in _sources(data, names, every):
        field, _, entry = name.partition(".") if "." in name else ("", "", name)
        fields[field][entry] = None
    records = data["record"].tolist()
    new: dict[str, Any] = {}
    for field, entries in fields.items():
        if field:
            # Records of one run share lines of what is equal in all of them.
            lines = Record.entries(records, field, *entries)
            numbers, first = _number(np.fromiter(map(id, lines), np.int64, len(lines)))
            columns = zip(*(lines[row] for row in first), strict=True)
            for entry, column in zip(entries, columns if lines else repeat(()), strict=False):
                new[f"{field}.{entry}"] = encode(column).take(numbers)
        else:
            for entry in entries:
                path = entry if entry in _OF_RECORD else f"spec.{entry}"
                new[entry] = encode(list(map(attrgetter(path), records)))
    for name, column in new.items():
        data[name] = column
    for name in names:
        _compute(data, name, every)
    return data


def _sources(
    data: pd.DataFrame, names: Iterable[str], declared: Mapping[str, Computed]
) -> list[str]:
    """The columns to read for these."""
    wanted = []
    for name in names:
        if name in data:
            continue
        column = declared.get(name)
        wanted += _sources(data, column.sources, declared) if column else [name]
    return wanted


def _compute(data: pd.DataFrame, name: str, declared: Mapping[str, Computed]) -> None:
    """Add a column that is computed, after those that it is computed from."""
    if name in data:
        return
    sources, compute = declared[name]
    for source in sources:
        _compute(data, source, declared)
    numbers, first = group(data, sources)
    lines = zip(*(values(data, source, first) for source in sources), strict=True)
    data[name] = encode([compute(*line) for line in lines]).take(numbers)


def encode(cells: Sequence[Any]) -> Any:
    """A column of these values: numbers as they are, all others as categories."""
    import pandas as pd

    kinds = set(map(type, cells))
    if kinds <= {int, float, AllShots, type(None)} and kinds != {type(None)}:
        return pd.array(np.fromiter(cells, object, len(cells)), dtype=object)
    if kinds & {dict, list, tuple}:
        # Records of a store share equal objects.
        objects = {id(cell): cell for cell in cells}
        texts = {key: _text(cell) for key, cell in objects.items()}
        cells = [texts[id(cell)] for cell in cells]
    codes, categories = pd.factorize(np.fromiter(cells, object, len(cells)))
    return pd.Categorical.from_codes(codes, pd.Index(categories, dtype=object))


def _text(value: Any) -> Any:
    if not isinstance(value, dict | list | tuple):
        return value
    try:
        return canonical_json(plain(value))
    except ValueError:
        # JSON's 1e999 is infinite in Python.
        from fewshot_bench.analysis.formats.tidy import finite

        return canonical_json(finite(plain(value)))


@functools.lru_cache(maxsize=4096)
def decode(text: str | None) -> Any:
    """The dictionary or list of a column's text; None for a missing one. It must not be changed."""
    return None if text is None else json.loads(text)


def group(
    data: pd.DataFrame, names: Sequence[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The number of each row's line of these columns, and the first row of each distinct line.

    Lines are numbered in the order of their first rows. Columns must be loaded.
    """
    import pandas as pd

    lines = np.zeros(len(data), np.int64)
    for name in names:
        column = data[name]
        codes = pd.factorize(column)[0] if column.dtype == object else column.cat.codes.to_numpy()
        # -1 stands for a missing value.
        lines = pd.factorize(lines * (codes.max(initial=0) + 2) + codes + 1)[0]
    return _number(lines)


def _number(lines: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """As `group`, of lines that are numbers."""
    import pandas as pd

    numbers = pd.factorize(lines)[0]
    first = np.zeros(numbers.max(initial=-1) + 1, np.int64)
    # The last value that is assigned stays.
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]
    return numbers, first


def values(
    data: pd.DataFrame, name: str, rows: np.ndarray[Any, Any] | slice = slice(None)
) -> list[Any]:
    """The values of a column, or of some rows of it; None for missing ones."""
    column = data[name]
    if column.dtype == object:
        return list(column.to_numpy()[rows])
    categories = [*column.cat.categories, None]
    return [categories[code] for code in column.cat.codes.to_numpy()[rows].tolist()]


def distinct(data: pd.DataFrame, *names: str) -> list[tuple[Any, ...]]:
    """The distinct lines of these columns, in order of rows; loads what is not there."""
    _, first = group(load(data, *names), names)
    return list(zip(*(values(data, name, first) for name in names), strict=True))


def count(data: pd.DataFrame, *names: str) -> dict[tuple[Any, ...], int]:
    """As `distinct`, with the number of rows of each line."""
    lines = distinct(data, *names)
    numbers, _ = group(data, names)
    counts = np.bincount(numbers, minlength=len(lines)).tolist()
    return dict(zip(lines, counts, strict=True))


def is_true(data: pd.DataFrame, name: str) -> np.ndarray[Any, Any]:
    """(rows,) bool: where a column has a value that is neither empty nor zero nor false."""
    numbers, first = group(data, (name,))
    truths = np.array([bool(value) for value in values(data, name, first)], bool)
    return np.asarray(truths[numbers])


def conflicts(
    data: pd.DataFrame, rule: MustAgree, declared: Mapping[str, Computed] | None = None
) -> pd.DataFrame:
    """The rows of groups that have several values of a fact; `declared` as for `load`."""
    load(data, *rule.columns, declared=declared)
    column = data[rule.value]
    # Most facts have one value everywhere.
    if column.dtype != object and len(column.cat.categories) < 2:
        return data.iloc[:0]
    rows = np.ones(len(data), bool)
    for name in rule.needs:
        rows &= is_true(data, name)
    # Of few columns: those of a whole frame are slow to copy.
    part = data.loc[rows, list(dict.fromkeys((*rule.keys, rule.value)))]
    groups, _ = group(part, rule.keys)
    _, first = group(part, (*rule.keys, rule.value))
    rows[rows] = np.bincount(groups[first], minlength=1)[groups] > 1
    return data[rows] if rows.any() else data.iloc[:0]


def code_text(stated: Any) -> str:
    """The first 12 digits of the digest in `environment.code` of a record, or `unknown`."""
    return (code_digest(stated) or UNKNOWN)[:12]


def data_digest(data: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of the own-data options as canonical JSON."""
    return digest_of(canonical_json(dict(data)), 12)


def drop_skipped(data: Mapping[str, Any]) -> dict[str, Any]:
    """The own-data options without the skipped images."""
    return {name: value for name, value in data.items() if name != SKIPPED}


def data_text(data: Mapping[str, Any]) -> str:
    """The digest of the options of own data without skipped images, or `none`."""
    own = drop_skipped(data)
    return data_digest(own) if own else "none"


def own_data_text(data: Mapping[str, Any], dataset: str) -> str:
    """A short digest of own data and of the images skipped in the data set, or `none`."""
    skipped = data.get(SKIPPED, {}).get(dataset)
    # Images skipped in a target already change its revision.
    own = drop_skipped(data) | ({SKIPPED: skipped} if skipped else {})
    return data_digest(own) if own else "none"


def weights_text(status: str, named: str, loaded: Any) -> str:
    """The digest of the weights of a finished cell whose specification has none; else empty.

    A specification has the digest of files that were there before anything was loaded.
    """
    return str(loaded or "") if status == "done" and not named else ""


def templates_digest(protocol: str, templates: Any) -> str:
    """The first 12 digits of the digest of the templates of a cell; empty if it states none.

    A kept model has templates of its own: none are expected of its data set's prompts.
    """
    return digest_of(templates, 12) if templates and protocol != KEPT_MODEL else ""


def _setting(published: bool, dataset: str, shots: int, classes: str) -> str:
    """The setting that published values may depend on; empty where one setting serves all."""
    return f"{dataset} {shots} {classes == 'all'}" if published else ""


def _state(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _proof(name: str, holds: Callable[[Any], bool]) -> Computed:
    """True for records of which this entry holds, and that do as their cards declare."""
    return Computed(
        (name, "footprint.violations"),
        lambda value, violations: holds(value) and not decode(violations),
    )


def sum_of(*parts: float | None) -> float | None:
    """The sum of the known parts; None if there is none."""
    known = [part for part in parts if part is not None]
    return math.fsum(known) if known else None


def latency_of(test: int | None, bystanders: int | None, *spent: float | None) -> float | None:
    """Milliseconds per answered query; None if times or queries are unknown."""
    queries, total = (test or 0) + (bystanders or 0), sum_of(*spent)
    return 1000 * total / queries if queries and total is not None else None


COLUMNS: Mapping[str, Computed] = {
    "asked exif": Computed(("exif", "dataset", "target"), CONDITIONS["exif"].as_asked),
    # Method, version, overrides and files, which identify a row.
    "row": Computed(
        ("method", "method_version", "overrides", "options"),
        lambda method, version, own, options: method_label(
            f"{method}@{version}", with_files(decode(own), decode(options))
        ),
    ),
    "label": Computed(
        ("method", "overrides"), lambda method, own: method_label(method, decode(own))
    ),
    "own data": Computed(
        ("data", "dataset"), lambda data, dataset: own_data_text(decode(data), dataset)
    ),
    "data text": Computed(("data",), lambda data: data_text(decode(data))),
    "published setting": Computed(("published", "dataset", "shots", "classes"), _setting),
    "split": Computed(("split.digest",), lambda digest: str(digest or "")),
    "images": Computed(("split.images",), _state),
    "test images": Computed(("split.test_images",), _state),
    "code": Computed(("environment.code",), lambda stated: code_text(decode(stated))),
    "imported picks": Computed(
        ("protocol", "picks"), lambda protocol, picks: picks if protocol == IMPORTED else ""
    ),
    "loaded weights": Computed(("status", "weights", "environment.weights_digest"), weights_text),
    # Proofs of `Condition.proof`, by which records count in tables that allow more.
    "independent": _proof("footprint.depends_on_queries", lambda depends: depends is False),
    "verified": _proof("footprint.depends_on_queries", lambda depends: depends is not None),
    "without templates": _proof("footprint.card.text", NO_PROMPTS.__contains__),
    # Only finished cells have numbers that could be mixed.
    "done": Computed(("status",), "done".__eq__),
    "kept model": Computed(("protocol",), KEPT_MODEL.__eq__),
    "templates digest": Computed(("protocol", "split.templates"), templates_digest),
    "training seconds": Computed(
        tuple(f"timings.phases.{phase}.billed.wall" for phase in TRAINING), sum_of
    ),
    "latency": Computed(
        (
            *("split.test", "split.bystanders"),
            *(f"timings.phases.{phase}.billed.wall" for phase in ANSWERING),
        ),
        latency_of,
    ),
    "joules": Computed(
        tuple(f"timings.phases.{phase}.joules" for phase in (*TRAINING, *ANSWERING)), sum_of
    ),
}
