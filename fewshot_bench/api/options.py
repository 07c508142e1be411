"""Options of a run: those of fsbench, `RUN_OPTIONS`, and those that plug-ins declare, `Option`.

The command line makes its options of `RUN_OPTIONS`, `fewshot_bench.run` its checks, a `Request`
holds a value of each, and filters of records and saved commands follow. Conditions are declared
where cells have them, in `RunSpec` (`api.spec`), and stand in the table too. Engines declare their
own options (`register_engines`), any plug-in may declare options for all engines
(`register_options`).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.spec import AUTO, CLASSES, CONDITIONS, DEFAULT_STORE, Condition
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.step_kind import KINDS

# Upper bounds of what one machine can be asked for: more is a typo.
MOST_JOBS, MOST_THREADS = 10_000, 1_024
# Which logits are kept beside a record: all in 16 bits, the most probable classes, or none.
KEPT_LOGITS = ("all", "top", "none")
# The engines of this machine: in workers, and in the process that asks.
LOCAL, HERE = "local", "here"
# Headings of `fsbench run --help`.
PANELS = ("what", "how", "conditions", "where", "output", "advanced")


@dataclass(frozen=True)
class RunOption:
    """One option of a run, such as `split_seed`: `--split-seed`, and `run(split_seed=...)`.

    kind: what its values are; `cli.options` and `engines.library` read them by it. panel: its
    heading in the help. scope: `condition` (part of a cell, equal in a table), `plan` (which cells
    there are), `engine` (how they are computed; no number depends on it), or `call` (concerns one
    call, and is not saved). flag: its name on the command line, if that is another one (`method`);
    short: one letter of it. names: what a list of names is of, for errors in Python. filter: help
    text of the option that selects records by it.
    """

    name: str
    kind: str
    help: str
    default: Any = None
    panel: str = ""
    scope: str = ""
    flag: str = ""
    short: str = ""
    metavar: str = ""
    words: tuple[str, ...] = ()
    least: float = 0
    most: int = 0
    names: str = ""
    filter: str = ""
    required: bool = False

    @property
    def flags(self) -> list[str]:
        """Its names on the command line: `--method`, `-m`."""
        long = f"--{(self.flag or self.name).replace('_', '-')}"
        return [long, f"-{self.short}"] if self.short else [long]


def _flag(name: str, help: str) -> RunOption:
    return RunOption(name, "flag", help, False)


def _condition(about: Condition) -> RunOption:
    """The row of a condition: its values and texts are those that `RunSpec` declares."""
    kind = "flag" if about.kind is bool else "limit" if about.kind is int else "text"
    return RunOption(
        about.name,
        "word" if about.words and not about.resolved else kind,
        about.option,
        about.option_default,
        metavar=about.metavar if kind == "limit" or len(about.words) > 3 else "",
        words=(AUTO, *about.words) if about.settle else about.words,
        least=about.least,
        filter=about.filter,
    )


_METHODS = RunOption(
    "methods",
    "methods",
    "Methods, suites (fast, prompts, ...), FILE.py:CLASS.",
    flag="method",
    short="m",
    required=True,
    filter="Only these methods, in this order; NAME@VERSION: an older one.",
)
_DATASETS = RunOption(
    "datasets",
    "names",
    "Data sets, suites, or FAMILY:ARG.",
    flag="dataset",
    short="d",
    least=1,
    names="at least one name of a data set",
    required=True,
    filter="Only these data sets or targets of transfer, in this order.",
)
_SHOTS = RunOption(
    "shots",
    "shots",
    "Images per class, or all.",
    (1, 2, 4, 8, 16),
    filter="Only these numbers of shots: 1,4 or 1-16.",
)
_SEEDS = RunOption(
    "seeds",
    "numbers",
    "Seeds of picks and training.",
    (1, 2, 3),
    filter="Only these seeds: 1,2 or 1-3 (split/train when they differ).",
)
_OPTIONS = RunOption(
    "options",
    "settings",
    "Hyper-parameter, also METHOD.NAME=VALUE; A,B expands the matrix.",
    (),
    flag="option",
    short="o",
    metavar="NAME=VALUE",
)
_CLASSES = RunOption(
    "classes",
    "names",
    "all, base (first half), new; none: see --transfer.",
    ("all",),
    least=1,
    names="all, base or new",
    filter=f"Only these parts of the classes: {', '.join(CLASSES)}.",
)
_TRANSFER = RunOption(
    "transfer",
    "names",
    "Evaluate each fit on these, too (with --classes none: only there).",
    (),
    names="names of data sets",
)
_DEVICES = RunOption(
    "devices",
    "names",
    "auto (all cards), cpu, cuda, mps, cuda:0,cuda:1.",
    (AUTO,),
    flag="device",
    least=1,
    names="names of devices",
)
_JOBS = "Workers on each device (default: by the backbone)."
_LOGITS = "All, the top 5 classes, or none (default: all up to 16 MB a cell)."
_HANG = "Its longest silence (600)."
_LEASE = "Of a claim (60)."
_BUDGET = "Disk for features (half the free)."
_STEP = "Training steps."
_SPLIT = "Where own splits go (store)."
# Rows by panel and scope, in the order of `fsbench run --help`.
_ROWS: Mapping[tuple[str, str], tuple[RunOption, ...]] = {
    ("what", "plan"): (_METHODS, _DATASETS, _SHOTS, _SEEDS, _OPTIONS, _CLASSES, _TRANSFER),
    ("conditions", "plan"): (
        RunOption("classnames", "own", "A file of own names.", metavar="FILE"),
        RunOption("templates", "texts", "Own prompt with {}, or a file.", (), metavar="TEXT"),
        RunOption("holdout", "share", "Of own images, for testing.", metavar="SHARE"),
    ),
    **{
        (("how", "conditions")[quiet], "condition"): tuple(
            _condition(about)
            for about in CONDITIONS.values()
            if about.option and about.quiet == quiet
        )
        for quiet in (False, True)
    },
    ("where", "engine"): (
        RunOption("store", "store", "Folder of results.", DEFAULT_STORE, metavar="DIR"),
        RunOption("engine", "text", "What runs cells (fsbench list engines).", LOCAL),
        _DEVICES,
        RunOption("jobs", "count", _JOBS, metavar="N", least=1, most=MOST_JOBS),
    ),
    ("output", "engine"): (
        RunOption("keep_logits", "word", _LOGITS, words=KEPT_LOGITS),
        _flag("keep_models", "Keep the model of every computed cell in the store (models/KEY)."),
    ),
    ("output", "call"): (_flag("dry_run", "Check, count and estimate hours; run nothing."),),
    ("advanced", "call"): (
        _flag("force", "Done cells again."),
        _flag("retry_failed", "Failed cells, too."),
        _flag("keep_stale", "Keep old results."),
        _flag("traceback", "Whole tracebacks."),
        RunOption("verbose", "repeats", "Prints, live.", 0, short="v"),
    ),
    ("advanced", "plan"): (
        RunOption("split_seed", "number", "One for all seeds."),
        _flag("skip_damaged", "Leave out bad images."),
        RunOption("keep_split", "word", _SPLIT, "store", words=("store", "data")),
    ),
    ("advanced", "engine"): (
        RunOption(*("threads", "count", "Per worker."), metavar="N", least=1, most=MOST_THREADS),
        RunOption("timeout", "above", "Limit of a cell.", metavar="SECONDS"),
        RunOption("hang_after", "seconds", _HANG, metavar="SECONDS", least=1),
        RunOption("lease", "seconds", _LEASE, metavar="SECONDS", least=3),
        RunOption("feature_budget", "size", _BUDGET, metavar="SIZE"),
        RunOption("step", "word", _STEP, "auto", words=KINDS),
        _flag("deterministic", "Equal bits."),
    ),
}
# Every option of a run by name, in the order of `fsbench run --help`.
RUN_OPTIONS: Mapping[str, RunOption] = {
    row.name: dataclasses.replace(row, panel=panel, scope=scope)
    for (panel, scope), rows in _ROWS.items()
    for row in rows
}


def names_of(scope: str) -> tuple[str, ...]:
    """The names of all options of a scope."""
    return tuple(name for name, row in RUN_OPTIONS.items() if row.scope == scope)


# Names that no plug-in's option may have: options of commands that run cells on the command line
# and in Python, and those that such a command has of its own.
_OF_COMMANDS = (
    "caption config debug edit format full help label only-existing pdb profile progress rename "
    "save-config where"
)
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
    `--device auto` means a card for an engine whose workers run elsewhere.

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
        """The reason why the declaration is invalid; empty if it is valid."""
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
        except UsageError:
            raise
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
