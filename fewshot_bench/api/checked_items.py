"""Checks what `card()`, `items()`, `read()` and `stamp()` of a data set return.

`CheckedItems` is the entry point; the content of well-formed pools is checked by
`runner.preflight.check_items`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.dataset import DatasetCard, Stamp
from fewshot_bench.api.dataset_overrides import Wrapper
from fewshot_bench.api.items import Item, ItemList
from fewshot_bench.utils.errors import FsbenchError, PluginError
from fewshot_bench.utils.plugin_code import same_folder

_POOLS = "a mapping of train, val and test to sequences of Item"


class CheckedItems(Wrapper):
    """A data set that raises PluginError if it returns what is no card, no pools or no bytes.

    name: the name under which the data set was opened; the card must be of that name, or for
    `family:argument` of that family. blame: start of the message.
    """

    def __init__(self, inner: Any, name: str, blame: str) -> None:
        super().__init__(inner)
        self._name = name
        self._blame = blame
        self._checked: list[object] = []
        self._plain: Mapping[str, Sequence[Item]] = {}
        if hasattr(inner, "stamp"):
            self.stamp = self._check_stamp

    def card(self) -> DatasetCard:
        """The card of the data set."""
        with same_folder():
            card = self.inner.card()
        if not isinstance(card, DatasetCard):
            raise PluginError(
                f"{self._blame}: card() returned {card!r:.80}, expected a DatasetCard"
            )
        family, colon, _ = self._name.partition(":")
        if card.name != self._name and not (colon and card.name.startswith(f"{family}:")):
            # The name decides which published lists and picks the data set is compared with.
            raise PluginError(
                f"{self._blame}: its card has the name {card.name!r:.80}, expected that of the "
                f"registration, '{family}{colon}{'...' if colon else ''}'"
            )
        return card

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The pools of the data set, with labels of type int; the same objects are checked once."""
        with same_folder():
            pools: Any = self.inner.items()
        listed = list(pools.values()) if isinstance(pools, Mapping) else [pools]
        is_same_size = len(listed) == len(self._checked)
        if not is_same_size or any(a is not b for a, b in zip(listed, self._checked, strict=True)):
            problem = _pools_problem(pools)
            if problem:
                raise PluginError(f"{self._blame}: {problem}")
            self._checked = listed
            self._plain = {role: _with_plain_labels(pool) for role, pool in pools.items()}
        return dict(self._plain)

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        try:
            content: Any = self.inner.read(item)
        except SystemExit as error:
            raise self._failure("read", item, error) from error
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content)
        raise PluginError(
            f"{self._blame}: read() of '{item.id}' returned {_kind(content)}, expected the bytes "
            "of an image file"
        )

    def _check_stamp(self, item: Item) -> Stamp | None:
        """The stamp of an image file; None if it cannot be determined."""
        try:
            result: Any = self.inner.stamp(item)
        except FsbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure("stamp", item, error) from error
        if result is None or isinstance(result, Stamp):
            return result
        raise PluginError(
            f"{self._blame}: stamp() of '{item.id}' returned {result!r:.80}, expected a Stamp or "
            "None (file_stamp(path) gives that of a file)"
        )

    def _failure(self, function: str, item: Item, error: BaseException) -> PluginError:
        reason = error_text(error, type(self.inner))
        return PluginError(f"{self._blame}: {function}() of '{item.id}': {reason}")


def _pools_problem(pools: object) -> str:
    """Why `pools` are no pools of items; empty if they are."""
    if not isinstance(pools, Mapping):
        return f"items() returned {_kind(pools)}, expected {_POOLS}"
    for role, items in pools.items():
        problem = f"is {_kind(items)}, expected a sequence of Item (a tuple or a list)"
        if _is_sequence(items):
            entries: Iterable[Any] = items
            if isinstance(items, ItemList):
                # One item per run: the others differ in their names alone, which are texts.
                entries = (Item(run.folder or "-", run.label, run.classname) for run in items.runs)
            problem = next(filter(None, map(_item_problem, entries)), "")
        if problem:
            return f"items()[{role!r:.80}] {problem}"
    return ""


def _is_sequence(items: object) -> bool:
    if isinstance(items, str | bytes | Mapping):
        return False
    return isinstance(items, Sequence) or all(
        hasattr(type(items), name) for name in ("__len__", "__getitem__", "__iter__")
    )


def _item_problem(item: Any) -> str:
    if not isinstance(item, Item):
        return f"holds {item!r:.80}, expected an Item (id, label, class name)"
    if not isinstance(item.id, str) or not item.id or "\0" in item.id:
        return f"holds an item with the id {item.id!r:.80}, expected text without NUL characters"
    if not isinstance(item.label, Integral) or isinstance(item.label, bool):
        return f"holds item '{item.id:.80}' with the label {item.label!r:.80}, expected an integer"
    if not isinstance(item.classname, str):
        return f"holds item '{item.id:.80}' with the class name {item.classname!r:.80}, not text"
    return ""


def _with_plain_labels(items: Sequence[Item]) -> Sequence[Item]:
    """The same items; labels such as NumPy's, which JSON cannot hold, become int."""
    labels = [run.label for run in items.runs] if isinstance(items, ItemList) else None
    if all(type(label) is int for label in labels or (item.label for item in items)):
        return items
    return tuple(dataclasses.replace(item, label=int(item.label)) for item in items)


def _kind(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
