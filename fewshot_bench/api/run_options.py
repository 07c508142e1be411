"""The options of a run: one table, `RUN_OPTIONS`.

The command line makes its options of it, `fewshot_bench.run` its checks, a `Request` holds a value
of each, and filters of records and saved commands follow. Conditions are declared where cells have
them, in `RunSpec` (`api.spec`), and stand in the table too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fewshot_bench.api.condition import Condition
from fewshot_bench.api.spec import AUTO, CLASSES, CONDITIONS, DEFAULT_STORE, WORD
from fewshot_bench.utils.text import SIZES

# Upper bounds of what one machine can be asked for: more is a typo.
MOST_JOBS, MOST_THREADS = 10_000, 1_024
# Which logits are kept beside a record: all in 16 bits, the most probable classes, or none.
KEPT_LOGITS = ("all", "top", "none")
LOCAL = "local"

Panel = Literal["what", "how", "where", "output", "advanced"]
PANELS: tuple[Panel, ...] = ("what", "how", "where", "output", "advanced")


@dataclass(frozen=True)
class RunOption:
    """One option of a run, such as `split_seed`: `--split-seed`, and `run(split_seed=...)`.

    kind: what its values are; `cli.options` and `engines.arguments` read them by it. scope:
    `condition` (part of a cell, equal in a table), `plan` (which cells there are), `engine` (how
    they are computed; no number depends on it), `call` (concerns one call, and is not saved).
    flag: its name on the command line, if that is another one (`method`); short: one letter of it.
    expected: valid values in words, for errors in Python. filter: help text of the option that
    selects records by it. resolved: the value is replaced by a run (`auto`).
    """

    name: str
    kind: str
    help: str
    panel: Panel
    scope: Literal["condition", "plan", "engine", "call"]
    default: Any = None
    flag: str = ""
    short: str = ""
    metavar: str = ""
    words: tuple[str, ...] = ()
    least: float = 0
    most: float | None = None
    expected: str = ""
    filter: str = ""
    required: bool = False

    @property
    def flags(self) -> list[str]:
        """Its names on the command line: `--method`, `-m`."""
        long = f"--{(self.flag or self.name).replace('_', '-')}"
        return [long, f"-{self.short}"] if self.short else [long]


_WHAT = (
    RunOption(
        "methods",
        "methods",
        "Methods, suites (fast, prompts, ...), FILE.py:CLASS.",
        "what",
        "plan",
        flag="method",
        short="m",
        required=True,
        expected="at least one name, class or object of a method",
        filter="Only these methods, in this order; NAME@VERSION for an older one.",
    ),
    RunOption(
        "datasets",
        "names",
        "Data sets, suites, or FAMILY:ARG.",
        "what",
        "plan",
        flag="dataset",
        short="d",
        least=1,
        required=True,
        expected="at least one name of a data set",
        filter="Only these data sets or targets of transfer, in this order.",
    ),
    RunOption(
        "shots",
        "shots",
        "Images per class, or all.",
        "what",
        "plan",
        default=(1, 2, 4, 8, 16),
        expected=f"whole numbers from 1, or '{WORD}'",
        filter="Only these numbers of shots: 1,4 or 1-16.",
    ),
    RunOption(
        "seeds",
        "numbers",
        "Seeds of picks and training.",
        "what",
        "plan",
        default=(1, 2, 3),
        filter="Only these seeds: 1,2 or 1-3 (split/train when they differ).",
    ),
    RunOption(
        "options",
        "settings",
        "Hyper-parameter, also METHOD.NAME=VALUE; A,B expands the matrix.",
        "what",
        "plan",
        default=(),
        flag="option",
        short="o",
        metavar="NAME=VALUE",
        expected="a mapping such as {'rank': 4}, or texts such as 'rank=4'",
    ),
    RunOption(
        "classes",
        "names",
        "all, base (first half), new (the other half); none: see --transfer.",
        "what",
        "plan",
        default=("all",),
        least=1,
        expected="all, base or new",
        filter=f"Only these parts of the classes: {', '.join(CLASSES)}.",
    ),
    RunOption(
        "transfer",
        "names",
        "Evaluate each fit on these, too (with --classes none: only there).",
        "what",
        "plan",
        default=(),
        expected="names of data sets",
    ),
    RunOption(
        "classnames",
        "own",
        "Own class names: one per line, or JSON or YAML.",
        "what",
        "plan",
        metavar="FILE",
    ),
    RunOption(
        "templates",
        "texts",
        "Own prompt with {}, or a file of prompts.",
        "what",
        "plan",
        default=(),
        expected="prompts or files of them",
    ),
    RunOption(
        "holdout",
        "share",
        "Share of own images held out for testing.",
        "what",
        "plan",
        metavar="SHARE",
        expected="a number between 0 and 1",
    ),
    RunOption(
        "skip_damaged",
        "flag",
        "Go on without images that cannot be used.",
        "what",
        "plan",
        default=False,
    ),
)
_SPLIT_SEED = RunOption(
    "split_seed", "number", "One support set for all seeds (default: the seed).", "how", "plan"
)
_WHERE = (
    RunOption(
        "store", "store", "Folder of results.", "where", "engine", DEFAULT_STORE, metavar="DIR"
    ),
    RunOption(
        "engine",
        "text",
        "What runs cells (fsbench list engines).",
        "where",
        "engine",
        default=LOCAL,
        expected="a name",
    ),
    RunOption(
        "devices",
        "names",
        "auto, cpu, cuda, or a list such as cuda:0,cuda:1.",
        "where",
        "engine",
        default=(AUTO,),
        flag="device",
        least=1,
        expected="names of devices",
    ),
    RunOption(
        "jobs",
        "count",
        "Workers on each device (default: by the backbone).",
        "where",
        "engine",
        metavar="N",
        least=1,
        most=MOST_JOBS,
    ),
)
_OUTPUT = (
    RunOption(
        "dry_run", "flag", "Check, count and estimate hours; run nothing.", "output", "call", False
    ),
    RunOption(
        "keep_logits",
        "word",
        "All, the top 5 classes, or none (default: all up to 16 MB a cell).",
        "output",
        "engine",
        words=KEPT_LOGITS,
    ),
    RunOption(
        "keep_models",
        "flag",
        "Keep the model of every computed cell in the store (models/KEY).",
        "output",
        "engine",
        default=False,
    ),
    RunOption(
        "traceback", "flag", "Print whole tracebacks of cells that fail.", "output", "call", False
    ),
)
_ADVANCED = (
    RunOption("force", "flag", "Compute done cells again.", "advanced", "call", False),
    RunOption("retry_failed", "flag", "Compute failed cells again.", "advanced", "call", False),
    RunOption(
        "keep_stale",
        "flag",
        "Keep results whose method's code or images have changed since.",
        "advanced",
        "call",
        default=False,
    ),
    RunOption(
        "keep_split",
        "word",
        "Where a split of own images is kept.",
        "advanced",
        "plan",
        default="store",
        words=("store", "data"),
    ),
    RunOption(
        "threads",
        "count",
        "CPU threads of each worker.",
        "advanced",
        "engine",
        metavar="N",
        least=1,
        most=MOST_THREADS,
    ),
    RunOption(
        "timeout",
        "above",
        "Seconds that a cell may take.",
        "advanced",
        "engine",
        metavar="SECONDS",
        expected="a number of seconds above 0",
    ),
    RunOption(
        "hang_after",
        "seconds",
        "Silent seconds that end a worker (default: 600).",
        "advanced",
        "engine",
        metavar="SECONDS",
        least=1,
        expected="a number of seconds from 1",
    ),
    RunOption(
        "lease",
        "seconds",
        "Seconds that claims outlive a machine (default: 60).",
        "advanced",
        "engine",
        metavar="SECONDS",
        least=3,
        expected="a number of seconds from 3",
    ),
    RunOption(
        "feature_budget",
        "size",
        "Disk for features, such as 20GB (default: half of what is free).",
        "advanced",
        "engine",
        metavar="SIZE",
        expected=SIZES,
    ),
    RunOption(
        "deterministic",
        "flag",
        "Equal bits in every run, also where that is slower.",
        "advanced",
        "engine",
        default=False,
    ),
)


def _of_condition(about: Condition) -> RunOption:
    """The row of a condition: its values and texts are those that `RunSpec` declares."""
    kind = "flag" if about.kind is bool else "limit" if about.kind is int else "text"
    return RunOption(
        about.name,
        "word" if about.words and not about.resolved else kind,
        about.option,
        "how",
        "condition",
        default=about.option_default,
        metavar=about.metavar if kind == "limit" else "",
        words=about.words,
        least=about.least,
        expected="a name",
        filter=about.filter,
    )


def _by_name(rows: Iterable[RunOption]) -> dict[str, RunOption]:
    return {row.name: row for row in rows}


# Every option of a run, in the order of `fsbench run --help`.
RUN_OPTIONS: Mapping[str, RunOption] = _by_name(
    (
        *_WHAT,
        *(_of_condition(about) for about in CONDITIONS.values() if about.option),
        *(_SPLIT_SEED, *_WHERE, *_OUTPUT, *_ADVANCED),
    )
)


def names_of(*scopes: str) -> tuple[str, ...]:
    """The names of all options of these scopes."""
    return tuple(name for name, row in RUN_OPTIONS.items() if row.scope in scopes)
