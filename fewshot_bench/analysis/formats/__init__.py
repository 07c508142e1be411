"""Documents as text: `render` writes one for the terminal, as Markdown, LaTeX, CSV, JSON, HTML."""

from fewshot_bench.analysis.formats.document import FORMATS, Document, render

__all__ = ["FORMATS", "Document", "render"]
