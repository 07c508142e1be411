"""Pages that open from disk: one HTML file, which loads nothing, in the style of `fsbench report`.

A template extends `base.html`; the macro `tiles` of `macros.html` shows `Tile`s.
"""

from __future__ import annotations

import base64
import functools
from contextlib import suppress
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from fewshot_bench.images.decode import shrink
from fewshot_bench.plugins.report import text
from fewshot_bench.utils.text import printable


class Tile(NamedTuple):
    """A small picture of `draw_small` with lines below it; mark: `bad` or `same` frame it."""

    uri: str
    lines: tuple[str, ...]
    mark: str = ""


def draw_small(dataset: Any, item: Any) -> str:
    """A small JPEG of an image as the address of an image in HTML; empty if it cannot be read."""
    # A plug-in's reader and the decoders may raise anything.
    with suppress(Exception):
        picture = shrink(dataset.read(item), quality=70)
        return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    return ""


@functools.cache
def template(name: str) -> Template:
    """A template of a page; its filters `name`, `message` and `printable` take foreign texts."""
    environment = Environment(
        loader=PackageLoader("fewshot_bench.plugins.report", "page"),
        autoescape=select_autoescape(disabled_extensions=("md",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": text.name, "message": text.message, "printable": printable}
    return environment.get_template(name)
