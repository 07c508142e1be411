"""Options of commands that run cells: engine, devices, limits, and options of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import click

from fewshot_bench.api.defaults import MOST_JOBS, MOST_THREADS
from fewshot_bench.api.options import Option
from fewshot_bench.api.registry import hosting, registry
from fewshot_bench.cli.completion import engines, one_of, silence
from fewshot_bench.cli.options import NAMES, SIZE, Seconds
from fewshot_bench.engines.choice import DEFAULT, SETTINGS, EngineChoice
from fewshot_bench.store.answer_files import KEPT, MOST_LOGITS
from fewshot_bench.utils.text import size_text

_OPTIONS = (
    click.option(
        "--engine",
        default=DEFAULT,
        show_default=True,
        shell_complete=one_of(engines),
        help="What runs cells (fsbench list engines).",
    ),
    click.option(
        "--devices",
        "--device",
        type=NAMES,
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, or a list such as cuda:0,cuda:1.",
    ),
    click.option(
        "--slots-per-device",
        "--jobs",
        "jobs",
        type=click.IntRange(1, MOST_JOBS),
        help="Worker processes on each device (default: by the backbone).",
    ),
    click.option(
        "--threads", type=click.IntRange(1, MOST_THREADS), help="CPU threads of each worker."
    ),
    click.option("--timeout", type=Seconds(0, min_open=True), help="Seconds that a cell may take."),
    click.option(
        "--hang-after",
        type=Seconds(1),
        help="Seconds without a sign of life after which a worker is ended (default: 600).",
    ),
    click.option(
        "--lease",
        type=Seconds(3),
        help="Seconds after which the claims of a machine that is gone end (default: 60).",
    ),
    click.option(
        "--feature-budget",
        type=SIZE,
        help="Disk for features in the store, such as 20GB (default: half of what is free there).",
    ),
    click.option(
        "--deterministic", is_flag=True, help="Equal bits in every run, also where that is slower."
    ),
    click.option(
        "--keep-logits",
        type=click.Choice(KEPT),
        help="All logits in 16 bits, the 5 most probable classes, or none beside what every "
        f"statistic needs (default: all up to {size_text(2 * MOST_LOGITS)} a cell, else top).",
    ),
    click.option(
        "--keep-models",
        is_flag=True,
        help="Keep the model of every cell that is computed in the store (models/KEY).",
    ),
)
# Prefix of parameter names of declared options, so that they differ from the command's own.
DECLARED = "declared_"
# The last of these options; options declared by plug-ins follow it in the help.
_LAST = "keep_models"


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all engines to a command, which must be a `RunCommand`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class RunCommand(click.Command):
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
            if not extra.get("resilient_parsing"):
                stack.enter_context(hosting())
            made = super().make_context(info_name, args, parent, **extra)
            made.call_on_close(stack.pop_all().close)
        return made

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options and the declared ones."""
        own = super().get_params(ctx)
        with silence() if ctx.resilient_parsing else nullcontext():
            registry()
        place = [param.name for param in own].index(_LAST) + 1
        return [*own[:place], *map(_parameter, _declared().values()), *own[place:]]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; PluginError for an option that two plug-ins declare."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            registry().options.refuse_conflict(error.option_name.removeprefix("--"))
            raise


def _declared() -> dict[str, list[tuple[str, Option]]]:
    """Options by key, each as (engine, option) pairs; options of all engines have an empty name."""
    found: dict[str, list[tuple[str, Option]]] = {}
    for catalog, of_engine in ((registry().options, False), (registry().engines, True)):
        for entry in catalog.entries.values():
            for option in entry.options:
                found.setdefault(option.key, []).append((entry.name if of_engine else "", option))
    return found


def _parameter(declared: list[tuple[str, Option]]) -> click.Option:
    """A click option that passes its text on unchanged, for the chosen engine to parse."""
    first = declared[0][1]
    more: dict[str, Any] = {"is_flag": True} if first.flag else {"type": str}
    if first.multiple:
        more["multiple"] = True
    if first.metavar:
        more["metavar"] = first.metavar
    names = [f"--{first.name}", f"{DECLARED}{first.key}"]
    return click.Option(names, help=" ".join(_helps(declared)), **more)


def _helps(declared: list[tuple[str, Option]]) -> Iterator[str]:
    """Help texts, one for all engines that share it."""
    texts: dict[str, list[str]] = {}
    for engine, option in declared:
        default = f"  [default: {option.default}]" if option.default else ""
        variable = f"  [env: {option.env}]" if option.env else ""
        texts.setdefault(f"{option.help}{default}{variable}", []).append(engine)
    for text, declarers in texts.items():
        names = ", ".join(filter(None, declarers))
        yield f"{names}: {text}" if names else text


def take_engine(values: dict[str, Any]) -> EngineChoice:
    """Pop the engine, its settings and all declared options from the options of a command."""
    declared = [name for name in values if name.startswith(DECLARED)]
    given = {name.removeprefix(DECLARED): values.pop(name) for name in declared}
    settings = {name: values.pop(name) for name in SETTINGS}
    return EngineChoice.of(
        values.pop("engine"), given, device_names=values.pop("devices"), **settings
    )
