"""Wrappers of data sets: other class names or templates, or without some images.

`customize` and `Without` are the entry points; images and labels of the inner data set never
change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable
from unicodedata import normalize

from fewshot_bench.api.dataset import Dataset, DatasetCard
from fewshot_bench.api.items import Item, relabeled, without
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import few, in_prompts

# Key in `RunSpec.data`: data set to the ids of its left-out images.
SKIPPED = "skipped"
# Methods that a data set may lack; the harness asks whether it has them.
OPTIONAL = ("stamp", "keep_split", "undivided", "look_again", "recipe", "unnamed")

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


def placeholder_names(count: int) -> tuple[str, ...]:
    """Class names of labels that have none (`Nameless`)."""
    return tuple(f"class {label}" for label in range(count))


class Wrapper:
    """A data set around another one, with the same optional methods."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        # Protocols such as `Stamped` look for attributes of the instance.
        for name in OPTIONAL:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "inner":
            # Copying asks for names before `inner` is set.
            raise AttributeError(name)
        return getattr(self.inner, name)


class _Override(Wrapper):
    """A wrapper with a card and pools of its own; kept splits are those of the whole data set."""

    def __init__(self, inner: Any, *values: Any) -> None:
        super().__init__(inner)
        if hasattr(inner, "undivided"):
            self.undivided = lambda: type(self)(inner.undivided(), *values)

    def card(self) -> DatasetCard:
        """The card, with a note on the change."""
        card: DatasetCard = self._card
        return card

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The changed pools."""
        pools: Mapping[str, Sequence[Item]] = self._pools
        return pools

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        content: bytes = self.inner.read(item)
        return content


class Without(_Override):
    """The data set `inner` without the images `skipped`; classes and labels stay."""

    def __init__(self, inner: Any, skipped: tuple[str, ...]) -> None:
        super().__init__(inner, skipped)
        self.skipped = skipped

    @cached_property
    def _card(self) -> DatasetCard:
        card: DatasetCard = self.inner.card()
        line = f"damaged or missing images ({len(self.skipped)}): {few(self.skipped)}"
        counts = {role: len(items) for role, items in self._pools.items()}
        return replace(card, counts=counts, left_out=(*card.left_out, line))

    @cached_property
    def _pools(self) -> Mapping[str, Sequence[Item]]:
        return {role: without(items, self.skipped) for role, items in self.inner.items().items()}


class Customized(_Override):
    """The data set `inner` under other class names or templates; images, labels and lists stay."""

    def __init__(
        self, inner: Any, classnames: Names | None, templates: tuple[str, ...] | None
    ) -> None:
        super().__init__(inner, classnames, templates)
        self.classnames, self.templates = classnames, templates

    @cached_property
    def _card(self) -> DatasetCard:
        card: DatasetCard = self.inner.card()
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
        names = self._card.classnames
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
    if not isinstance(names, Mapping):
        if len(names) == len(card.classnames):
            return tuple(names)
        raise UsageError(
            f"--classnames has {len(names)} names, '{card.name}' has {len(card.classnames)} "
            "classes: expected one name per class, in the order of the labels"
        )
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
    return [label for label, name in enumerate(names) if wanted in (name, normalize("NFC", name))]


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
