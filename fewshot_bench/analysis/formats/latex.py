"""Documents as LaTeX with booktabs; `write` is the entry, all text is escaped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fewshot_bench.analysis.formats.document import (
    BEST,
    SECOND,
    Document,
    Entry,
    Grid,
    Item,
    Line,
)
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import printable

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "—": "---",
    "–": "--",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "[": "{[}",
    "]": "{]}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}

# The first line of every document.
PACKAGES = "% needs \\usepackage{booktabs}, \\usepackage{textcomp} and \\usepackage[T1]{fontenc}"
_DASHES = frozenset("-–—")
# Label names that LaTeX accepts without escapes.
_LABEL = re.compile(r"[A-Za-z0-9:._/+-]+")
# A grid with more columns does not fit into one column of a two-column page.
_NARROW = 6
# LaTeX gives up when more than 52 floats wait for a page.
_HELD = 40
# A signature may be broken after these characters, and before an escape %XX.
_BREAKS = re.compile(r"(?<=[|,;:/=])|(?<=\\textbar\{\})|(?=\\%)")


def write(shown: Document) -> str:
    """Grids as floats, sentences as small print, commands as comments."""
    parts: list[str] = []
    is_long = len(_grids(shown)) > _HELD
    for number, (heading, part) in enumerate(shown.headed):
        parts += [r"\clearpage"] if number and is_long else []
        parts += [_small(heading)] if heading else []
        for section in part.sections:
            parts += [_item(item) for item in section.items]
            own = [_add_title(grid, part) for grid in section.grids]
            parts += _output(_long(grid) if grid.groups else _float(grid) for grid in own)
        parts += [_small(note) for note in part.notes]
        parts += [f"% {printable(command)}" for command in part.commands]
    longtable = [r"% and \usepackage{longtable}"] if any(g.groups for g in _grids(shown)) else []
    return "\n".join([PACKAGES, *longtable, *parts]) + "\n"


def _grids(shown: Document) -> list[Grid]:
    """All grids; those of several parts are told apart by their names."""
    pairs = ((part, section) for _, part in shown.headed for section in part.sections)
    return [_add_title(grid, part) for part, section in pairs for grid in section.grids]


def _add_title(grid: Grid, part: Document) -> Grid:
    return replace(grid, name=f"{grid.name} ({part.title})") if part.title else grid


def _item(item: Item) -> str:
    return f"% {printable(' '.join(item.text.split()))}" if item.step else _small(item.text)


def _small(text: str) -> str:
    return f"\\par\\noindent{{\\footnotesize {escape(text)}\\par}}"


def check_label(label: str, option: str) -> None:
    """UsageError for a label that LaTeX cannot read; option: its name in the message."""
    if label and not _LABEL.fullmatch(label):
        raise UsageError(
            f"{option} '{label}': expected letters, digits and :._/+- alone (tab:main)"
        )


def write_paper(shown: Document, *, label: str = "", caption: str = "") -> str:
    """Grids in the paper layout, with notes, commands and signatures as comments.

    label, caption: of the floats; if there are several, the name of each is appended. A label that
    occurs again, since names may differ in characters that no label has, gets a number.
    """
    grids = _grids(shown)
    several = len(grids) > 1
    marks: Counter[str] = Counter()
    parts = [PACKAGES]
    for heading, part in shown.headed:
        parts += [f"% {printable(heading)}"] if heading else []
        parts += [f"% note: {printable(note)}" for note in part.notes]
        parts += [f"% to run: {printable(command)}" for command in part.commands]
    floats = []
    for grid in grids:
        name = re.sub(r"[^a-z0-9]+", "-", grid.name.lower()).strip("-")
        own = f"{caption.rstrip('.')} ({grid.name})" if several else caption.rstrip(".")
        text = own if caption else f"{grid.name}: {grid.caption}"
        mark = f"{label}-{name}" if several else label
        marks[mark] += 1
        mark += f"-{marks[mark]}" if marks[mark] > 1 else ""
        floats.append(_paper_float(grid, text, mark if label else ""))
    return "\n".join([*parts, *_output(floats)]) + "\n"


def _output(floats: Iterable[str]) -> Iterator[str]:
    """The floats, with a new page before LaTeX has more of them than it can hold."""
    for number, text in enumerate(floats):
        if number and number % _HELD == 0:
            yield r"\clearpage"
        yield text


def escape(text: str) -> str:
    """Text that LaTeX prints literally; other characters outside Latin-1 become a question mark.

    Repeated hyphens and commas are separated, since fonts turn `--` into a dash and `,,` into a
    quotation mark.
    """
    parts: list[str] = []
    before = ""
    for char in " ".join(text.split()):
        is_joined = (before in _DASHES and char in _DASHES) or before == char == ","
        is_plain = char.isprintable() and ord(char) < 0x100
        parts.append("{}" * is_joined + _ESCAPES.get(char, char if is_plain else "?"))
        before = char
    return "".join(parts)


def _float(grid: Grid) -> str:
    columns = "".join("c" if column.kind == "value" else "r" for column in grid.columns)
    footer = rf"\par\smallskip{{\footnotesize {escape(grid.footer)}\par}}"
    parts = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(grid.name)}: {escape(grid.caption)}.}}",
        *_tabular(grid, f"l{columns}"),
        footer,
        *_signature(grid.signature),
        r"\end{table}",
    ]
    return "\n".join(parts)


def _paper_float(grid: Grid, caption: str, label: str) -> str:
    """A float, over both page columns if wide; extra space precedes the last number."""
    numbers = sum(column.kind == "value" for column in grid.columns)
    sides = len(grid.columns) - numbers
    kind = "table*" if numbers + sides > _NARROW else "table"
    last = r"@{\hspace{1.5em}}c" if numbers > 1 else "c" * numbers
    parts = [
        rf"\begin{{{kind}}}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(caption)}{'' if caption.endswith(('?', '!')) else '.'}}}",
        rf"\label{{{label}}}" if label else "",
        # What numbers and marks mean: the user's own caption may not say so.
        "" if grid.caption in caption else f"% {printable(grid.caption)}",
        *_tabular(grid, f"l{'c' * (numbers - 1)}{last}{'r' * sides}"),
        f"% {printable(grid.footer)}",
        f"% signature: {printable(grid.signature)}" if grid.signature else "",
        rf"\end{{{kind}}}",
    ]
    return "\n".join(filter(None, parts))


def _tabular(grid: Grid, columns: str) -> list[str]:
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return [begin, *_head(grid), *map(_line, grid.lines), r"\bottomrule", end]


def _head(grid: Grid) -> list[str]:
    return [r"\toprule", _row(map(escape, grid.heads)), r"\midrule"]


def _long(grid: Grid) -> str:
    """A `longtable`, which may span pages, with a rule between groups."""
    columns = "".join("l" if column.kind == "text" else "r" for column in grid.columns)
    body: list[str] = []
    for line, begins in zip(grid.lines, grid.begins_group(), strict=True):
        body += [r"\midrule"] if begins and body else []
        blank = Line("", (Entry(""), *line.entries[1:]))
        body.append(_line(line if begins else blank))
    return "\n".join(
        [
            rf"\begin{{longtable}}{{l{columns}}}",
            rf"\caption{{{escape(grid.name)}.}}\\",
            *_head(grid),
            r"\endfirsthead",
            *_head(grid),
            r"\endhead",
            *body,
            r"\bottomrule",
            r"\end{longtable}",
        ]
    )


def _line(line: Line) -> str:
    return _row([escape(line.title), *map(_entry, line.entries)])


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _signature(line: str) -> list[str]:
    """The signature in small print, breakable at its separators; `parse` ignores line breaks."""
    if not line:
        return []
    text = _BREAKS.sub(r"\\allowbreak{}", escape(line))
    return [rf"\par{{\tiny\ttfamily\raggedright {text}\par}}"]


def _entry(entry: Entry) -> str:
    """Escaped text; signed numbers are in math mode, for a minus sign instead of a hyphen."""
    text = escape(entry.text)
    if entry.text[:1] in ("+", "-") and entry.text[1:].replace(".", "").isdigit():
        text = f"${entry.text}$"
    if entry.rank == BEST:
        # Bold text leaves formulas as they are.
        bold = r"\boldmath" if text.startswith("$") else ""
        text = rf"\textbf{{{bold}{text}}}"
    elif entry.rank == SECOND:
        text = rf"\underline{{{text}}}"
    around = f" {escape(entry.around.replace('±', '± '))}" if entry.around else ""
    return f"{text}{around}{' ' if entry.suffix else ''}{escape(entry.suffix)}"
