"""Figures as files: what matplotlib warns of is said as a warning of ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import click

from fewshot_bench.utils.text import printable

# What matplotlib says of a character that its font does not have.
GLYPH = "missing from font"


def drawn(draw: Callable[[], bytes], suffix: str) -> bytes:
    """The bytes that `draw` makes for a file with this ending."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = draw()
    texts = dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
    lacking = [text for text in texts if GLYPH in text]
    # In SVG text stays text, and who shows it has other fonts.
    if lacking and suffix != ".svg":
        text = f"{len(lacking)} characters are boxes in the figure, whose font lacks them"
        click.echo(f"warning: {text}; draw to .svg", err=True)
    for text in texts:
        if text not in lacking:
            click.echo(f"warning: {printable(text)}", err=True)
    return data
