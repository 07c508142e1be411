"""The cells that a paper needs: those of runs with the filters of its tables and figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.options import RUN_OPTIONS
from fewshot_bench.api.spec import CONDITIONS, canonical_json
from fewshot_bench.cli.engines import split_values
from fewshot_bench.cli.options import FILTER_NAMES, LISTED
from fewshot_bench.engines.asking import ask
from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import split_names

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec

_ENDED = ("done", "inapplicable")
_ANYWHERE = {"device": "cpu", "precision": "fp32"}


@dataclass
class Needed:
    """The cells that items need, beside the records of a store.

    cells: their number for each item. missing: the keys of those without a result, by the arguments
    of a run that computes them. unknown: why the cells of some items are not known.
    """

    records: Sequence[Record]
    cells: dict[str, int] = field(default_factory=dict)
    missing: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def add(self, what: str, values: Mapping[str, Any]) -> None:
        """Add an item. values: of its command's options, whose filters are those of a run, too.

        What it does not name may be any: cells of another device or precision count as there, and
        what is missing beside them is asked for under their conditions.
        """
        if not values["method"] or not values["dataset"]:
            self.unknown.append(f"{what} names no method or no data set: it takes what is there")
            return
        usable = self._under(values)
        like = usable[0].spec if usable else None
        try:
            # Which cells there are depends on no device, and the one named may be elsewhere.
            cells, problems = _plan(run_words({**values, **_ANYWHERE}, like))
        except (click.UsageError, FsbenchError) as error:
            self.unknown.append(f"{what}: {' '.join(str(error).split())}")
            return
        self.unknown += [f"{what}: {problem}" for problem in problems]
        there = {_identity(record.spec) for record in usable if record.status in _ENDED}
        self.cells[what] = len(cells)
        where = f"{values['device']} {values['precision']}"
        keys = frozenset(f"{c.key()} {where}" for c in cells if _identity(c) not in there)
        if keys:
            self.missing[tuple(run_words(values, like))] = keys

    def _under(self, values: Mapping[str, Any]) -> list[Record]:
        """The records under the conditions that an item names."""
        from fewshot_bench.analysis.filters import select

        named = {name: None if name in LISTED else values[name] for name in FILTER_NAMES}
        try:
            return select(self.records, named)
        except UsageError:
            return []

    @property
    def count(self) -> int:
        """The number of missing cells."""
        return len(frozenset[str]().union(*self.missing.values()))

    def commands(self, store: str) -> list[str]:
        """Commands that run the missing cells; those that are there are not run again."""
        lines, covered = [], set[str]()
        for words, keys in sorted(self.missing.items(), key=lambda item: -len(item[1])):
            if not keys <= covered:
                lines.append(shlex.join(["fsbench", "run", "--store", store, *words]))
                covered |= keys
        return lines


def _identity(spec: RunSpec) -> tuple[Any, ...]:
    """What a cell is, whatever its conditions."""
    names = ("method", "dataset", "target", "classes", "shots", "split_seed", "train_seed")
    return *(getattr(spec, name) for name in names), canonical_json(dict(spec.overrides))


def _plan(words: list[str]) -> tuple[list[RunSpec], Sequence[str]]:
    """The cells of a run with these arguments, and what keeps some from being planned."""
    from fewshot_bench.cli.run import command as run
    from fewshot_bench.runner.request import expand

    with run.make_context("run", list(words)) as ctx:
        own, declared = split_values(ctx.params)
        plan = expand(ask(own, declared))
    return plan.cells, list(plan.problems.values())


def run_words(values: Mapping[str, Any], like: RunSpec | None) -> list[str]:
    """The arguments of `fsbench run` for the filters of an item.

    like: a cell whose conditions count where the item names none.
    """
    words = []
    for row in RUN_OPTIONS.values():
        value = values.get(row.flag or row.name)
        if row.scope == "plan" and row.filter and value:
            words += [row.flags[0], _text(row.name, str(value))]
    if device := values["device"] or (like and like.device):
        words += ["--device", device]
    for name, about in CONDITIONS.items():
        text = values[name] or ("" if like is None else about.text(getattr(like, name)))
        words += about.words_of_command(text) if about.option else []
    for text in values.get("options", values.get("option", ())):
        words += ["-o", text]
    return words


def _text(name: str, value: str) -> str:
    """A filter as an option of a run: methods without versions, shots without 0."""
    parts = split_names(value)
    if name == "methods":
        return ",".join(dict.fromkeys(part.partition("@")[0] for part in parts))
    if name == "shots":
        return ",".join(part for part in parts if part != "0") or value
    return value
