"""Documents as text: `render` writes terminal text, Markdown, LaTeX, CSV, JSON or HTML."""

from collections.abc import Callable, Mapping
from typing import Any

from fewshot_bench.analysis.formats import latex, markdown, page, terminal, tidy
from fewshot_bench.analysis.formats.document import Document

_WRITERS: Mapping[str, Callable[..., str]] = {
    "terminal": terminal.write,
    "markdown": markdown.write,
    "latex": latex.write,
    "html": page.write,
    "csv": lambda document: tidy.write_csv(document.rows, document.heads),
    "json": lambda document: tidy.write_json(document.data),
}
FORMATS = tuple(_WRITERS)


def render(document: Document, form: str, **style: Any) -> str:
    """The document in a format; style: `styled` and `width`, only for the terminal."""
    return _WRITERS[form](document, **(style if form == "terminal" else {}))
