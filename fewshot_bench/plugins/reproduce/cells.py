"""Cells of a published table under its conditions, and the plan that runs them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fewshot_bench.analysis.filters import split_list
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.method_card import FitSetting
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, Number, as_options, sources
from fewshot_bench.plugins.reproduce.published import Reproduction, Setting
from fewshot_bench.runner.request import Plan, Request, expand
from fewshot_bench.runner.variants import PublishedVariants, Variant, expand_methods
from fewshot_bench.utils.errors import UsageError, unknown


@dataclass(frozen=True)
class Wanted:
    """The part of a published table to repeat, and deliberate changes.

    methods: names or labels; where: options that a row must have; options: `[method.]name=value`
    on top of the paper's. An empty filter keeps all. versions: by method, if another version than
    the installed one is to be shown.
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
_SAID = {"rerun": "re-run by ", "secondary": "listed by "}
# Suite of the data sets behind published means, in this harness's order.
EVERY = "all"


@dataclass(frozen=True)
class Cell:
    """One published number and the configuration that repeats it.

    label: its row. variant: the paper's options with deliberate changes, None for a method that is
    not installed. changed: whether there are such changes. mean: the printed mean over data sets,
    this one among them, if the row has only that.
    """

    label: str
    number: Number
    setting: Setting
    variant: Variant | None = field(repr=False)
    changed: bool = False
    mean: Number | None = None

    @property
    def shots(self) -> int:
        """Shots of the published number; 0 for zero-shot."""
        return self.number.shots or 0

    @property
    def run_shots(self) -> int:
        """Shots of the run: at least 1, since every run has a support set, even if unused."""
        return self.shots or 1

    @property
    def paper(self) -> float | None:
        """The published number of the data set; None if only a mean is printed."""
        return None if self.mean else self.number.value

    @property
    def prompts(self) -> str:
        """The set of prompt templates."""
        return self.setting.prompts_of(self.number.dataset)

    @property
    def val(self) -> str:
        """The validation policy."""
        return self.setting.val_of(self.number.dataset)


def cells(table: Reproduction, wanted: Wanted) -> list[Cell]:
    """The cells in the order of the published table; UsageError where nothing matches."""
    printed = table.numbers()
    labels = {number.row: _label(table, number) for number in printed}
    settings = {number.row: table.setting(number) for number in printed}
    variants = _Variants(wanted.options)
    # A mean over data sets that is printed alone stands for one number per data set.
    names = registry().expand_datasets([EVERY])
    rows = []
    for number in printed:
        sets = names if number.dataset == AVERAGE else [number.dataset]
        mean = number if number.dataset == AVERAGE else None
        for name in sets:
            setting = settings[number.row]
            assert setting is not None
            single = msgspec.structs.replace(number, dataset=name)
            rows.append(Cell(labels[number.row], single, setting, None, mean=mean))
    chosen = _select_methods(rows, wanted.methods)
    chosen = _select_options(chosen, variants, wanted.where)
    chosen = _select_datasets(chosen, wanted.datasets)
    chosen = _select_shots(table, chosen, wanted.shots)
    _refuse_varied(table, chosen, wanted.options)
    variants.check({cell.number.method for cell in chosen if cell.setting.shipped})
    return [variants.add_to(cell) if cell.setting.shipped else cell for cell in chosen]


def _label(table: Reproduction, number: Number) -> str:
    """Label of a row: the method, with its source or table where the method has several rows."""
    source = sources()[number.source, number.table]
    if table.collected:
        return f"{number.name} ({_SAID.get(source.kind, '')}{number.source})"
    return number.name if number.table == table.tables[0][1] else f"{number.name} ({number.table})"


def _select_methods(rows: list[Cell], names: Sequence[str]) -> list[Cell]:
    """Rows of these methods, or with these labels."""
    if not names:
        return rows
    methods = {cell.number.method for cell in rows}
    printed = methods | {cell.label for cell in rows}
    wanted = split_list(",".join(names), printed)
    for name in wanted:
        if name not in printed:
            raise unknown("method of this table", name, methods, "fsbench reproduce NAME --dry-run")
    return [cell for cell in rows if cell.number.method in wanted or cell.label in wanted]


def _select_options(rows: list[Cell], variants: _Variants, pairs: Sequence[str]) -> list[Cell]:
    """Rows of installed methods whose configuration has all these values, defaults included."""
    if not pairs:
        return rows
    asked = [
        (name, value.split(",")) for pair in pairs for name, value in as_options([pair]).items()
    ]
    kept = []
    for cell in (cell for cell in rows if cell.setting.shipped):
        options = variants.configure(cell.number).options
        if all(name in options and str(options[name]) in values for name, values in asked):
            kept.append(cell)
    if not kept:
        raise UsageError(
            f"no row of this table has {', '.join(pairs)}; leave --where out to see all rows"
        )
    return kept


def _select_datasets(rows: list[Cell], names: Sequence[str]) -> list[Cell]:
    there = list(dict.fromkeys(cell.number.dataset for cell in rows))
    for name in names:
        if name not in there:
            raise unknown("data set of this table", name, there, "leave --dataset out for all")
    return [cell for cell in rows if not names or cell.number.dataset in names]


def _select_shots(table: Reproduction, rows: list[Cell], shots: Sequence[int]) -> list[Cell]:
    """Rows of these shots; zero-shot rows stay, since they belong to all shots."""
    printed = sorted({number.shots or 0 for number in table.numbers()})
    missing = [count for count in shots if count not in printed]
    if missing:
        raise UsageError(
            f"shots {missing[0]}: this table has {', '.join(map(str, printed))}; choose among these"
        )
    kept = [cell for cell in rows if not shots or not cell.shots or cell.shots in shots]
    if not kept:
        raise UsageError(
            f"{table.name} has no number for these methods, data sets and shots together; leave "
            "out one of --method, --where, --dataset and --shots"
        )
    return kept


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


class _Variants:
    """Configurations of methods, cached by method and options."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = tuple(options)
        self._variants: dict[tuple[str, tuple[str, ...]], Variant] = {}
        self._published = PublishedVariants(registry())

    def check(self, methods: Iterable[str]) -> None:
        """UsageError for an option that no method has, or that has several values."""
        names = sorted(methods)
        if len(expand_methods(names, self.options, registry())) > len(names):
            raise UsageError("an option has several values; a published cell is repeated with one")

    def configure(self, number: Number, options: Iterable[str] = ()) -> Variant:
        """The configuration that a number names, with further options."""
        method = number.method
        fields = {field.name for field in hyperparameters(registry().method_class(method))}
        own = {}
        for word in (*(f"{name}={value}" for name, value in number.options.items()), *options):
            owner, parameter = _split_word(word)
            if owner == method or (not owner and parameter in fields):
                # The last value counts.
                own[parameter] = word
        key = method, tuple(own.values())
        if key not in self._variants:
            (self._variants[key],) = expand_methods([method], key[1], registry())
        return self._variants[key]

    def add_to(self, cell: Cell) -> Cell:
        """The cell with its configuration, and whether that differs from the paper's."""
        number, options = cell.number, cell.setting.options
        paper, ours = (
            self.configure(number, words) for words in (options, (*options, *self.options))
        )
        if cell.setting.published:
            fit = FitSetting(number.dataset, cell.shots, number.classes != "all")
            paper, ours = (self._published.of(variant, fit) for variant in (paper, ours))
        return dataclasses.replace(cell, variant=ours, changed=ours.options != paper.options)


def plan(cells: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path) -> Plan:
    """Every run that the cells need; missing data sets are its `problems`.

    Data sets that cannot be run as the table asks are `left_out`. Cells that draw images the same
    way are expanded together, so that each data set is opened once for them, and runs with the same
    support set are adjacent.
    """
    merged = Plan([], {}, {})
    groups: defaultdict[tuple[str | bool, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        setting, whole = cell.setting, cell.number.classes == "all"
        if cell.variant:
            how = setting.protocol, cell.val, cell.prompts, setting.published, setting.random
            groups[*how, whole].append(cell)
    specs = [
        spec
        for group in groups.values()
        for spec in _expand(group, wanted, backbone, device, store, merged)
    ]
    merged.cells = list({spec.key(): spec for spec in specs}.values())
    return merged


def _expand(
    group: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path, merged: Plan
) -> list[RunSpec]:
    first = group[0]
    request = Request(
        methods=(first.setting.method,),
        datasets=tuple(dict.fromkeys(cell.number.dataset for cell in group)),
        shots=tuple(sorted({cell.run_shots for cell in group})),
        # If nothing is drawn, one seed is enough.
        seeds=wanted.seeds if first.setting.random else wanted.seeds[:1],
        backbone=backbone,
        devices=(device,),
        precision=wanted.precision,
        protocol=first.setting.protocol,
        val=first.val,
        prompts=first.prompts,
        limit=wanted.limit,
        published=first.setting.published,
        classes=tuple(dict.fromkeys(cell.number.classes for cell in group)),
        store=store,
        partial=True,
    )
    expanded = expand(request)
    merged.datasets.update(expanded.datasets)
    merged.problems.update(expanded.problems)
    merged.left_out.update(expanded.left_out)
    variants: defaultdict[tuple[str, int, str], list[Variant]] = defaultdict(list)
    for cell in group:
        if cell.variant:
            key = (cell.number.dataset, cell.run_shots, cell.number.classes)
            variants[key].append(cell.variant)
    return [
        dataclasses.replace(
            spec,
            method=variant.method,
            options=variant.options,
            overrides=variant.overrides,
            method_version=variant.version,
        )
        for spec in expanded.cells
        for variant in variants[spec.dataset, spec.shots, spec.classes]
    ]
