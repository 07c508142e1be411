"""Per-shot index files: the images of a draw, and their positions in the data set's lists.

The schema is that of https://github.com/linzhiqiu/cross_modal_adaptation (indices/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.task import Item
from fewshot_bench.splits.coop import Pools
from fewshot_bench.splits.model import SplitFile, item_of, unusable
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import shown

KEYS = ("impath", "label", "classname")
EXPECTED = (
    '{"train": {"data": [{"impath", "label", "classname"}, ...], "indices": [position, ...]}, '
    '"val": {...}}'
)


def is_index(content: Any) -> bool:
    """Whether parsed JSON is an index file."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("train"), dict)
        and "data" in content["train"]
    )


def index_text(picks: Pools, pools: Pools) -> str:
    """The text of an index file; UsageError when a pick is not in the pool of its role."""
    content = {role: _part(role, picks[role], pools.get(role, ())) for role in ("train", "val")}
    return json.dumps(content, indent=4, separators=(",", ": "))


def index_from(path: Path, content: Mapping[str, Any]) -> SplitFile:
    """A parsed index file; DataMissingError when it is unusable."""
    if not set(content) <= set(ROLES):
        raise unusable(path, f"has the keys {shown(sorted(content))}", EXPECTED)
    roles = [role for role in ROLES if role in content]
    lists = {role: _items(path, role, content[role]) for role in roles}
    positions = {role: _positions(path, role, content[role]) for role in roles}
    return SplitFile(path, "index", lists, positions=positions)


def _part(role: str, picks: tuple[Item, ...], pool: tuple[Item, ...]) -> dict[str, Any]:
    places = {item.id: place for place, item in enumerate(pool)}
    outside = [item.id for item in picks if item.id not in places]
    if outside:
        raise UsageError(
            f"'{outside[0]}' was picked for {role} and is not in the data set's {role} list, so it "
            "has no position there (use --format fsbench)"
        )
    data = [{"impath": i.id, "label": i.label, "classname": i.classname} for i in picks]
    return {"data": data, "indices": [places[item.id] for item in picks]}


def _items(path: Path, role: str, part: Any) -> tuple[Item, ...]:
    entries = part.get("data") if isinstance(part, dict) else None
    if not isinstance(entries, list):
        raise unusable(path, f"has {shown(part)} under '{role}'", EXPECTED)
    for entry in entries:
        if not isinstance(entry, dict) or not set(KEYS) <= set(entry):
            raise unusable(path, f"has {shown(entry)} in '{role}'", EXPECTED)
    return tuple(
        item_of(path, f"as entry {number} of '{role}'", *(entry[key] for key in KEYS))
        for number, entry in enumerate(entries)
    )


def _positions(path: Path, role: str, part: Mapping[str, Any]) -> tuple[int, ...]:
    positions = part.get("indices")
    if not isinstance(positions, list) or len(positions) != len(part["data"]):
        raise unusable(
            path, f"has {shown(positions)} as indices of '{role}'", "one position per image"
        )
    wrong = [value for value in positions if type(value) is not int or value < 0]
    if wrong:
        raise unusable(
            path, f"has {shown(wrong[0])} in the indices of '{role}'", "positions from 0"
        )
    return tuple(positions)
