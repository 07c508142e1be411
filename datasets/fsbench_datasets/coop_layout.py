"""Data sets in CoOp's layout: a split file of relative paths beside a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError, data_roots
from fsbench_datasets.catalog import PublicSet, by_split_file, public_set
from fsbench_datasets.split_file import (
    Pools,
    classnames_of,
    counts_of,
    file_sizes,
    load_split,
    revision_of,
)


@dataclass(frozen=True)
class CoopLayout:
    """One data set: what is known of it, and where its split file and images may lie."""

    known: DatasetCard
    split_places: tuple[Path, ...]
    image_places: tuple[Path, ...]
    next_step: str
    known_classes: int | None = None

    def card(self) -> DatasetCard:
        """Known facts; class names, counts and revision as well where the split file is there."""
        if self._split_file is None:
            return self.known
        pools, names = self._pools, classnames_of(self._pools)
        return replace(
            self.known,
            classnames=names,
            counts=counts_of(pools),
            revision=self._revision,
            notes=(*self.known.notes, *self._differences(len(names))),
            folder=str(self._first_base() or ""),
        )

    def items(self) -> Pools:
        """The pools in the order of the split file; DataMissingError when anything is absent."""
        _ = self._base
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return (self._base / item.id).read_bytes()

    @cached_property
    def _split_file(self) -> Path | None:
        return next((path for path in self.split_places if path.is_file()), None)

    @cached_property
    def _pools(self) -> Pools:
        if self._split_file is None:
            places = ", ".join(str(path.parent) for path in self.split_places)
            raise self._missing(f"no {self.split_places[0].name} in {places}")
        return load_split(self._split_file)

    @cached_property
    def _revision(self) -> str:
        base = self._first_base()
        return revision_of(self._pools, file_sizes(base, self._pools) if base else ())

    @cached_property
    def _base(self) -> Path:
        base = self._first_base()
        if base is None:
            places = ", ".join(map(str, self.image_places))
            raise self._missing(f"no images {self._probes()} in {places}")
        return base

    def _first_base(self) -> Path | None:
        """The first folder under which the first image of every pool lies."""
        probes = self._probes()
        for base in self.image_places:
            if all((base / probe).is_file() for probe in probes):
                return base
        return None

    def _probes(self) -> list[str]:
        return [items[0].id for items in self._pools.values() if items]

    def _missing(self, what: str) -> DataMissingError:
        return DataMissingError(f"data set '{self.known.name}': {what} ({self.next_step})")

    def _differences(self, classes: int) -> Iterable[str]:
        expected = self.known.expected_counts
        if expected and (counts_of(self._pools), classes) != (expected, self.known_classes):
            published = "/".join(str(count) for count in expected.values())
            found = "/".join(str(count) for count in counts_of(self._pools).values())
            yield (
                f"this is not the published split: {classes} classes and {found} images "
                f"(train/val/test), published are {self.known_classes} and {published}; "
                "its numbers cannot be compared with published ones"
            )


def open_public(name: str) -> CoopLayout:
    """A set of the catalog, searched for below every data root."""
    entry, roots = public_set(name), data_roots()
    split_file = entry.split_file or ""
    return CoopLayout(
        _known_card(entry, name),
        tuple(root / folder / split_file for root in roots for folder in (*entry.folders, "")),
        tuple(root / folder for root in roots for folder in entry.images),
        f"set FSBENCH_DATA to the folder that holds {entry.folders[0]}/; "
        f"split file: {entry.split_url}, images: {entry.sources[0]}",
        entry.classes,
    )


def open_coop(argument: str) -> CoopLayout:
    """A folder that holds one split file of CoOp's schema, and images in it or one level below."""
    folder = Path(argument).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"coop:{argument}: {folder} {problem}, expected a folder with a split file and images"
        )
    split_file = _only_split_file(argument, folder)
    entry = by_split_file(split_file.name)
    below = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    name = f"coop:{argument}"
    known = _known_card(entry, name) if entry else DatasetCard(name, folder.resolve().name, ())
    next_step = "image paths in the split file start from the folder or from one of its subfolders"
    classes = entry.classes if entry else None
    return CoopLayout(known, (split_file,), (folder, *below), next_step, classes)


def _only_split_file(argument: str, folder: Path) -> Path:
    for pattern in ("split_zhou_*.json", "split*.json"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"coop:{argument}: expected one split file, found {names}; keep one")
        if found:
            return found[0]
    raise DataMissingError(
        f"coop:{argument}: no split_zhou_*.json or split*.json in {folder} "
        f"(for class folders without a split file use folder:{argument})"
    )


def _known_card(entry: PublicSet, name: str) -> DatasetCard:
    return DatasetCard(
        name,
        entry.title,
        (),
        (entry.template,),
        expected_counts=entry.counts,
        license=entry.license,
        sources=entry.sources,
        notes=entry.notes,
    )


caltech101 = partial(open_public, "caltech101")
oxford_pets = partial(open_public, "oxford_pets")
stanford_cars = partial(open_public, "stanford_cars")
oxford_flowers = partial(open_public, "oxford_flowers")
food101 = partial(open_public, "food101")
sun397 = partial(open_public, "sun397")
dtd = partial(open_public, "dtd")
eurosat = partial(open_public, "eurosat")
ucf101 = partial(open_public, "ucf101")
