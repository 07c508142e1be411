"""The specification of one cell of the matrix, and its key.

A condition is a field of `RunSpec` declared by `condition`: options, filters, tables, sweeps,
audits, signatures, data frames and the library iterate over `CONDITIONS`. All records of one table,
sweep or mean have the same value of every condition.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, defstruct

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.file_texts import list_files, show, with_files, without_files, without_names
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.text import option_name

# Steps of a path such as `$.split.templates[3]`; msgspec writes `[...]` for any key.
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


def kind_problem(value: Any, kind: Any, words: Sequence[object] = ()) -> str:
    """The reason why a value is not of a kind; empty if it is. words: possible values, if few."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        return _explain(str(error), words)
    return ""


def _explain(told: str, words: Sequence[object]) -> str:
    """The words of msgspec, which neither lists the possible values nor explains a pattern."""
    if told.startswith("Invalid enum value") and words:
        return f"expected one of {tuple(words)}"
    if "matching regex" in told:
        return "expected a name of letters, digits and _ . + -"
    return told[:1].lower() + told[1:]


def check_kinds(
    what: str, values: Any, kind: Any, words: Mapping[str, Sequence[object]] | None = None
) -> None:
    """StoreError naming the first value that is not of its kind.

    what: what the values are of. words: possible values of fields that are one of a few.
    """
    try:
        msgspec.convert(values, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        told, _, path = str(error).partition(" - at `")
        steps = _steps_to(values, kind, path.rpartition("`$")[2] if "`$" in path else path)
        named = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        value = functools.reduce(operator.getitem, steps, values)
        expected = _explain(told, (words or {}).get(str(steps[-1]), ()) if steps else ())
        shown = f" has {named[1:]} {value!r:.60}" if steps else ""
        raise StoreError(f"{what}{shown}: {expected}") from None


def _steps_to(values: Any, kind: Any, path: str) -> list[str | int]:
    """The names and indices of a path; `[...]` becomes the first key with a wrong value."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(path):
        if index != "...":
            steps.append(name or int(index))
            continue
        inner = functools.reduce(operator.getitem, steps, values)
        keys = (key for key in inner if kind_problem(_with_only(values, steps, key), kind))
        steps.append(next(keys, "?"))
    return steps


def _with_only(values: Any, steps: Sequence[str | int], key: str) -> Any:
    """A copy of the values in which the object at `steps` has a single entry."""
    if not steps:
        return {key: values[key]}
    copy = values.copy()
    copy[steps[0]] = _with_only(values[steps[0]], steps[1:], key)
    return copy


# Sentinel: use the default of the field.
SAME: Any = object()
# Texts of a condition that holds, and of one that does not.
YES_NO = ("yes", "no")
# Names of protocols and validation policies.
REGISTERED_NAME = re.compile(r"[\w.+-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `name` and `default` are those of the field.

    title: name in messages. words: the possible values, if few and fixed. registered: values are
    names registered elsewhere (REGISTERED_NAME). kind, least: type and minimum of values. option:
    help text of `--NAME` of `fsbench run` (empty: no option); `{words}` stands for the values.
    asked: default of the option, if it is resolved before a cell gets a value. filter, metavar:
    help text and placeholder of the option that selects records. prefix: the start of a value
    selects records. short: name in a signature. signed: the signature includes the default.
    assumed: value of a signature without the condition. quiet: tables omit the default. late: rows
    of CSV and JSON omit it too. refines: the condition without whose default a run resolves the
    value, so that a reproducing command must state it. settle: function (asked, *data sets) -> the
    value of a cell, if `auto` depends on its data sets; tables show `auto` for what it gives.
    proof: the column of `analysis.frame` that is true for records that count in tables of other
    values, too, if these allow more than they need; empty: none do.
    """

    name: str = ""
    default: Any = None
    title: str = ""
    words: tuple[str, ...] = ()
    registered: bool = False
    kind: Any = str
    least: int = 0
    option: str = ""
    asked: Any = SAME
    filter: str = ""
    metavar: str = "NAME"
    prefix: bool = False
    short: str = ""
    signed: bool = False
    assumed: Any = SAME
    quiet: bool = False
    late: bool = False
    refines: str = ""
    settle: Callable[..., str] | None = None
    proof: str = ""

    @property
    def option_default(self) -> Any:
        """The default of the option."""
        return self.default if self.asked is SAME else self.asked

    @property
    def column(self) -> str:
        """The column of `analysis.frame` with the values of `as_asked`."""
        return f"asked {self.name}" if self.settle else self.name

    def of(self, spec: RunSpec) -> str:
        """The value of a cell as text, as tables show it and options take it."""
        return self.text(self.as_asked(getattr(spec, self.name), spec.dataset, spec.target))

    def as_asked(self, value: Any, *datasets: str) -> Any:
        """A value of a cell with these data sets, `auto` if that gives it."""
        return AUTO if self.settle and value == self.settle(AUTO, *datasets) else value

    @property
    def unsigned(self) -> Any:
        """The value of a signature without this condition."""
        return self.as_asked(self.default) if self.assumed is SAME else self.assumed

    @property
    def resolved(self) -> bool:
        """True if a run resolves the value, so that a reproducing command must state it."""
        asked = self.asked is not SAME and not self.refines and not self.settle
        return asked or self.assumed is not SAME

    def words_of_command(self, text: str) -> list[str]:
        """The `fsbench run` arguments that set the value of a text; empty if none are needed."""
        if not text or (text == self.text(self.as_asked(self.default)) and not self.resolved):
            return []
        return [option_name(self.name), *([] if self.kind is bool else [text])]

    def text(self, value: Any) -> str:
        """A value as text for tables and filters."""
        if self.kind is bool:
            return YES_NO[not value]
        return "none" if value is None else str(value)

    def allows(self, allowed: Any, own: Any) -> bool:
        """True if a cell with the value `own` needs no more than a table of `allowed` gives.

        The default is the least; numbers count in order.
        """
        if not self.proof:
            return bool(own == allowed)
        return own in (allowed, self.default) or (self.kind is int and own < allowed)

    def problem(self, value: Any) -> str:
        """The reason why a value is invalid; empty if it is valid."""
        return kind_problem(value, self.json_kind, self.words)

    @property
    def json_kind(self) -> Any:
        """The type of values in JSON for msgspec."""
        kind = self.kind
        if self.words:
            kind = Literal[self.words]
        elif kind is int:
            kind = Annotated[int, Meta(ge=self.least, lt=10**LONGEST_NUMBER)]
        elif self.registered:
            kind = Annotated[str, Meta(pattern=rf"^{REGISTERED_NAME.pattern}\Z")]
        elif kind is str and self.default != "":
            kind = Annotated[str, Meta(min_length=1)]
        return kind | None if self.default is None else kind


def condition(default: Any, filter: str, **about: Any) -> Any:
    """A field of `RunSpec` that is a condition; about: fields of `Condition`."""
    made = Condition(default=default, filter=filter, **about)
    return dataclasses.field(default=default, metadata={"condition": made})


# One that few runs change.
rare_condition = functools.partial(condition, metavar="WORD", quiet=True, late=True)


def list_conditions(spec: type) -> Mapping[str, Condition]:
    """The conditions among the fields of a dataclass, by name, in field order."""
    return {
        field.name: dataclasses.replace(
            field.metadata["condition"],
            name=field.name,
            title=field.metadata["condition"].title or field.name.replace("_", " "),
        )
        for field in dataclasses.fields(spec)
        if "condition" in field.metadata
    }


LONGEST_NUMBER = 18


class AllShots(int):
    """All train images of every class: greater than any number of shots, and written `all`.

    An int, so that code that sorts or takes minima needs no special case; it has one digit more
    than any accepted number, and is the text `all` in records and JSON.
    """

    def __str__(self) -> str:
        return "all"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "all"


ALL_SHOTS = AllShots(10**LONGEST_NUMBER)
WORD = str(ALL_SHOTS)


def per_class(shots: int, images: int, classes: int) -> int:
    """Shots as a finite number; for all shots, the rounded mean class size, at least 1."""
    return max(1, round(images / classes)) if shots == ALL_SHOTS else shots


def read_shots(value: Any) -> Any:
    """Shots from a JSON value: the word `all` becomes `ALL_SHOTS`, other values pass unchanged."""
    return ALL_SHOTS if value == WORD else value


def plain(value: Any) -> Any:
    """A value for JSON: `ALL_SHOTS` becomes the word `all`, in lists and mappings too."""
    if isinstance(value, AllShots):
        return WORD
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


# A preset fixes the sampling protocol, the validation policy and the prompts at once.
PRESETS: Mapping[str, tuple[str, str, str]] = {
    "fair": ("coop", "min4", "custom"),
    "clip-lora-paper": ("clip-lora", "none", "simple"),
}
PRECISIONS = ("fp32", "bf16", "fp16")
DEFAULT_STORE = "fsbench-results"
# The embedded backbone, and the note on every table with its numbers.
TOY = "tiny"
TOY_TEXT = "a toy: its numbers say nothing about CLIP"
TOY_NOTE = f"backbone {TOY} is {TOY_TEXT}"
# Picks from a file instead of a draw.
IMPORTED = "imported"
# Protocol of an evaluated kept model: the picks are those of its fit, `picks` is its digest.
KEPT_MODEL = "kept"
EXIF = ("ignore", "rotate")
# Where crops are cut: on the host by Pillow, or on the device by torch.
AUGMENT = ("host", "device")
CLASSES = ("all", "base", "new")
# Who may be used besides a query: nobody, the whole test list, batches of it, those before it.
ALONE = "alone"
QUERIES = (
    *(ALONE, "all", "batch-64", "batch-1000", "batch-64-k2-10"),
    *("stream", "stream-g0.01", "stream-classes"),
)
# What describes a class where no file of texts does, and how its texts become one vector.
BY_TEMPLATES = "templates"
POOLING = ("unit-mean", "mean", "max")
BYSTANDERS = ("none", "new")
# Option value of a run that evaluates only on other data sets; no cell has it.
NO_CLASSES = "none"
# Resolved by the run: the backbone from the data sets, the precision from the device.
AUTO = "auto"
# Kinds of fields: names, numbers of at most LONGEST_NUMBER digits, hyper-parameters by name.
Name = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0, lt=10**LONGEST_NUMBER)]
Options = Mapping[Name, Any]


def settle_exif(asked: str, *datasets: str) -> str:
    """`rotate` or `ignore`, which `auto` settles by the data sets that a cell reads.

    The user's own images (`FAMILY:ARG`) are rotated, and so are others beside them; benchmark sets
    alone are read as open_clip reads them.
    """
    return EXIF[any(":" in name for name in datasets)] if asked == AUTO else asked


class OwnData(Struct):
    """Kinds of the entries of `RunSpec.data`."""

    classnames: list[str] | dict[str, str] = []
    templates: list[str] = []
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    skipped: dict[str, list[str]] = {}


# Between a method and the one that it is on top of.
ON = " on "
# Fields that enter every key, even with default values. Never add names: keys would change.
KEYED = frozenset(
    {
        *("method", "dataset", "shots", "split_seed", "train_seed", "protocol", "val", "prompts"),
        *("backbone", "precision", "device", "limit", "weights", "exif", "options", "overrides"),
        *("revision", "method_version", "classes", "target", "target_revision", "data", "picks"),
    }
)
# Longest accepted list of numbers; a longer one is a mistake.
MOST_NUMBERS = 100_000


_encoded = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks, so that equal values give equal text."""
    return _encoded(value)


class _Derived:
    """Slots for values of a specification that are computed once.

    In a dictionary they would take six times the memory, which counts: a store has many cells.
    """

    __slots__ = ("_fit_key", "_key", "_label")
    _fit_key: str
    _key: str
    _label: str

    def _once(self, name: str, compute: Callable[[], str]) -> str:
        try:
            return str(getattr(self, name))
        except AttributeError:
            object.__setattr__(self, name, value := compute())
            return value


@dataclasses.dataclass(frozen=True, slots=True)
class RunSpec(_Derived):
    """One cell: a method with its hyper-parameters on one data set, shots, seed and backbone.

    `options` are all hyper-parameters, `overrides` those that differ from the defaults;
    `revision` identifies the data set's lists, `weights` the backbone's weights. Everything that
    can change a number is part of the key.

    `shots` is `ALL_SHOTS` if a cell uses all train images; 0 means no support set. `target` is
    another data set to evaluate on (fitted on `dataset`), `target_revision` identifies its lists.
    `classes` is `all`, or `base` or `new`: fitted on the first half of the classes and evaluated on
    that half, or on the other. `data` holds the user's settings for own data: `classnames`,
    `templates`, `holdout`, and `skipped`: data set to the ids of its left-out damaged images.
    `exif`: rotate images by their EXIF orientation or ignore it. `published`: options are those of
    the authors for this data set and shots; `overrides` are then what the user named. `augment`:
    training crops are cut on the host by Pillow, or on the device by torch. `queries`: who may be
    used besides a query; `views`: most encoded views of one; `bystanders`: queries of classes
    outside the list among them; `texts`, `pooling`: what describes a class. Of these a cell has
    what its method needs, not what the run allows. `picks` is
    the digest of imported picks (protocol `imported`), or of a kept model (protocol `kept`).
    `inner`: of a method on top of another, the fields in which the cell of that one differs.

    >>> RunSpec("coop", "dtd", shots=16, split_seed=1, train_seed=1).key()
    """

    method: Name
    dataset: Name
    shots: Count
    split_seed: Count
    train_seed: Count
    protocol: str = condition(
        "coop",
        "sampling",
        registered=True,
        asked="fair",
        option=f"{' (default), '.join(PRESETS)}, {{words}}",
        short="proto",
    )
    val: str = condition(
        "min4",
        "validation",
        title="validation policy",
        registered=True,
        asked=None,
        option="Validation: {words}.",
        short="val",
        signed=True,
    )
    prompts: str = condition(
        "custom",
        "template set",
        title="prompt set",
        words=tuple(TEMPLATE_SETS),
        asked=None,
        option="Prompts: {words}.",
        short="tpl",
        signed=True,
    )
    backbone: str = condition(
        TOY,
        "backbone",
        asked=AUTO,
        option="Name, MODEL/TAG[@FILE] (default: ViT-B-16/openai; tiny for demo).",
    )
    precision: str = condition(
        "fp32",
        "precision",
        words=PRECISIONS,
        asked=AUTO,
        option="{words} or auto.",
        short="p",
        signed=True,
    )
    device: str = condition("cpu", "device", short="dev", assumed="")
    limit: int | None = condition(
        None,
        "most queries",
        title="limit on queries",
        metavar="N|none",
        kind=int,
        least=1,
        option="Most test images.",
        short="lim",
        quiet=True,
    )
    weights: str = condition("", "weights", metavar="PREFIX", prefix=True)
    exif: str = rare_condition(
        "ignore",
        "EXIF",
        title="way with EXIF orientations",
        words=EXIF,
        asked=AUTO,
        settle=settle_exif,
        option="auto rotates own images.",
        short="exif",
    )
    published: bool = rare_condition(
        False,
        "authors' values",
        metavar="yes|no",
        title="published values",
        kind=bool,
        option="Authors' values.",
        short="pub",
    )
    augment: str = rare_condition(
        "host",
        "crops",
        title="place of augmentation",
        words=AUGMENT,
        option="Where crops are cut.",
        short="aug",
    )
    queries: str = rare_condition(
        ALONE,
        "company",
        words=QUERIES,
        option="Company of a query: alone, all, batch-64, stream ...",
        short="q",
        proof="independent",
    )
    views: int = rare_condition(
        1,
        "of a query",
        metavar="N",
        kind=int,
        least=1,
        option="Of a query.",
        short="views",
        proof="verified",
    )
    bystanders: str = rare_condition(
        "none",
        "others there",
        words=BYSTANDERS,
        option="Others among base queries.",
        short="by",
        proof="independent",
    )
    texts: str = rare_condition(
        BY_TEMPLATES,
        "of a class",
        metavar="NAME",
        option="FILE of texts per class, or waffle.",
        short="txt",
        proof="without templates",
    )
    pooling: str = rare_condition(
        POOLING[0],
        "their pooling",
        title="pooling of texts",
        words=POOLING,
        option="Of these texts.",
        asked=None,
        refines="texts",
        short="pool",
        proof="without templates",
    )
    options: Options = dataclasses.field(default_factory=dict)
    overrides: Options = dataclasses.field(default_factory=dict)
    revision: str = ""
    method_version: str = "1"
    classes: str = dataclasses.field(default="all", metadata={"kind": Literal[CLASSES]})
    target: str = ""
    target_revision: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict, metadata={"kind": OwnData})
    picks: str = ""
    inner: Options = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, in the order of the fields."""
        values = dict(zip(_fields(), _get_all()(self), strict=True))
        for name in ("options", "overrides", "data", "inner"):
            values[name] = dict(values[name])
        values["shots"] = plain(self.shots)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`; StoreError names a missing, unknown or invalid field."""
        kinds, words = _kinds()
        shots = values.get("shots")
        check_kinds("spec", {**values, "shots": 0} if shots == WORD else values, kinds, words)
        return cls._put({**_defaults(), **values})

    @classmethod
    def read(cls, values: Mapping[str, Any], key: str) -> RunSpec:
        """As `from_dict`, without checks, for values that passed it before. key: the cell's key."""
        spec = cls._put(values)
        object.__setattr__(spec, "_key", key)
        return spec

    @classmethod
    def _put(cls, values: Mapping[str, Any]) -> RunSpec:
        """As the constructor, in a third of its time, which matters for a store's listing."""
        spec = object.__new__(cls)
        for name, put in _puts().items():
            put(spec, values[name])
        object.__setattr__(spec, "shots", read_shots(values["shots"]))
        return spec

    def key(self) -> str:
        """SHA-256 of the canonical JSON: identifies the cell and its files."""
        return self._once("_key", self._digest)

    def fit_key(self) -> str:
        """Key of the fit: equal for cells that differ only in the evaluation and share one fit.

        A fit on top of another serves one cell, whose bill begins with that of the other.
        """
        return self._once("_fit_key", self._digest_of_fit)

    def inner_cell(self) -> RunSpec | None:
        """The cell that a method on top of another starts from; None for any other method."""
        return dataclasses.replace(self, **{"inner": {}, **self.inner}) if self.inner else None

    @property
    def lowest(self) -> RunSpec:
        """The cell itself, or the one that it starts from."""
        return self.inner_cell() or self

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods whose code computes the cell: its own, and that which it is on top of."""
        return (self.method, self.inner["method"]) if self.inner else (self.method,)

    @property
    def code_name(self) -> str:
        """One text of `methods`: `clip-lora`, `transclip on clip-lora`."""
        return ON.join(self.methods)

    def _digest(self) -> str:
        values = self.to_dict()
        values["options"] = without_names(values["options"])
        # Whether a file is the default of its option changes with the default.
        values["overrides"] = without_files(values["overrides"])
        values |= without_names({"texts": self.texts})
        for name in values.keys() - KEYED:
            if values[name] == _defaults()[name]:
                del values[name]
        if self.inner:
            # Its defaults and its version belong to its code, by which a record can be stale.
            inner = self.inner["overrides"], self.inner["options"]
            own = without_names(with_files(*inner))
            values["inner"] = {"method": self.inner["method"], "overrides": own}
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()

    def _digest_of_fit(self) -> str:
        if self.inner or not self.fits_other:
            return self.key()
        classes = "base" if self.classes == "new" else self.classes
        return dataclasses.replace(self, target="", target_revision="", classes=classes).key()

    @property
    def fits_other(self) -> bool:
        """True if the fit sees other classes than the evaluation."""
        return bool(self.target) or self.classes == "new"

    @property
    def evaluated(self) -> str:
        """The evaluated data set in tables: `dtd`, `dtd (new)`, `imagenet → imagenet-a`."""
        if self.target:
            return f"{self.dataset} → {self.target}"
        return self.dataset if self.classes == "all" else f"{self.dataset} ({self.classes})"

    @property
    def label(self) -> str:
        """The method with its overrides, for tables."""
        return self._once("_label", lambda: method_label(self.method, self.overrides))

    @property
    def variant(self) -> dict[str, Any]:
        """The overrides and all files, which tell it from other variants of its method."""
        return with_files(self.overrides, self.options)

    @property
    def files(self) -> list[str]:
        """The files that it states, as `store/kept_files.py` takes them."""
        return list_files(*self.options.values(), self.texts)

    @property
    def skipped(self) -> int:
        """The number of left-out damaged or missing images."""
        return sum(len(ids) for ids in self.data.get("skipped", {}).values())

    def lend(self, **allowed: Any) -> RunSpec:
        """The cell as it counts in a table that allows these conditions, with its own key."""
        lent = dataclasses.replace(self, **allowed)
        object.__setattr__(lent, "_key", self.key())
        return lent

    def describe(self) -> str:
        """One line that names the cell."""
        return f"{self.label} on {self.evaluated}, {self.shots}-shot, seed {self.train_seed}"


@functools.cache
def _fields() -> tuple[str, ...]:
    """The field names, in order."""
    return tuple(field.name for field in dataclasses.fields(RunSpec))


@functools.cache
def _get_all() -> Callable[[RunSpec], tuple[Any, ...]]:
    """Gets the values of all fields, in order."""
    return operator.attrgetter(*_fields())


@functools.cache
def _puts() -> Mapping[str, Callable[[RunSpec, Any], None]]:
    """The setter of each field, in order."""
    return {name: RunSpec.__dict__[name].__set__ for name in _fields()}


@functools.cache
def _defaults() -> Mapping[str, Any]:
    """The defaults of fields that have one; they must not be changed."""
    fields = dataclasses.fields(RunSpec)
    empty: dict[str, Any] = {f.name: {} for f in fields if f.default_factory is dict}
    own = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
    return {**empty, **own}


# The conditions of a run by name, in the order in which tables show them.
CONDITIONS = list_conditions(RunSpec)


def words_of_conditions(texts: Mapping[str, str]) -> list[str]:
    """The `fsbench run` arguments that set conditions, given as texts by name."""
    words = []
    for name, text in texts.items():
        about = CONDITIONS[name]
        outer = texts.get(about.refines, "")
        stated = bool(outer) and outer != CONDITIONS[about.refines].default
        words += [option_name(name), text] if stated else about.words_of_command(text)
    return words


@functools.cache
def _kinds() -> tuple[type[Struct], Mapping[str, Sequence[str]]]:
    """A structure of the kinds of all fields, and the words of fields that have few."""
    hints = get_type_hints(RunSpec, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(RunSpec):
        about = CONDITIONS.get(field.name)
        kind = about.json_kind if about else field.metadata.get("kind")
        required = field.default is field.default_factory is dataclasses.MISSING
        fields.append((field.name, kind or hints[field.name], *([] if required else [UNSET])))
    words = {name: about.words for name, about in CONDITIONS.items()} | {"classes": CLASSES}
    return defstruct("SpecKinds", fields, forbid_unknown_fields=True), words


# Names that no separator of `name_cell` occurs in, and what file systems take.
_PLAIN, _UNSAFE = re.compile(r"[A-Za-z0-9.+-]+"), re.compile(r"[^A-Za-z0-9.+=-]+")
_LONGEST_NAME = 100


def name_cell(spec: RunSpec) -> str:
    """A name of a cell for files: `clip-lora_digits_4-shot_seed-1`.

    Letters, digits, `.`, `+`, `=`, `-` and `_` alone. Distinct for distinct cells of a run: with
    hyper-parameters, or another name in it that is no such text, it ends with a part of the key.
    """
    given = [f"{name}={spec.overrides[name]}" for name in sorted(spec.overrides)]
    data = [spec.dataset, *filter(None, [spec.target])]
    data += [spec.classes] if spec.classes != "all" else []
    seeds = [f"seed-{spec.train_seed}"]
    if spec.split_seed != spec.train_seed:
        seeds.insert(0, f"split-{spec.split_seed}")
    parts = [spec.method, *given, *data, f"{spec.shots}-shot", *seeds]
    name = "_".join(_UNSAFE.sub("-", part).strip("-.") or "x" for part in parts)
    if not given and len(name) <= _LONGEST_NAME and all(map(_PLAIN.fullmatch, parts)):
        return name
    return f"{name[:_LONGEST_NAME]}_{spec.key()[:8]}"


def method_label(method: str, overrides: Mapping[str, Any]) -> str:
    """`clip-lora`, or `clip-lora[rank=4]` with overridden hyper-parameters."""
    if not overrides:
        return method
    inner = ",".join(f"{name}={show(overrides[name])}" for name in sorted(overrides))
    return f"{method}[{inner}]"
