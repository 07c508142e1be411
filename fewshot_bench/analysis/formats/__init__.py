"""Documents as text: `render` writes terminal text, Markdown, LaTeX, CSV, JSON or HTML."""

from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.formats.render import FORMATS, render

__all__ = ["FORMATS", "Document", "render"]
