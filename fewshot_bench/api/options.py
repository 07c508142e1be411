"""Options of `fsbench run` that plug-ins declare as data: `Option`, and the parsing of its values.

Engines declare their own options (`register_engines`), any plug-in may declare options for all
engines (`register_options`). Values are parsed and checked before anything is planned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.run_options import RUN_OPTIONS
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.utils.errors import UsageError

# Names that no plug-in's option may have: options of commands that run cells on the command line
# and in Python, and those that such a command has of its own.
_OF_COMMANDS = "config format full help only-existing progress save-config where"
TAKEN = frozenset(
    (
        *_OF_COMMANDS.split(),
        *(name.replace("_", "-") for name in (*RUN_OPTIONS, *CONDITIONS)),
        *(row.flags[0].removeprefix("--") for row in RUN_OPTIONS.values()),
    )
)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Types of values and defaults, and the expectation in errors.
_KINDS = {int: (int, "a whole number"), float: (int | float, "a number"), str: (str, "a text")}


@dataclass(frozen=True)
class Option:
    """One option, `--name`.

    help: one sentence. type: `str`, `int`, `float`, `bool` (a flag), or a function from text to a
    value that raises ValueError with its expectation. env: environment variable that is read if
    the option is not given. multiple: may be given several times; the value is a tuple. minimum:
    smallest accepted number. asks_gpus: True for values that request GPUs, so that
    `--device auto` means cuda for an engine whose workers run elsewhere.

    >>> Option("max-jobs", "Jobs at once.", int, default=4, minimum=1)
    """

    name: str
    help: str = ""
    type: Callable[[str], Any] = str
    default: Any = None
    env: str = ""
    multiple: bool = False
    minimum: float | None = None
    metavar: str = ""
    asks_gpus: Callable[[Any], bool] | None = None

    @property
    def key(self) -> str:
        """The name in mappings and in Python: `ray_address`."""
        return self.name.replace("-", "_")

    @property
    def flag(self) -> bool:
        """True if the option takes no value."""
        return self.type is bool

    def problem(self) -> str:
        """Why the declaration is invalid; empty if it is valid."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            return f"option {self.name!r}: expected a name such as max-jobs, without dashes before"
        if self.name in TAKEN:
            return f"option --{self.name} is an option of fsbench itself; rename it"
        if not callable(self.type):
            return f"option --{self.name}: type {self.type!r} is no type or function"
        if self.flag and (self.multiple or self.default not in (None, False)):
            return f"option --{self.name}: a flag is off by default and given once"
        if self.default is None:
            return ""
        if self.multiple and not isinstance(self.default, tuple):
            return f"option --{self.name}: default {self.default!r:.80}, expected a tuple"
        kind, expected = _KINDS.get(self.type, (object, ""))  # type: ignore[call-overload]
        for value in self.default if self.multiple else (self.default,):
            if not isinstance(value, kind) or (expected and isinstance(value, bool)):
                return f"option --{self.name}: default {value!r:.80}, expected {expected}"
        return ""

    def value(self, given: object) -> Any:
        """The parsed value of `given`, else of `env`, else the default; UsageError if invalid."""
        if not is_given(given):
            given = (self.env and os.environ.get(self.env)) or self.default
            if given is self.default:
                nothing = () if self.multiple else False if self.flag else None
                return nothing if given is None else given
        if self.multiple:
            parts = (given,) if isinstance(given, str) else given
            assert isinstance(parts, Iterable)
            return tuple(map(self._read, parts))
        return self._read(given)

    def _read(self, given: Any) -> Any:
        if self.flag:
            return str(given).casefold() in ("1", "true", "yes", "on")
        try:
            listed = isinstance(given, list | tuple)
            value = self.type(",".join(map(str, given)) if listed else str(given))
            # Not `value < self.minimum`, which is False for nan.
            if self.minimum is None or value >= self.minimum:
                return value
        except ValueError as error:
            _, expected = _KINDS.get(self.type, (object, ""))  # type: ignore[call-overload]
            raise self._refusal(given, f"expected {expected}" if expected else str(error)) from None
        except (Exception, SystemExit) as error:
            reason = f"its plug-in failed: {error_text(error, self.type)}"
            raise self._refusal(given, reason) from error
        raise self._refusal(given, f"expected at least {self.minimum:g}")

    def _refusal(self, given: object, reason: str) -> UsageError:
        return UsageError(f"--{self.name} '{given!s:.80}': {reason} (fsbench run --help)")


def is_given(value: object) -> bool:
    """False for None, False and an empty tuple, which denote an omitted option."""
    return value is not None and value is not False and value != ()


def values_of(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every option by `key`; omitted options get their defaults."""
    return {option.key: option.value(given.get(option.key)) for option in options}
