"""The specification of one cell of the matrix, and its key."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from fewshot_bench.api import method_files as method_references
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
EXIF = ("ignore", "rotate")
CLASSES = ("all", "base", "new")
# Asked of a run that evaluates its fits on other data sets alone; no cell has it.
NO_CLASSES = "none"
# What the fields are that are no text.
_KINDS: Mapping[str, type] = {
    "shots": int,
    "split_seed": int,
    "train_seed": int,
    "limit": int,
    "options": dict,
    "overrides": dict,
    "data": dict,
}
# Fields that are one of a few words, with these.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "prompts": tuple(TEMPLATE_SETS),
    "precision": PRECISIONS,
    "classes": CLASSES,
    "exif": EXIF,
}
_NAMES = ("method", "dataset", "backbone")
# Protocols and validation policies are registered elsewhere, under names of this form.
_REGISTERED = ("protocol", "val")
REGISTERED_NAME = re.compile(r"[\w.+-]+")
# The least of each number; of all of them the longest one, in digits, and the most of a list:
# a longer one is a slip.
_LEAST: Mapping[str, int] = {"shots": 0, "split_seed": 0, "train_seed": 0, "limit": 1}
MOST_NUMBERS = 100_000


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


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
    the digest of imported picks (protocol `imported`).
    """

    method: str
    dataset: str
    shots: int
    split_seed: int
    train_seed: int
    backbone: str = TOY
    protocol: str = "coop"
    val: str = "min4"
    prompts: str = "custom"
    precision: str = "fp32"
    device: str = "cpu"
    limit: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    revision: str = ""
    weights: str = ""
    method_version: str = "1"
    classes: str = "all"
    target: str = ""
    target_revision: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    picks: str = ""
    exif: str = "ignore"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values, in the order of the fields."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {"options": dict(self.options), "overrides": dict(self.overrides)}
        return values | {"data": dict(self.data), "shots": plain(self.shots)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`; StoreError names what is missing, not known or impossible."""
        known = {field.name for field in dataclasses.fields(cls)}
        extra = sorted(set(values) - known)
        if extra:
            raise StoreError(f"spec has unknown fields {extra}; written by a newer fewshot_bench?")
        values = {name: read_shots(v) if name == "shots" else v for name, v in values.items()}
        for name, value in values.items():
            kind = _KINDS.get(name, str)
            if name == "limit" and value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                raise StoreError(f"spec has {name} {value!r:.60}: a value of another kind")
            _check(name, value)
        try:
            return cls(**values)
        except TypeError as error:
            raise StoreError(f"spec is incomplete: {error}") from None

    def key(self) -> str:
        """SHA-256 of the canonical JSON: the identity of the cell and of its files."""
        return self._key

    def fit_key(self) -> str:
        """Equal for cells that differ in what is evaluated alone, so that one fit serves them."""
        return self._fit_key

    @functools.cached_property
    def _key(self) -> str:
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()

    @functools.cached_property
    def _fit_key(self) -> str:
        classes = "base" if self.classes == "new" else self.classes
        return dataclasses.replace(self, target="", target_revision="", classes=classes).key()

    @property
    def fits_other(self) -> bool:
        """True when the fit sees other classes than the evaluation."""
        return bool(self.target) or self.classes == "new"

    @property
    def evaluated(self) -> str:
        """The data set as tables show it: `dtd`, `dtd (new)`, `imagenet → imagenet-a`."""
        if self.target:
            return f"{self.dataset} → {self.target}"
        return self.dataset if self.classes == "all" else f"{self.dataset} ({self.classes})"

    @property
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


def _check(name: str, value: Any) -> None:
    """StoreError for a value that no run can have written in this field."""
    found = f"spec has {name} {value!r:.60}"
    if name in _WORDS and value not in _WORDS[name]:
        raise StoreError(f"{found}: expected one of {_WORDS[name]}")
    nameless = name in ("options", "overrides") and "" in value
    unregistered = name in _REGISTERED and not REGISTERED_NAME.fullmatch(value)
    if nameless or unregistered or (name in _NAMES and not value):
        raise StoreError(f"{found}: expected a name")
    every = name == "shots" and isinstance(value, AllShots)
    if name in _LEAST and not (every or _LEAST[name] <= value < 10**LONGEST_NUMBER):
        raise StoreError(f"{found}: expected at least {_LEAST[name]}, and no huge number")
    if name == "data":
        _check_own(value)


def _check_own(data: Mapping[str, Any]) -> None:
    """StoreError unless own names and templates are texts and the hold-out is a share."""
    templates, holdout = data.get("templates", []), data.get("holdout", 0.5)
    skipped = data.get("skipped", {})
    named = isinstance(skipped, dict) and all(
        isinstance(ids, list) and all(isinstance(id, str) for id in ids) for ids in skipped.values()
    )
    if not named:
        raise StoreError(f"spec has data {data!r:.60}: expected names of skipped images")
    names = data.get("classnames", [])
    names = list(names.values()) if isinstance(names, dict) else names
    texts = all(
        isinstance(one, list) and set(map(type, one)) <= {str} for one in (templates, names)
    )
    if not texts or not isinstance(holdout, float) or not 0 < holdout < 1:
        raise StoreError(f"spec has data {data!r:.60}: expected texts and a share of images")


def method_label(method: str, overrides: Mapping[str, Any]) -> str:
    """`clip-lora`, or `clip-lora[rank=4]` when hyper-parameters were overridden."""
    if not overrides:
        return method
    inner = ",".join(f"{name}={overrides[name]}" for name in sorted(overrides))
    return f"{method}[{inner}]"
