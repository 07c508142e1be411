"""Images of a data set as named, labeled items, one by one or by the million.

`Item` is one image. `ItemList` is a compact sequence of items: it compresses the names of a folder
together and creates items on access. The functions below take any sequence of items and give equal
results for both without creating an `Item` for every image of an `ItemList`.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import accumulate, groupby
from typing import Any, TypeVar, overload

from fewshot_bench.utils.withheld import refuse

Result = TypeVar("Result")

# Terminator of each name in a run; file names cannot contain it.
_END = "\0"
# Names in a folder are similar: even the fastest level makes them 4 to 10 times smaller.
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class Item:
    """One labeled image of a data set: `id` is its name within the data set (a relative path).

    >>> Item("cat/1.jpg", 0, "cat")
    """

    id: str
    label: int
    classname: str

    def __post_init__(self) -> None:
        """ContractError in code of a method."""
        refuse("a data set")


@dataclass(frozen=True, slots=True)
class Names:
    """Compressed list of names without NUL characters."""

    count: int
    packed: bytes

    @classmethod
    def of(cls, names: Collection[str]) -> Names:
        """Compress names in the given order; ValueError for a name with a NUL character."""
        text = _END.join([*names, ""])
        if text.count(_END) != len(names):
            raise ValueError("an item's id holds a NUL character: expected a name without")
        return cls(len(names), zlib.compress(text.encode(), _LEVEL))

    def listed(self) -> list[str]:
        """The decompressed names."""
        return zlib.decompress(self.packed).decode().split(_END)[:-1]


# Caches the names of the last accessed run, because neighbors are accessed together.
_list_names = lru_cache(maxsize=1)(Names.listed)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive items that share folder and class; an id is `folder` + name.

    folder: ends with a slash, or is empty; names contain no slash.
    """

    folder: str
    label: int
    classname: str
    names: Names

    @property
    def count(self) -> int:
        """The number of items."""
        return self.names.count

    @property
    def ids(self) -> list[str]:
        """The ids in order."""
        return [self.folder + name for name in self.names.listed()]


Changed = TypeVar("Changed", Item, Run)


class ItemList(Sequence[Item]):
    """Items in a fixed order, created on access; otherwise behaves like a tuple of items.

    It equals a tuple of equal items, and a slice of it is a tuple.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        refuse("a data set")
        self.runs = tuple(run for run in runs if run.count)
        self._ends = list(accumulate(run.count for run in self.runs))
        self._results: dict[Hashable, Any] = {}

    @classmethod
    def of(cls, items: Iterable[Item]) -> ItemList:
        """Pack items; ValueError if an id contains a NUL character."""

        def shared(item: Item) -> tuple[str, int, str]:
            folder, slash, _ = item.id.rpartition("/")
            return folder + slash, item.label, item.classname

        return cls(
            Run(*key, Names.of([item.id[len(key[0]) :] for item in same]))
            for key, same in groupby(items, key=shared)
        )

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Item]:
        for run in self.runs:
            for id in run.ids:
                yield Item(id, run.label, run.classname)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]
        number = bisect_right(self._ends, place)
        run = self.runs[number]
        name = _list_names(run.names)[place - self._ends[number]]  # Counted from the run's end.
        return Item(run.folder + name, run.label, run.classname)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | ItemList):
            return NotImplemented
        if isinstance(other, ItemList) and self.runs == other.runs:
            return True
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Iterable[Item]) -> tuple[Item, ...]:
        return (*self, *other)

    def __radd__(self, other: tuple[Item, ...]) -> tuple[Item, ...]:
        # `list += items` asks this method first: a list must stay one.
        return (*other, *self) if isinstance(other, tuple) else NotImplemented

    def __repr__(self) -> str:
        return f"<ItemList of {len(self):,} items>"

    def once(self, about: Hashable, make: Callable[[], Result]) -> Result:
        """Cache the result of `make`, which must depend on this list alone, under key `about`."""
        if about not in self._results:
            self._results[about] = make()
        result: Result = self._results[about]
        return result


def packed(items: Sequence[Item]) -> ItemList:
    """The items as an `ItemList`; ValueError if an id contains a NUL character."""
    return items if isinstance(items, ItemList) else ItemList.of(items)


@dataclass(frozen=True, slots=True)
class Listed:
    """Consecutive items that share their class, with uncompressed ids."""

    label: int
    classname: str
    ids: Sequence[str]

    @property
    def count(self) -> int:
        """The number of items."""
        return len(self.ids)


# Consecutive items that share their class: label, classname, ids and count.
Part = Run | Listed


def parts(items: Iterable[Item]) -> Iterator[Part]:
    """The items in order, grouped into consecutive parts of one class."""
    if isinstance(items, ItemList):
        yield from items.runs
        return
    for (label, classname), same in groupby(items, key=lambda item: (item.label, item.classname)):
        yield Listed(label, classname, [item.id for item in same])


def group(items: Iterable[Item]) -> dict[int, Sequence[Item]]:
    """The items of each class, in order; labels in order of first appearance."""
    if isinstance(items, ItemList):
        return items.once(
            "by label",
            lambda: {label: ItemList(r) for label, r in _group_by_label(items.runs).items()},
        )
    return dict(_group_by_label(items))


def _group_by_label(parts: Iterable[Changed]) -> dict[int, list[Changed]]:
    groups: dict[int, list[Changed]] = {}
    for part in parts:
        groups.setdefault(part.label, []).append(part)
    return groups


def label_counts(items: Iterable[Item]) -> Counter[int]:
    """Images by label; labels in order of first appearance."""
    counts: Counter[int] = Counter()
    for part in parts(items):
        counts[part.label] += part.count
    return counts


def without(items: Sequence[Item], ids: Iterable[str]) -> Sequence[Item]:
    """The items except those with the given ids."""
    gone = set(ids)
    if not isinstance(items, ItemList):
        return tuple(item for item in items if item.id not in gone)
    folders = {id[: id.rfind("/") + 1] for id in gone}

    def rest(run: Run) -> Run:
        if run.folder not in folders:
            return run
        names = [name for name in run.names.listed() if run.folder + name not in gone]
        return replace(run, names=Names.of(names))

    return ItemList(map(rest, items.runs))


def relabeled(
    items: Sequence[Item], change: Callable[[int, str], tuple[int, str] | None]
) -> Sequence[Item]:
    """The items with other classes.

    change: maps label and class name to the new ones, or to None to leave the class out.
    """
    change = cache(change)

    def rename(part: Changed) -> Changed | None:
        new = change(part.label, part.classname)
        return None if new is None else replace(part, label=new[0], classname=new[1])

    if isinstance(items, ItemList):
        return ItemList(filter(None, map(rename, items.runs)))
    return tuple(filter(None, map(rename, items)))


def digest_of(roles: Iterable[tuple[str, Iterable[Item]]]) -> str:
    """SHA-256 over one `role<TAB>item id<TAB>label` line per item, in order."""
    sha = hashlib.sha256()
    for role, items in roles:
        for part in parts(items):
            sha.update(lines_of_part(role, part, f"{part.label}"))
    return sha.hexdigest()


def lines_of_part(role: str, part: Part, said: str) -> bytes:
    """One line `role<TAB>item id<TAB>said` per item of a part, encoded."""
    end, start = f"\t{said}\n", f"{role}\t"
    return f"{start}{f'{end}{start}'.join(part.ids)}{end}".encode()
