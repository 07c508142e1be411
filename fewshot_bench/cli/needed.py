"""The cells that a paper needs: those that its tables and figures name, of any conditions."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.options import RUN_OPTIONS
from fewshot_bench.api.spec import CONDITIONS, canonical_json, words_of_conditions
from fewshot_bench.cli.options import FILTER_NAMES, LISTED, NUMBERS, SHOTS
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import join_names, split_names

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec

_ENDED = ("done", "inapplicable")
Cell = tuple[Any, ...]
# A method with options, as tables call its row; before the next one of them.
_LABEL = re.compile(r"([^\[]+)\[(.*)\]", re.DOTALL)
_INNER = re.compile(r",(?=\w+=)")


@dataclass
class Needed:
    """The cells that items need, beside the records of a store.

    cells: their number for each item. missing: those without a result, by the arguments of a run
    that computes them. unknown: why the cells of some items are not known. wrong: what is wrong in
    others.
    """

    records: Sequence[Record]
    cells: dict[str, int] = field(default_factory=dict)
    missing: dict[tuple[str, ...], frozenset[Cell]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, values: Mapping[str, Any]) -> None:
        """Add an item. values: of its command's options.

        What it does not name may be any: cells of another device count as there, and what is
        missing beside them is asked for under their conditions.
        """
        if not values["method"] or not values["dataset"]:
            self.unknown.append(f"{what} names no method or no data set: it takes what is there")
            return
        usable = self._under(values)
        try:
            every = [_Axes.read(one, usable) for one in _each(values)]
        except (FsbenchError, ValueError) as error:
            self.wrong.append(f"{what}: {error}")
            return
        there = {_identity(record.spec) for record in usable if record.status in _ENDED}
        named = tuple(values[name] for name in FILTER_NAMES if name not in LISTED)
        like = usable[0].spec if usable else None
        self.cells[what] = len({cell for axes in every for cell in axes.cells()})
        for axes in every:
            missing = frozenset((*cell, *named) for cell in axes.cells() if cell not in there)
            if missing:
                self.missing[tuple(axes.words(values, like))] = missing

    def _under(self, values: Mapping[str, Any]) -> list[Record]:
        """The records under the conditions that an item names."""
        from fewshot_bench.analysis.lending import allow

        named = {name: None if name in LISTED else values[name] for name in FILTER_NAMES}
        try:
            return allow(self.records, named)[0]
        except UsageError:
            return []

    @property
    def count(self) -> int:
        """The number of missing cells."""
        return len(frozenset[Cell]().union(*self.missing.values()))

    def commands(self, store: str) -> list[str]:
        """Commands that run the missing cells; those that are there are not run again."""
        lines, covered = [], set[Cell]()
        for words, cells in sorted(self.missing.items(), key=lambda item: -len(item[1])):
            if not cells <= covered:
                lines.append(shlex.join(["fsbench", "run", "--store", store, *words]))
                covered |= cells
        return lines


@dataclass(frozen=True)
class _Axes:
    """What an item names, and what the store has or a run takes where it names nothing.

    options: values of hyper-parameters as texts. variants: method and overrides as text. seeds:
    split seed and training seed.
    """

    methods: Sequence[str]
    options: Sequence[str]
    variants: Sequence[tuple[str, str]]
    datasets: Sequence[str]
    classes: Sequence[str]
    shots: Sequence[int]
    seeds: Sequence[int]

    @classmethod
    def read(cls, values: Mapping[str, Any], usable: Sequence[Record]) -> _Axes:
        """The axes of an item; UsageError or ValueError for a name or a number that is none."""
        from fewshot_bench.api.registry import registry

        methods, options = values["methods"], values["of_methods"]
        datasets = registry().expand_datasets(split_names(values["dataset"]))
        own = [record.spec for record in usable if record.spec.dataset in datasets]
        every = "base,new" if values.get("kind") == "base-new" else "all"
        return cls(
            methods,
            options,
            list(_variants(methods, options, own)),
            datasets,
            split_names(values["classes"] or every),
            _numbers(values["shots"], "shots", (spec.shots for spec in own)),
            _numbers(values["seeds"], "seeds", (spec.train_seed for spec in own)),
        )

    def cells(self) -> list[Cell]:
        """What each cell is, as `_identity` of its record."""
        parts = itertools.product(
            self.variants, self.datasets, self.classes, self.shots, self.seeds
        )
        return [
            (method, dataset, "", classes, shots, seed, seed, overrides)
            for (method, overrides), dataset, classes, shots, seed in parts
        ]

    def words(self, values: Mapping[str, Any], like: RunSpec | None) -> list[str]:
        """The arguments of `fsbench run` that compute the cells.

        like: a cell whose conditions count where the item names none.
        """
        names = (name.partition("[")[0] for name in self.methods)
        words = ["--method", join_names(names), "--dataset", join_names(self.datasets)]
        words += ["--shots", _join(self.shots), "--seeds", _join(self.seeds)]
        for text in self.options:
            words += ["-o", text]
        words += ["--classes", ",".join(self.classes)] if list(self.classes) != ["all"] else []
        if device := values["device"] or (like and like.device):
            words += ["--device", device]
        texts = {
            name: values[name] or ("" if like is None else about.of(like))
            for name, about in CONDITIONS.items()
            if about.option
        }
        return words + words_of_conditions(texts)


def _identity(spec: RunSpec) -> Cell:
    """The identity of a cell, whatever its conditions."""
    names = ("method", "dataset", "target", "classes", "shots", "split_seed", "train_seed")
    return *(getattr(spec, name) for name in names), canonical_json(dict(spec.overrides))


def _each(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """An item's values for each command that runs it, with `methods` and the options `of_methods`.

    `clip-lora[rank=4]`, as rows are called, has options of its own, and so its own command.
    """
    from fewshot_bench.analysis.filters import split_list
    from fewshot_bench.api.registry import registry

    options: Sequence[str] = values.get("options", values.get("option", ()))
    text: str = values["method"]
    together: dict[tuple[str, ...], dict[str, None]] = {}
    for label in split_list(text, ()) if "[" in text else split_names(text):
        found = _LABEL.fullmatch(label)
        method, inner = found.groups() if found else (label, "")
        method = method.partition("@")[0]
        own = [part.replace(",", r"\,") for part in _INNER.split(inner) if part]
        # What is in no package is as the store has it.
        is_known = method in registry().methods.entries
        name = method if is_known or not found else label
        together.setdefault((*options, *own), {})[name] = None
    for texts, methods in together.items():
        yield {**values, "methods": list(methods), "of_methods": texts}


def _variants(
    methods: Sequence[str], options: Sequence[str], own: Sequence[RunSpec]
) -> Iterable[tuple[str, str]]:
    """Methods with their overrides; those that are in no package here, as the store has them."""
    from fewshot_bench.analysis.filters import method_names
    from fewshot_bench.api.registry import registry
    from fewshot_bench.cli.recorded import list_overrides, read_values
    from fewshot_bench.runner.variants import expand_methods

    plugins = registry()
    known = []
    for name in methods:
        specs = [spec for spec in own if name in method_names(spec)]
        if name not in plugins.methods.entries and specs:
            if options:
                for own_values in list_overrides(specs, read_values(specs, options)):
                    yield specs[0].method, canonical_json(own_values)
                continue
            # As in a run, a mere name has the options that it is called without.
            specs = [spec for spec in specs if not spec.overrides] or specs
            yield from {(spec.method, canonical_json(dict(spec.overrides))) for spec in specs}
        else:
            known.append(name)
    for variant in expand_methods(known, options, plugins) if known else ():
        yield variant.method, canonical_json(dict(variant.overrides))


def _numbers(text: str | None, name: str, own: Iterable[int]) -> Sequence[int]:
    """The numbers of a filter; without one, those of the store, else those of a run."""
    read = (SHOTS if name == "shots" else NUMBERS).read
    numbers = tuple(read(text)) if text else tuple(sorted({*own}))
    # A method of earlier records may have no shots; no run can be asked for that.
    return tuple(number for number in numbers if number or name != "shots") or tuple(
        RUN_OPTIONS[name].default
    )


def _join(values: Iterable[object]) -> str:
    return ",".join(map(str, values))
