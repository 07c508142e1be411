"""`fsbench new`: a package for a plug-in of one's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.output import say
from fewshot_bench.plugins.new.names import names_of
from fewshot_bench.plugins.new.package import render, write


@dataclass(frozen=True)
class Kind:
    """A kind of package: in words, what its example does, and commands that use it."""

    words: str
    does: str
    uses: tuple[str, ...]


KINDS: Mapping[str, Kind] = {
    "method": Kind(
        "a method",
        "learns an offset of the text features of each class",
        ("fsbench run -m {} -d digits --shots 1,4", "fsbench check {}"),
    ),
    "dataset": Kind(
        "a data set",
        "lists images in folders by class",
        ("fsbench data verify {}", "fsbench run -m zero-shot -d {} --backbone tiny"),
    ),
    "metric": Kind(
        "a metric",
        "counts images whose class is among the three most probable ones",
        ("fsbench run -m zero-shot -d digits --shots 1", "fsbench compare --metric {}"),
    ),
    "engine": Kind(
        "an engine",
        "starts workers through any command",
        ("fsbench run -m zero-shot -d digits --shots 1 --engine {} --launcher nice",),
    ),
}


@click.group("new", cls=LazyGroup)
def command() -> None:
    """Write a package for your own method, data set, metric or engine.

    A package has one example that works, tests, and the entry point by which fsbench finds it. Your
    code then takes the place of the example.
    """


def _create(kind: str, name: str) -> None:
    """Write the package of a kind into the current folder, and say what to do with it."""
    about, names = KINDS[kind], names_of(kind, name)
    write(Path(names.name), render(kind, about.words, names))
    folder = f"{names.name}/"
    say(f"{folder} is the package {names.distribution}: {about.words} that {about.does}")
    say(f"put your own code in its place: {folder}{names.module}/{kind}.py")
    test = f"pip install pytest && python -m pytest {folder}"
    for step in (f"pip install -e {folder}", *about.uses, test):
        say(f"  {step.format(names.name)}")


for _kind, _about in KINDS.items():
    command.add_command(
        click.Command(
            _kind,
            callback=functools.partial(_create, _kind),
            params=[click.Argument(["name"])],
            help=f"Write a package with {_about.words} that {_about.does}, into the folder NAME.",
            short_help=f"{_about.words.capitalize()} that {_about.does}.",
        )
    )
