"""Published tables that `fsbench reproduce` repeats, with their conditions."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from fewshot_bench.api.method_card import MethodCard, card_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.numbers import HARMONIC, Number, numbers
from fewshot_bench.utils.errors import unknown


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the rows of one method in a published table.

    protocol, val: how support and validation images are drawn (docs/reference/protocols.md).
    published: whether the rows have the values of the method's card (`MethodCard.published`).
    ensemble: data sets with the template ensemble instead of `prompts`. min4: data sets with
        validation policy `min4` instead of `val`. random: whether anything is drawn or trained, so
        that seeds differ.
    differs: facts that cannot be repeated, or that the paper does not state.
    schedule: of the published rows, by the names of `MethodCard.schedule`; empty where it is not
        stated. options: for all data sets; they give the method the schedule of the rows.
    """

    method: str
    protocol: str
    val: str
    prompts: str
    published: bool = True
    ensemble: tuple[str, ...] = ()
    min4: tuple[str, ...] = ()
    random: bool = True
    differs: tuple[str, ...] = ()
    schedule: str = ""
    options: tuple[str, ...] = ()

    @property
    def shipped(self) -> bool:
        """True when a method of this name is installed."""
        return self.method in registry().methods.entries

    @property
    def card(self) -> MethodCard | None:
        """Facts of the installed method; None where it states none, or is not shipped."""
        return card_of(registry().method_class(self.method)) if self.shipped else None

    @property
    def _is_scheduled(self) -> bool:
        """True if options or published values give the method the schedule of the rows."""
        schedules = {each.schedule for each in self.card.published} if self.card else set()
        return bool(self.options) or (self.published and self.schedule in schedules - {""})

    def other_schedule(self, records: Iterable[Record]) -> bool:
        """True if the published rows have another schedule than a record's card states.

        Records without a card are taken to have the installed method's schedule.
        """
        if self._is_scheduled or not self.schedule:
            return False
        installed = self.card.schedule if self.card else ""
        stated = {record.default_schedule or installed for record in records}
        return not stated <= {"", self.schedule}

    @property
    def unlike(self) -> bool:
        """True if the published rows have another schedule than the installed method."""
        if not self.random or self._is_scheduled or self.card is None:
            return False
        return self.schedule not in ("", self.card.schedule)

    def differences(self) -> Iterator[str]:
        """All differences from the published rows, and facts that are not stated about them."""
        yield from self.differs
        card = self.card
        if card is None:
            return
        if self.random and not self._is_scheduled and self.schedule != card.schedule:
            yield f"schedule {self.schedule or 'not stated'} there, {card.schedule} here"
        named = {word.partition("=")[0].rpartition(".")[2] for word in self.options}
        yield from card.differences(but=named | (card.varied if self.published else set()))


@dataclass(frozen=True)
class Reproduction:
    """A published table that can be repeated: its sources, and how each method's rows were made.

    tables: their keys in `sources()`. settings: by method, or by `source/method` where sources
        differ in how they made the rows of a method.
    """

    name: str
    title: str
    tables: tuple[tuple[str, str], ...]
    backbone: str
    precision: str
    settings: Mapping[str, Setting]

    @property
    def collected(self) -> bool:
        """True when the rows come from several sources."""
        return len({source for source, _ in self.tables}) > 1

    @functools.cached_property
    def printed(self) -> list[Number]:
        """All accuracies of the tables with this backbone."""
        model = self.backbone.partition("/")[0]
        return [n for s, t in self.tables for n in numbers(source=s, table=t, backbone=model)]

    def setting(self, number: Number) -> Setting | None:
        """The setting behind the row of a number; None if the method has none."""
        own = self.settings.get(f"{number.source}/{number.method}")
        return own or self.settings.get(number.method)

    def numbers(self) -> list[Number]:
        """Accuracies of methods with settings, by data set where these are printed.

        Rows that print only means over data sets give these means; no harmonic means.
        """
        chosen = [n for n in self.printed if self.setting(n) and n.classes != HARMONIC]
        known = set(registry().expand_datasets(["all"]))
        chosen = [n for n in chosen if n.sets and {*n.sets} <= known]
        single = {number.row for number in chosen if not number.is_mean}
        return [n for n in chosen if not n.is_mean or n.row not in single]

    def harmonic(self, base: Number) -> Number | None:
        """The printed harmonic mean of the row of a number; None where there is none."""
        rows = (n for n in self.printed if n.row == base.row and n.classes == HARMONIC)
        return next(rows, None)

    def others(self) -> list[str]:
        """Methods of the published tables without settings."""
        return sorted({number.method for number in self.printed if not self.setting(number)})


@functools.cache
def reproductions() -> Mapping[str, Reproduction]:
    """All published tables by name.

    Settings of `reproductions.toml` are by table and method: values for all methods of a table,
    then those of each, such as `[settings.coop]` and `[settings.coop.coop]`.
    """
    folder = files("fewshot_bench.plugins.reproduce")
    content = tomllib.loads(folder.joinpath("reproductions.toml").read_text("utf-8"))
    settings: dict[str, dict[str, Setting]] = {}
    for table, values in content["settings"].items():
        shared = {name: value for name, value in values.items() if not isinstance(value, dict)}
        settings[table] = {
            name: msgspec.convert(shared | own | {"method": name.rpartition("/")[2]}, Setting)
            for name, own in values.items()
            if isinstance(own, dict)
        }
    tables = {}
    for name, entry in content["reproductions"].items():
        keys = tuple(tuple(key.split("/", 1)) for key in entry["tables"])
        own = {"tables": keys, "settings": settings[entry["settings"]]}
        tables[name] = Reproduction(name, **entry | own)
    return tables


def reproduction(name: str) -> Reproduction:
    """The published table of this name; UsageError with the closest name if unknown."""
    tables = reproductions()
    if name not in tables:
        raise unknown("published table", name, tables, "fsbench reproduce lists them")
    return tables[name]
