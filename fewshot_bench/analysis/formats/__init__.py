"""Documents as text: `render` writes terminal text, Markdown, LaTeX, CSV, JSON or HTML."""

from fewshot_bench.analysis.formats.document import FORMATS, Document, render

__all__ = ["FORMATS", "Document", "render"]
