"""Lines for a person, whatever names from files stand in them."""

from __future__ import annotations

import click

from fewshot_bench.utils.text import printable


def say(text: str) -> None:
    """Print text on stdout; characters that would steer the terminal are replaced."""
    click.echo("\n".join(map(printable, text.split("\n"))))
