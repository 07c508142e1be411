"""Read a split file of any format; which one it is, its content says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewshot_bench.splits.coop import pools_from
from fewshot_bench.splits.index import index_from, is_index
from fewshot_bench.splits.lines import is_line, lines_from
from fewshot_bench.splits.model import SplitFile, unusable
from fewshot_bench.splits.ours import MARK, ours_from
from fewshot_bench.splits.pickled import read_pickled
from fewshot_bench.utils.errors import DataMissingError

MAX_BYTES = 256 * 2**20
PICKLE_STARTS = (b"\x80", b"(", b"}")
PICKLE_NAMES = (".pkl", ".pickle")
KNOWN = (
    "a split of fsbench, CoOp's split file, an index file, a .jsonl list, or CoOp's cache (.pkl)"
)


def read_split_file(path: Path) -> SplitFile:
    """The lists of a split file, checked for form. DataMissingError when it cannot be used.

    The digest that a file states is not compared here (`checks.check_digest`).
    """
    content = _bytes(path)
    if content.startswith(PICKLE_STARTS) or path.suffix in PICKLE_NAMES:
        return read_pickled(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise unusable(path, "is no UTF-8 text", KNOWN) from None
    if is_line(_first_line(text)):
        return lines_from(path, text)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"cannot be read as JSON ({error})", KNOWN) from None
    return _from_json(path, parsed)


def _from_json(path: Path, parsed: Any) -> SplitFile:
    if isinstance(parsed, dict) and MARK in parsed:
        return ours_from(path, parsed)
    if is_index(parsed):
        return index_from(path, parsed)
    return SplitFile(path, "coop", pools_from(path, parsed))


def _bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise unusable(path, f"has {path.stat().st_size:,} bytes", f"at most {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataMissingError(
            f"split file {path} cannot be read ({error.strerror}): expected {KNOWN}"
        ) from None


def _first_line(text: str) -> Any:
    line = text.lstrip().partition("\n")[0]
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
