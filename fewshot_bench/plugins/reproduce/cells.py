"""Cells of a published table under its conditions, and the plan that runs them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


_Row = tuple[str, str, str, str, int | None]
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
    chosen = _named(_single(printed), labels, wanted.methods)
    chosen = _where(chosen, table, wanted.where)
    chosen = _among_datasets(chosen, wanted.datasets)
    chosen = _among_shots(table, chosen, wanted.shots)
    _refuse_varied(table, chosen, wanted.options)
    means = {(n.row, n.classes): n for n in printed if n.dataset == AVERAGE}
    variants = _Variants(wanted.options)
    variants.check({n.method for n in chosen if _setting(table, n).shipped})
    found = []
    for number in chosen:
        setting = _setting(table, number)
        variant, changed = variants.of(number, setting) if setting.shipped else (None, False)
        mean = means.get((number.row, number.classes))
        found.append(Cell(labels[number.row], number, setting, variant, changed, mean))
    return found


def _single(printed: Sequence[Number]) -> list[Number]:
    """The numbers, with each mean over data sets replaced by one number per data set."""
    names = registry().expand_datasets([EVERY])
    return [
        dataclasses.replace(number, dataset=name) if number.dataset == AVERAGE else number
        for number in printed
        for name in (names if number.dataset == AVERAGE else [number.dataset])
    ]


def _setting(table: Reproduction, number: Number) -> Setting:
    setting = table.setting(number)
    assert setting is not None
    return setting


def _label(table: Reproduction, number: Number) -> str:
    """Label of a row: the method, with its source or table where the method has several rows."""
    source = sources()[number.source, number.table]
    if table.collected:
        return f"{number.name} ({_SAID.get(source.kind, '')}{number.source})"
    return number.name if number.table == table.tables[0][1] else f"{number.name} ({number.table})"


def _named(chosen: list[Number], labels: Mapping[_Row, str], names: Sequence[str]) -> list[Number]:
    if not names:
        return chosen
    known = {n.method for n in chosen} | {labels[n.row] for n in chosen}
    wanted = split_list(",".join(names), known)
    for name in wanted:
        if name not in known:
            methods = {number.method for number in chosen}
            raise unknown("method of this table", name, methods, "fsbench reproduce NAME --dry-run")
    return [n for n in chosen if n.method in wanted or labels[n.row] in wanted]


def _where(chosen: list[Number], table: Reproduction, pairs: Iterable[str]) -> list[Number]:
    """Numbers of installed methods whose configuration has all these values, defaults included."""
    pairs = tuple(pairs)
    if not pairs:
        return chosen
    asked = [
        (name, value.split(",")) for pair in pairs for name, value in as_options([pair]).items()
    ]
    variants = _Variants(())
    kept = []
    for number in (one for one in chosen if _setting(table, one).shipped):
        options = variants.published(number).options
        if all(name in options and str(options[name]) in values for name, values in asked):
            kept.append(number)
    if not kept:
        raise UsageError(
            f"no row of this table has {', '.join(pairs)}; leave --where out to see all rows"
        )
    return kept


def _among_datasets(chosen: list[Number], names: Sequence[str]) -> list[Number]:
    known = list(dict.fromkeys(number.dataset for number in chosen))
    for name in names:
        if name not in known:
            raise unknown("data set of this table", name, known, "leave --dataset out for all")
    return [number for number in chosen if not names or number.dataset in names]


def _among_shots(table: Reproduction, chosen: list[Number], shots: Sequence[int]) -> list[Number]:
    """Keep numbers of these shots; zero-shot rows stay, since they belong to all shots."""
    known = sorted({number.shots or 0 for number in table.numbers()})
    missing = [count for count in shots if count not in known]
    if missing:
        raise UsageError(
            f"shots {missing[0]}: this table has {', '.join(map(str, known))}; choose among these"
        )
    kept = [n for n in chosen if not shots or not n.shots or n.shots in shots]
    if not kept:
        raise UsageError(
            f"{table.name} has no number for these methods, data sets and shots together; leave "
            "out one of --method, --where, --dataset and --shots"
        )
    return kept


def _refuse_varied(table: Reproduction, chosen: Sequence[Number], options: Sequence[str]) -> None:
    for word in options:
        owner, parameter = word.partition("=")[0].strip().rpartition(".")[0], _parameter(word)
        for number in chosen:
            if parameter in number.options and owner in ("", number.method):
                raise UsageError(
                    f"{parameter} is what rows of {table.name} differ in, it cannot be set for all "
                    f"of them; choose rows with --where {parameter}={number.options[parameter]}"
                )


class _Variants:
    """Configurations of methods, cached by method and options."""

    def __init__(self, options: Sequence[str]) -> None:
        self.options = tuple(options)
        self.made: dict[tuple[str, tuple[str, ...]], Variant] = {}
        self.with_published = PublishedVariants(registry())

    def check(self, methods: Iterable[str]) -> None:
        """UsageError for an option that no method has, or that has several values."""
        names = sorted(methods)
        if len(expand_methods(names, self.options, registry())) > len(names):
            raise UsageError("an option has several values; a published cell is repeated with one")

    def published(self, number: Number) -> Variant:
        """The configuration that the number names."""
        return self._variant(number.method, _words(number))

    def of(self, number: Number, setting: Setting) -> tuple[Variant, bool]:
        """The configuration for a number, and whether it differs from the paper's."""
        words = (*_words(number), *setting.options)
        paper, ours = (
            self._variant(number.method, found) for found in (words, (*words, *self.options))
        )
        if setting.published:
            base_to_new = number.classes != "all"
            fit = FitSetting(number.dataset, number.shots or 0, base_to_new)
            paper, ours = (self.with_published.of(one, fit) for one in (paper, ours))
        return ours, ours.options != paper.options

    def _variant(self, method: str, words: tuple[str, ...]) -> Variant:
        own = tuple(word for word in words if _concerns(method, word))
        if (method, own) not in self.made:
            # The last value counts.
            last = {_parameter(word): word for word in own}
            (self.made[method, own],) = expand_methods([method], last.values(), registry())
        return self.made[method, own]


def _words(number: Number) -> tuple[str, ...]:
    return tuple(f"{name}={value}" for name, value in number.options.items())


def _parameter(word: str) -> str:
    return word.partition("=")[0].strip().rpartition(".")[2].replace("-", "_")


def _concerns(method: str, word: str) -> bool:
    """True when an option is one of a method's."""
    owner = word.partition("=")[0].strip().rpartition(".")[0]
    if owner:
        return owner == method
    names = {field.name for field in hyperparameters(registry().method_class(method))}
    return _parameter(word) in names


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
    for group in groups.values():
        for found in _expanded(group, wanted, backbone, device, store, merged):
            merged.cells.append(found)
    merged.cells = list({cell.key(): cell for cell in merged.cells}.values())
    return merged


def _expanded(
    group: Sequence[Cell], wanted: Wanted, backbone: str, device: str, store: Path, merged: Plan
) -> list[RunSpec]:
    first = group[0]
    request = Request(
        methods=(first.setting.method,),
        datasets=tuple(dict.fromkeys(cell.number.dataset for cell in group)),
        shots=tuple(sorted({_shots(cell) for cell in group})),
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
    wanted_here: defaultdict[tuple[str, int, str], list[Variant]] = defaultdict(list)
    for cell in group:
        if cell.variant:
            place = (cell.number.dataset, _shots(cell), cell.number.classes)
            wanted_here[place].append(cell.variant)
    return [
        dataclasses.replace(
            spec,
            method=variant.method,
            options=variant.options,
            overrides=variant.overrides,
            method_version=variant.version,
        )
        for spec in expanded.cells
        for variant in wanted_here[spec.dataset, spec.shots, spec.classes]
    ]


def run_of(cell: Cell) -> tuple[object, ...]:
    """What tells the runs of a cell apart from those of others, but for the seeds."""
    assert cell.variant is not None
    own = cell.setting.method, str(cell.variant.options), cell.setting.protocol
    number = cell.number
    return *own, cell.val, cell.prompts, number.dataset, number.classes, _shots(cell)


def _shots(cell: Cell) -> int:
    """Shots of the run: at least 1, since every run has a support set, even if unused."""
    return cell.shots or 1
