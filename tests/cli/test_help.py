"""Help fits a screen: commands in groups, options in panels, engines' options where chosen."""

from __future__ import annotations

import click
import pytest

from fewshot_bench.cli.main import cli
from fewshot_bench.cli.panels import WIDTH
from tests.support.helpers import fsbench

MOST_LINES = 50


def helps(command: click.Command, ctx: click.Context) -> dict[str, str]:
    """The help of a command and of all below it, by path."""
    ctx.terminal_width = WIDTH
    texts = {ctx.command_path: command.get_help(ctx)}
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            texts |= helps(inner, click.Context(inner, parent=ctx, info_name=name))
    return texts


def test_every_help_is_a_screen() -> None:
    ctx = click.Context(cli, info_name="fsbench", **cli.context_settings)
    lines = {path: len(text.splitlines()) for path, text in helps(cli, ctx).items()}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_commands_stand_in_groups_and_that_of_engines_in_none() -> None:
    shown = fsbench("--help").out
    heads = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert heads == [
        *("Options:", "Run:", "Results:", "Data:", "Models:", "Plug-ins:", "Maintenance:"),
    ]
    assert "worker" not in shown


def test_options_of_clusters_are_shown_where_one_is_chosen() -> None:
    shown = fsbench("run", "--help").out
    heads = [line for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert heads == ["What:", "How:", "Conditions:", "Where:", "Output:", "Advanced:"]
    assert "--partition" not in shown
    assert "run --engine slurm --help" in " ".join(shown.split())
    assert "--partition" in fsbench("run", "--engine", "slurm", "--help").out
    assert "--partition" not in fsbench("run", "--engine=ray", "--help").out


@pytest.mark.parametrize("words", [("store", "gc"), ("store", "rm", "--status", "failed")])
def test_nothing_is_removed_unasked(words: tuple[str, ...]) -> None:
    done = fsbench(*words, "--help")
    assert "--yes" in done.out
