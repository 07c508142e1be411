"""What lies where in a large archive, by name."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbench_datasets.kept_index import check_places, kept
from fsbench_datasets.tar_files import Member, members


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


Parts = Mapping[str, Part]


def tar_index(path: Path, *, nested: bool) -> Parts:
    """The files of an archive under "", or those of the archives inside it under their stems.

    Folders in names are dropped. DataMissingError names an archive that is truncated or damaged.
    """
    if nested:
        return kept(path, "nested", lambda: dict(_nested(path)), _encoded, _decoded)
    return kept(path, "flat", lambda: {"": _part(members(path))}, _encoded, _decoded)


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


def _encoded(parts: Parts) -> Any:
    return {
        stem: {"names": part.names, "offsets": part.offsets.tolist(), "sizes": part.sizes.tolist()}
        for stem, part in parts.items()
    }


def _decoded(content: Any, end: int) -> Parts:
    return {stem: _checked(part, end) for stem, part in content.items()}


def _checked(part: Any, end: int) -> Part:
    names, offsets, sizes = part["names"], array("q", part["offsets"]), array("q", part["sizes"])
    check_places(offsets, sizes, end)
    if len(names) != len(offsets) or list(names) != sorted(set(names)):
        raise ValueError("lists of different lengths, or names out of order")
    return Part(tuple(names), offsets, sizes)
