"""`Record`: the result of one cell with its split, costs, incidents and environment.

A record is written once; its digest covers every field, so that later changes are detected.
`image_facts` are the digests of images in `Record.split`, and the number of test images (`overlap`)
whose bytes equal those of a train or validation image; records of failed cells lack them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from fewshot_bench.api.method_card import default_schedule, schedule_with
from fewshot_bench.api.spec import CONDITIONS, RunSpec, check_kinds
from fewshot_bench.utils.errors import StoreError


class Incidents:
    """Incidents in order of occurrence, without duplicates."""

    def __init__(self) -> None:
        self._incidents: list[dict[str, str]] = []

    def add(self, kind: str, text: str) -> None:
        """Add an incident. kind: one machine-readable word; text: one line for people."""
        incident = {"kind": kind, "text": text}
        if incident not in self._incidents:
            self._incidents.append(incident)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(dict(incident) for incident in self._incidents)

    def __len__(self) -> int:
        return len(self._incidents)

    def restart(self, others: Iterable[Mapping[str, str]]) -> None:
        """Replace the incidents so far by `others`."""
        self._incidents = [dict(incident) for incident in others]


# Slightly below zero: times are rounded differences of sums.
LEAST_SECONDS = -1e-3
# Bounds of numbers: SQLite holds whole ones below, and squares of others do not overflow.
WHOLE, LARGEST = 10**18, 1e100
# The kinds of values. No constraint of msgspec lets through NaN, infinity, or true for 1.
Count = Annotated[int, Meta(ge=0, lt=WHOLE)]
Number = Annotated[int, Meta(gt=-WHOLE, lt=WHOLE)] | Annotated[float, Meta(gt=-LARGEST, lt=LARGEST)]
Amount = Annotated[float, Meta(ge=0, lt=WHOLE)] | None
Gap = Count | Annotated[float, Meta(ge=0, lt=LARGEST)] | None
Seconds = Annotated[float, Meta(ge=LEAST_SECONDS, lt=1e12)] | None

SCHEMA = 1
Status = Literal["done", "failed", "inapplicable"]
STATUSES = ("done", "failed", "inapplicable")
# Lazily read fields that are cached.
KEPT = frozenset({"metrics", "curves"})
# Lazily read fields.
LATE = KEPT | {"split", "footprint", "timings", "environment", "digests", "notes"}


class SplitKinds(Struct):
    """Kinds of the entries of `Record.split`; others may be anything."""

    digest: str = ""
    protocol: str = ""
    revision: str = ""
    images: str = ""
    test_images: str = ""
    classes: Count = 0
    train: Count = 0
    val: Count = 0
    test: Count = 0
    fitted_classes: Count = 0
    overlap: Count = 0
    short_classes: Count = 0
    smallest_class: Count = 0
    short_val: Count = 0
    skipped: Count = 0
    bystanders: Count = 0
    groups: Count = 0
    group_sizes: list[Count] = []
    group_classes: list[Count] = []
    texts: dict[str, Count | str] = {}
    templates: list[str] = []
    classnames: list[str] = []
    mirrored: bool = False
    verified: bool | None = None


class FootprintKinds(Struct):
    """Kinds of the entries of `Record.footprint`; others may be anything."""

    trained: Amount = None
    stored: Amount = None
    backbone: Amount = None
    steps: Amount = None
    peak_memory_mb: Amount = None
    images_seen: Amount = None
    images_encoded: Amount = None
    query_gap: Gap = None
    moved: Amount = None
    text_gap: Gap = None
    encoded_per_query: Amount = None
    test_steps: Amount = None
    work: dict[str, dict[str, Amount]] = {}
    selection: dict[str, Amount | bool] = {}
    violations: list[str] = []
    trained_source: str = ""
    metered: bool = False
    step: str = ""
    depends_on_queries: bool | None = None
    card: dict[str, str | dict[str, str]] = {}


class TimingsKinds(Struct):
    """Kinds of the entries of `Record.timings`; others may be anything."""

    billed_seconds: Seconds = None
    elapsed_seconds: Seconds = None
    wall_seconds: Seconds = None
    phases: dict[str, dict[str, Seconds | dict[str, Seconds]]] = {}
    images: dict[str, Seconds | str] = {}
    card: dict[str, dict[str, Amount]] = {}


class EnvironmentKinds(Struct):
    """Kinds of the entries of `Record.environment`; others may be anything."""

    threads: Amount = None
    cpus: Amount = None
    load: Amount = None


class CurveKinds(Struct):
    """Kinds of the entries of one series of `Record.curves`."""

    steps: list[Count]
    values: list[Number]


class ErrorKinds(Struct):
    """Kinds of the entries of `Record.error`; others may be anything."""

    type: str = ""
    message: str = ""
    traceback: str = ""


class RecordKinds(Struct, kw_only=True):
    """Kinds of the values of a record's file, in their order."""

    schema: Literal[1]
    spec: dict[str, Any]
    split: SplitKinds
    status: Status
    metrics: dict[str, Number]
    footprint: FootprintKinds
    timings: TimingsKinds
    environment: EnvironmentKinds
    notes: dict[str, Any] | None = None
    curves: dict[str, CurveKinds] = {}
    error: ErrorKinds | None = None
    incidents: list[dict[str, str]]
    digests: dict[str, str]


# Value of `environment.labels` if metrics were computed in a process without plug-in code.
SEPARATE = "separate"
# Value of `footprint.trained_source` if gradients were computed that no optimizer was seen to use.
NOT_OBSERVED = "not observed"
# Kinds of incidents that an audit reads: a retry with less memory, a cell repeated after its
# worker was lost, less time than another process took.
OUT_OF_MEMORY, RETRIED, TIME = "out-of-memory", "retried", "time"


@dataclasses.dataclass(frozen=True)
class Record:
    """One cell's outcome.

    split: `digest`, `protocol`, `train`, `val`, `test` (counts), `verified` (published picks),
        `classnames` (of the columns of the logits).
    metrics: the result of `metrics.rounded`, to six digits; empty if the cell failed.
    footprint: `trained`, `trained_source` (observed, declared or not observed), `stored`,
        `backbone` (parameters), `peak_memory_mb`, `images_seen`, `steps`, `step` (their kind, if
        it is not eager), `selection` (configurations, labels, and whether those of `task.val` were
        read), `card` (facts of the method: `MethodCard.to_dict`, and `papers` if it is not built
        in), `metered` (false if the method took `backbone.module` or ran another network, whose
        work nothing counts), `depends_on_queries`, `query_gap`, `moved` and `violations`
        (`runner.verification`), `encoded_per_query` (images), `test_steps` (of `steps`, those while
        it answers).
    timings: per phase `wall` and `cpu` seconds, `billed_seconds`, `elapsed_seconds`; and
        `wall_seconds` of the whole cell, taken outside the process of the method.
    curves: `steps` and `values` of each series that the fit logged (`loss`, `rate` ...), thinned;
        of a failed fit, until it failed.
    error: `type`, `message`, `traceback` of a failed cell, else None; for an inapplicable cell,
        `message` is the reason (a method that cannot predict classes it was not fitted on);
        `transient` if the machine failed and not the cell, so that the next run retries it;
        `device_fault` is what a device said that no longer computes in the cell's process,
        `uncaptured` why its training steps cannot be captured (`of_code`: nor those of other
        cells).
    incidents: corrective actions of the harness as {`kind`, `text`}: a retry, less memory than
        asked for, a plug-in that left a thread behind.
    digests (SHA-256): `logits`, of all logits in float32 with labels and ids, which identifies a
        result; `answers`, of the file beside the record; `record`, of the text before it
        (`digests_of_text`).

    >>> load("results").records()[0].metrics["top1"]
    """

    spec: RunSpec
    status: Status
    split: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    footprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    incidents: Sequence[Mapping[str, str]] = ()
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA
    # What the cell had that was run, where a table is lent its record: `queries alone`. In no file.
    less: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    # Who computed it, if it is not of the store that a table is about. In no file.
    source: str = dataclasses.field(default="", compare=False, repr=False)

    @classmethod
    def reading(cls, spec: RunSpec, state: Mapping[str, Any], part: Any) -> Record:
        """A record that reads its other fields on use: `part(name)` returns one.

        part: a row of the store's index, with its `entries` and `columns` for values of many
        records. state: `status`, `error` and `incidents`; these and all values from `part` must
        already have passed the checks of `from_dict`. Copies of such a record hold all fields.
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

    def lend(self, **allowed: Any) -> Record:
        """The record as it counts in a table that allows these conditions.

        Its `spec` has them, and the key of this one; reads nothing that this one has not read.
        """
        lent, spec = object.__new__(Record), self.spec.lend(**allowed)
        less = [
            f"{name} {CONDITIONS[name].text(own)}"
            for name, value in allowed.items()
            if (own := getattr(self.spec, name)) != value
        ]
        lent.__dict__.update(self.__dict__, spec=spec, less=(*self.less, *less))
        return lent

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
        if part in LATE and len(kinds) == 1 and readers[0] is not None:
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
    def device_fault(self) -> str:
        """The message of the device that failed under the cell; empty if none did."""
        return str((self.error or {}).get("device_fault", ""))

    @property
    def uncaptured(self) -> str:
        """The reason for eager steps, if a captured step failed under the cell; else empty."""
        return str((self.error or {}).get("uncaptured", ""))

    @property
    def transient(self) -> bool:
        """True if the machine failed and not the cell, so that the next run retries it."""
        return bool((self.error or {}).get("transient"))

    @property
    def card(self) -> Mapping[str, Any]:
        """Facts of the method in the form of `MethodCard.to_dict`; empty if not recorded."""
        return self.entry("footprint", "card") or {}

    @property
    def schedule(self) -> str:
        """The name of the schedule that ran; empty without a card."""
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
        values = {name: getattr(self, name) for name in RecordKinds.__struct_fields__}
        values |= {"spec": self.spec.to_dict(), "incidents": [*map(dict, self.incidents)]}
        objects = {n: dict(value) for n, value in values.items() if isinstance(value, Mapping)}
        return values | objects

    def to_json(self) -> str:
        """Indented JSON; ValueError for values that are not finite."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, values: Any) -> Record:
        """The inverse of `to_dict`; StoreError for an unexpected key or type."""
        check_kinds("record", values, RecordKinds, {"status": STATUSES, "schema": (SCHEMA,)})
        _check_numbers(values.get("notes") or {}, "record has notes")
        record = object.__new__(cls)
        # As the constructor, which is slow for a frozen class.
        record.__dict__.update(
            {name: values.get(name) for name in RecordKinds.__struct_fields__},
            spec=RunSpec.from_dict(values["spec"]),
            notes=values.get("notes") or {},
            curves=_check_curves(values.get("curves") or {}),
            incidents=tuple(values["incidents"]),
        )
        return record


def _check_numbers(values: Any, where: str) -> None:
    """StoreError for a number beyond the bounds, wherever it is in nested values."""
    for name, value in values.items() if type(values) is dict else enumerate(values):
        if type(value) is dict or type(value) is list:
            _check_numbers(value, f"{where} {name}")
        elif is_too_large(value):
            bound = LARGEST if isinstance(value, float) else WHOLE
            raise StoreError(f"{where} {name} {value!r:.60}: expected less than {bound:g}")


def is_too_large(value: object) -> bool:
    """True for a number that no record can hold."""
    if isinstance(value, int):
        return not -WHOLE < value < WHOLE
    return isinstance(value, float) and not -LARGEST < value < LARGEST


def _check_curves(curves: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, series in curves.items():
        steps, values = series["steps"], series["values"]
        if not len(steps) == len(values) > 0:
            told = f"{len(steps)} steps and {len(values)} values"
            raise StoreError(f"record has curves.{name} with {told}, expected as many, and one")
    return curves


def entry(values: Any, name: str, absent: Any = None) -> Any:
    """A value in nested objects by its dotted name; `absent` if there is none."""
    # Most are dictionaries, for which this is faster.
    if type(values) is not dict and not isinstance(values, Mapping):
        return absent
    if name in values:
        return values[name]
    own, dot, inner = name.partition(".")
    return entry(values.get(own), inner, absent) if dot else absent


def code_digest(stated: object) -> str | None:
    """The digest in a record's `environment.code`; None if it holds none."""
    digest = stated.get("digest") if isinstance(stated, Mapping) else None
    return digest if isinstance(digest, str) else None


# The digest of a record at the end of its compact JSON.
_OWN_DIGEST = re.compile(rb',?"record":"([0-9a-f]{64})"\}\}\Z')


def seal(record: Record, digests: Mapping[str, str]) -> Record:
    """The record with its digests; ValueError or TypeError if it is not JSON.

    digests: `logits` and `answers`, if any.
    """
    record = dataclasses.replace(record, digests=digests)
    _, own = digests_of_text(record.to_json().encode())
    return dataclasses.replace(record, digests={**digests, "record": own})


def unseal(text: bytes, values: Any) -> Record:
    """The record of a text and its values; StoreError if they changed after it was written."""
    record = Record.from_dict(values)
    problem = seal_problem(text)
    if problem:
        raise StoreError(problem)
    return record


def seal_problem(text: bytes) -> str:
    """The reason why a record's own digest does not match its text; empty if it does."""
    stated, actual = digests_of_text(text)
    if stated == actual:
        return ""
    return (
        f"the record states the digest {stated:.12} and its values have {actual:.12}, so it was "
        "changed after it was written"
    )


def digests_of_text(text: bytes) -> tuple[str, str]:
    """The digest that a record's JSON states at its end, `None` if it states none; and its own.

    Its own is the SHA-256 of what is before, without blanks between tokens. ValueError for another
    text.
    """
    try:
        compact = msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        compact = json.dumps(parse_json(text), separators=(",", ":")).encode()
    end = _OWN_DIGEST.search(compact, max(len(compact) - 90, 0))
    stated, covered = (end[1].decode(), end.start()) if end else ("None", len(compact) - 2)
    return stated, hashlib.sha256(compact[:covered]).hexdigest()


def parse_json(text: bytes) -> Any:
    """The values of a JSON text; ValueError for anything else, NaN and infinity included."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return _decoder.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def encode_json(value: Any) -> bytes:
    """A value as compact JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _refuse_number(name: str) -> None:
    raise ValueError(f"record holds {name}")


_decoder = json.JSONDecoder(parse_constant=_refuse_number)


def image_facts(
    train: Sequence[bytes], val: Sequence[bytes], test: Sequence[bytes]
) -> dict[str, Any]:
    """`images`, `test_images` and `overlap`, from the SHA-256 of every image in list order."""
    parts = [hashlib.sha256(b"".join(part)).hexdigest() for part in (train, val, test)]
    fitted = {*train, *val}
    return {
        "images": hashlib.sha256("".join(parts).encode()).hexdigest(),
        "test_images": parts[2],
        "overlap": sum(image in fitted for image in test),
    }


def split_digest(split: Mapping[str, Any]) -> str:
    """The digest of a record's split; empty if absent (the cell failed early)."""
    return split.get("digest") or ""


def images(split: Mapping[str, Any]) -> str:
    """The digest of all images of a record's split; empty if not recorded."""
    return split.get("images") or ""


class Overlap(NamedTuple):
    """`shared`: test images of a cell that equal one of its train or validation images by bytes.

    evaluated: the evaluated data set, as in tables. test: the number of test images.
    """

    evaluated: str
    shared: int
    test: int


def overlaps(records: Iterable[Record]) -> list[Overlap]:
    """The overlaps of the records that hold them."""
    splits = ((record.spec.evaluated, record.split) for record in records)
    return [
        Overlap(evaluated, split["overlap"], split["test"])
        for evaluated, split in splits
        if "overlap" in split and "test" in split
    ]


def overlap_texts(shares: Iterable[Overlap] | Mapping[Overlap, int]) -> dict[str, str]:
    """A sentence per evaluated data set whose test images overlap train or validation images.

    shares: the overlap of each cell, or the number of cells with each overlap.
    """
    by_set: defaultdict[str, list[tuple[Overlap, int]]] = defaultdict(list)
    for share, cells in Counter(shares).items():
        by_set[share.evaluated].append((share, cells))
    texts = {}
    for evaluated, counts in by_set.items():
        most = max((share for share, _ in counts), key=lambda share: share.shared)
        having = sum(cells for share, cells in counts if share.shared)
        total = sum(cells for _, cells in counts)
        where = f"or fewer, in {having:,} of {total:,} cells"
        if len({share.shared for share, _ in counts}) == 1:
            where = "in all cells" if total > 1 else "1 cell"
        if having:
            texts[evaluated] = (
                f"{evaluated}: {most.shared:,} of {most.test:,} test images are also among the "
                f"train or validation images, byte for byte ({where})"
            )
    return texts
