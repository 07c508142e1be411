"""`folder:PATH`: one folder per class, with or without train, val and test folders.

Main entry point: `open_folder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.api.sources import (
    ItemList,
    Pools,
    Run,
    Stamp,
    file_stamp,
    one_place,
    one_spelling,
    packed,
)
from fsbench_datasets.class_folders import Found, find_images
from fsbench_datasets.disk import file_size, read_file
from fsbench_datasets.kept_lists import keep, lists_digest
from fsbench_datasets.labels import tidy_name
from fsbench_datasets.pools import (
    check_classes,
    check_holdout,
    complete,
    share_note,
    undivided,
    untested_note,
)
from fsbench_datasets.split_lists import (
    ROLES,
    classnames_of,
    counts_of,
    lines_of,
    revision_of,
    shortened,
)
from fsbench_datasets.stored_split import SplitPlaces, kept_note, load_kept
from fsbench_datasets.trees import look_again

SPLIT_NAME = "fsbench-split.json"


@dataclass(frozen=True)
class ImageFolder:
    """A data set made of the images below one folder; ids are paths relative to it.

    `find_images` defines the classes.

    holdout: share of each class held out as test images if there are no test folders; splits:
    folder where such splits are stored; lenient: images of a stored split may be missing, and with
    `whole` classes may have no images or no train images; whole: hold out no images for validation
    or testing.
    """

    name: str
    root: Path
    holdout: float | None = None
    splits: Path | None = None
    lenient: bool = False
    whole: bool = False

    def card(self) -> DatasetCard:
        """Facts and counts; class names are folder names in case-sensitive order."""
        return self._card

    @cached_property
    def _card(self) -> DatasetCard:
        pools, notes, _ = self._lists
        return DatasetCard(
            self.name,
            self.root.name,
            classnames_of(pools),
            counts=counts_of(pools),
            revision=self._revision,
            notes=(*notes, *untested_note(pools)),
            folder=str(self.root),
            left_out=self._found.left_out,
        )

    def items(self) -> Pools:
        """The pools; DataMissingError or UsageError when the folder cannot be used."""
        return self._lists[0]

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return read_file(self.root / item.id)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the image file; None when it is missing."""
        return file_stamp(self.root / item.id)

    def look_again(self) -> Sequence[str]:
        """Read all file sizes anew; returns the folders whose cached sizes differ."""
        return look_again(self.root)

    def undivided(self) -> ImageFolder:
        """The same data set, with no images held out for validation or testing."""
        return replace(self, whole=True)

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Store a split that was made here; None if there are test folders, or with `whole`."""
        if "test" in self._found.pools or self.whole:
            return None
        return self._places.keep(self._lists[0], beside=beside)

    @property
    def _places(self) -> SplitPlaces:
        return SplitPlaces.of(self.root / SPLIT_NAME, self.root, self.holdout, self.splits)

    @cached_property
    def _revision(self) -> str:
        pools = {role: packed(items) for role, items in self._lists[0].items()}
        outside = [file_size(self.root / id) for id in self._lists[2]]
        made_of = f"revision {lists_digest(pools)} {self._found.tree.sizes_digest()} {outside}"
        return keep(made_of, str, lambda: revision_of(pools, self._sizes(pools)))

    def _sizes(self, pools: Mapping[str, ItemList]) -> Iterator[bytes]:
        """A line per image with its size in bytes, -1 if missing; sizes are unpacked per folder."""
        folders = self._found.folders
        lines: dict[int, bytes] = {}
        for folder, runs in _by_folder(pools).items():
            sizes = folders[folder].bytes_by_name() if folder in folders else {}
            for run in runs:
                names = run.names.listed()
                absent = [name for name in names if name not in sizes]
                sizes |= {name: file_size(self.root / (folder + name)) for name in absent}
                lines[id(run)] = b"".join(lines_of(sizes[name] for name in names))
        return (lines[id(run)] for role in ROLES for run in pools[role].runs)

    @cached_property
    def _found(self) -> Found:
        return find_images(self.name, self.root, lenient=self.lenient and self.whole)

    @cached_property
    def _lists(self) -> tuple[Pools, tuple[str, ...], tuple[str, ...]]:
        """The pools, notes, and the ids that are in a stored split but not in the tree."""
        given = self._found.pools
        if self.whole:
            pools, note = undivided(given)
            check_classes(self.name, pools, lenient=self.lenient)
            return pools, (note,), ()
        if "test" in given:
            pools, note = self._make()
            return pools, (note,), ()
        if "train" in given and self.holdout is None:
            raise UsageError(
                f"{self.root} has train/ but no test/ with class folders: expected train/ and "
                "test/ (and val/ if there is one), or class folders only; --holdout 0.3 takes test "
                "images out of train/"
            )
        return self._read_kept()

    def _make(self) -> tuple[Pools, str]:
        whole = self.undivided()
        vars(whole)["_found"] = self._found
        pools, note = complete(self.name, self._found.pools, whole, self.holdout)
        check_classes(self.name, pools)
        return pools, note

    def _read_kept(self) -> tuple[Pools, tuple[str, ...], tuple[str, ...]]:
        """Load the stored split and note later images, or make a new split.

        DataMissingError when a listed image is absent, unless `lenient`.
        """
        note = share_note("val" in self._found.pools, self.holdout)
        stored = self._places.found()
        if stored is None:
            return self._make()[0], (kept_note(note, None),), ()
        pools = load_kept(stored)
        check_classes(self.name, pools)
        self._check_labels(pools, stored)
        outside, later = self._compare(pools, stored)
        for id in () if self.lenient else outside:
            self._refuse_absent(id, stored)
        return pools, (kept_note(note, stored), *filter(None, [later])), outside

    def _check_labels(self, pools: Pools, stored: Path) -> None:
        """UsageError if a stored split gives images another class than their folder.

        Its labels number its own classes, as class folders may have been added or removed since.
        """
        own = {run.folder: run.classname for p in self._found.pools.values() for run in p.runs}
        labels = {text: label for label, text in enumerate(sorted(classnames_of(pools)))}
        for folder, runs in _by_folder(pools).items():
            for run in runs:
                name, label = run.classname, labels[run.classname]
                if run.label != label or not _is_name_of(name, folder, own.get(folder)):
                    given = f"{run.label} '{name}' for '{run.ids[0]}'"
                    expected = f"{label} '{name}'" if run.label != label else f"'{own[folder]}'"
                    raise UsageError(
                        f"split file {stored} has the class {given}, expected {expected}, the "
                        "class of its folder: put the file back as it was, or delete it to have "
                        "a new split made (numbers of both cannot be compared)"
                    )

    def _compare(self, pools: Pools, stored: Path) -> tuple[tuple[str, ...], str]:
        """The listed ids without an image in the tree, and a note on images added later."""
        found = self._found
        made_of = (
            f"compared {lists_digest(pools)} {lists_digest(found.pools)} "
            f"{found.tree.sizes_digest()} {stored}"
        )

        def compare() -> tuple[tuple[str, ...], str]:
            listed = _by_folder(pools)
            absent = tuple(sorted(self._list_absent(listed)))
            return absent, _describe_later(found.pools, listed, stored)

        return keep(made_of, tuple[tuple[str, ...], str], compare)

    def _list_absent(self, listed: Mapping[str, Sequence[Run]]) -> Iterator[str]:
        """The listed ids without an image in the tree, which omits hidden and undecodable files."""
        folders = self._found.folders
        for folder, runs in listed.items():
            sizes = folders[folder].bytes_by_name() if folder in folders else {}
            for run in runs:
                names = run.names.listed()
                yield from (folder + name for name in names if sizes.get(name, -1) < 0)

    def _refuse_absent(self, id: str, stored: Path) -> None:
        """DataMissingError if an image of a stored split is not a file."""
        path = self.root / id
        if path.is_symlink() and not path.exists():
            raise DataMissingError(
                f"{path} is a link to nothing: mend the link (--skip-damaged goes on without "
                f"it), or remove it and {stored} to have a new split made"
            )
        if not path.is_file():
            raise DataMissingError(
                f"'{id}' is listed in {stored} and not in {self.root}: expected every listed "
                "image (put it back; --skip-damaged goes on without it; or delete the split "
                "file to have a new split made)"
            )


def open_folder(
    argument: str,
    holdout: float | None = None,
    splits: Path | None = None,
    lenient: bool = False,
) -> ImageFolder:
    """The data set for `folder:PATH`."""
    root = one_place(argument)
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataMissingError(
            f"folder:{argument}: {root} {problem}, expected a folder with one folder per class"
        )
    name = f"folder:{one_spelling(root)}"
    check_holdout(name, holdout)
    return ImageFolder(name, root, holdout, splits, lenient)


def _is_name_of(classname: str, folder: str, now: str | None) -> bool:
    """True if a class folder has this class name, or had it beside other class folders.

    It is the name of the folder, or the end of its path. now: the present class name; None if the
    folder is gone, whose name nobody can tell.
    """
    path = "/".join(map(tidy_name, folder.split("/"))).rstrip("/")
    return now is None or any(f"/{whole}".endswith(f"/{classname}") for whole in (now, path))


def _by_folder(pools: Pools) -> dict[str, list[Run]]:
    """The runs in the pools by folder."""
    runs: dict[str, list[Run]] = {}
    for role in ROLES:
        for run in packed(pools[role]).runs:
            runs.setdefault(run.folder, []).append(run)
    return runs


def _describe_later(
    found: Mapping[str, ItemList], listed: Mapping[str, Sequence[Run]], stored: Path
) -> str:
    """A note on images in the folder that the stored split does not list; empty without any."""
    added: list[str] = []
    for run in (run for items in found.values() for run in items.runs):
        known = {name for one in listed.get(run.folder, ()) for name in one.names.listed()}
        added += [run.folder + name for name in run.names.listed() if name not in known]
    if not added:
        return ""
    classes = sorted({id.rpartition("/")[0] for id in added} - {f.rstrip("/") for f in listed})
    new = f", with the whole of {shortened(classes)}" if classes else ""
    return (
        f"images that came later are not used ({len(added)}{new}): {shortened(added)}; delete "
        f"{stored} to have a new split made (its numbers cannot be compared with those before)"
    )
