"""Options and option types shared by several commands."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fewshot_bench.api.condition import Condition
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.spec import (
    ALL_SHOTS,
    CONDITIONS,
    DEFAULT_STORE,
    IMPORTED,
    LONGEST_NUMBER,
    MOST_NUMBERS,
    WORD,
)
from fewshot_bench.cli.completion import backbones, one_of
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import (
    LONGEST,
    SIZES,
    option_name,
    printable,
    read_size,
    split_names,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _ParamType = click.ParamType[Any]
else:
    # Only click 8.4 and later can be given the type of the value.
    _ParamType = click.ParamType

MOST_NAMES = 500
"""Maximum names in one option."""
Command = TypeVar("Command", bound=Callable[..., Any])


class Names(_ParamType):
    """A comma-separated list of names, parsed by `split_names`."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a tuple of stripped names."""
        if isinstance(value, tuple):
            return value
        if (count := str(value).count(",") + 1) > MOST_NAMES:
            self.fail(f"{count:,} names: expected at most {MOST_NAMES}", param, ctx)
        names = split_names(str(value))
        if not names:
            self.fail("expected at least one name", param, ctx)
        return names


class Numbers(_ParamType):
    """A comma-separated list of whole numbers, ranges and optional words: `1,2,4`, `1-3`."""

    name = "numbers"

    def __init__(self, words: Mapping[str, int] | None = None) -> None:
        """words: words with the numbers that they represent."""
        self.words = words or {}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a tuple of numbers."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            if part.strip() in self.words:
                numbers.append(self.words[part.strip()])
                continue
            first, dash, last = part.strip().partition("-")
            ends = [first, last] if dash else [first]
            if max(map(len, ends)) > LONGEST_NUMBER and all(map(_is_number, ends)):
                self.fail(
                    f"'{value!s:.60}': expected numbers of at most {LONGEST_NUMBER} digits",
                    param,
                    ctx,
                )
            if not all(map(_is_number, ends)) or int(ends[-1]) < int(first):
                words = "".join(f" or {word}" for word in self.words)
                self.fail(
                    f"'{printable(str(value), LONGEST)}' is no list of whole numbers such as 1,2,4 "
                    f"or 1-3{words}",
                    param,
                    ctx,
                )
            if int(ends[-1]) - int(first) >= MOST_NUMBERS - len(numbers):
                short = printable(str(value), LONGEST)
                self.fail(f"'{short}': expected at most {MOST_NUMBERS:,} numbers", param, ctx)
            numbers += range(int(first), int(ends[-1]) + 1)
        return tuple(numbers)


class ListOption(click.Option):
    """An option with a list of names, which may be repeated: `-m a -m b` is `-m a,b`."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Make the parser collect all values, not only the last."""
        self.multiple = True
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.multiple = False

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert all values, joined by commas."""
        return super().type_cast_value(ctx, ",".join(value) if isinstance(value, list) else value)


def list_option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """`click.option` for a `ListOption`."""
    return click.option(*names, cls=ListOption, **settings)


class MetricName(_ParamType):
    """The name of a metric, built-in or of a plug-in, or one of `words`."""

    name = "metric"

    def __init__(
        self, use: str = "", fits: Callable[[Metric], bool] | None = None, words: Iterable[str] = ()
    ) -> None:
        """fits: predicate for accepted metrics (None: all); use: the requirement, for the error."""
        self.use, self.fits, self.words = use, fits, tuple(words)

    @property
    def names(self) -> list[str]:
        """The accepted built-in metrics and words."""
        fits = self.fits or (lambda _: True)
        return [*(name for name, metric in METRICS.items() if fits(metric)), *self.words]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """`[top1|ece|NAME]`, where NAME is a plug-in's metric."""
        return f"[{'|'.join([*self.names, 'NAME'])}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name unchanged; UsageError for an unknown metric, or one that is not accepted."""
        if value in self.names:
            return value
        from fewshot_bench.api.registry import registry

        known = registry()
        if self.words and value not in {*METRICS, *known.metrics.entries, *known.metrics.conflicts}:
            every = [*self.names, *known.metrics.entries]
            raise unknown("metric or cost", value, every, "fsbench list metrics")
        metric = known.metric(value)
        if self.fits is not None and not self.fits(metric):
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


class Number(_ParamType):
    """A whole number with the same digit limit as `Numbers`; the request checks its minimum."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a number."""
        text = str(value).strip()
        if not _is_number(text.removeprefix("-")):
            self.fail(f"'{text:.60}' is no whole number", param, ctx)
        if len(text) > LONGEST_NUMBER:
            self.fail(
                f"'{text:.60}': expected a number of at most {LONGEST_NUMBER} digits", param, ctx
            )
        return int(text)


class OptionalNumber(Number):
    """A whole number, or `none`, which tables and filters show for its absence."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a number, or to None."""
        return None if value == "none" else super().convert(value, param, ctx)


class Finite(click.FloatRange):
    """A finite number within a range."""

    unit = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a number; nan and inf are refused."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"'{value!s:.40}': expected a finite number{self.unit}", param, ctx)
        return found


class Seconds(Finite):
    """A finite number of seconds within a range."""

    unit = " of seconds"


class Size(_ParamType):
    """A size in bytes, parsed by `read_size`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a number of bytes."""
        try:
            return read_size(value)
        except ValueError:
            self.fail(f"'{value!s:.40}': expected {SIZES}", param, ctx)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


NAMES = Names()
NUMBER = Number()
OPTIONAL_NUMBER = OptionalNumber()
SIZE = Size()
NUMBERS = Numbers()
SHOTS = Numbers({WORD: ALL_SHOTS})


allow_mixed_option = click.option(
    "--allow-mixed",
    is_flag=True,
    help="Show records made under different conditions as separate rows.",
)
retry_failed_option = click.option(
    "--retry-failed", is_flag=True, help="Compute cells again that failed."
)
keep_stale_option = click.option(
    "--keep-stale",
    is_flag=True,
    help="Keep results of cells whose method's code or images have changed since.",
)


device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu or cuda:N."
)


def format_option(formats: Sequence[str], text: str) -> Callable[[Command], Command]:
    """`--format`, passed as `form`, by default the first of `formats`; text: its help."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help=text,
    )


class PathName(click.Path):
    """A path that is not empty: an unset variable in a script would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert text to a path."""
        if value == "":
            self.fail("'' is empty: expected a path", param, ctx)
        return super().convert(value, param, ctx)


def not_empty(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback: refuse an empty name, which a script has from an unset variable."""
    if value is not None and not value.strip():
        raise click.BadParameter("'' is empty: expected a name", ctx, param)
    return value


def store_option(
    text: str = "Folder of results.", *names: str, default: str = DEFAULT_STORE
) -> Callable[[Command], Command]:
    """`--store` as a path; text: its help; names: the parameter name, if it is not `store`."""
    return click.option(
        "--store",
        *names,
        type=PathName(path_type=Path),
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
    return click.option("-O", "--output", type=kind, metavar=metavar, help=text, **more)


def condition_options(command: Command) -> Command:
    """Add the options of `fsbench run` for the conditions that `RunSpec` declares."""
    for about in reversed([*CONDITIONS.values()]):
        if about.option:
            command = _condition_option(about)(command)
    return command


def _condition_option(about: Condition) -> Callable[[Command], Command]:
    drawn = {"protocol": (*SAMPLERS, IMPORTED), "val": tuple(VALIDATION)}
    words = drawn.get(about.name, about.words)
    chosen = click.Choice(about.words) if about.words and not about.resolved else None
    if about.kind is bool:
        return click.option(option_name(about.name), is_flag=True, help=about.option)
    more: Any = {"shell_complete": one_of(backbones)} if about.name == "backbone" else {}
    return click.option(
        option_name(about.name),
        type=OPTIONAL_NUMBER if about.kind is int else chosen,
        default=about.option_default,
        show_default=about.option_default is not None,
        help=about.option.format(words=", ".join(words)),
        **more,
    )


def condition_filters(command: Command) -> Command:
    """Add the options that select records by the conditions that `RunSpec` declares."""
    for about in reversed([*CONDITIONS.values()]):
        more: Any = {"shell_complete": one_of(backbones)} if about.name == "backbone" else {}
        name = option_name(about.name)
        command = click.option(name, metavar=about.metavar, help=about.filter, **more)(command)
    return command
