"""Published tables that `fsbench reproduce` repeats, with their conditions."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fewshot_bench.api.method_card import MethodCard, card_of
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, Number, Source, numbers, sources
from fewshot_bench.utils.errors import unknown


@dataclass(frozen=True)
class Setting:
    """Settings of the rows of one method in a published table.

    protocol, val: how support and validation images are drawn (docs/protocols.md).
    by_dataset: options of single data sets. ensemble: data sets with the template ensemble instead
        of `prompts`. random: whether anything is drawn or trained, so that seeds differ.
    differs: what cannot be repeated, or what the paper does not say.
    schedule: of the published rows, by the names of `MethodCard.schedule`; empty where it is not
        stated.
    """

    method: str
    protocol: str
    val: str
    prompts: str
    by_dataset: Mapping[str, tuple[str, ...]]
    ensemble: tuple[str, ...] = ()
    random: bool = True
    differs: tuple[str, ...] = ()
    schedule: str = ""

    def prompts_of(self, dataset: str) -> str:
        """The template set on a data set."""
        return "ensemble" if dataset in self.ensemble else self.prompts

    @property
    def card(self) -> MethodCard | None:
        """Facts of the installed method; None where it states none."""
        from fewshot_bench.api.registry import registry

        return card_of(registry().method_class(self.method))

    def other_schedule(self, records: Iterable[Record]) -> bool:
        """True when the published rows are of another schedule than a record's card states.

        Records without a card were made by the installed method's schedule.
        """
        installed = self.card.schedule if self.card else ""
        stated = {str(record.card.get("schedule") or installed) for record in records}
        return bool(self.schedule) and stated - {"", self.schedule} != set()

    def differences(self) -> Iterator[str]:
        """All that differs from the published rows, or that nobody says about them."""
        yield from self.differs
        card = self.card
        if card is None:
            return
        if self.random and self.schedule != card.schedule:
            yield f"schedule {self.schedule or 'not stated'} there, {card.schedule} here"
        words = (word for options in self.by_dataset.values() for word in options)
        same = {word.partition("=")[0].rpartition(".")[2] for word in words}
        yield from card.differences(but=same)


@dataclass(frozen=True)
class Reproduction:
    """A published table that can be repeated: whose it is, and how each method's rows were made."""

    name: str
    title: str
    source: str
    tables: tuple[str, ...]
    backbone: str
    precision: str
    settings: Mapping[str, Setting]

    def numbers(self) -> list[Number]:
        """The accuracies of methods that are here, without means over data sets."""
        return [
            number
            for number in self._all()
            if number.method in self.settings and number.dataset != AVERAGE
        ]

    def others(self) -> list[str]:
        """Methods of the published table that this harness does not have."""
        return sorted({n.method for n in self._all() if n.method not in self.settings})

    def sources(self) -> list[Source]:
        """The sources of the numbers."""
        return [sources()[self.source, table] for table in self.tables]

    def _all(self) -> list[Number]:
        backbone = self.backbone.partition("/")[0]
        return [
            number
            for table in self.tables
            for number in numbers(source=self.source, table=table, backbone=backbone)
        ]


@functools.cache
def reproductions() -> Mapping[str, Reproduction]:
    """All of them by name."""
    text = (
        files("fewshot_bench.plugins.reproduce").joinpath("reproductions.toml").read_text("utf-8")
    )
    content = tomllib.loads(text)
    tables = content["by_dataset"]
    return {
        name: Reproduction(
            name=name,
            title=entry["title"],
            source=entry["source"],
            tables=tuple(entry["tables"]),
            backbone=entry["backbone"],
            precision=entry["precision"],
            settings={
                method: _setting(method, values, tables)
                for method, values in content["settings"][entry["settings"]].items()
            },
        )
        for name, entry in content["reproductions"].items()
    }


def reproduction(name: str) -> Reproduction:
    """The one of this name; UsageError with the closest name."""
    known = reproductions()
    if name not in known:
        raise unknown("published table", name, known, "fsbench reproduce lists them")
    return known[name]


def _setting(method: str, values: Mapping[str, Any], tables: Mapping[str, Any]) -> Setting:
    by_dataset = tables[values["by_dataset"]] if "by_dataset" in values else {}
    return Setting(
        method=method,
        protocol=values["protocol"],
        val=values["val"],
        prompts=values["prompts"],
        by_dataset={dataset: tuple(options) for dataset, options in by_dataset.items()},
        ensemble=tuple(values.get("ensemble", ())),
        random=values.get("random", True),
        differs=tuple(values.get("differs", ())),
        schedule=values.get("schedule", ""),
    )
