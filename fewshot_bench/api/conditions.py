"""Conditions of a run, declared once: `Condition` is metadata of a field of `RunSpec`.

`condition` declares a field; `declared` reads all of them. Options of `fsbench run`, filters,
tables, sweeps, audits, signatures, data frames and the library iterate over what is declared, so
that a new condition is one field. All records of one table, sweep or mean have one value of each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from fewshot_bench.utils.text import option_name

# An option whose default is that of the field.
SAME: Any = object()
# Names of protocols and validation policies.
REGISTERED_NAME = re.compile(r"[\w.+-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `name` and `default` are those of the field.

    title: in messages. words: its values, where they are few and known here; registered: whether
    they are names that are registered elsewhere (REGISTERED_NAME). kind, least: the type,
    and the least number. option: the help of `--NAME` of `fsbench run`, none without; `{words}`
    stands for the values. asked: the default of the option, where that is resolved before a cell
    has it. filter, metavar: the option of that name that chooses records. prefix: whether the
    beginning of a value chooses. short: its name in a signature; signed: whether it stands there
    even as the default; assumed: what a signature without it stands for. quiet: whether tables
    leave the default out; late: whether rows of CSV and JSON do, too.
    """

    name: str = ""
    default: Any = None
    title: str = ""
    words: tuple[str, ...] = ()
    registered: bool = False
    kind: Any = str
    least: int = 0
    option: str = ""
    asked: Any = SAME
    filter: str = ""
    metavar: str = "NAME"
    prefix: bool = False
    short: str = ""
    signed: bool = False
    assumed: Any = SAME
    quiet: bool = False
    late: bool = False

    @property
    def option_default(self) -> Any:
        """The default of its option."""
        return self.default if self.asked is SAME else self.asked

    @property
    def unsigned(self) -> Any:
        """The value that a signature without it stands for."""
        return self.default if self.assumed is SAME else self.assumed

    @property
    def resolved(self) -> bool:
        """True when a run finds out the value, so that a command has to name it."""
        return self.asked is not SAME or self.assumed is not SAME

    def words_of_command(self, value: Any) -> list[str]:
        """The words that give a value to `fsbench run`; none where it needs none."""
        needless = value == self.default and not self.resolved
        return [] if needless or value in ("", None) else [option_name(self.name), str(value)]

    def text(self, value: Any) -> str:
        """A value as tables show it and filters take it."""
        return "none" if value is None else str(value)

    def problem(self, value: Any, longest: int) -> str:
        """The reason for which no run can have had a value; empty without. longest: digits."""
        if value is None and self.default is None:
            return ""
        if not isinstance(value, self.kind) or isinstance(value, bool):
            return "a value of another kind"
        if self.words and value not in self.words:
            return f"expected one of {self.words}"
        if self.kind is int and not self.least <= value < 10**longest:
            return f"expected at least {self.least}, and no huge number"
        if self.registered and not REGISTERED_NAME.fullmatch(value):
            return "expected a name of letters, digits and _ . + -"
        return "expected a name" if value == "" and self.default != "" else ""


def condition(default: Any, filter: str, **about: Any) -> Any:
    """A field of `RunSpec` that is a condition; about: fields of `Condition`."""
    made = Condition(default=default, filter=filter, **about)
    return dataclasses.field(default=default, metadata={"condition": made})


def declared(spec: type) -> Mapping[str, Condition]:
    """The conditions among the fields of a dataclass, by name, in their order."""
    return {
        field.name: dataclasses.replace(
            field.metadata["condition"],
            name=field.name,
            title=field.metadata["condition"].title or field.name.replace("_", " "),
        )
        for field in dataclasses.fields(spec)
        if "condition" in field.metadata
    }
