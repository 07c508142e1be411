"""Test-only ImageNet variants, in folders named by synset or by class number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, Item
from fewshot_bench.api.sources import ItemList, Names, Pools, Recipe, Run, Stamp, file_stamp
from fsbench_datasets.advice import place_step, unlisted_problem
from fsbench_datasets.catalog import PublicSet, places
from fsbench_datasets.disk import read_file, subfolders
from fsbench_datasets.recipes import recipe_of
from fsbench_datasets.synsets import (
    class_files,
    numbered_synsets,
    synset_card,
    synset_names,
)


@dataclass(frozen=True)
class Variant:
    """Test images of ImageNet classes; ids are `<class folder>/<file>`.

    The classes are those that have a folder, in ImageNet's order. numbers: folders are named by
    class number (0 to 999) instead of by synset.
    """

    known: DatasetCard
    bases: tuple[Path, ...]
    numbers: bool
    step: Callable[[], str]

    def card(self) -> DatasetCard:
        """Known facts; also classes, counts and revision if the images are present."""
        return self._card

    @cached_property
    def _card(self) -> DatasetCard:
        if self._found is None:
            return self.known
        return synset_card(self.known, tuple(self._classes), self._pools, self._found, self._found)

    def items(self) -> Pools:
        """An empty `train` pool and the `test` pool."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return read_file(self._base / item.id)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self._base / item.id)

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        return recipe_of(self.known.name)

    @cached_property
    def _found(self) -> Path | None:
        """The first of `bases` that contains a class folder."""
        named = ((base, (f.name for f in subfolders(base))) for base in self.bases)
        return next((base for base, names in named if any(map(self._synset, names))), None)

    @property
    def _base(self) -> Path:
        if self._found is None:
            wanted = " or ".join(map(str, self.bases))
            raise DataMissingError(
                f"data set '{self.known.name}': {self.step()}; no images: expected one folder per "
                f"class, {self._kind()}, in {wanted}"
            )
        return self._found

    def _wrong(self, what: str) -> DataMissingError:
        return DataMissingError(f"data set '{self.known.name}': {what} ({self.step()})")

    def _kind(self) -> str:
        return "numbered 0 to 999" if self.numbers else "named by synset (n01440764, ...)"

    def _synset(self, folder: str) -> str:
        """The synset of a class folder; empty for a folder of another kind."""
        if self.numbers:
            return numbered_synsets().get(folder, "")
        return folder if folder in synset_names() else ""

    @cached_property
    def _classes(self) -> dict[str, tuple[str, Names]]:
        """Synset to class folder and file names, in ImageNet's order."""
        base = self._base
        try:
            files = class_files(base)
        except DataMissingError as error:
            raise self._wrong(str(error)) from None
        for folder in files:
            if not self._synset(folder):
                raise self._wrong(
                    f"{base} holds the folder '{folder}': expected class folders only, "
                    f"{self._kind()}; remove it"
                )
        classes = {self._synset(folder): (folder, names) for folder, names in files.items()}
        return dict(sorted(classes.items()))

    @cached_property
    def _pools(self) -> Pools:
        names = synset_names()
        test = (
            Run(f"{folder}/", label, names[synset], files)
            for label, (synset, (folder, files)) in enumerate(self._classes.items())
        )
        return {"train": (), "test": ItemList(test)}


def open_variant(entry: PublicSet, roots: Sequence[Path]) -> Variant:
    """A test-only variant of ImageNet, searched for below every data root."""
    return Variant(
        entry.card(),
        places(roots, entry.images),
        entry.layout == "numbers",
        partial(_step, entry, roots),
    )


def _step(entry: PublicSet, roots: Sequence[Path]) -> str:
    names = numbered_synsets() if entry.layout == "numbers" else synset_names()
    return unlisted_problem(
        entry, roots, lambda folder: any(below.name in names for below in subfolders(folder))
    ) or (
        f"{place_step(entry, roots)}; or fsbench data prepare {entry.name} fetches them or says "
        f"how to get them: {entry.sources[0]}"
    )
