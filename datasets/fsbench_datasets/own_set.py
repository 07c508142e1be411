"""Data sets built from labeled rows of a `Source`: manifest, tar shards, hub set or package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from fewshot_bench import Dataset, DatasetCard, Item, UsageError
from fewshot_bench.api.sources import SIMPLE_TEMPLATES, Pools, Stamp, placeholder_names
from fsbench_datasets.labels import Labeled
from fsbench_datasets.pools import check_classes, undivided, untested_note
from fsbench_datasets.split_lists import class_ids_of, counts_of, lines_of, revision_of

Complete = Callable[[Pools, Dataset | None], tuple[Pools, str]]


def twins_refused(name: str, twins: Sequence[str], where: Sequence[str] = ()) -> UsageError:
    """The error for two class names that prompts cannot distinguish; `where`: their places."""
    named = " and ".join(f"'{text}'" for text in twins)
    places = f" ({' and '.join(where)})" if where else ""
    mend = "rename one" if where else "mend one, or give all names with --classnames FILE"
    return UsageError(
        f"{name}: the class names {named}{places} differ in case, blanks or underscores alone, "
        f"which prompts cannot tell apart: expected one class, or distinct names ({mend})"
    )


@dataclass(frozen=True)
class Listing:
    """The labeled images of a source and the facts for its card.

    contents: bytes that change when images are replaced; they enter the revision.
    """

    labeled: Labeled
    contents: tuple[bytes, ...] = ()
    templates: tuple[str, ...] = SIMPLE_TEMPLATES
    license: str = "unknown"
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""


class Source(Protocol):
    """Lists and reads the images of an `OwnSet`."""

    def listing(self) -> Listing:
        """All images with labels; DataMissingError or UsageError when they cannot be listed."""
        ...

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        ...

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of an image; None when it cannot be determined."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """A `Complete` function whose split can be stored in a file."""

    def keep(self, given: Pools, made: Pools, *, beside: bool) -> Path | None:
        """Store the pools `made` from the pools `given`; returns the file, or None."""
        ...


@dataclass(frozen=True)
class OwnSet:
    """The data set of a source.

    complete: fills in the pools that are not listed; also returns a note. placeholders: accept
    labels without class names (and near-duplicate names), because all names are given elsewhere.
    lenient: undivided, classes may have no train images.
    """

    name: str
    title: str
    source: Source
    complete: Complete
    placeholders: bool = False
    lenient: bool = False

    def card(self) -> DatasetCard:
        """Facts, class names and counts."""
        pools, note = self._lists
        listing = self._listing
        # Prompt templates that belong to the source are contents, too.
        own = listing.templates != SIMPLE_TEMPLATES
        own_templates = lines_of(listing.templates) if own else ()
        return DatasetCard(
            self.name,
            self.title,
            self._classnames,
            listing.templates,
            counts=counts_of(pools),
            license=listing.license,
            revision=revision_of(pools, (*listing.contents, *own_templates)),
            sources=listing.sources,
            notes=(note, *untested_note(pools), *listing.notes),
            folder=listing.folder,
            class_ids=class_ids_of(self._classnames),
        )

    def items(self) -> Pools:
        """The pools; DataMissingError or UsageError when the source cannot be used."""
        return self._lists[0]

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return self.source.read(item.id)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one image; None when it cannot be determined."""
        return self.source.stamp(item.id)

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Store a split that was made here; None if `complete` is no `Keeper` or stores nothing."""
        if not isinstance(self.complete, Keeper):
            return None
        return self.complete.keep(self._listing.labeled.pools, self._lists[0], beside=beside)

    def undivided(self) -> OwnSet:
        """The same data set, with no images held out for validation or testing."""
        return replace(self, complete=undivided)

    def unnamed(self) -> OwnSet:
        """The same data set, with placeholder names for labels without class names."""
        return replace(self, placeholders=True)

    @cached_property
    def _listing(self) -> Listing:
        return self.source.listing()

    @cached_property
    def _lists(self) -> tuple[Pools, str]:
        names = self._classnames
        whole = self.undivided()
        vars(whole)["_listing"] = self._listing
        # Registered sets are divided image by image, as they always were.
        own = whole if ":" in self.name else None
        pools, note = self.complete(self._listing.labeled.pools, own)
        lenient = self.lenient and self.complete is undivided
        check_classes(self.name, pools, lenient=lenient)
        trained = {item.label for item in pools["train"]}
        absent = [name for label, name in enumerate(names) if label not in trained]
        if trained and absent and not lenient:
            raise UsageError(
                f"{self.name}: class '{absent[0]}' has no images: expected train images of every "
                "class (add some, or take the class out of the class names)"
            )
        return pools, note

    @cached_property
    def _classnames(self) -> tuple[str, ...]:
        labeled = self._listing.labeled
        if labeled.twins and not self.placeholders:
            raise twins_refused(self.name, labeled.twins)
        if labeled.classnames is not None:
            return labeled.classnames
        count = 1 + max(item.label for items in labeled.pools.values() for item in items)
        if not self.placeholders:
            raise UsageError(
                f"{self.name} has labels 0 to {count - 1} and no class names: give them with "
                f"--classnames FILE ({count} lines, in the order of the labels)"
            )
        return placeholder_names(count)
