"""Documents in every format: `render`. A format is a module and a line in `_WRITERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewshot_bench.analysis.formats import latex, markdown, page, terminal, tidy
from fewshot_bench.analysis.formats.document import Document

_WRITERS: Mapping[str, Callable[[Document], str]] = {
    "terminal": terminal.write,
    "markdown": markdown.write,
    "latex": latex.write,
    "csv": lambda document: tidy.write_csv(document.rows, document.heads),
    "json": lambda document: tidy.write_json(document.data),
    "html": page.write,
}
# Formats of the command line; HTML is only for notebooks.
FORMATS = tuple(name for name in _WRITERS if name != "html")


def render(document: Document, form: str, *, styled: bool = False, width: int | None = None) -> str:
    """The document in a format; styled, width: only for the terminal."""
    if form == "terminal":
        return terminal.write(document, styled=styled, width=width)
    return _WRITERS[form](document)
