"""A data set with a person's own class names or prompt templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fewshot_bench.dataset import Dataset, DatasetCard, Stamp, Stamped
from fewshot_bench.errors import UsageError, unknown
from fewshot_bench.task import Item

Names = Sequence[str] | Mapping[str, str]


@dataclass(frozen=True)
class Customized:
    """A data set under other class names and templates; images, labels and lists stay."""

    inner: Dataset
    classnames: Names | None
    templates: tuple[str, ...] | None

    def card(self) -> DatasetCard:
        """The card with the names and templates that were given."""
        card = self.inner.card()
        if self.classnames is not None:
            card = replace(card, classnames=renamed(card, self.classnames))
        if self.templates is not None:
            card = replace(card, custom_templates=self.templates)
        return card

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """The pools, with the names that were given."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        return self.inner.read(item)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the image's file where the data set has stamps."""
        return self.inner.stamp(item) if isinstance(self.inner, Stamped) else None

    @cached_property
    def _pools(self) -> Mapping[str, tuple[Item, ...]]:
        names = self.card().classnames
        return {
            role: tuple(replace(item, classname=names[item.label]) for item in items)
            for role, items in self.inner.items().items()
        }


def customized(dataset: Any, classnames: Any, templates: Any) -> Any:
    """The data set itself, or with other names and templates where some were given."""
    if classnames is None and templates is None:
        return dataset
    return Customized(dataset, classnames, None if templates is None else tuple(templates))


def renamed(card: DatasetCard, names: Names) -> tuple[str, ...]:
    """Class names by label: a whole list, or a mapping of old names to new ones."""
    if isinstance(names, Mapping):
        for old in names:
            if old not in card.classnames:
                raise unknown(f"class of {card.name}", old, card.classnames, "--classnames")
        return tuple(names.get(name, name) for name in card.classnames)
    if len(names) != len(card.classnames):
        raise UsageError(
            f"--classnames has {len(names)} names, '{card.name}' has {len(card.classnames)} "
            f"classes: expected one name per class, in the order of fsbench show {card.name}"
        )
    return tuple(names)
