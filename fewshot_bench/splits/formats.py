"""Split files of every format: `read_split_file` reads, `text_of` formats, `place` writes.

Most formats are recognized by content. Reading checks the form, never the digest
(`checks.check_digest`). The schema of index files is that of
https://github.com/linzhiqiu/cross_modal_adaptation (indices/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item
from fewshot_bench.api.spec import ALL_SHOTS, plain, read_shots
from fewshot_bench.api.split_file import MAX_BYTES, Pools, coop_text, pools_from
from fewshot_bench.splits.model import SplitFile, item_of, unusable
from fewshot_bench.splits.pickled import read_pickled
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from fewshot_bench.utils.files import read_regular, write_whole
from fewshot_bench.utils.text import plain_text, shown

PICKLE_STARTS = (b"\x80", b"(", b"}")
PICKLE_NAMES = (".pkl", ".pickle")
KNOWN = (
    "a split of fsbench, CoOp's split file, an index file, a .jsonl list, or CoOp's cache (.pkl)"
)
# Writable formats with their file extensions.
ENDINGS: Mapping[str, str] = {"fsbench": "json", "coop": "json", "index": "json", "jsonl": "jsonl"}
MARK = "fsbench_split"
VERSION = 1
TEXTS = ("dataset", "revision", "protocol", "digest")
NUMBERS = ("shots", "seed")
OURS_EXPECTED = (
    f'{{"{MARK}": {VERSION}, "dataset", "revision", "protocol", "shots", "seed", "digest", '
    '"train": [[id, label, class name], ...], "val": [...]}'
)
INDEX_KEYS = ("impath", "label", "classname")
INDEX_EXPECTED = (
    '{"train": {"data": [{"impath", "label", "classname"}, ...], "indices": [position, ...]}, '
    '"val": {...}}'
)
ROLE_KEYS = ("role", "split")
ID_KEYS = ("id", "path", "impath")
LINES_EXPECTED = '{"role": "train", "val" or "test", "id", "label", "classname"} on every line'


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
        return read_regular(path, MAX_BYTES)
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


def text_of(file: SplitFile, format: str, pools: Pools) -> str:
    """The text of a split in one of `ENDINGS`; `pools` are the data set's lists.

    UsageError when the format cannot hold this split.
    """
    _check_names(file)
    if format == "coop":
        return _coop(file)
    if format == "index":
        if not file.is_draw:
            raise UsageError("format index holds few-shot picks: add --shots, or use another")
        return index_text(file.lists, pools)
    return lines_text(file.lists) if format == "jsonl" else ours_text(file)


def place(path: Path, content: bytes, *, force: bool) -> bool:
    """Write a file atomically; False when it already exists with this content.

    UsageError when a different file exists and `force` is not set; StoreError when it cannot be
    written.
    """
    try:
        if path.is_file() and read_regular(path, MAX_BYTES) == content:
            return False
        refuse_existing([path], force=force)
        write_whole(path, content)
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({error.strerror or error}): expected a folder with free space "
            "that can be written to"
        ) from None
    return True


def refuse_existing(paths: list[Path], *, force: bool) -> None:
    """UsageError when a path is a folder, or exists and `force` is not set."""
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: expected the name of a file")
        if path.exists() and not force:
            raise UsageError(f"{path} is there already: use --force to replace it, or another name")


def _coop(file: SplitFile) -> str:
    if file.is_draw:
        raise UsageError(
            "format coop holds the lists of a whole data set: leave --shots out, or use --format "
            "fsbench, index or jsonl"
        )
    absent = [role for role in ROLES if role not in file.lists]
    if absent:
        raise UsageError(
            f"'{file.dataset}' has no {absent[0]} list, which format coop needs: use --format "
            "fsbench or jsonl"
        )
    return coop_text(file.lists)


def _check_names(file: SplitFile) -> None:
    for items in file.lists.values():
        for item in items:
            if not all(text and plain_text(text) for text in (item.id, item.classname)):
                raise UsageError(
                    f"'{file.dataset}' names an image {item.id!a} of class {item.classname!a}: "
                    "expected names in UTF-8 without control characters, which every format holds"
                )


def ours_text(file: SplitFile) -> str:
    """The text of a split file in our format; the digest covers the lists that it contains."""
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
    """Parse the JSON of our format without comparing the digest; DataMissingError if unusable."""
    if content[MARK] != VERSION:
        raise unusable(
            path,
            f"has {MARK} {shown(content[MARK])}",
            f"{VERSION} (a later version of fewshot-bench may read it)",
        )
    for name in TEXTS:
        if not isinstance(content.get(name), str):
            raise unusable(path, f"has {name} {shown(content.get(name))}", OURS_EXPECTED)
    for name in NUMBERS:
        value = content.get(name) if name == "seed" else read_shots(content.get(name))
        if value not in (None, ALL_SHOTS) and (type(value) is not int or value < 0):
            raise unusable(path, f"has {name} {shown(value)}", "a number from 0, or null")
    roles = [role for role in ROLES if role in content]
    if roles[:1] != ["train"]:
        raise unusable(path, "has no train list", OURS_EXPECTED)
    return SplitFile(
        path,
        "fsbench",
        {
            role: tuple(_our_item(path, role, row) for row in _our_rows(path, role, content))
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


def _our_rows(path: Path, role: str, content: dict[str, Any]) -> list[Any]:
    rows = content[role]
    if not isinstance(rows, list):
        raise unusable(path, f"has {shown(rows)} under '{role}'", OURS_EXPECTED)
    return rows


def _our_item(path: Path, role: str, row: Any) -> Item:
    if not isinstance(row, list) or len(row) != 3:
        raise unusable(path, f"has {shown(row)} in '{role}'", "[id, label, class name]")
    return item_of(path, f"in '{role}'", *row)


def is_index(content: Any) -> bool:
    """True when parsed JSON is an index file."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("train"), dict)
        and "data" in content["train"]
    )


def index_text(picks: Pools, pools: Pools) -> str:
    """The text of an index file; UsageError when a pick is not in the pool of its role."""
    content = {
        role: _index_part(role, picks[role], pools.get(role, ())) for role in ("train", "val")
    }
    return json.dumps(content, indent=4, separators=(",", ": "))


def index_from(path: Path, content: Mapping[str, Any]) -> SplitFile:
    """Parse the JSON of an index file; DataMissingError if unusable."""
    if not set(content) <= set(ROLES):
        raise unusable(path, f"has the keys {shown(sorted(content))}", INDEX_EXPECTED)
    roles = [role for role in ROLES if role in content]
    lists = {role: _index_items(path, role, content[role]) for role in roles}
    positions = {role: _index_positions(path, role, content[role]) for role in roles}
    return SplitFile(path, "index", lists, positions=positions)


def _index_part(role: str, picks: Sequence[Item], pool: Sequence[Item]) -> dict[str, Any]:
    indices = {item.id: index for index, item in enumerate(pool)}
    outside = [item.id for item in picks if item.id not in indices]
    if outside:
        raise UsageError(
            f"'{outside[0]}' was picked for {role} and is not in the data set's {role} list, so it "
            "has no position there (use --format fsbench)"
        )
    data = [{"impath": i.id, "label": i.label, "classname": i.classname} for i in picks]
    return {"data": data, "indices": [indices[item.id] for item in picks]}


def _index_items(path: Path, role: str, part: Any) -> tuple[Item, ...]:
    entries = part.get("data") if isinstance(part, dict) else None
    if not isinstance(entries, list):
        raise unusable(path, f"has {shown(part)} under '{role}'", INDEX_EXPECTED)
    for entry in entries:
        if not isinstance(entry, dict) or not set(INDEX_KEYS) <= set(entry):
            raise unusable(path, f"has {shown(entry)} in '{role}'", INDEX_EXPECTED)
    return tuple(
        item_of(path, f"as entry {number} of '{role}'", *(entry[key] for key in INDEX_KEYS))
        for number, entry in enumerate(entries)
    )


def _index_positions(path: Path, role: str, part: Mapping[str, Any]) -> tuple[int, ...]:
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


def lines_text(lists: Pools) -> str:
    """The text in JSON lines format, train first."""
    rows = [
        {"role": role, "id": item.id, "label": item.label, "classname": item.classname}
        for role in ROLES
        for item in lists.get(role, ())
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def is_line(content: Any) -> bool:
    """True when parsed JSON is one line of the JSON lines format."""
    return isinstance(content, dict) and any(isinstance(content.get(k), str) for k in ROLE_KEYS)


def lines_from(path: Path, text: str) -> SplitFile:
    """Parse the JSON lines format; DataMissingError names the first unusable line.

    Without any line for `test`, the file has no test list.
    """
    lists: dict[str, list[Item]] = {"train": [], "val": []}
    # Split only at newlines: names may contain other characters that `splitlines` splits at.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            role, item = _line_entry(path, number, _line_parsed(path, number, line))
            lists.setdefault(role, []).append(item)
    return SplitFile(path, "jsonl", {role: tuple(items) for role, items in lists.items()})


def _line_parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"has no JSON on line {number} ({error})", LINES_EXPECTED) from None


def _line_entry(path: Path, number: int, row: Any) -> tuple[str, Item]:
    role = _line_value(row, ROLE_KEYS)
    if role not in ROLES:
        raise unusable(path, f"has {shown(row)} on line {number}", LINES_EXPECTED)
    values = (_line_value(row, ID_KEYS), row.get("label"), row.get("classname"))
    return role, item_of(path, f"on line {number}", *values)


def _line_value(row: Any, keys: tuple[str, ...]) -> Any:
    values: Mapping[str, Any] = row if isinstance(row, dict) else {}
    return next((values[key] for key in keys if key in values), None)
