"""What lies where in a large archive, kept in the cache folder so that it is read through once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError
from fsbench_datasets.tar_files import Member, members

VERSION = 1
# `fsbench cache rm` knows files of this name as left behind by a process that was killed.
TEMPORARY = ".fsbench-tmp~"


@dataclass(frozen=True, slots=True)
class Part:
    """Files of an archive by name, sorted; `offsets` and `sizes` are those in the outer file."""

    names: tuple[str, ...]
    offsets: array[int]
    sizes: array[int]

    def find(self, name: str) -> Member:
        """The place of a file; FileNotFoundError when it is not in the archive."""
        index = bisect_left(self.names, name)
        if index == len(self.names) or self.names[index] != name:
            raise FileNotFoundError(f"the archive has no '{name}'")
        return Member(name, self.offsets[index], self.sizes[index])


def tar_index(path: Path, *, nested: bool) -> Mapping[str, Part]:
    """The files of an archive under "", or those of the archives inside it under their stems.

    Folders in names are dropped. DataMissingError names an archive that is truncated or damaged.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataMissingError(f"archive {path} cannot be read: {error}") from None
    about = {"version": VERSION, "archive": os.path.abspath(path), "nested": nested}
    about |= {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
    stored = _stored(about)
    if stored is not None:
        return stored
    parts = dict(_nested(path)) if nested else {"": _part(members(path))}
    _store(about, parts)
    return parts


def _nested(path: Path) -> Iterable[tuple[str, Part]]:
    for inner in members(path):
        name = _base_name(inner.name)
        if name.endswith(".tar"):
            inside = members(path, start=inner.offset, size=inner.size)
            yield name.removesuffix(".tar"), _part(inside)


def _part(found: Iterable[Member]) -> Part:
    by_name = {_base_name(member.name): member for member in found}
    names = tuple(sorted(by_name))
    offsets = array("q", (by_name[name].offset for name in names))
    return Part(names, offsets, array("q", (by_name[name].size for name in names)))


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]


def _folder() -> Path:
    given = os.environ.get("FSBENCH_CACHE", "")
    if given:
        return Path(given).expanduser() / "tar-index"
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return home / "fsbench" / "tar-index"


def _file(about: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return _folder() / f"{key}.json"


def _stored(about: Mapping[str, Any]) -> Mapping[str, Part] | None:
    """The kept index; None when there is none, or when it is damaged and has to be made again."""
    try:
        content = json.loads(_file(about).read_text("utf-8"))
        if content["about"] != about:
            return None
        return {name: _checked(part, about["size"]) for name, part in content["parts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError):
        return None


def _checked(part: Any, size: int) -> Part:
    names, offsets, sizes = part["names"], array("q", part["offsets"]), array("q", part["sizes"])
    ends = [offset + length for offset, length in zip(offsets, sizes, strict=True)]
    if len(names) != len(ends) or list(names) != sorted(set(names)):
        raise ValueError("lists of different lengths, or names out of order")
    if ends and (min(offsets) < 0 or min(sizes) < 0 or max(ends) > size):
        raise ValueError("a place outside of the archive")
    return Part(tuple(names), offsets, sizes)


def _store(about: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    lists = {
        stem: {"names": part.names, "offsets": part.offsets.tolist(), "sizes": part.sizes.tolist()}
        for stem, part in parts.items()
    }
    # Without a cache that can be written to, the archive is read through every time.
    with contextlib.suppress(OSError, RuntimeError):
        path = _file(about)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"about": about, "parts": lists}, file)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
