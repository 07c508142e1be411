"""The `fsbench` group: lazy subcommands, and errors as one line with an exit code."""

from __future__ import annotations

import errno
import functools
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from fewshot_bench.cli.groups import PANELS, LazyGroup, subcommands
from fewshot_bench.cli.output import warn
from fewshot_bench.cli.panels import WIDTH
from fewshot_bench.utils import offline
from fewshot_bench.utils.devices import allow_fallback
from fewshot_bench.utils.errors import (
    DataMissingError,
    FsbenchError,
    PluginError,
    UsageError,
    explain_denial,
)
from fewshot_bench.utils.files import FULL
from fewshot_bench.utils.image_formats import ignore_pillow_warnings
from fewshot_bench.utils.plugin_code import plugin_code
from fewshot_bench.utils.processes import is_at_limit
from fewshot_bench.utils.text import message
from fewshot_bench.utils.version import __version__

if TYPE_CHECKING:
    from fewshot_bench.api.registry import Registry

# Short helps are copied here so that `fsbench --help` imports no subcommand; a test compares them.
_SHORT_HELPS = {
    "run": {
        "run": "Run methods on data sets: every cell of the matrix that is not done yet.",
        "demo": "Try everything offline on the embedded backbone and data sets.",
        "worker": "Take part in a job: claim its cells and compute them.",
    },
    "results": {
        "compare": "Compare methods from the records of a store.",
        "figure": "Draw a figure of a paper from a store.",
        "curves": "Draw the loss of fits, and what they log.",
        "paper": "Write all tables and figures of a paper from a recipe.",
        "audit": "What each method was allowed to see and did: is it fair?",
    },
    "data": {"splits": "Show, export, import and verify splits."},
    "plug-ins": {
        "list": "List methods, datasets, backbones, metrics, engines, options or plugins.",
        "show": "Show a method's hyper-parameters or a data set's card.",
        "check": "Run the conformance kit on a method.",
    },
    "maintenance": {
        "store": "Verify, merge and clean stores of results.",
        "env": "Show versions, hardware, settings and caches, for a bug report.",
    },
}
COMMANDS = {
    name: command
    for panel, texts in _SHORT_HELPS.items()
    for name, command in subcommands("fewshot_bench.cli.{}:command", texts, panel).items()
}
# Started by engines, not by people.
_HIDDEN = ("worker",)


class Commands(LazyGroup):
    """The core commands, then those registered by plug-ins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of core commands, then of each plug-in's commands."""
        plugins = plugin_commands()
        return [*self.lazy, *(name for group in plugins for name in group.list_commands(ctx))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; for core commands, no plug-in is imported."""
        if cmd_name in self.lazy:
            return super().get_command(ctx, cmd_name)
        for group in plugin_commands():
            if cmd_name not in group.list_commands(ctx):
                continue
            try:
                with plugin_code():
                    return group.get_command(ctx, cmd_name)
            except (Exception, SystemExit) as error:
                reason = f"{type(error).__name__}: {error}"
                raise PluginError(
                    f"command '{cmd_name}' of plug-in {group.name} cannot be loaded: {reason}"
                ) from error
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under headings, those of plug-ins among them."""
        panels: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
        for group in (self, *plugin_commands()):
            for panel, name, text in group.list_helps():
                if name not in _HIDDEN:
                    panels.setdefault(panel, []).append((name, text))
        width = max(len(name) for rows in panels.values() for name, _ in rows)
        formatter.write_paragraph()
        # Without empty lines between them, all fit on a screen.
        for panel, rows in panels.items():
            formatter.write_heading(panel.capitalize())
            with formatter.indentation():
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def plugin_commands() -> tuple[LazyGroup, ...]:
    """The commands of each plug-in; of two with one name the first is kept, with a warning."""
    from fewshot_bench.api.registry import registry

    return _commands_of(registry())


@functools.lru_cache(maxsize=1)
def _commands_of(plugins: Registry) -> tuple[LazyGroup, ...]:
    owners, groups = dict.fromkeys(COMMANDS, "fsbench itself"), []
    for name, register in plugins.implementations("register_commands"):
        group = LazyGroup(name)
        try:
            with plugin_code():
                register(cli=group)
        except (Exception, SystemExit) as error:
            warn(f"register_commands of plug-in {name} failed: {type(error).__name__}: {error}")
            continue
        for commands in (group.lazy, group.commands):
            for command in [command for command in commands if command in owners]:
                warn(f"command '{command}' of plug-in {name} is left out: {owners[command]} has it")
                del commands[command]
        owners |= dict.fromkeys([*group.lazy, *group.commands], f"plug-in {name}")
        groups.append(group)
    return tuple(groups)


@click.group(
    cls=Commands,
    subcommands=COMMANDS,
    help="\b\n"
    "One fair harness for few-shot adaptation of vision-language models. Start with: fsbench demo\n"
    "Exit codes: 0 done; 1 failed or found something; 2 wrong usage; 3 data missing; 130 stopped.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
@click.version_option(__version__, prog_name="fsbench")
@click.option(
    "--offline",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, value: offline.enforce() if value else None,
    help="Open no internet connection, in child processes neither (also: FSBENCH_OFFLINE=1).",
)
def cli() -> None:
    """The command `fsbench`."""


LIMITS = (
    "raise the limits on open files and processes (ulimit -n, ulimit -u), or use fewer workers "
    "(--jobs)"
)
BROKEN = "install its package again, or raise the limit on memory (ulimit -v)"


def main() -> NoReturn:
    """Entry point: expected errors become one line and their exit code."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # A closed stream: without it, the next file that is opened would get its descriptor,
            # here and in the processes that are started.
            stream = open(os.devnull, "r+" if number else "r")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # As on stderr: an encoding without a dash or a letter must not cost the table.
        sys.stdout.reconfigure(errors="backslashreplace")
    ignore_pillow_warnings()
    allow_fallback()
    # Records are many small objects without cycles: collect garbage less often.
    gc.set_threshold(1_000_000, 50, 100)
    if "_FSBENCH_COMPLETE" in os.environ:
        from fewshot_bench.cli.completion import mend_fish

        mend_fish()
    try:
        offline.enforce_if_asked()
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (Exception, KeyboardInterrupt) as error:
        explanation = explain(error)
        if explanation is None:
            raise
        text, code = explanation
        # Text from files and servers must not reach the terminal as escape sequences.
        click.echo(f"error: {message(text)}", err=True)
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


def explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code for an error; None for a fault of our own."""
    match error:
        case click.UsageError():
            text = " ".join(error.format_message().split())
            return f"{text[:1].lower()}{text[1:].rstrip('.')}{_option_hint(error)}", 2
        case click.ClickException():
            return error.format_message(), error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return "stopped", 130
        case FsbenchError():
            return str(error), error.exit_code
        case offline.OfflineError():
            return str(error.strerror), error.exit_code
        case ImportError() if any(end in str(error) for end in (".so", ".dylib", "DLL")):
            return f"a library cannot be loaded: {error}; {BROKEN}", 1
        # The message of os functions for a path with a null character.
        case ValueError() if "embedded null" in str(error):
            return "a path holds the character \\0, which no file can have; check what was given", 2
        case OSError(errno=errno.ENAMETOOLONG | errno.ELOOP):
            return f"'{error.filename}': {error.strerror}; check the path", UsageError.exit_code
        case OSError() if error.errno in FULL or (error.filename, error.errno) == (None, errno.EIO):
            what = "the output" if error.filename is None else f"'{error.filename}'"
            return f"{what} cannot be written: {error.strerror}; make room or write elsewhere", 1
        case RuntimeError() | OSError() if is_at_limit(error):
            return f"{getattr(error, 'strerror', None) or error}; {LIMITS}", 1
        case PermissionError():
            code = DataMissingError.exit_code
            return f"{explain_denial(error)}, then run the same command again", code
    return None


def _option_hint(error: click.UsageError) -> str:
    if error.ctx is None:
        return " (fsbench --help)"
    other = ""
    if isinstance(error, click.NoSuchOption):
        # `-o FILE` stands for `-O FILE` where a command has no hyper-parameters.
        names = {name for param in error.ctx.command.get_params(error.ctx) for name in param.opts}
        swapped = error.option_name.swapcase()
        other = f": did you mean '{swapped}'?" if swapped in names else ""
    return f"{other} ({error.ctx.command_path} --help)"
