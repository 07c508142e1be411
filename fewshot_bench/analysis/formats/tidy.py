"""Tidy rows as CSV and data as JSON; no text in them is a formula or steers a terminal.

`write_csv` and `dumped` are the entries.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.api.shots import plain
from fewshot_bench.utils.text import printable

# What a formula begins with in a spreadsheet, the wide forms of East Asian keyboards among it.
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_INNER = re.compile(rf"(;[\s\"]*)(?=[{re.escape(''.join(FORMULAS))}])")


def write_csv(lines: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> str:
    """Rows with the same columns; heads: the columns where there is no row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_text(name) for name in (lines[0] if lines else heads)])
    writer.writerows([field(value) for value in line.values()] for line in lines)
    return buffer.getvalue()


def dumped(document: Mapping[str, Any]) -> str:
    """JSON on several lines that steers no terminal; not-a-number values are an error."""
    text = json.dumps(plain(document), indent=1, allow_nan=False, default=str, ensure_ascii=False)
    return "\n".join(map(_escaped, text.split("\n"))) + "\n"


def _escaped(line: str) -> str:
    """JSON whose characters that steer a terminal are written as numbers, the value the same."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def finite(value: Any) -> Any:
    """A value whose numbers that JSON does not have are None, those in lists and mappings too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def field(value: Any) -> Any:
    """A value as a CSV field: lists joined by `;`, text safe for spreadsheets and terminals."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return _text(";".join(map(str, value)))
    return _text(str(value))


def _text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, and a terminal not for a command.

    Where the decimal sign is a comma, spreadsheets split at semicolons: what follows one counts as
    a field of its own, the second value of a list too.
    """
    formula = text.lstrip().startswith(FORMULAS) or text.startswith(("\t", "\r", "\n"))
    plain = _INNER.sub(r"\1'", printable(text))
    return f"'{plain}" if formula else plain
