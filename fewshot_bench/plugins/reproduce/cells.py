"""Cells of a published table under its conditions, and the plan that runs them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.analysis.filters import split_list
from fewshot_bench.api.class_texts import WAFFLE
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_card import FitSetting
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import BY_TEMPLATES, QUERIES, RunSpec
from fewshot_bench.plugins.reproduce.numbers import Number, as_options, tell_left_out
from fewshot_bench.plugins.reproduce.published import Reproduction, Setting
from fewshot_bench.runner.need import find_lack
from fewshot_bench.runner.request import Plan, Request, expand
from fewshot_bench.runner.variants import PublishedVariants, Variant, expand_methods
from fewshot_bench.utils.errors import UsageError, unknown


@dataclass(frozen=True)
class Wanted:
    """The part of a published table to repeat, and deliberate changes.

    methods: names or labels; where: options and conditions that a row must have; options:
    `[method.]name=value` on top of the paper's. An empty filter keeps all. versions: by method, if
    another version than the installed one is to be shown.
    """

    methods: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    where: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1, 2, 3)
    backbone: str = ""
    precision: str = "fp32"
    limit: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


# Labels of rows in tables of several sources whose numbers are not the authors' own.
_SAID = {"rerun": "re-run by ", "copied": "copied by ", "secondary": "listed by "}


@dataclass(frozen=True)
class Cell:
    """One published number and the configuration that repeats it.

    label: its row. variant: the paper's options with deliberate changes, None for a method that is
    not installed. changed: whether there are such changes. mean: the printed mean over data sets,
    this one among them, if the row has only that. shots: 0 for zero-shot.
    """

    label: str
    number: Number
    setting: Setting
    variant: Variant | None = field(default=None, repr=False)
    changed: bool = False
    mean: Number | None = None

    @property
    def shots(self) -> int:
        """Shots of the published number; 0 for zero-shot."""
        return self.number.shots or 0

    @property
    def run(self) -> tuple[str, int, str]:
        """Data set, shots and classes of its runs; all have a support set, even if unused."""
        return self.number.dataset, self.shots or 1, self.number.classes

    @property
    def paper(self) -> float | None:
        """The published number of the data set; None if only a mean is printed."""
        return None if self.mean else self.number.value

    @property
    def prompts(self) -> str:
        """The set of prompt templates."""
        setting = self.setting
        return "ensemble" if self.number.dataset in setting.ensemble else setting.prompts

    @property
    def val(self) -> str:
        """The validation policy."""
        return "min4" if self.number.dataset in self.setting.min4 else self.setting.val

    @property
    def is_offered(self) -> bool:
        """True if a run of its method can have its conditions without files of the user."""
        values = self.number.conditions
        if values["queries"] not in QUERIES or values["texts"] not in (BY_TEMPLATES, WAFFLE):
            return False
        return self.variant is not None and not find_lack(self.variant, values)


def cells(table: Reproduction, wanted: Wanted) -> list[Cell]:
    """The cells in the order of the published table; UsageError where nothing matches."""
    rows = _select(table, list(_rows(table)), wanted)
    _refuse_varied(table, rows, wanted.options)
    methods = sorted({cell.number.method for cell in rows if cell.setting.shipped})
    if len(expand_methods(methods, wanted.options, registry())) > len(methods):
        raise UsageError("an option has several values; a published cell is repeated with one")
    configured = _configure(rows, wanted.options)
    asked = [
        (name, text.split(","))
        for pair in wanted.where
        for name, text in as_options([pair]).items()
    ]
    # Rows without an installed method have no configuration to choose by.
    chosen = [
        cell
        for cell, options in configured
        if all(str({**cell.number.conditions, **options}.get(name)) in own for name, own in asked)
    ]
    if not chosen:
        raise UsageError(
            f"no row of this table has {', '.join(wanted.where)}; leave --where out to see all rows"
        )
    return chosen


def _rows(table: Reproduction) -> Iterator[Cell]:
    """A cell per number; a mean over data sets that is printed alone stands for one each."""
    tables = defaultdict(set)
    for number in table.numbers():
        tables[number.name, number.under].add(number.table)
    for number in table.numbers():
        setting = table.setting(number)
        assert setting is not None
        label = number.name
        if table.collected:
            label = f"{number.name} ({_SAID.get(number.kind, '')}{number.source})"
        elif len(tables[number.name, number.under]) > 1 and number.table != table.tables[0][1]:
            label = f"{number.name} ({number.table})"
        if number.under:
            label = f"{label} [{number.under}]"
        if not number.is_mean:
            yield Cell(label, number, setting)
            continue
        for name in number.sets:
            single = msgspec.structs.replace(number, dataset=name)
            yield Cell(label, single, setting, mean=number)


def _select(table: Reproduction, rows: list[Cell], wanted: Wanted) -> list[Cell]:
    """Rows of these methods or labels, data sets and shots; zero-shot belongs to all shots."""
    methods = {cell.number.method for cell in rows}
    printed = methods | {cell.label for cell in rows}
    names = split_list(",".join(wanted.methods), printed) if wanted.methods else []
    for name in names:
        if told := tell_left_out({name} - printed):
            raise UsageError(told[0])
        if name not in printed:
            raise unknown("method of this table", name, methods, "fsbench reproduce NAME --dry-run")
    rows = [cell for cell in rows if not names or {cell.number.method, cell.label} & {*names}]
    datasets = list(dict.fromkeys(cell.number.dataset for cell in rows))
    for name in wanted.datasets:
        if name not in datasets:
            step = "leave --dataset out for all"
            raise unknown("data set of this table", name, datasets, step)
    shots = sorted({number.shots or 0 for number in table.numbers()})
    for count in wanted.shots:
        if count not in shots:
            raise UsageError(
                f"shots {count}: this table has {', '.join(map(str, shots))}; choose among these"
            )
    chosen = [
        cell
        for cell in rows
        if (not wanted.datasets or cell.number.dataset in wanted.datasets)
        and (not wanted.shots or cell.shots in (0, *wanted.shots))
    ]
    if not chosen:
        raise UsageError(
            f"{table.name} has no number for these methods, data sets and shots together; leave "
            "out one of --method, --where, --dataset and --shots"
        )
    return chosen


def _refuse_varied(table: Reproduction, rows: Sequence[Cell], options: Sequence[str]) -> None:
    for word in options:
        owner, parameter = _split_word(word)
        for number in (cell.number for cell in rows):
            if parameter in number.options and owner in ("", number.method):
                raise UsageError(
                    f"{parameter} is what rows of {table.name} differ in, it cannot be set for all "
                    f"of them; choose rows with --where {parameter}={number.options[parameter]}"
                )


def _split_word(word: str) -> tuple[str, str]:
    """Method and name of an option: `clip-lora.rank=4` gives `clip-lora` and `rank`."""
    owner, _, name = word.partition("=")[0].strip().rpartition(".")
    return owner, name.replace("-", "_")


def _configure(
    rows: Iterable[Cell], changes: Sequence[str]
) -> Iterator[tuple[Cell, Mapping[str, object]]]:
    """The cells with their configurations, and all options of the paper's."""
    published = PublishedVariants(registry())
    variants: dict[tuple[str, ...], Variant] = {}

    def expand_words(number: Number, words: Iterable[str]) -> Variant:
        method = number.method
        fields = {field.name for field in hyperparameters(registry().method_class(method))}
        own = {}
        for word in (*(f"{name}={value}" for name, value in number.options.items()), *words):
            owner, parameter = _split_word(word)
            if owner == method or (not owner and parameter in fields):
                # The last value counts.
                own[parameter] = word
        key = method, *own.values()
        if key not in variants:
            (variants[key],) = expand_methods([method], [*own.values()], registry())
        return variants[key]

    for cell in rows:
        if not cell.setting.shipped:
            yield cell, {}
            continue
        own = cell.setting.options
        paper, ours = (expand_words(cell.number, words) for words in (own, (*own, *changes)))
        if cell.setting.published:
            fit = FitSetting(cell.number.dataset, cell.shots, cell.number.classes != "all")
            paper, ours = (published.of(variant, fit) for variant in (paper, ours))
        changed = ours.options != paper.options
        yield dataclasses.replace(cell, variant=ours, changed=changed), paper.options


def plan(cells: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path) -> Plan:
    """Every run that the cells need; missing data sets are its `problems`.

    Data sets that cannot be run as the table asks are `left_out`. Cells that draw images the same
    way are expanded together, so that each data set is opened once for them, and runs with the same
    support set are adjacent.
    """
    merged = Plan([], {}, {})
    groups: defaultdict[tuple[Any, ...], defaultdict[tuple[str, int, str], list[Variant]]]
    groups = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.variant is not None and cell.is_offered:
            setting, whole = cell.setting, cell.number.classes == "all"
            how = setting.protocol, cell.val, cell.prompts, setting.published, setting.random, whole
            groups[*how, tuple(cell.number.conditions.items())][cell.run].append(cell.variant)
    specs: dict[str, RunSpec] = {}
    for (protocol, val, prompts, published, random, _, conditions), variants in groups.items():
        columns = zip(*variants, strict=True)
        datasets, shots, classes = (tuple(dict.fromkeys(column)) for column in columns)
        request = Request(
            methods=(next(iter(variants.values()))[0].method,),
            datasets=datasets,
            shots=tuple(sorted(shots)),
            # If nothing is drawn, one seed is enough.
            seeds=wanted.seeds if random else wanted.seeds[:1],
            backbone=backbone,
            devices=(device,),
            precision=wanted.precision,
            protocol=protocol,
            val=val,
            prompts=prompts,
            limit=wanted.limit,
            published=published,
            classes=classes,
            store=store,
            partial=True,
            **dict(conditions),
        )
        expanded = expand(request)
        merged.datasets |= expanded.datasets
        merged.problems |= expanded.problems
        merged.left_out |= expanded.left_out
        for spec in expanded.cells:
            for variant in variants[spec.dataset, spec.shots, spec.classes]:
                run = dataclasses.replace(
                    spec,
                    method=variant.method,
                    options=variant.options,
                    overrides=variant.overrides,
                    method_version=variant.version,
                )
                specs.setdefault(run.key(), run)
    merged.cells = list(specs.values())
    return merged
