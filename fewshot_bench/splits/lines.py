"""Split files with one JSON object per line and image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.task import Item
from fewshot_bench.splits.coop import Pools
from fewshot_bench.splits.model import SplitFile, item_of, unusable
from fewshot_bench.utils.text import shown

ROLE_KEYS = ("role", "split")
ID_KEYS = ("id", "path", "impath")
EXPECTED = '{"role": "train", "val" or "test", "id", "label", "classname"} on every line'


def lines_text(lists: Pools) -> str:
    """The text of a list, train first."""
    rows = [
        {"role": role, "id": item.id, "label": item.label, "classname": item.classname}
        for role in ROLES
        for item in lists.get(role, ())
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def is_line(content: Any) -> bool:
    """Whether parsed JSON is one line of such a list."""
    return isinstance(content, dict) and any(isinstance(content.get(k), str) for k in ROLE_KEYS)


def lines_from(path: Path, text: str) -> SplitFile:
    """A list of lines; DataMissingError names the first line that is unusable.

    Without any line for `test`, the file has no test list.
    """
    lists: dict[str, list[Item]] = {"train": [], "val": []}
    # Only a newline ends a line: names may hold other characters that `splitlines` breaks at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            role, item = _entry(path, number, _parsed(path, number, line))
            lists.setdefault(role, []).append(item)
    return SplitFile(path, "jsonl", {role: tuple(items) for role, items in lists.items()})


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"has no JSON on line {number} ({error})", EXPECTED) from None


def _entry(path: Path, number: int, row: Any) -> tuple[str, Item]:
    role = _value(row, ROLE_KEYS)
    if role not in ROLES:
        raise unusable(path, f"has {shown(row)} on line {number}", EXPECTED)
    values = (_value(row, ID_KEYS), row.get("label"), row.get("classname"))
    return role, item_of(path, f"on line {number}", *values)


def _value(row: Any, keys: tuple[str, ...]) -> Any:
    values: Mapping[str, Any] = row if isinstance(row, dict) else {}
    return next((values[key] for key in keys if key in values), None)
