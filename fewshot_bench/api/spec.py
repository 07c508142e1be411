"""The specification of one cell of the matrix, and its key."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fewshot_bench.api import method_files as method_references
from fewshot_bench.api.conditions import condition, declared
from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.shots import LONGEST_NUMBER, AllShots, plain, read_shots
from fewshot_bench.utils.errors import StoreError

# A preset fixes the sampling protocol, the validation policy and the prompts at once.
PRESETS: Mapping[str, tuple[str, str, str]] = {
    "fair": ("coop", "min4", "custom"),
    "clip-lora-paper": ("clip-lora", "none", "simple"),
}
PRECISIONS = ("fp32", "bf16", "fp16")
DEFAULT_STORE = "fsbench-results"
# The embedded backbone, and what every table of it says.
TOY = "tiny"
TOY_TEXT = "a toy: its numbers say nothing about CLIP"
TOY_NOTE = f"backbone {TOY} is {TOY_TEXT}"
# Picks from a file instead of a draw.
IMPORTED = "imported"
# A kept model that is measured: its picks are those of its fit, and `picks` is its digest.
KEPT_MODEL = "kept"
EXIF = ("ignore", "rotate")
CLASSES = ("all", "base", "new")
# Asked of a run that evaluates its fits on other data sets alone; no cell has it.
NO_CLASSES = "none"
# What the run finds out: a backbone by the data sets, a precision by the device.
AUTO = "auto"
# What the fields are that are no text; those of conditions are declared with them.
_KINDS: Mapping[str, Any] = {
    "shots": int,
    "split_seed": int,
    "train_seed": int,
    "options": dict,
    "overrides": dict,
    "data": dict,
}
# The fields that every key is of, whatever their values; no name is added here.
KEYED = frozenset(
    {
        *("method", "dataset", "shots", "split_seed", "train_seed", "protocol", "val", "prompts"),
        *("backbone", "precision", "device", "limit", "weights", "exif", "options", "overrides"),
        *("revision", "method_version", "classes", "target", "target_revision", "data", "picks"),
    }
)
_NAMES = ("method", "dataset")
_NUMBERS = ("shots", "split_seed", "train_seed")
# The most of a list of numbers: a longer one is a slip.
MOST_NUMBERS = 100_000


_encoded = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return _encoded(value)


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One cell: a method with its hyper-parameters on one data set, shots, seed and backbone.

    `options` are the hyper-parameters in full, `overrides` those that differ from the defaults;
    `revision` identifies the data set's lists, `weights` the backbone's weights. Everything that
    can change a number is part of the key.

    `shots` is `ALL_SHOTS` where a cell takes all train images; 0 stands for no support set.
    `target` is another data set that is evaluated on (fitted on `dataset`), `target_revision` its
    lists. `classes` is `all`, or `base` or `new`: fitted on the first half of the classes and
    evaluated on that half, or on the other. `data` holds what was said about a person's own data:
    `classnames`, `templates`, `holdout`, and `skipped`: data set to the ids of damaged images that
    are left out. `exif` says whether images are turned as their EXIF orientation asks. `picks` is
    the digest of imported picks (protocol `imported`), or of a kept model (protocol `kept`).
    """

    method: str
    dataset: str
    shots: int
    split_seed: int
    train_seed: int
    protocol: str = condition(
        "coop",
        "Only records of this sampling protocol.",
        registered=True,
        asked="fair",
        option=f"{', '.join(PRESETS)}, or how picks are drawn: {{words}}.",
        short="proto",
    )
    val: str = condition(
        "min4",
        "Only records of this validation policy.",
        title="validation policy",
        registered=True,
        asked=None,
        option="Validation policy: {words} (default: protocol's).",
        short="val",
        signed=True,
    )
    prompts: str = condition(
        "custom",
        "Only records of this template set.",
        title="prompt set",
        words=tuple(TEMPLATE_SETS),
        asked=None,
        option="Template set: {words} (default: protocol's).",
        short="tpl",
        signed=True,
    )
    backbone: str = condition(
        TOY,
        "Only records of this backbone.",
        asked=AUTO,
        option="MODEL/TAG[@FILE] or a name; auto: the toy tiny where all data sets are of the "
        "suite demo, else ViT-B-16/openai.",
    )
    precision: str = condition(
        "fp32",
        "Only records of this precision.",
        words=PRECISIONS,
        asked=AUTO,
        option="fp32, bf16 or fp16; auto: fp32 on a CPU, bf16 or fp16 on CUDA.",
        short="p",
        signed=True,
    )
    device: str = condition("cpu", "Only records of this device.", short="dev", assumed="")
    limit: int | None = condition(
        None,
        "Only runs with this limit on queries.",
        metavar="N|none",
        kind=int,
        least=1,
        option="Evaluate on at most N test images (marked in tables).",
        short="lim",
        quiet=True,
    )
    weights: str = condition(
        "", "Only records of these backbone weights.", metavar="PREFIX", prefix=True
    )
    exif: str = condition(
        "ignore",
        "Only runs that ignore EXIF, or rotate by it.",
        metavar="WORD",
        title="way with EXIF orientations",
        words=EXIF,
        option="Turn images as their EXIF orientation asks (rotate), or not, as open_clip.",
        short="exif",
        quiet=True,
        late=True,
    )
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    revision: str = ""
    method_version: str = "1"
    classes: str = "all"
    target: str = ""
    target_revision: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    picks: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, in the order of the fields."""
        values = {name: getattr(self, name) for name in _fields()}
        values |= {"options": dict(self.options), "overrides": dict(self.overrides)}
        return values | {"data": dict(self.data), "shots": plain(self.shots)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`; StoreError names what is missing, not known or impossible."""
        extra = sorted(values.keys() - _fields())
        if extra:
            raise StoreError(f"spec has unknown fields {extra}; written by a newer fewshot_bench?")
        values = {**values, "shots": read_shots(values["shots"])} if "shots" in values else values
        for name, value in values.items():
            problem = (
                _problem(name, value)
                if isinstance(value, dict | list)
                else _plain_problem(name, value)
            )
            if problem:
                raise StoreError(f"spec has {name} {value!r:.60}: {problem}")
        try:
            return cls(**values)
        except TypeError as error:
            raise StoreError(f"spec is incomplete: {error}") from None

    @classmethod
    def read(cls, values: Mapping[str, Any], key: str) -> RunSpec:
        """The same of values that `from_dict` has taken before; key: that of the cell."""
        spec = cls(**{**values, "shots": read_shots(values["shots"])})
        object.__setattr__(spec, "_key", key)
        return spec

    def key(self) -> str:
        """SHA-256 of the canonical JSON: the identity of the cell and of its files."""
        return self._key

    def fit_key(self) -> str:
        """Equal for cells that differ in what is evaluated alone, so that one fit serves them."""
        return self._fit_key

    @functools.cached_property
    def _key(self) -> str:
        values = self.to_dict()
        for name in _later():
            if values[name] == RunSpec.__dataclass_fields__[name].default:
                del values[name]
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()

    @functools.cached_property
    def _fit_key(self) -> str:
        if not self.fits_other:
            return self._key
        classes = "base" if self.classes == "new" else self.classes
        return dataclasses.replace(self, target="", target_revision="", classes=classes).key()

    @property
    def fits_other(self) -> bool:
        """True when the fit sees other classes than the evaluation."""
        return bool(self.target) or self.classes == "new"

    @functools.cached_property
    def evaluated(self) -> str:
        """The data set as tables show it: `dtd`, `dtd (new)`, `imagenet → imagenet-a`."""
        if self.target:
            return f"{self.dataset} → {self.target}"
        return self.dataset if self.classes == "all" else f"{self.dataset} ({self.classes})"

    @functools.cached_property
    def label(self) -> str:
        """The method with its overrides, as tables show it."""
        return method_label(self.method, self.overrides)

    @property
    def skipped(self) -> int:
        """The number of damaged or missing images that are left out."""
        return sum(len(ids) for ids in self.data.get("skipped", {}).values())

    def describe(self) -> str:
        """One line that names the cell."""
        label = method_label(method_references.short(self.method), self.overrides)
        return f"{label} on {self.evaluated}, {self.shots}-shot, seed {self.train_seed}"


@functools.cache
def _fields() -> tuple[str, ...]:
    """The names of the fields, in their order."""
    return tuple(field.name for field in dataclasses.fields(RunSpec))


@functools.cache
def _later() -> tuple[str, ...]:
    """Fields that came later: the key leaves out their defaults, so that older records keep it."""
    return tuple(name for name in _fields() if name not in KEYED)


# The conditions of a run by name, in the order in which tables show them.
CONDITIONS = declared(RunSpec)


@functools.lru_cache(maxsize=4096, typed=True)
def _plain_problem(name: str, value: Any) -> str:
    """The same of a value that is no object and no list; most records share theirs."""
    return _problem(name, value)


def _problem(name: str, value: Any) -> str:
    """The reason for which no run can have written a field's value; empty where one can."""
    if name in CONDITIONS:
        return CONDITIONS[name].problem(value, LONGEST_NUMBER)
    kind = _KINDS.get(name, str)
    if not isinstance(value, kind) or isinstance(value, bool):
        return "a value of another kind"
    if name == "classes" and value not in CLASSES:
        return f"expected one of {CLASSES}"
    if (kind is dict and name != "data" and "" in value) or (name in _NAMES and not value):
        return "expected a name"
    number = name in _NUMBERS and not isinstance(value, AllShots)
    if number and not 0 <= value < 10**LONGEST_NUMBER:
        return "expected at least 0, and no huge number"
    return _problem_of_own(value) if name == "data" else ""


def _problem_of_own(data: Mapping[str, Any]) -> str:
    """Own names and templates are texts, and the hold-out is a share."""
    templates, holdout = data.get("templates", []), data.get("holdout", 0.5)
    skipped = data.get("skipped", {})
    named = isinstance(skipped, dict) and all(
        isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in skipped.values()
    )
    if not named:
        return "expected names of skipped images"
    names = data.get("classnames", [])
    names = list(names.values()) if isinstance(names, dict) else names
    texts = all(
        isinstance(one, list) and set(map(type, one)) <= {str} for one in (templates, names)
    )
    if not texts or not isinstance(holdout, float) or not 0 < holdout < 1:
        return "expected texts and a share of images"
    return ""


def method_label(method: str, overrides: Mapping[str, Any]) -> str:
    """`clip-lora`, or `clip-lora[rank=4]` when hyper-parameters were overridden."""
    if not overrides:
        return method
    inner = ",".join(f"{name}={overrides[name]}" for name in sorted(overrides))
    return f"{method}[{inner}]"
