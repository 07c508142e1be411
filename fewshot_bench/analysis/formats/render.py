"""Documents in every format: `render`. A format is a module with `write` and a line in `_WRITERS`.

Modules of formats are imported when they are used, so that CSV does not load `rich`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewshot_bench.analysis.formats.document import Document


def render(document: Document, form: str, *, styled: bool = False, width: int | None = None) -> str:
    """The document in a format; styled, width: only for the terminal."""
    if form == "terminal":
        from fewshot_bench.analysis.formats import terminal

        return terminal.write(document, styled=styled, width=width)
    return _WRITERS[form](document)


def _markdown(document: Document) -> str:
    from fewshot_bench.analysis.formats import markdown

    return markdown.write(document)


def _latex(document: Document) -> str:
    from fewshot_bench.analysis.formats import latex

    return latex.write(document)


def _html(document: Document) -> str:
    from fewshot_bench.analysis.formats import page

    return page.write(document)


def _csv(document: Document) -> str:
    from fewshot_bench.analysis.formats import tidy

    return tidy.write_csv(document.rows, document.heads)


def _json(document: Document) -> str:
    from fewshot_bench.analysis.formats import tidy

    return tidy.dumped(document.data)


_WRITERS: Mapping[str, Callable[[Document], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
# Formats of the command line; HTML is only for notebooks.
FORMATS = ("terminal", *(name for name in _WRITERS if name != "html"))
