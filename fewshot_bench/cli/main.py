"""The `fsbench` group: lazy subcommands, and errors as one line with an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from typing import NoReturn

import click

from fewshot_bench.cli.groups import Suggesting
from fewshot_bench.utils import offline
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, UsageError
from fewshot_bench.utils.text import LONGEST_MESSAGE, printable
from fewshot_bench.utils.version import __version__

# Short helps stand here so that `fsbench --help` imports no subcommand; a test compares them.
COMMANDS = {
    "run": "Run methods on data sets: every cell of the matrix that is not done yet.",
    "demo": "Try everything offline on the embedded backbone and data sets.",
    "compare": "Compare methods from the records of a store.",
    "reproduce": "Repeat a published table: paper, ours, noise, verdict.",
    "report": "Write a report about a store as one HTML file.",
    "audit": "What each method was allowed to see and did: is it fair?",
    "sweep": "Ablations: run a method under many options and draw them.",
    "signature": "Write the signature of records, or read one as a command.",
    "rerun": "Repeat the cell of a record and show what differs.",
    "data": "Fetch, list and verify data sets.",
    "splits": "Show, export, import and verify splits.",
    "store": "Verify, merge and clean stores of results.",
    "cache": "Show or remove what is cached.",
    "list": "List what is registered: methods, datasets, backbones, metrics, engines or plugins.",
    "worker": "Take part in a job: claim its cells and compute them.",
    "show": "Show a method's hyper-parameters or a data set's card.",
    "check": "Run the conformance kit on a method.",
    "env": "Show versions, hardware and settings, for a bug report.",
}


class Commands(Suggesting):
    """Subcommands by name; those of plug-ins come after ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our commands in the order of use, then those of plug-ins."""
        return [*COMMANDS, *sorted(self._from_plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"fewshot_bench.cli.{cmd_name}")
            command: click.Command = module.command
            return command
        return self._from_plugins().get(cmd_name)

    def _from_plugins(self) -> dict[str, click.Command]:
        from fewshot_bench.api.registry import registry

        extra = click.Group("plugins")
        try:
            registry().hooks.register_commands(cli=extra)
        except Exception as error:
            text = f"a plug-in's register_commands failed: {error}"
            click.echo(f"warning: {printable(text)}", err=True)
        return {name: command for name, command in extra.commands.items() if name not in COMMANDS}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the short helps alone."""
        rows = list(COMMANDS.items())
        rows += [(name, cmd.get_short_help_str()) for name, cmd in self._from_plugins().items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fsbench")
@click.option(
    "--offline",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, param, value: offline.enforce() if value else None,
    help="Open no internet connection (FSBENCH_OFFLINE=1 does the same).",
)
def cli() -> None:
    """One fair harness for few-shot adaptation of vision-language models.

    Same splits, prompts, validation and accounting for every method. Start with: fsbench demo
    """


def main() -> NoReturn:
    """Entry point: errors that we raise on purpose become one line and their exit code."""
    try:
        offline.enforce_if_asked()
        code = cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as error:
        _fail(f"{_plain(error)}{_option_hint(error)}", 2)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except click.Abort:
        _fail("stopped", 130)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except FsbenchError as error:
        _fail(str(error), error.exit_code)
    except offline.OfflineError as error:
        _fail(str(error.strerror), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except ValueError as error:
        # What the operating system's functions say, whichever path it was.
        if "embedded null" not in str(error):
            raise
        _fail("a path holds the character \\0, which no file can have; check what was given", 2)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            _fail(f"'{error.filename}': {error.strerror}; check the path", UsageError.exit_code)
        if not isinstance(error, PermissionError):
            raise
        _fail(
            f"'{error.filename}': permission denied; make it readable for this user, then run the "
            "same command again",
            DataMissingError.exit_code,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _plain(error: click.UsageError) -> str:
    text = " ".join(error.format_message().split())
    return text[:1].lower() + text[1:].rstrip(".")


def _option_hint(error: click.UsageError) -> str:
    command = error.ctx.command_path if error.ctx else "fsbench"
    return f" ({command} --help)"


def _fail(message: str, code: int) -> NoReturn:
    # Text from files and servers must not reach the terminal as commands.
    plain = printable(" ".join(message.split()), LONGEST_MESSAGE)
    click.echo(f"error: {plain}", err=True)
    sys.exit(code)
