"""Wrappers of data sets: other class names or templates, or without some images.

`customize` and `Without` are the entry points; images and labels of `inner` never change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from unicodedata import normalize

from fewshot_bench.api.dataset import (
    Dataset,
    DatasetCard,
    Keeping,
    Relisting,
    Stamp,
    Stamped,
    Undivided,
)
from fewshot_bench.api.items import Item, relabeled, without
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import few, in_prompts

# Key in `RunSpec.data`: data set to the ids of its left-out images.
SKIPPED = "skipped"

Names = Sequence[str] | Mapping[str, str]


def data_of_target(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `RunSpec.data` that holds for a target: its revision has no own templates."""
    return {name: value for name, value in data.items() if name == SKIPPED}


@runtime_checkable
class Nameless(Protocol):
    """A data set whose files may hold labels without class names.

    It cannot be used without names; if all names are given, they replace its placeholders.
    """

    def unnamed(self) -> Dataset:
        """The same data set, with placeholders for unknown class names."""
        ...


def placeholder_names(count: int) -> tuple[str, ...]:
    """Class names of labels that have none (`Nameless`)."""
    return tuple(f"class {label}" for label in range(count))


class Override(ABC):
    """A wrapper of a data set: images come from `inner`, card and pools are its own.

    Subclasses are frozen dataclasses with a field `inner` that define `_card` and `_pools`.
    """

    inner: Dataset

    @property
    @abstractmethod
    def _card(self) -> DatasetCard: ...

    @property
    @abstractmethod
    def _pools(self) -> Mapping[str, Sequence[Item]]: ...

    def card(self) -> DatasetCard:
        """The card, with a note on the change."""
        return self._card

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The changed pools."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        return self.inner.read(item)

    def stamp(self, item: Item) -> Stamp | None:
        """The file stamp of the image; None if the data set has no stamps."""
        return self.inner.stamp(item) if isinstance(self.inner, Stamped) else None

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Keep the inner data set's whole split, left-out images included, if it makes one."""
        return self.inner.keep_split(beside=beside) if isinstance(self.inner, Keeping) else None

    def undivided(self) -> Dataset:
        """The same override of the inner data set without held-out training images."""
        inner: Dataset = self.inner
        if isinstance(inner, Undivided):
            inner = inner.undivided()
        return replace(self, inner=inner)  # type: ignore[type-var]

    def look_again(self) -> Sequence[str]:
        """Check every file if the inner data set caches its file listing."""
        return self.inner.look_again() if isinstance(self.inner, Relisting) else ()


@dataclass(frozen=True)
class Without(Override):
    """The data set `inner` without the images `skipped`; classes and labels stay."""

    inner: Dataset
    skipped: tuple[str, ...]

    @cached_property
    def _card(self) -> DatasetCard:
        card = self.inner.card()
        line = f"damaged or missing images ({len(self.skipped)}): {few(self.skipped)}"
        counts = {role: len(items) for role, items in self._pools.items()}
        return replace(card, counts=counts, left_out=(*card.left_out, line))

    @cached_property
    def _pools(self) -> Mapping[str, Sequence[Item]]:
        return {role: without(items, self.skipped) for role, items in self.inner.items().items()}


@dataclass(frozen=True)
class Customized(Override):
    """The data set `inner` under other class names or templates; images, labels and lists stay."""

    inner: Dataset
    classnames: Names | None
    templates: tuple[str, ...] | None

    @cached_property
    def _card(self) -> DatasetCard:
        card = self.inner.card()
        if not card.classnames:
            self.inner.items()  # Raises DataMissingError for a missing data set.
        if self.classnames is not None:
            names = renamed(card, self.classnames)
            _refuse_shared(card, names)
            notes = (*card.notes, "class names by --classnames")
            # Renaming a class does not change its identity, which a placeholder is not.
            nameless = card.identities == placeholder_names(len(names))
            ids = card.class_ids if nameless else card.identities
            card = replace(card, classnames=names, notes=notes, class_ids=ids)
        if self.templates is not None:
            notes = (*card.notes, "custom prompts by --templates")
            card = replace(card, custom_templates=self.templates, notes=notes)
        return card

    @cached_property
    def _pools(self) -> Mapping[str, Sequence[Item]]:
        names = self.card().classnames
        return {
            role: relabeled(items, lambda label, _: (label, names[label]))
            for role, items in self.inner.items().items()
        }


def customize(dataset: Any, classnames: Any, templates: Any) -> Any:
    """The data set with the given class names and templates; unchanged if both are None."""
    if classnames is None and templates is None:
        return dataset
    whole = classnames is not None and not isinstance(classnames, Mapping)
    if whole and isinstance(dataset, Nameless):
        dataset = dataset.unnamed()
    return Customized(dataset, classnames, None if templates is None else tuple(templates))


def renamed(card: DatasetCard, names: Names) -> tuple[str, ...]:
    """Class names by label. names: a full list, or a mapping of old names to new ones.

    A mapping may also use class ids as keys, and must if two classes share a name.
    """
    if isinstance(names, Mapping):
        return _map_names(card, names)
    if len(names) != len(card.classnames):
        raise UsageError(
            f"--classnames has {len(names)} names, '{card.name}' has {len(card.classnames)} "
            "classes: expected one name per class, in the order of the labels"
        )
    return tuple(names)


def _map_names(card: DatasetCard, names: Mapping[str, str]) -> tuple[str, ...]:
    classnames = list(card.classnames)
    for old, new in names.items():
        labels = _labels_of(card.class_ids, old) or _labels_of(card.classnames, old)
        if not labels:
            keys = [*card.classnames, *card.class_ids]
            raise unknown(f"class of {card.name}", old, keys, "--classnames")
        if len(labels) > 1:
            ids = ", ".join(card.class_ids[label] for label in labels if card.class_ids)
            raise UsageError(
                f"--classnames: '{old}' is the name of {len(labels)} classes of '{card.name}' "
                f"(labels {', '.join(map(str, labels))}): expected a class id"
                f"{f' ({ids})' if ids else ', or a list of all names'}"
            )
        classnames[labels[0]] = new
    return tuple(classnames)


def _labels_of(names: Sequence[str], wanted: str) -> list[int]:
    """The labels of the classes of a name, in whichever Unicode form both are written."""
    return [
        label
        for label, name in enumerate(names)
        if name == wanted or normalize("NFC", name) == wanted
    ]


def _refuse_shared(card: DatasetCard, names: Sequence[str]) -> None:
    """UsageError if classes with different names get new names that are one in prompts."""
    labels: dict[str, list[int]] = {}
    for label, name in enumerate(names):
        labels.setdefault(in_prompts(name), []).append(label)
    for sharing in labels.values():
        changed = any(names[label] != card.classnames[label] for label in sharing)
        if changed and len({card.classnames[label] for label in sharing}) > 1:
            given = "' or '".join(dict.fromkeys(names[label] for label in sharing))
            raise UsageError(
                f"--classnames: '{given}' is given to {len(sharing)} classes of '{card.name}' "
                f"(labels {', '.join(map(str, sharing))}): no prompt would tell them apart; give "
                "each its own name"
            )
