"""Our own split files: JSON with one image per line, and a digest of the lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.shots import ALL_SHOTS, plain, read_shots
from fewshot_bench.api.task import Item
from fewshot_bench.splits.model import SplitFile, item_of, unusable
from fewshot_bench.utils.text import shown

MARK = "fsbench_split"
VERSION = 1
TEXTS = ("dataset", "revision", "protocol", "digest")
NUMBERS = ("shots", "seed")
EXPECTED = (
    f'{{"{MARK}": {VERSION}, "dataset", "revision", "protocol", "shots", "seed", "digest", '
    '"train": [[id, label, class name], ...], "val": [...]}'
)


def ours_text(file: SplitFile) -> str:
    """The text of a split file; the digest covers the lists that are there."""
    head = {
        MARK: VERSION,
        "dataset": file.dataset,
        "revision": file.revision,
        "protocol": file.protocol,
        "shots": plain(file.shots),
        "seed": file.seed,
        "digest": file.digest,
    }
    parts = [f"  {json.dumps(name)}: {_json(value)}" for name, value in head.items()]
    for role in ROLES:
        if role in file.lists:
            rows = [f"    {_json([i.id, i.label, i.classname])}" for i in file.lists[role]]
            lines = "[\n" + ",\n".join(rows) + "\n  ]" if rows else "[]"
            parts.append(f'  "{role}": {lines}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def ours_from(path: Path, content: dict[str, Any]) -> SplitFile:
    """A parsed split file, its digest not compared; DataMissingError when it is unusable."""
    if content[MARK] != VERSION:
        raise unusable(
            path,
            f"has {MARK} {shown(content[MARK])}",
            f"{VERSION} (a later version of fewshot-bench may read it)",
        )
    for name in TEXTS:
        if not isinstance(content.get(name), str):
            raise unusable(path, f"has {name} {shown(content.get(name))}", EXPECTED)
    for name in NUMBERS:
        value = content.get(name) if name == "seed" else read_shots(content.get(name))
        if value not in (None, ALL_SHOTS) and (type(value) is not int or value < 0):
            raise unusable(path, f"has {name} {shown(value)}", "a number from 0, or null")
    roles = [role for role in ROLES if role in content]
    if roles[:1] != ["train"]:
        raise unusable(path, "has no train list", EXPECTED)
    return SplitFile(
        path,
        "fsbench",
        {
            role: tuple(_item(path, role, row) for row in _rows(path, role, content))
            for role in roles
        },
        dataset=content["dataset"],
        revision=content["revision"],
        protocol=content["protocol"],
        shots=read_shots(content.get("shots")),
        seed=content.get("seed"),
        stated=content["digest"],
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _rows(path: Path, role: str, content: dict[str, Any]) -> list[Any]:
    rows = content[role]
    if not isinstance(rows, list):
        raise unusable(path, f"has {shown(rows)} under '{role}'", EXPECTED)
    return rows


def _item(path: Path, role: str, row: Any) -> Item:
    if not isinstance(row, list) or len(row) != 3:
        raise unusable(path, f"has {shown(row)} in '{role}'", "[id, label, class name]")
    return item_of(path, f"in '{role}'", *row)
