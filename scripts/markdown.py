"""Parts of generated pages: tables, folded parts, places in pages that people write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; empty without rows."""
    lines = [_line(row) for row in rows]
    return f"{_line(heads)}{_line(['---'] * len(heads))}{''.join(lines)}\n" if lines else ""


def _line(cells: Sequence[object]) -> str:
    texts = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(texts)} |\n"


def folded(title: str, text: str) -> str:
    """A part that a reader unfolds; empty without a text."""
    return f":::{{dropdown}} {title}\n\n{text.strip()}\n\n:::\n\n" if text.strip() else ""


def filled(page: str, mark: str, text: str) -> str:
    """A page with the part between `<!-- mark -->` and `<!-- end of mark -->` written anew.

    ValueError without both marks.
    """
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, found, rest = page.partition(begin)
    _, other, after = rest.partition(end)
    if not (found and other):
        raise ValueError(f"a page lacks {begin.strip()} and {end}")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
