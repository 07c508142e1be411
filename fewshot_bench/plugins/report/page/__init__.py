"""Pages that open from disk: one HTML file, which loads nothing, in the style of `fsbench report`.

A template extends `base.html`; the macro `tiles` of `macros.html` shows `Tile`s.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from contextlib import suppress
from typing import Any, NamedTuple

from jinja2 import (
    ChoiceLoader,
    Environment,
    PackageLoader,
    StrictUndefined,
    Template,
    select_autoescape,
)
from markupsafe import Markup

from fewshot_bench.analysis.formats.style import variables
from fewshot_bench.images.decode import shrink
from fewshot_bench.plugins.report import text
from fewshot_bench.utils.text import printable

_HERE = "fewshot_bench.plugins.report"


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
def template(name: str, package: str = _HERE) -> Template:
    """A template of a page, of the folder `page` of this or of another package.

    Its filters `name`, `message` and `printable` take foreign texts.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader(own, "page") for own in dict.fromkeys((package, _HERE))]
        ),
        autoescape=select_autoescape(disabled_extensions=("md",), default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": text.name, "message": text.message, "printable": printable}
    return environment.get_template(name)


def embed_script(script: str) -> dict[str, Any]:
    """Values by which a template runs a script, and colors of methods.

    Only the script with this digest may run, whatever else got into the page.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    colors = {"light": Markup(variables(dark=False)), "dark": Markup(variables(dark=True))}
    return {"script": Markup(script), "script_digest": digest, **colors}
