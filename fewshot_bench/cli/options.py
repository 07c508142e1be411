"""Options and option types shared by several commands."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.metrics import BUILT_IN, Metric
from fewshot_bench.api.options import PANELS, RUN_OPTIONS, RunOption
from fewshot_bench.api.spec import (
    ALL_SHOTS,
    CONDITIONS,
    DEFAULT_STORE,
    IMPORTED,
    LONGEST_NUMBER,
    MOST_NUMBERS,
    WORD,
)
from fewshot_bench.cli.completion import (
    backbones,
    datasets,
    engines,
    methods,
    one_of,
    several_of,
    suites,
    suites_of_methods,
)
from fewshot_bench.cli.panels import COMPACT, Command, ListOption, Option, add_options, option
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import LONGEST, SIZES, option_name, printable, read_size, split_names

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from fewshot_bench.analysis.formats.document import Document

    _ParamType = click.ParamType[Any]
else:
    # Only click 8.4 and later can be given the type of the value.
    _ParamType = click.ParamType

# Maximum names in one option.
MOST_NAMES = 500
_NUMBER = re.compile(r"-?\d+", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


class Text(_ParamType):
    """A value that a function reads from text; its ValueError says what is wrong."""

    def __init__(self, name: str, read: Callable[[str], Any], expected: str = "") -> None:
        """name: placeholder of values in the help. expected: said if the function says nothing."""
        self.name, self.read, self.expected = name, read, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the value, unless it is a default that is no text."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            text = f"'{value:.40}': {self.expected}" if self.expected else str(error)
            self.fail(text, param, ctx)


def _read_names(text: str) -> tuple[str, ...]:
    """A comma-separated list of names, as `split_names` reads it."""
    if (count := text.count(",") + 1) > MOST_NAMES:
        raise ValueError(f"{count:,} names: expected at most {MOST_NAMES}")
    names = split_names(text)
    if not names:
        raise ValueError("expected at least one name")
    return names


def _read_numbers(text: str, words: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """A list of whole numbers, ranges and words that stand for numbers: `1,2,4`, `1-3`."""
    words, numbers = words or {}, list[int]()
    short = printable(text, LONGEST)
    for part in map(str.strip, text.split(",")):
        if part in words:
            numbers.append(words[part])
            continue
        ends = _RANGE.fullmatch(part)
        if ends is None:
            more = "".join(f" or {word}" for word in words)
            raise ValueError(f"'{short}' is no list of whole numbers such as 1,2,4 or 1-3{more}")
        first, last = (_read_number(end) for end in (ends[1], ends[2] or ends[1]))
        if last < first:
            raise ValueError(f"'{short}': expected the smaller number first, such as 1-3")
        if last - first >= MOST_NUMBERS - len(numbers):
            raise ValueError(f"'{short}': expected at most {MOST_NUMBERS:,} numbers")
        numbers += range(first, last + 1)
    return tuple(numbers)


def _read_number(text: str) -> int:
    """A whole number with the digit limit of lists; the request checks its minimum."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"'{text:.60}' is no whole number")
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"'{text:.60}': expected a number of at most {LONGEST_NUMBER} digits")
    return int(text)


NAMES = Text("names", _read_names)
NUMBER = Text("integer", _read_number)
# `none` is what tables and filters show for the absence of a limit.
OPTIONAL_NUMBER = Text("integer", lambda text: None if text == "none" else _read_number(text))
SIZE = Text("size", read_size, f"expected {SIZES}")
NUMBERS = Text("numbers", _read_numbers)
SHOTS = Text("numbers", partial(_read_numbers, words={WORD: ALL_SHOTS}))


class MetricName(_ParamType):
    """The name of a metric, built-in or of a plug-in, or one of `words`."""

    name = "metric"

    def __init__(
        self,
        use: str = "",
        fits: Callable[[Metric], bool] = lambda _: True,
        words: Iterable[str] = (),
    ) -> None:
        """fits: predicate for accepted metrics; use: the requirement, for the error."""
        self.use, self.fits, self.words = use, fits, tuple(words)
        built_in = [name for name, metric in BUILT_IN.items() if fits(metric)]
        self.names = [*built_in, *self.words]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name unchanged; UsageError for an unknown metric, or one that is not accepted."""
        if value in self.names:
            return value
        from fewshot_bench.api.registry import registry

        plugins = registry()
        own = plugins.metrics
        if self.words and value not in {*BUILT_IN, *own.entries, *own.conflicts}:
            every = [*self.names, *own.entries]
            raise unknown("metric or cost", value, every, "fsbench list metrics")
        if not self.fits(plugins.metric(value)):
            raise UsageError(
                f"metric '{value}': {self.use}; expected {', '.join(self.names)} or a plug-in's "
                "like these"
            )
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Complete accepted built-in metrics and words."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class Finite(click.FloatRange):
    """A finite number within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a number; nan and inf are refused."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value!s:.40}': expected a finite number", param, ctx)
        return number


class PathName(click.Path):
    """A path that is not empty: an unset variable in a script would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a path."""
        if value == "":
            self.fail("'' is empty: expected a path", param, ctx)
        return super().convert(value, param, ctx)


PATH: Any = PathName(path_type=Path)
allow_mixed_option = option(
    "--allow-mixed",
    is_flag=True,
    help="Show records made under different conditions as separate rows.",
)


def rename_option(panel: str) -> Callable[[Command], Command]:
    """`--rename OLD=NEW`, which may be repeated. panel: its heading in the help."""
    return option(
        "--rename",
        multiple=True,
        metavar="OLD=NEW",
        panel=panel,
        help="Show a method, row, data set, condition or average under another name.",
    )


yes_option = option("--yes", is_flag=True, help="Remove without asking.")
device_option = option(
    "--device",
    default="auto",
    show_default=True,
    metavar="DEVICE",
    help="auto, cpu, or a card such as cuda, cuda:1, xpu or mps.",
)


def format_option(formats: Sequence[str], text: str) -> Callable[[Command], Command]:
    """`--format`, passed as `form`, by default the first of `formats`; text: its help."""
    return option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help=text,
    )


_PRINTED = "as printed"


def caption_options(command: Command) -> Command:
    """`--caption` and `--label` of the tables that a command writes, for `with_caption`."""
    text = "of the tables; of several, each adds its name"
    label = option("--label", metavar="NAME", panel=_PRINTED, help="LaTeX label, as tab:main")
    return option("--caption", metavar="TEXT", panel=_PRINTED, help=text)(label(command))


def with_caption(shown: Document, form: str, asked: Mapping[str, Any]) -> Document:
    """The document with the caption and label of the command line; UsageError if it has none."""
    from fewshot_bench.analysis.formats.latex import check_label

    caption, label = asked["caption"] or "", asked["label"] or ""
    if label and form != "latex":
        raise UsageError("--label is LaTeX's: add --format latex, or leave it out")
    check_label(label, "--label")
    if caption and form in ("csv", "json"):
        raise UsageError(f"--caption: {form} has none; leave it out or choose another --format")
    return dataclasses.replace(shown, caption=caption, label=label)


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback: refuse an empty name, which a script has from an unset variable."""
    if value is not None and not value.strip():
        raise click.BadParameter("'' is empty: expected a name", ctx, param)
    return value


def store_option(
    text: str = "Folder of results.", *names: str, default: str = DEFAULT_STORE
) -> Callable[[Command], Command]:
    """`--store` as a path; text: its help; names: the parameter name, if it is not `store`."""
    return option(
        "--store",
        *names,
        type=PATH,
        default=default,
        show_default=True,
        metavar="DIR",
        help=text,
    )


kept_split_option = store_option("Store whose split of your own images is meant.")


def output_option(
    text: str = "Write to this file.", metavar: str = "FILE", **more: Any
) -> Callable[[Command], Command]:
    """`--output` as the path of a file; text: its help; more: arguments of `click.option`."""
    kind: Any = PathName(dir_okay=False, path_type=Path)
    return option("-O", "--output", type=kind, metavar=metavar, help=text, **more)


# Options of a run that select records, too, and the names of these filters.
_FILTERING = [row for row in RUN_OPTIONS.values() if row.filter and row.scope != "condition"]
LISTED = tuple(row.flag or row.name for row in _FILTERING)
FILTERS, CONDITIONS_PANEL = "only records of", COMPACT[1]
_OF_RECORDS = {
    "revision": ("PREFIX", "data set revision"),
    "own_data": ("PREFIX|none", "own class names, templates"),
    "code": ("PREFIX|unknown", "of this code"),
}
FILTER_NAMES = (*LISTED, *CONDITIONS, *_OF_RECORDS)
_IN_STORE = {"methods": several_of(methods), "datasets": several_of(datasets)}
_COMPLETE: Mapping[str, Any] = {
    "methods": several_of(methods, suites_of_methods),
    "datasets": several_of(datasets, suites),
    "transfer": several_of(datasets, suites),
    "backbone": one_of(backbones),
    "engine": one_of(engines),
}


def run_options(*names: str) -> Callable[[Command], Command]:
    """Add options of a run to a command, all of them or the named ones, as `RUN_OPTIONS` says.

    The command receives them by the names of the table.
    """
    rows = [row for row in RUN_OPTIONS.values() if not names or row.name in names]
    rows.sort(key=lambda row: PANELS.index(row.panel))
    return lambda command: add_options(command, [_option_of(row) for row in rows])


def filter_options(command: Command) -> Command:
    """Add the options that select records to a command, which receives them by name."""
    numbers = ("shots", "numbers")
    options: list[click.Option] = [
        (Option if row.kind in numbers else ListOption)(
            [*row.flags, row.flag or row.name],
            metavar="NUMBERS" if row.kind in numbers else "NAMES",
            help=row.filter,
            panel=FILTERS,
            shell_complete=_IN_STORE.get(row.name),
        )
        for row in _FILTERING
    ]
    texts = {name: (about.metavar, about.filter) for name, about in CONDITIONS.items()}
    options += [
        Option(
            [option_name(name)],
            metavar=metavar,
            help=text,
            panel=CONDITIONS_PANEL,
            shell_complete=_COMPLETE.get(name),
        )
        for name, (metavar, text) in (texts | _OF_RECORDS).items()
    ]
    return add_options(command, options)


def _option_of(row: RunOption) -> click.Option:
    """The click option of a row of `RUN_OPTIONS`."""
    more: dict[str, Any] = {"shell_complete": _COMPLETE.get(row.name), "panel": row.panel}
    drawn = {"protocol": (*SAMPLERS, IMPORTED), "val": tuple(VALIDATION)}
    text = row.help.replace("{words}", ", ".join(drawn.get(row.name, row.words)))
    if row.kind == "flag":
        return Option([*row.flags, row.name], is_flag=True, help=text, **more)
    if row.kind == "repeats":
        return Option([*row.flags, row.name], count=True, help=text, **more)
    if row.kind in ("settings", "texts"):
        more["multiple"] = True
    elif row.default not in (None, ()):
        listed = isinstance(row.default, tuple)
        more["default"] = ",".join(map(str, row.default)) if listed else row.default
        more["show_default"] = "default" not in text
    if row.metavar:
        more["metavar"] = row.metavar
    cls = ListOption if row.kind in ("methods", "names") else Option
    more |= {"type": _type_of(row), "required": row.required, "help": text}
    return cls([*row.flags, row.name], **more)


_TYPES: Mapping[str, Any] = {
    "methods": NAMES,
    "names": NAMES,
    "shots": SHOTS,
    "numbers": NUMBERS,
    "number": NUMBER,
    "limit": OPTIONAL_NUMBER,
    "own": PATH,
    "store": PATH,
    "share": float,
    "size": SIZE,
}


def _type_of(row: RunOption) -> Any:
    match row.kind:
        case "count":
            return click.IntRange(int(row.least), row.most)
        case "word":
            return click.Choice(row.words)
        case "above" | "seconds":
            return Finite(row.least, min_open=row.kind == "above")
    return _TYPES.get(row.kind, str)
