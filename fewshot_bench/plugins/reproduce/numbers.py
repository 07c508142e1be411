"""Numbers that papers and repositories published, each with its source.

`numbers.csv` holds one number a line, `base_to_new.csv` those of halves of the classes, and
`sources.csv` gives the place of each of their tables and how many of its rows were kept
(docs/reproduce.md describes them).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.errors import unknown

AVERAGE = "average"
# Value of `classes` for the harmonic mean of base and new accuracy.
HARMONIC = "harmonic"
_FILES = ("numbers.csv", "base_to_new.csv")
Kind = Literal["official", "rerun", "secondary"]
KINDS: tuple[Kind, ...] = ("official", "rerun", "secondary")
METRICS = ("top1", "train_minutes", "seconds_per_run", "trained_params")
LABELS = ("printed", "log", "figure", "computed", "assumed")


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a table of numbers.

    kind: `official` (by the authors of the paper), `rerun` (by others, of one paper's method),
        `secondary` (own and copied numbers of several methods).
    method: the method whose authors published it, if it is one of this harness; else a `text`.
    collected, kept, left_out: rows that were read, are here, and are not, with the `reason`.
    """

    key: str
    table: str
    kind: Kind
    method: str
    text: str
    url: str
    commit: str
    place: str
    collected: int
    kept: int
    left_out: int
    reason: str

    @property
    def citation(self) -> str:
        """Authors, title, venue and year of the method's paper; the text without such a method."""
        card = card_of(registry().method_class(self.method)) if self.method else None
        return ", ".join(paper.citation for paper in card.papers) if card else self.text


@dataclass(frozen=True, slots=True)
class Number:
    """One published number.

    method, options: by this harness's names where it has them, else by the paper's. `options` are
        those that differ from the defaults.
    backbone: as open_clip names it, `ViT-B-16`; OpenAI's weights throughout.
    dataset: a catalog name, `average`, or empty where it does not matter.
    shots: None where it does not matter, 0 for zero-shot.
    metric: `top1` (percent), `train_minutes`, `seconds_per_run` or `trained_params`.
    decimals: how many the source prints. sd: standard deviation over seeds, if stated.
    label: its origin: `printed` in a table, from a `log` or file of results, read off a
        `figure`, `computed` from a formula, or under an `assumed` setting, which `note` names.
    classes: `all`; `base` or `new`, of fits on the base classes; `harmonic` for their mean.
    """

    source: str
    table: str
    method: str
    options: Mapping[str, str]
    backbone: str
    dataset: str
    shots: int | None
    metric: str
    value: float
    decimals: int
    sd: float | None
    seeds: int | None
    label: str
    note: str
    classes: str = "all"

    @property
    def row(self) -> tuple[str, str, str, str, int | None]:
        """The row of its table, equal for numbers that differ in data set and classes alone."""
        return self.source, self.table, self.name, self.backbone, self.shots

    @property
    def name(self) -> str:
        """The method with its options, as tables show it: `clip-lora[rank=4]`."""
        inner = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.method}[{inner}]" if inner else self.method


@functools.cache
def sources() -> Mapping[tuple[str, str], Source]:
    """Every source by its key and table."""
    found = {}
    for line in _lines("sources.csv"):
        found[line["source"], line["table"]] = Source(
            key=line["source"],
            table=line["table"],
            kind=_kind(line["kind"]),
            method=line["method"],
            text=line["citation"],
            url=line["url"],
            commit=line["commit"],
            place=line["place"],
            collected=int(line["collected"]),
            kept=int(line["kept"]),
            left_out=int(line["left_out"]),
            reason=line["reason"],
        )
    return found


@functools.cache
def all_numbers() -> tuple[Number, ...]:
    """Every number, in the order of the files."""
    return tuple(_number(line) for name in _FILES for line in _lines(name))


def numbers(
    *,
    source: str | None = None,
    table: str | None = None,
    method: str | None = None,
    backbone: str | None = None,
    dataset: str | None = None,
    shots: int | None = None,
    metric: str | None = "top1",
) -> list[Number]:
    """The numbers that match everything given; UsageError for a value that no number has."""
    wanted = {
        "source": source,
        "table": table,
        "method": method,
        "backbone": backbone,
        "dataset": dataset,
        "shots": shots,
        "metric": metric,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    for name, value in given.items():
        known = {getattr(number, name) for number in all_numbers()} - {None}
        if value not in known:
            raise unknown(f"published {name}", str(value), map(str, known), "docs/reproduce.md")
    return [n for n in all_numbers() if all(getattr(n, k) == v for k, v in given.items())]


def as_options(pairs: Iterable[str]) -> dict[str, str]:
    """`name=value` texts as a mapping."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs if pair)}


def _kind(text: str) -> Kind:
    return next(kind for kind in KINDS if kind == text)


def _lines(name: str) -> Iterator[dict[str, str]]:
    text = files("fewshot_bench.plugins.reproduce").joinpath(name).read_text("utf-8")
    return csv.DictReader(text.splitlines())


def _number(line: Mapping[str, str]) -> Number:
    return Number(
        source=line["source"],
        table=line["table"],
        method=line["method"],
        options=as_options(line["options"].split(";")),
        backbone=line["backbone"],
        dataset=line["dataset"],
        shots=int(line["shots"]) if line["shots"] else None,
        metric=line["metric"],
        value=float(line["value"]),
        decimals=len(line["value"].partition(".")[2]),
        sd=float(line["sd"]) if line["sd"] else None,
        seeds=int(line["seeds"]) if line["seeds"] else None,
        label=line["label"],
        note=line["note"],
        classes=line.get("classes", "all"),
    )
