"""Split files of every format: `read_split_file` reads, `text_of` formats, `place` writes.

Most formats are recognized by content. Reading checks the form, never the digest
(`checks.check_digest`). The schema of index files is that of
https://github.com/linzhiqiu/cross_modal_adaptation (indices/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item
from fewshot_bench.api.spec import plain, read_shots
from fewshot_bench.api.split_file import MAX_BYTES, Pools, coop_text, pools_from
from fewshot_bench.splits.model import SplitFile, item_of, items_of, unusable
from fewshot_bench.splits.pickled import read_pickled
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from fewshot_bench.utils.files import read_regular, write_whole
from fewshot_bench.utils.text import plain_text

PICKLE_STARTS = (b"\x80", b"(", b"}")
PICKLE_NAMES = (".pkl", ".pickle")
KNOWN = (
    "a split of fsbench, CoOp's split file, an index file, a .jsonl list, or CoOp's cache (.pkl)"
)
# Writable formats with their file extensions.
ENDINGS: Mapping[str, str] = {"fsbench": "json", "coop": "json", "index": "json", "jsonl": "jsonl"}
MARK = "fsbench_split"
VERSION = 1
Role = Literal["train", "val", "test"]
Natural = Annotated[int, Meta(ge=0)]
Form = TypeVar("Form")


class _Ours(Struct):
    """Our format; rows are (id, label, class name)."""

    fsbench_split: Literal[1]
    dataset: str
    revision: str
    protocol: str
    digest: str
    train: list[tuple[Any, Any, Any]]
    val: list[tuple[Any, Any, Any]] | None = None
    test: list[tuple[Any, Any, Any]] | None = None
    shots: Natural | Literal["all"] | None = None
    seed: Natural | None = None


class _Entry(Struct):
    impath: Any
    label: Any
    classname: Any


class _Part(Struct):
    """One list of an index file, with positions in the list of the data set."""

    data: list[_Entry]
    indices: list[Natural]


class _Line(Struct):
    """A line of a JSON lines file, whose columns have several names."""

    label: Any
    classname: Any
    role: Role | None = None
    split: Role | None = None
    id: Any = None
    path: Any = None
    impath: Any = None


FORMS: Mapping[Any, str] = {
    _Ours: f'{{"{MARK}": {VERSION}, "dataset", "revision", "protocol", "shots", "seed", "digest", '
    '"train": [[id, label, class name], ...], "val": [...]}',
    dict[Role, _Part]: '{"train": {"data": [{"impath", "label", "classname"}, ...], "indices": '
    '[position from 0 of each image]}, "val": {...}}',
    _Line: '{"role": "train", "val" or "test", "id", "label", "classname"} on every line',
}


def read_split_file(path: Path) -> SplitFile:
    """The lists of a split file, checked for form. DataMissingError when it cannot be used.

    The digest that a file states is not compared here (`checks.check_digest`).
    """
    try:
        content = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise DataMissingError(
            f"split file {path} cannot be read ({error.strerror}): expected {KNOWN}"
        ) from None
    if content.startswith(PICKLE_STARTS) or path.suffix in PICKLE_NAMES:
        return read_pickled(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise unusable(path, "is no UTF-8 text", KNOWN) from None
    if _is_line(text.lstrip().partition("\n")[0]):
        return _read_lines(path, text)
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"cannot be read as JSON ({error})", KNOWN) from None
    if isinstance(parsed, dict) and MARK in parsed:
        return _read_ours(path, parsed)
    if isinstance(parsed, dict) and isinstance(parsed.get("train"), dict):
        return _read_index(path, parsed)
    return SplitFile(path, "coop", pools_from(path, parsed))


def _is_line(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and any(isinstance(row.get(k), str) for k in ("role", "split"))


def _convert(path: Path, content: Any, form: type[Form]) -> Form:
    try:
        return msgspec.convert(content, form)
    except msgspec.ValidationError as error:
        raise unusable(path, f"has another form ({error})", FORMS[form]) from None


def _read_ours(path: Path, content: Any) -> SplitFile:
    parsed = _convert(path, content, _Ours)
    rows = {role: getattr(parsed, role) for role in ROLES}
    return SplitFile(
        path,
        "fsbench",
        {role: items_of(path, role, rows[role]) for role in ROLES if rows[role] is not None},
        dataset=parsed.dataset,
        revision=parsed.revision,
        protocol=parsed.protocol,
        shots=read_shots(parsed.shots),
        seed=parsed.seed,
        stated=parsed.digest,
    )


def _read_index(path: Path, content: Any) -> SplitFile:
    parts = _convert(path, content, dict[Role, _Part])
    for role, part in parts.items():
        if len(part.indices) != len(part.data):
            problem = f"has {len(part.indices)} indices for {len(part.data)} images of '{role}'"
            raise unusable(path, problem, "one position per image")
    lists: Pools = {
        role: items_of(path, role, (msgspec.structs.astuple(entry) for entry in parts[role].data))
        for role in ROLES
        if role in parts
    }
    positions = {str(role): tuple(parts[role].indices) for role in parts}
    return SplitFile(path, "index", lists, positions=positions)


def _read_lines(path: Path, text: str) -> SplitFile:
    """Read JSON lines. Without any line for `test`, the file has no test list."""
    lists: dict[str, list[Item]] = {"train": [], "val": []}
    # Split only at newlines: names may contain other characters that `splitlines` splits at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=_Line)
            role = row.role or row.split
        except (msgspec.DecodeError, RecursionError) as error:
            problem = f"has another form on line {number} ({error})"
            raise unusable(path, problem, FORMS[_Line]) from None
        if role is None:
            raise unusable(path, f"has no role on line {number}", FORMS[_Line])
        name = next((name for name in (row.id, row.path, row.impath) if name is not None), None)
        item = item_of(path, f"on line {number}", name, row.label, row.classname)
        lists.setdefault(role, []).append(item)
    return SplitFile(path, "jsonl", {role: tuple(items) for role, items in lists.items()})


def text_of(file: SplitFile, format: str, pools: Pools) -> str:
    """The text of a split in one of `ENDINGS`; `pools` are the data set's lists.

    UsageError when the format cannot hold this split.
    """
    for item in (item for items in file.lists.values() for item in items):
        if not all(text and plain_text(text) for text in (item.id, item.classname)):
            raise UsageError(
                f"'{file.dataset}' names an image {item.id!a} of class {item.classname!a}: "
                "expected names in UTF-8 without control characters, which every format holds"
            )
    writers = {"coop": _coop, "index": lambda file: _index(file, pools), "jsonl": _lines}
    return writers.get(format, ours_text)(file)


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


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


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


def _index(file: SplitFile, pools: Pools) -> str:
    if not file.is_draw:
        raise UsageError("format index holds few-shot picks: add --shots, or use another")
    parts = {role: _index_part(role, file.lists[role], pools.get(role, ())) for role in ROLES[:2]}
    return json.dumps(parts, indent=4, separators=(",", ": "))


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


def _lines(file: SplitFile) -> str:
    rows = [
        {"role": role, "id": item.id, "label": item.label, "classname": item.classname}
        for role in ROLES
        for item in file.lists.get(role, ())
    ]
    return "".join(_json(row) + "\n" for row in rows)


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
