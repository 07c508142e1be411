"""Data sets whose lists are in files separate from the image folder.

Main entry point: `ListedImages`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from fewshot_bench import DataMissingError, DatasetCard, Item
from fewshot_bench.api.sources import Pools, Recipe, Stamp, file_stamp
from fsbench_datasets.disk import file_size, read_file
from fsbench_datasets.pools import untested_note
from fsbench_datasets.recipes import recipe_of
from fsbench_datasets.split_lists import (
    ROLES,
    class_ids_of,
    copy_note,
    counts_of,
    lines_of,
    revision_of,
    shortened,
)

SAMPLE = 24


@dataclass(frozen=True)
class Loaded:
    """The pools in list order, class names by label, and notes for the card."""

    pools: Pools
    classnames: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Lists(Protocol):
    """The lists of a data set."""

    def found(self) -> bool:
        """True when there are lists to load."""
        ...

    def load(self) -> Loaded:
        """Load all lists; DataMissingError when they are damaged."""
        ...

    def absent(self) -> tuple[str, str]:
        """The missing files and where they are expected, and the step that fixes it."""
        ...


@dataclass(frozen=True)
class Steps:
    """Steps that fix a data set with missing images.

    place: where the images belong. prepare: the command that fetches them, beginning with "; or ",
        or an empty text. incomplete: the step when some images are missing, with `FOLDER`
        as placeholder for the image folder.
    hint: function from the paths of some listed images (none without lists) to the problem with
        the folders, or an empty text.
    """

    place: str
    prepare: str
    incomplete: str
    hint: Callable[[Sequence[str]], str] = lambda probes: ""

    def images(self, hint: str) -> str:
        """The step when no images are found: `hint`, or the general step if it is empty."""
        return hint or self.place + self.prepare


@dataclass(frozen=True)
class ListedImages:
    """One data set: its known facts, its lists, and the possible folders of its images."""

    known: DatasetCard
    lists: Lists
    image_places: tuple[Path, ...]
    steps: Steps

    def card(self) -> DatasetCard:
        """Known facts; also class names, counts and revision if the lists are present."""
        if not self.lists.found():
            return self.known
        loaded = self._loaded
        counts = counts_of(loaded.pools)
        own = copy_note(self.known, len(loaded.classnames), counts)
        return replace(
            self.known,
            classnames=loaded.classnames,
            class_ids=class_ids_of(loaded.classnames),
            counts=counts,
            revision=revision_of(loaded.pools, lines_of(self._sizes)),
            notes=(*self.known.notes, *loaded.notes, *own, *untested_note(loaded.pools)),
            folder=str(self._found_base or ""),
        )

    def items(self) -> Pools:
        """The pools in list order; DataMissingError when lists or images are missing.

        PermissionError if they are in a folder that this user may not enter.
        """
        pools, _ = self._loaded.pools, self._base
        missing = [
            item.id for item, size in zip(self._items(), self._sizes, strict=True) if size < 0
        ]
        if missing:
            _refuse_locked(self._base, missing)
            raise self._incomplete(missing)
        return pools

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return read_file(self._base / item.id)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one image file; None when it is missing."""
        return file_stamp(self._base / item.id)

    @cached_property
    def _loaded(self) -> Loaded:
        if not self.lists.found():
            raise self._missing(self._no_lists())
        return self.lists.load()

    def _items(self) -> Iterator[Item]:
        return (item for role in ROLES for item in self._loaded.pools[role])

    @cached_property
    def _sizes(self) -> list[int]:
        """Size in bytes of every listed image; -1 if it is missing."""
        base = self._found_base
        return [-1 if base is None else file_size(f"{base}/{item.id}") for item in self._items()]

    @cached_property
    def _base(self) -> Path:
        if self._found_base is None:
            for base in self.image_places:
                _refuse_locked(base, [pool[0].id for pool in self._loaded.pools.values() if pool])
            raise self._missing(self._no_images())
        return self._found_base

    @cached_property
    def _found_base(self) -> Path | None:
        """The folder with most images of a spread-out sample of the lists; None if none has any."""
        sample = [item.id for pool in self._loaded.pools.values() for item in _spread(pool)]
        held = {
            base: sum(file_size(f"{base}/{id}") >= 0 for id in sample)
            for base in self.image_places
            if base.is_dir()
        }
        best = max(held, key=lambda base: held[base], default=None)
        return best if best is not None and held[best] else None

    def _no_lists(self) -> str:
        what, step = self.lists.absent()
        if any(base.is_dir() for base in self.image_places):
            return f"{what} ({step})"
        wanted = ", ".join(map(str, self.image_places))
        steps = self.steps.hint(()) or f"{self.steps.place}; or {step}"
        return f"{steps}; {what}, and no images folder (expected one of {wanted})"

    def _no_images(self) -> str:
        probes = [pool[0].id for pool in self._loaded.pools.values() if pool]
        there = [base for base in self.image_places if base.is_dir()]
        if not there:
            wanted = ", ".join(map(str, self.image_places))
            steps = self.steps.images(self.steps.hint(probes))
            return f"{steps}; no images folder: expected one of {wanted}"
        deep = next(filter(None, (_too_deep(base, probes[0]) for base in there)), "")
        hint = deep or self.steps.hint(probes)
        foreign = "" if deep else self._foreign()
        steps = f"{foreign}{self.steps.images(hint)}"
        return f"no images {probes} in {', '.join(map(str, there))} ({steps})"

    def _foreign(self) -> str:
        """A hint if the number of classes in the lists differs from the published set's."""
        count, expected = len(self._loaded.classnames), self.known.expected_classes
        if not expected or count == expected:
            return ""
        return (
            f"its lists have {count} classes, {self.known.name} has {expected}: perhaps these are "
            "the lists of another set; otherwise "
        )

    def _incomplete(self, missing: Sequence[str]) -> DataMissingError:
        mend = self.steps.incomplete.replace("FOLDER", str(self._base))
        steps = "; or ".join(filter(None, (_too_deep(self._base, missing[0]), mend)))
        return self._missing(
            f"{len(missing)} of {len(self._sizes)} listed images are not in {self._base}: "
            f"{shortened(missing)} ({steps})"
        )

    def _missing(self, what: str) -> DataMissingError:
        return DataMissingError(f"data set '{self.known.name}': {what}")


@dataclass(frozen=True)
class PublicImages(ListedImages):
    """`ListedImages` of a catalog set, whose files can be fetched."""

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        return recipe_of(self.known.name)


def _spread(pool: Sequence[Item]) -> list[Item]:
    step = max(1, len(pool) // SAMPLE)
    return list(pool[::step][:SAMPLE])


def _refuse_locked(base: Path, ids: Iterable[str]) -> None:
    """PermissionError if one of these images is in a folder that this user may not enter."""
    for id in ids:
        try:
            os.stat(base / id)
        except PermissionError:
            raise
        except (OSError, ValueError):
            pass


def _too_deep(base: Path, id: str) -> str:
    """The step for an image that is in `a/a` instead of the listed folder `a`; else empty."""
    folder = (base / id).parent
    deep = folder / folder.name
    if file_size(deep / Path(id).name) < 0:
        return ""
    return f"unpacked one level too deep: move the content of {deep} to {folder}"
