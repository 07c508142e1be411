"""`RunCommand`: a command that runs cells, with the options that engines and plug-ins declare.

Its help shows options of an engine only where the engine is chosen:
`fsbench run --engine slurm --help`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import click

from fewshot_bench.api.options import PANELS, RUN_OPTIONS
from fewshot_bench.api.options import Option as Declared
from fewshot_bench.api.registry import hosting, registry
from fewshot_bench.cli.completion import silence
from fewshot_bench.cli.panels import Option, PanelCommand

# Prefix of parameter names of declared options, so that they differ from the command's own.
PREFIX = "declared_"
# Key of the engine that the command line names, in `click.Context.meta`.
ENGINE = "fewshot_bench.engine"
# Key of True if the command line asks for one cell in this process.
DEBUG = "fewshot_bench.debug"
_WHERE = PANELS.index("where")


class DebugOption(Option):
    """A flag of a debugged cell: help shows it where `--debug` stands."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, is_flag=True, panel="output", **more)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The row of the help; None without `--debug`."""
        return super().get_help_record(ctx) if ctx.meta.get(DEBUG) else None


class RunCommand(PanelCommand):
    """A command that runs cells, and accepts the options declared by engines and plug-ins.

    From its arguments to its end, it imports no foreign plug-in (`hosting`).
    """

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the arguments while plug-ins run in processes of their own."""

        with ExitStack() as stack:
            # A debugged cell has its plug-ins in this process, too.
            if not extra.get("resilient_parsing") and not _debugs(args):
                stack.enter_context(hosting())
            ctx = super().make_context(info_name, args, parent, **extra)
            ctx.call_on_close(stack.pop_all().close)
        return ctx

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options and the declared ones, in the order of their panels."""
        with silence() if ctx.resilient_parsing else nullcontext():
            registry()
        chosen = ctx.meta.get(ENGINE, "")
        declared = [_parameter(options, chosen) for options in _options_by_key().values()]
        return sorted([*super().get_params(ctx), *declared], key=_rank)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; PluginError for an option that two plug-ins declare."""
        ctx.meta[DEBUG] = _debugs(args)
        for word, value in zip(args, [*args[1:], ""], strict=False):
            if word == "--engine" or word.startswith("--engine="):
                ctx.meta[ENGINE] = word.partition("=")[2] or value
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            registry().options.refuse_conflict(error.option_name.removeprefix("--"))
            raise

    def format_note(self, ctx: click.Context, panel: str, formatter: click.HelpFormatter) -> None:
        """Point at the options of engines, where none is chosen."""
        entries = registry().engines.entries.values()
        names = [entry.name for entry in entries if entry.options]
        if panel == "where" and names and not ctx.meta.get(ENGINE):
            text = f"options of {', '.join(names)}: {ctx.command_path} --engine {names[0]} --help"
            formatter.write_text(text)


def _debugs(args: list[str]) -> bool:
    return "--debug" in args


def _rank(param: click.Parameter) -> float:
    """The place of an option's panel: the command's own first, an engine's after `where`."""
    panel = getattr(param, "panel", "")
    if panel in PANELS:
        return PANELS.index(panel)
    return _WHERE + 0.5 if str(param.name).startswith(PREFIX) else -1


def _options_by_key() -> dict[str, list[tuple[str, Declared]]]:
    """Options by key, each as (engine, option) pairs; options of all engines have an empty name."""
    pairs: dict[str, list[tuple[str, Declared]]] = {}
    for catalog, of_engine in ((registry().options, False), (registry().engines, True)):
        for entry in catalog.entries.values():
            for option in entry.options:
                pairs.setdefault(option.key, []).append((entry.name if of_engine else "", option))
    return pairs


def _parameter(declared: list[tuple[str, Declared]], chosen: str) -> Option:
    """A click option that passes its text on unchanged, for the chosen engine to read.

    It is hidden unless all engines have it, or the chosen one does.
    """
    shown = next(((name, option) for name, option in declared if name in ("", chosen)), None)
    engine, option = shown or declared[0]
    default = f"  [default: {option.default}]" if option.default else ""
    variable = f"  [env: {option.env}]" if option.env else ""
    more: dict[str, Any] = {"is_flag": True} if option.flag else {"type": str}
    if option.metavar:
        more["metavar"] = option.metavar
    return Option(
        [f"--{option.name}", f"{PREFIX}{option.key}"],
        help=f"{option.help}{default}{variable}",
        multiple=option.multiple,
        hidden=shown is None,
        panel=engine or "output",
        **more,
    )


def split_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a command that `RUN_OPTIONS` has, and those of declared options by key."""
    own = {name: value for name, value in values.items() if name in RUN_OPTIONS}
    declared = {name: value for name, value in values.items() if name.startswith(PREFIX)}
    return own, {name.removeprefix(PREFIX): value for name, value in declared.items()}
