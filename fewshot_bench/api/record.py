"""`Record`: the result of one cell with its split, costs, incidents and environment.

A record is written once; its digest covers every field, so that later changes are detected.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fewshot_bench.api.method_card import default_schedule, schedule_with
from fewshot_bench.api.spec import RunSpec, canonical_json
from fewshot_bench.utils.errors import StoreError


class Incidents:
    """Incidents in order of occurrence, without duplicates."""

    def __init__(self) -> None:
        self._found: list[dict[str, str]] = []

    def add(self, kind: str, text: str) -> None:
        """Add an incident. kind: one machine-readable word; text: one line for people."""
        incident = {"kind": kind, "text": text}
        if incident not in self._found:
            self._found.append(incident)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(dict(incident) for incident in self._found)

    def __len__(self) -> int:
        return len(self._found)

    def restart(self, others: Iterable[Mapping[str, str]]) -> None:
        """Replace the incidents found so far by `others`."""
        self._found = [dict(incident) for incident in others]


# Slightly below zero: times are rounded differences of sums.
LEAST_SECONDS = -1e-3


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _number(value: object) -> bool:
    if type(value) is float:
        return -1e300 < value < 1e300
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e300
        and math.isfinite(value)
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18


def _verdict(value: object) -> bool:
    return isinstance(value, bool | None)


def _amount(value: object) -> bool:
    return value is None or (_number(value) and value >= 0)  # type: ignore[operator]


def _seconds(value: object) -> bool:
    return value is None or (_number(value) and value >= LEAST_SECONDS)  # type: ignore[operator]


def _card(value: object) -> bool:
    return isinstance(value, dict) and all(
        _text(one) or (isinstance(one, dict) and all(map(_text, one.values())))
        for one in value.values()
    )


Kind = tuple[str, Callable[[object], bool]]
TEXT: Kind = ("a text", _text)
TEXTS: Kind = ("a list of texts", _texts)
FLAG: Kind = ("true or false", _flag)
VERDICT: Kind = ("true, false or null", _verdict)
NUMBER: Kind = ("a finite number", _number)
COUNT: Kind = ("a whole number from 0", _count)
AMOUNT: Kind = ("a number from 0", _amount)
SECONDS: Kind = ("a number of seconds", _seconds)
CARD: Kind = ("an object of texts", _card)

KINDS: Mapping[str, Mapping[str, Kind]] = {
    "split": {
        **dict.fromkeys(("digest", "protocol", "revision", "images", "test_images"), TEXT),
        **dict.fromkeys(("classes", "train", "val", "test"), COUNT),
        **dict.fromkeys(("fitted_classes", "overlap", "short_classes"), COUNT),
        **dict.fromkeys(("templates", "classnames"), TEXTS),
        "mirrored": FLAG,
    },
    "footprint": {
        **dict.fromkeys(("trained", "stored", "backbone", "steps"), AMOUNT),
        **dict.fromkeys(("peak_memory_mb", "images_seen", "images_encoded"), AMOUNT),
        "query_gap": AMOUNT,
        "trained_source": TEXT,
        "metered": FLAG,
        "depends_on_queries": VERDICT,
        "card": CARD,
    },
    "timings": dict.fromkeys(("billed_seconds", "elapsed_seconds", "wall_seconds"), SECONDS),
    "error": dict.fromkeys(("type", "message", "traceback"), TEXT),
}
# Fields whose values all have one kind.
WHOLE: Mapping[str, Kind] = {"metrics": NUMBER, "digests": TEXT}


def kind_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """One problem per value of an unexpected type. values: a record's; its parts are objects."""
    for part, kinds in KINDS.items():
        for name, value in (values.get(part) or {}).items():
            if name in kinds and not kinds[name][1](value):
                yield _problem(f"{part}.{name}", value, kinds[name])
    for part, kind in WHOLE.items():
        for name, value in values[part].items():
            if not kind[1](value):
                yield _problem(f"{part}.{name}", value, kind)
    for place, incident in enumerate(values["incidents"]):
        for name, value in incident.items():
            if not _text(value):
                yield _problem(f"incidents[{place}].{name}", value, TEXT)


def _problem(name: str, value: object, kind: Kind) -> str:
    return f"record's {name} is {value!r:.60}, expected {kind[0]}"


SCHEMA = 1
Status = Literal["done", "failed", "inapplicable"]
STATUSES = ("done", "failed", "inapplicable")
# Digests that the digest of a record's values does not cover.
OF_ITSELF = ("record", "seal")
# Lazily read fields that are cached.
KEPT = frozenset({"metrics"})
OBJECTS = ("spec", "split", "metrics", "footprint", "timings", "environment", "digests")
# Lazily read fields.
LATE = frozenset({*OBJECTS, "notes"} - {"spec"})
KEYS = ("schema", "status", *OBJECTS, "incidents")
# Value of `environment.labels` if metrics were computed in a process without plug-in code.
SEPARATE = "separate"
# Value of `footprint.trained_source` if gradients were computed that no optimizer was seen to use.
NOT_OBSERVED = "not observed"
# Kinds of incidents that an audit reads: a retry with less memory, a cell repeated after its
# worker was lost, less time than another process took, functions that a method replaced, threads
# that it left behind.
OUT_OF_MEMORY, RETRIED, TIME = "out-of-memory", "retried", "time"
FUNCTIONS, THREADS = "functions", "threads"


class Parts(Protocol):
    """Reader of a record's lazily read fields."""

    def __call__(self, part: str) -> Any:
        """A field by name."""
        ...

    def entries(self, part: str, names: tuple[str, ...]) -> tuple[Any, ...]:
        """Values of a field that is an object, by name; None for absent ones."""
        ...

    @staticmethod
    def columns(
        readers: Iterable[Any], part: str, names: tuple[str, ...], absent: Any
    ) -> list[tuple[Any, ...]]:
        """These values for several records, whose readers all have this type."""
        ...


@dataclasses.dataclass(frozen=True)
class Record:
    """One cell's outcome.

    split: `digest`, `protocol`, `train`, `val`, `test` (counts), `verified` (published picks),
        `classnames` (of the columns of the logits).
    metrics: the result of `metrics.rounded`, to six digits; empty if the cell failed.
    footprint: `trained`, `trained_source` (observed, declared or not observed), `stored`,
        `backbone` (parameters), `peak_memory_mb`, `images_seen`, `steps`, `selection`
        (configurations, labels), `card` (facts of the method: `MethodCard.to_dict`, and `papers` if
        it is not built in), `metered` (false if the method took `backbone.module`, whose work
        nothing counts),
        `depends_on_queries` and `query_gap` (`runner.evaluate.ask_again`).
    timings: per phase `wall` and `cpu` seconds, `billed_seconds`, `elapsed_seconds`; and
        `wall_seconds` of the whole cell, taken outside the process of the method.
    error: `type`, `message`, `traceback` of a failed cell, else None; for an inapplicable cell,
        `message` is the reason (a method that cannot predict classes it was not fitted on);
        `transient` if the machine failed and not the cell, so that the next run retries it.
    incidents: corrective actions of the harness as {`kind`, `text`}: a retry, less memory than
        asked for, a plug-in that left a thread behind.
    digests (SHA-256): `logits`, of all logits in float32 with labels and ids; `statistics` and
        `kept`, of the arrays stored beside the record; `answers`, of the file with these arrays;
        `text`, of the record's text before it; `record`, of all values of the record itself;
        `seal`, of `text` and `record`.

    >>> load("results").records[0].metrics["top1"]
    """

    spec: RunSpec
    status: Status
    split: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    footprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    incidents: Sequence[Mapping[str, str]] = ()
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def reading(cls, spec: RunSpec, state: Mapping[str, Any], part: Parts) -> Record:
        """A record that reads its other fields through `part` on use.

        state: `status`, `error` and `incidents`; these and all values from `part` must already
        have passed the checks of `from_dict`. Copies of such a record hold all fields.
        """
        record, keep = object.__new__(cls), object.__setattr__
        keep(record, "spec", spec)
        keep(record, "status", state["status"])
        keep(record, "_part", part)
        # Otherwise the class attribute is the default.
        if state["error"] is not None:
            keep(record, "error", state["error"])
        if state["incidents"]:
            keep(record, "incidents", tuple(state["incidents"]))
        return record

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name not in LATE:
                raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")
            value = self._part(name)
            if name in KEPT:
                object.__setattr__(self, name, value)
            return value

    def entry(self, part: str, name: str) -> Any:
        """One value of a field that is an object, nested names included; None if absent."""
        if part in LATE and part not in self.__dict__:
            return self.__dict__["_part"].entries(part, (name,))[0]
        return entry(getattr(self, part), name)

    @staticmethod
    def entries(
        records: Sequence[Record], part: str, *names: str, absent: Any = None
    ) -> list[tuple[Any, ...]]:
        """Values of a field for each record; records of a store listing are read in one pass.

        names: dots separate nested objects (`work.billed.images`). absent: replaces absent values.
        """
        readers = [record.__dict__.get("_part") for record in records]
        kinds = set(map(type, readers))
        if part in LATE - KEPT and len(kinds) == 1 and readers[0] is not None:
            columns: list[tuple[Any, ...]] = readers[0].columns(readers, part, names, absent)
            return columns
        fields = map(operator.attrgetter(part), records)
        return [tuple(entry(field, name, absent) for name in names) for field in fields]

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @functools.cached_property
    def code_digest(self) -> str | None:
        """Digest of the method's code that computed the record; None if not recorded."""
        return code_digest(self.entry("environment", "code"))

    @property
    def transient(self) -> bool:
        """True if the machine failed and not the cell, so that the next run retries it."""
        return bool((self.error or {}).get("transient"))

    @property
    def card(self) -> Mapping[str, Any]:
        """Facts of the method in the form of `MethodCard.to_dict`; empty if not recorded."""
        found = self.entry("footprint", "card")
        return found if isinstance(found, Mapping) else {}

    @property
    def schedule(self) -> str:
        """The name of the schedule that ran; empty without a card."""
        # Cards of older records hold only the schedule of the default options.
        return schedule_with(self.default_schedule, self.spec.overrides)

    @property
    def default_schedule(self) -> str:
        """The schedule of the method's default options; empty without a card."""
        return default_schedule(self.card)

    @property
    def logits_digest(self) -> str:
        """Digest of all logits in float32, with labels and ids; empty without logits."""
        return str(self.digests.get("logits") or "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; the top-level keys are fixed."""
        return {
            "schema": self.schema,
            "spec": self.spec.to_dict(),
            "split": dict(self.split),
            "status": self.status,
            "metrics": dict(self.metrics),
            "footprint": dict(self.footprint),
            "timings": dict(self.timings),
            "environment": dict(self.environment),
            "notes": dict(self.notes),
            "error": dict(self.error) if self.error is not None else None,
            "incidents": [dict(incident) for incident in self.incidents],
            "digests": dict(self.digests),
        }

    def to_json(self) -> str:
        """Indented JSON; ValueError for values that are not finite."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """The inverse of `to_dict`; StoreError for an unexpected key or type."""
        if not isinstance(values, dict):
            raise StoreError(f"record is a {type(values).__name__}, expected an object")
        schema = values.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):
            raise StoreError(f"record has schema {schema!r}, this version reads {SCHEMA}")
        missing = [key for key in KEYS if key not in values]
        if missing:
            raise StoreError(f"record lacks {missing}")
        if values["status"] not in STATUSES:
            known = ", ".join(STATUSES)
            raise StoreError(f"record has status {values['status']!r}, expected one of {known}")
        for key in OBJECTS:
            if not isinstance(values[key], dict):
                raise StoreError(f"record's {key} is not an object")
        incidents = values["incidents"]
        if not isinstance(incidents, list) or not all(isinstance(i, dict) for i in incidents):
            raise StoreError("record's incidents are not a list of objects")
        for key in ("notes", "error"):
            if not isinstance(values.get(key), dict | None):
                raise StoreError(f"record's {key} is neither an object nor null")
        if not isinstance(values["split"].get("verified"), bool | None):
            raise StoreError("record's split.verified is neither true, false nor null")
        for problem in kind_problems(values):
            raise StoreError(problem)
        return cls._of(values, RunSpec.from_dict(values["spec"]))

    @classmethod
    def read(cls, values: Mapping[str, Any], key: str) -> Record:
        """As `from_dict`, without checks, for values that passed it before. key: the cell's key."""
        return cls._of(values, RunSpec.read(values["spec"], key))

    @classmethod
    def _of(cls, values: Mapping[str, Any], spec: RunSpec) -> Record:
        return cls(
            spec=spec,
            status=values["status"],
            split=values["split"],
            metrics=values["metrics"],
            footprint=values["footprint"],
            timings=values["timings"],
            environment=values["environment"],
            notes=values.get("notes") or {},
            error=values.get("error"),
            incidents=tuple(values["incidents"]),
            digests=values["digests"],
        )


def entry(values: Any, name: str, absent: Any = None) -> Any:
    """A value in nested objects by its dotted name; `absent` if there is none."""
    if not isinstance(values, Mapping):
        return absent
    if name in values:
        return values[name]
    own, dot, inner = name.partition(".")
    return entry(values.get(own), inner, absent) if dot else absent


def code_digest(stated: object) -> str | None:
    """The digest in a record's `environment.code`; None if it holds none."""
    digest = stated.get("digest") if isinstance(stated, Mapping) else None
    return digest if isinstance(digest, str) else None


def sealed(record: Record, digests: Mapping[str, str]) -> Record:
    """The record with its digests and seal; ValueError or TypeError if it is not JSON.

    digests: of its logits and the arrays beside it, if any, and `text`.
    """
    record = dataclasses.replace(record, digests=digests)
    own = digest_of_values(json.loads(record.to_json()))
    seal = {"seal": seal_of(digests["text"], own)} if "text" in digests else {}
    return dataclasses.replace(record, digests={**digests, "record": own, **seal})


def seal_of(text: str, record: str) -> str:
    """SHA-256 over both digests of a record, so that none of the three can be changed alone."""
    return hashlib.sha256(f"{text} {record}".encode()).hexdigest()


def unsealed(values: Any) -> Record:
    """The record with the values of a file; StoreError if they changed after it was written."""
    record = Record.from_dict(values)
    problem = seal_problem(values)
    if problem:
        raise StoreError(problem)
    return record


def seal_problem(values: Mapping[str, Any]) -> str:
    """Why a record's own digest or seal does not match its values; empty if both match."""
    digests = values["digests"]
    stated = digests.get("record")
    try:
        actual = digest_of_values(values)
    except ValueError as error:
        return f"the record holds a number that none can have: {error}"
    if stated == actual:
        expected = seal_of(digests["text"], actual) if "text" in digests else None
        return "" if digests.get("seal") == expected else "the record's seal was changed"
    return (
        f"the record states the digest {stated!s:.12} and its values have {actual:.12}, so it was "
        "changed after it was written"
    )


def digest_of_values(values: Mapping[str, Any]) -> str:
    """SHA-256 of a record's values in canonical JSON, without the digests of the record itself."""
    digests = {name: value for name, value in values["digests"].items() if name not in OF_ITSELF}
    return hashlib.sha256(canonical_json({**values, "digests": digests}).encode()).hexdigest()
