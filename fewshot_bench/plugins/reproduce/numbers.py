"""Numbers that papers and repositories published, each with its source.

`numbers.csv` holds one number a line, `base_to_new.csv` those of halves of the classes,
`conditioned.csv` those of queries in company, of views and of other texts, and `sources.csv` gives
the place of each of their tables and how many of its rows were kept. `reasons.toml` says why
numbers are not compared, and why methods are left out.
"""

from __future__ import annotations

import csv
import functools
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Literal

import msgspec

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, BY_TEMPLATES, CONDITIONS, POOLING
from fewshot_bench.utils.errors import UsageError, unknown

AVERAGE = "average"
# The mean over the data sets of AVERAGE but ImageNet.
AVERAGE_OF_TEN = "average-10"
# Value of `classes` for the harmonic mean of base and new accuracy.
HARMONIC = "harmonic"


class Source(msgspec.Struct, frozen=True, rename={"text": "citation"}):
    """The source of a table of numbers.

    source, table: by which numbers name it.
    methods: those whose authors published it, also ones that this harness does not have.
    others: how it has the numbers of other methods: `rerun` (it ran one paper's method again),
        `copied` (from the methods' papers) or `secondary` (of several methods, some of each).
    text: who published it, where no method's paper says so.
    collected, kept, left_out: rows that were read, are here, and are not, with the `reason`.
    """

    source: str
    table: str
    others: Literal["rerun", "copied", "secondary"]
    url: str
    place: str
    collected: int
    kept: int
    left_out: int
    methods: tuple[str, ...] = ()
    text: str = ""
    commit: str = ""
    reason: str = ""

    @property
    def citation(self) -> str:
        """The text, or authors, title, venue and year of the paper of the first method."""
        card = None if self.text else card_of(registry().method_class(self.methods[0]))
        return ", ".join(paper.citation for paper in card.papers) if card else self.text


class Number(msgspec.Struct, frozen=True, rename={"printed": "value"}):
    """One published number.

    method, options: by this harness's names where it has them, else by the paper's. `options` are
        those that differ from the defaults, or that rows of the source differ in.
    backbone: as open_clip names it, `ViT-B-16`; OpenAI's weights throughout.
    metric: `top1` (percent), `train_minutes`, `seconds_per_run` or `trained_params`.
    label: its origin: `printed` in a table, from a `log` or file of results, read off a
        `figure`, `computed` from a formula, or under an `assumed` setting, which `note` names.
    printed: the number as text. sd: standard deviation over seeds, if stated.
    dataset: a catalog name, `average` over eleven sets, `average-10` over those without ImageNet
        (other numbers: over other sets), or empty where it does not matter.
    shots: None where it does not matter, 0 for zero-shot.
    classes: `all`; `base` or `new`, of fits on the base classes; `harmonic` for their mean.
    queries, views, texts, pooling: the conditions of a run, also values that no run has here;
        `texts` without a digest.
    incomparable: words of `incomparable` in `reasons.toml`.
    """

    source: str
    table: str
    method: str
    options: Mapping[str, str]
    backbone: str
    metric: Literal["top1", "train_minutes", "seconds_per_run", "trained_params"]
    label: Literal["printed", "log", "figure", "computed", "assumed"]
    printed: str
    dataset: str = ""
    shots: int | None = None
    sd: float | None = None
    seeds: int | None = None
    note: str = ""
    classes: str = "all"
    queries: str = ALONE
    views: int = 1
    texts: str = BY_TEMPLATES
    pooling: str = POOLING[0]
    incomparable: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The number."""
        return float(self.printed)

    @property
    def decimals(self) -> int:
        """The number of decimals that the source prints."""
        return len(self.printed.partition(".")[2])

    @property
    def kind(self) -> str:
        """`official` if the method's authors published it, else `Source.others`."""
        source = sources()[self.source, self.table]
        return "official" if self.method in source.methods else source.others

    @property
    def row(self) -> tuple[str, str, str, str, int | None, str]:
        """The row of its table, equal for numbers that differ in data set and classes alone."""
        return self.source, self.table, self.name, self.backbone, self.shots, self.under

    @property
    def conditions(self) -> dict[str, Any]:
        """Its conditions by name, those of the defaults too."""
        return {name: getattr(self, name) for name in ("queries", "views", "texts", "pooling")}

    @property
    def under(self) -> str:
        """Its conditions where they are not the defaults: `queries all; views 64`."""
        return "; ".join(
            f"{name} {value}"
            for name, value in self.conditions.items()
            if value != CONDITIONS[name].default
        )

    @property
    def why_incomparable(self) -> tuple[str, ...]:
        """The reason, in words, not to compare it with ours; empty if it may be compared."""
        return tuple(reasons()["incomparable"][word] for word in self.incomparable)

    @property
    def is_mean(self) -> bool:
        """True for a mean over data sets."""
        return self.dataset.startswith(AVERAGE)

    @property
    def sets(self) -> tuple[str, ...]:
        """The data sets that it is of; empty for a mean over unknown ones."""
        if not self.is_mean:
            return (self.dataset,)
        every = tuple(registry().expand_datasets(["all"]))
        without = {AVERAGE: "", AVERAGE_OF_TEN: "imagenet"}.get(self.dataset)
        return () if without is None else tuple(name for name in every if name != without)

    @property
    def name(self) -> str:
        """The method with its options, as tables show it: `clip-lora[rank=4]`."""
        inner = ",".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.method}[{inner}]" if inner else self.method


@functools.cache
def sources() -> Mapping[tuple[str, str], Source]:
    """Every source by its key and table."""
    lines = [_split(line, "methods") for line in _read("sources.csv")]
    return {(s.source, s.table): s for s in msgspec.convert(lines, list[Source], strict=False)}


@functools.cache
def all_numbers() -> tuple[Number, ...]:
    """Every number, in the order of the files."""
    lines: list[dict[str, Any]] = []
    for name in ("numbers.csv", "base_to_new.csv", "conditioned.csv"):
        lines += [_split(line, "options", "incomparable") for line in _read(name)]
    for line in lines:
        line["options"] = as_options(line["options"])
    return msgspec.convert(lines, tuple[Number, ...], strict=False)


@functools.cache
def reasons() -> Mapping[str, Mapping[str, str]]:
    """Reasons not to compare numbers (`incomparable`, by word) or have methods (`left_out`)."""
    text = files("fewshot_bench.plugins.reproduce").joinpath("reasons.toml").read_text("utf-8")
    return tomllib.loads(text)


def tell_left_out(methods: Iterable[str]) -> list[str]:
    """A text for each of these methods that is left out: `calip is left out: ...`."""
    told = reasons()["left_out"]
    return [f"{name} is left out: {told[name]}" for name in methods if name in told]


def tell_incomparable(numbers: Iterable[Number]) -> Iterator[str]:
    """Reasons not to compare numbers with ours: a text for each, with methods and sources."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for number in numbers:
        for reason in number.why_incomparable:
            found[reason][f"{number.method} of {number.source}"] = None
    for reason, rows in found.items():
        yield f"not comparable because {reason}: {', '.join(rows)}"


def numbers(*, metric: str | None = "top1", **wanted: Any) -> list[Number]:
    """The numbers whose fields have these values, such as `source="coop", shots=(4, 16)`.

    None stands for any value. UsageError for a value that no number has.
    """
    chosen: Iterable[Number] = all_numbers()
    for field, asked in {**wanted, "metric": metric}.items():
        if asked is None:
            continue
        values = asked if isinstance(asked, tuple) else (asked,)
        printed = {getattr(number, field) for number in all_numbers()} - {None, ""}
        for value in values:
            if value not in printed:
                names = map(str, printed)
                if field == "method" and (told := tell_left_out([value])):
                    raise UsageError(f"{told[0]} (no number of it is here)")
                raise unknown(f"printed {field}", str(value), names, "docs/how-to/reproduce.md")
        chosen = [number for number in chosen if getattr(number, field) in values]
    return list(chosen)


def as_options(pairs: Iterable[str]) -> dict[str, str]:
    """`name=value` texts as a mapping."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs if pair)}


def _read(name: str) -> list[dict[str, str]]:
    """The lines of a file, each without its empty fields."""
    text = files("fewshot_bench.plugins.reproduce").joinpath(name).read_text("utf-8")
    lines = csv.DictReader(text.splitlines())
    return [{name: value for name, value in line.items() if value} for line in lines]


def _split(line: dict[str, str], *names: str) -> dict[str, Any]:
    """The line with these fields as lists, whose words a semicolon separates."""
    return line | {name: [word for word in line.get(name, "").split(";") if word] for name in names}
