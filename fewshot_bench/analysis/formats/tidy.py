"""Tidy rows as CSV and data as JSON, safe against formula injection and control characters.

`write_csv` and `write_json` are the entries.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.api.spec import plain
from fewshot_bench.utils.text import printable

# First characters of spreadsheet formulas, including full-width forms of East Asian keyboards.
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_INNER = re.compile(rf"(;[\s\"]*)(?=[{re.escape(''.join(FORMULAS))}])")


def write_csv(lines: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> str:
    """CSV of rows with the same columns; heads: the columns if there are no rows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_text(name) for name in (lines[0] if lines else heads)])
    writer.writerows([field(value) for value in line.values()] for line in lines)
    return buffer.getvalue()


def write_json(document: Mapping[str, Any]) -> str:
    """Indented JSON without raw control characters; ValueError for NaN and infinity."""
    text = json.dumps(plain(document), indent=1, allow_nan=False, default=str, ensure_ascii=False)
    return "\n".join(map(_escape_line, text.split("\n"))) + "\n"


def _escape_line(line: str) -> str:
    """Replace non-printable characters in JSON by escapes; the parsed value stays the same."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, also inside lists and mappings."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def field(value: Any) -> Any:
    """A value as a CSV field: lists joined by `;`, text made safe by `_text`."""
    if value is None:
        return ""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        return _text(";".join(map(str, value)))
    return _text(str(value))


@functools.lru_cache(maxsize=4096)
def _text(text: str) -> str:
    """Text without control characters that no spreadsheet takes for a formula.

    With a decimal comma, spreadsheets split at semicolons, so text after a semicolon (such as the
    second value of a list) is guarded as a separate field.
    """
    formula = text.lstrip().startswith(FORMULAS) or text.startswith(("\t", "\r", "\n"))
    plain = _INNER.sub(r"\1'", printable(text))
    return f"'{plain}" if formula else plain
