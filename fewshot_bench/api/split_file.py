"""Split files in CoOp's format: `load_split` is strict, `save_split` writes CoOp's exact bytes."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item, parts
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.files import read_regular_text, write_whole
from fewshot_bench.utils.text import few, leaves, plain_text, shown

Pools = Mapping[str, Sequence[Item]]

MAX_BYTES = 256 * 2**20
"""The most bytes of a split file, of any format."""


def load_split(path: Path) -> Pools:
    """The pools of a split file, in file order; DataMissingError if it is damaged."""
    try:
        content = json.loads(read_regular_text(path, most=MAX_BYTES))
    except OSError as error:
        raise DataMissingError(
            f"split file {path} cannot be read ({error.strerror or error}): expected a file that "
            "you may read"
        ) from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"cannot be read as JSON ({error})") from None
    return pools_from(path, content)


def pools_from(path: Path, content: Any) -> Pools:
    """The pools of a parsed split file; DataMissingError if they are invalid."""
    if not isinstance(content, dict) or not set(ROLES) <= set(content):
        kind = type(content).__name__
        held = f"keys {few(sorted(content))}" if isinstance(content, dict) else kind
        raise damaged(path, f"has {held}, expected an object with the keys train, val, test")
    pools = {role: tuple(_read_entries(path, role, content[role])) for role in ROLES}
    _check(path, pools)
    return pools


def save_split(path: Path, pools: Pools) -> None:
    """Write CoOp's exact bytes to a temporary file, then move it into place."""
    write_whole(path, (text.encode() for text in _coop_texts(pools)))


def coop_text(pools: Pools) -> str:
    """The text of a split file, byte for byte as CoOp writes it."""
    return "".join(_coop_texts(pools))


def _coop_texts(pools: Pools) -> Iterator[str]:
    """The text of `json.dumps(content, indent=4, separators=(",", ": "))`, in pieces."""
    for role in ROLES:
        yield f'{"{" if role == ROLES[0] else ","}\n    "{role}": ['
        before = ""
        for part in parts(pools[role]):
            rest = f"{part.label},\n            {json.dumps(part.classname)}\n        ]"
            ids = map(json.dumps, part.ids)
            entries = (f"\n        [\n            {id},\n            {rest}" for id in ids)
            yield before + ",".join(entries)
            before = ","
        yield "\n    ]" if before else "]"
    yield "\n}"


def damaged(path: Path, problem: str) -> DataMissingError:
    """The error for an unusable split file."""
    return DataMissingError(
        f"split file {path} {problem}; each entry is [relative path, label, class name]: "
        "fix the file, or fetch it again"
    )


def _read_entries(path: Path, role: str, entries: Any) -> Iterable[Item]:
    if not isinstance(entries, list):
        raise damaged(path, f"has {type(entries).__name__} under '{role}', expected a list")
    for number, entry in enumerate(entries):
        kinds = [type(value) for value in entry] if isinstance(entry, list) else []
        texts = entry[::2] if kinds == [str, int, str] else [""]
        if not all(text and plain_text(text) for text in texts):
            raise damaged(path, f"has {shown(entry)} as entry {number} of '{role}'")
        relative, label, classname = entry
        if label < 0:
            raise damaged(path, f"has the negative label {label} ({relative}, '{role}')")
        if leaves(relative):
            raise damaged(path, f"has the path '{relative}' ('{role}'), which leaves the folder")
        yield Item(relative, label, classname)


def _check(path: Path, pools: Pools) -> None:
    names: dict[int, str] = {}
    roles: dict[str, str] = {}
    for role in ROLES:
        for item in pools[role]:
            name = names.setdefault(item.label, item.classname)
            if name != item.classname:
                both = f"'{name}' and '{item.classname}'"
                raise damaged(path, f"gives label {item.label} two names, {both}")
            # `./a.jpg` and `a.jpg` are one file; a path with `..` is refused before.
            file = posixpath.normpath(item.id)
            if file in roles:
                where = f"'{roles[file]}' and '{role}'"
                also = "" if file == item.id else f" (as '{item.id}')"
                raise damaged(path, f"lists '{file}' twice, in {where}{also}")
            roles[file] = role
    trained = {item.label for item in pools["train"]}
    if not trained:
        raise damaged(path, "has no train images")
    untrained = sorted(set(names) - trained)
    if untrained:
        label = untrained[0]
        raise damaged(path, f"has class {label} '{names[label]}' in no train image")
    if max(names) != len(names) - 1:
        gap = min(set(range(len(names))) - set(names))
        raise damaged(path, f"has no image of label {gap}, expected labels 0 to {len(names) - 1}")
