"""`Condition`: a field of `RunSpec` whose value is equal in all records of a table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from fewshot_bench.api.kinds import kind_problem
from fewshot_bench.utils.text import option_name

# Sentinel: use the default of the field.
SAME: Any = object()
# Texts of a condition that holds, and of one that does not.
YES_NO = ("yes", "no")
# Names of protocols and validation policies.
REGISTERED_NAME = re.compile(r"[\w.+-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `name` and `default` are those of the field.

    title: name in messages. words: the possible values, if few and fixed. registered: values are
    names registered elsewhere (REGISTERED_NAME). kind, least: type and minimum of values. option:
    help text of `--NAME` of `fsbench run` (empty: no option); `{words}` stands for the values.
    asked: default of the option, if it is resolved before a cell gets a value. filter, metavar:
    help text and placeholder of the option that selects records. prefix: the start of a value
    selects records. short: name in a signature. signed: the signature includes the default.
    assumed: value of a signature without the condition. quiet: tables omit the default. late: rows
    of CSV and JSON omit it too.
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
        """The default of the option."""
        return self.default if self.asked is SAME else self.asked

    @property
    def unsigned(self) -> Any:
        """The value of a signature without this condition."""
        return self.default if self.assumed is SAME else self.assumed

    @property
    def resolved(self) -> bool:
        """True if a run resolves the value, so that a reproducing command must state it."""
        return self.asked is not SAME or self.assumed is not SAME

    def words_of_command(self, text: str) -> list[str]:
        """The `fsbench run` arguments that set the value of a text; empty if none are needed."""
        if not text or (text == self.text(self.default) and not self.resolved):
            return []
        return [option_name(self.name), *([] if self.kind is bool else [text])]

    def text(self, value: Any) -> str:
        """A value as text for tables and filters."""
        if self.kind is bool:
            return YES_NO[not value]
        return "none" if value is None else str(value)

    def problem(self, value: Any, longest: int) -> str:
        """Why a value is invalid; empty if it is valid. longest: most digits of a number."""
        return kind_problem(value, self.json_kind(longest), self.words)

    def json_kind(self, longest: int) -> Any:
        """The type of values in JSON for msgspec. longest: most digits of a number."""
        kind = self.kind
        if self.words:
            kind = Literal[self.words]
        elif kind is int:
            kind = Annotated[int, Meta(ge=self.least, lt=10**longest)]
        elif self.registered:
            kind = Annotated[str, Meta(pattern=rf"^{REGISTERED_NAME.pattern}\Z")]
        elif kind is str and self.default != "":
            kind = Annotated[str, Meta(min_length=1)]
        return kind | None if self.default is None else kind


def condition(default: Any, filter: str, **about: Any) -> Any:
    """A field of `RunSpec` that is a condition; about: fields of `Condition`."""
    made = Condition(default=default, filter=filter, **about)
    return dataclasses.field(default=default, metadata={"condition": made})


def declared(spec: type) -> Mapping[str, Condition]:
    """The conditions among the fields of a dataclass, by name, in field order."""
    return {
        field.name: dataclasses.replace(
            field.metadata["condition"],
            name=field.name,
            title=field.metadata["condition"].title or field.name.replace("_", " "),
        )
        for field in dataclasses.fields(spec)
        if "condition" in field.metadata
    }
