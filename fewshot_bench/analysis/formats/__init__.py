"""Documents as text: `render` writes one for the terminal, as Markdown, LaTeX, CSV, JSON, HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_bench.analysis.formats.document import Document


def render(document: Document, form: str, *, styled: bool = False, width: int | None = None) -> str:
    """The document in a format; styled, width: of the terminal."""
    if form == "terminal":
        from fewshot_bench.analysis.formats import terminal

        return terminal.write(document, styled=styled, width=width)
    if form == "markdown":
        from fewshot_bench.analysis.formats import markdown

        return markdown.write(document)
    if form == "latex":
        from fewshot_bench.analysis.formats import latex

        return latex.write(document)
    if form == "html":
        from fewshot_bench.analysis.formats import page

        return page.write(document)
    from fewshot_bench.analysis.formats import tidy

    if form == "csv":
        return tidy.write_csv(document.rows, document.heads)
    return tidy.dumped(document.data)
