"""Data sets in CoOp's layout: a split file of relative paths beside a folder of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, UsageError
from fewshot_bench.api.sources import load_split, one_place, one_spelling
from fsbench_datasets.advice import displaced, listed, public_steps, root_above
from fsbench_datasets.catalog import PublicSet, by_split_file, places, split_file_places
from fsbench_datasets.disk import subfolders
from fsbench_datasets.listed import ListedImages, Loaded, PublicImages, Steps
from fsbench_datasets.split_lists import classnames_of


@dataclass(frozen=True)
class SplitFile:
    """Lists in a split file of CoOp's schema; the first existing path in `places` is used.

    absent: see `Lists.absent`; damaged: the fix that is appended to the error of a damaged file.
    """

    name: str
    places: tuple[Path, ...]
    absent: Callable[[], tuple[str, str]]
    damaged: str = ""

    def found(self) -> bool:
        """True when the file exists."""
        return any(path.is_file() for path in self.places)

    def load(self) -> Loaded:
        """The lists of the file; DataMissingError when it is damaged."""
        path = next((path for path in self.places if path.is_file()), self.places[0])
        try:
            pools = load_split(path)
        except DataMissingError as error:
            raise DataMissingError(f"data set '{self.name}': {error}{self.damaged}") from None
        return Loaded(pools, classnames_of(pools))


def open_split_set(entry: PublicSet, roots: Sequence[Path]) -> PublicImages:
    """A set of the catalog with a published split file, searched for below every data root."""
    return PublicImages(
        entry.card(),
        _public_split_file(entry, roots),
        places(roots, entry.images),
        public_steps(entry, roots),
    )


def _public_split_file(entry: PublicSet, roots: Sequence[Path]) -> SplitFile:
    damaged = (
        f" (delete it and run fsbench data prepare {entry.name}, or "
        f"fsbench splits import FILE --dataset {entry.name})"
    )
    return SplitFile(
        entry.name, split_file_places(entry, roots), partial(_absent, entry, roots), damaged
    )


def _absent(entry: PublicSet, roots: Sequence[Path]) -> tuple[str, str]:
    expected = split_file_places(entry, roots)[0].parent
    others = ", ".join(folder for folder in (*entry.folders[1:], "splits") if folder)
    what = (
        f"no {entry.split_file} in {expected} (nor in {others} or the data root itself, below "
        f"{listed(roots)})"
    )
    step = (
        f"fsbench data prepare {entry.name} fetches it; or fetch {entry.split_url} and run "
        f"fsbench splits import FILE --dataset {entry.name}"
    )
    elsewhere = displaced(roots, [entry.split_file or ""])
    if elsewhere is not None:
        root = root_above(elsewhere, entry.folders)
        mend = f"set FSBENCH_DATA to {root}" if root is not None else f"move it to {expected}"
        step = f"it is in {elsewhere}: {mend}; otherwise {step}"
    return what, step


def open_coop(argument: str) -> ListedImages:
    """The data set for `coop:PATH`: one split file, image paths start there or one level below."""
    folder = one_place(argument)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"coop:{argument}: {folder} {problem}, expected a folder with a split file and images"
        )
    split_file = _only_split_file(argument, folder)
    entry = by_split_file(split_file.name)
    name = f"coop:{one_spelling(folder)}"
    card = entry.card(name) if entry else DatasetCard(name, folder.resolve().name, ())
    steps = Steps(
        "image paths in the split file start from the folder or from one of its subfolders",
        "",
        "put them back, or take them out of the split file",
    )
    bases = (folder, *subfolders(folder))
    lists = SplitFile(name, (split_file,), lambda: (f"no {split_file}", "put it back"))
    return ListedImages(card, lists, bases, steps)


def _only_split_file(argument: str, folder: Path) -> Path:
    for pattern in ("split_zhou_*.json", "split*.json"):
        paths = sorted(folder.glob(pattern))
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise UsageError(f"coop:{argument}: expected one split file, found {names}; keep one")
        if paths:
            return paths[0]
    raise DataMissingError(
        f"coop:{argument}: no split_zhou_*.json or split*.json in {folder} "
        f"(for class folders without a split file use folder:{argument})"
    )
