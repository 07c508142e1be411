"""Trees of image folders, cached so that only changed folders are listed again.

Main entry point: `read_tree`; files are examined for their size at most. A cached folder is valid
while its inode and times are unchanged; since replacing a file in place changes neither, the sizes
of about `SAMPLE` files are compared on every read.
"""

from __future__ import annotations

import hashlib
import operator
import os
import random
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.sources import (
    Names,
    image_endings,
    image_remedy,
    plain_text,
)
from fsbench_datasets.disk import SYSTEM_FILES, file_size, is_folder, is_image, is_system_folder
from fsbench_datasets.kept_lists import recall, store

# Number of files whose sizes are compared on every read: all files of a smaller tree.
SAMPLE = 10_000
# As in git: a folder that changed this shortly before it was listed may change again without a new
# time stamp, since the file system's clock may be coarse.
RACY_NS = 2 * 10**9


class Tree(msgspec.Struct, frozen=True, array_like=True):
    """One folder. path: relative to the root, empty for the root itself.

    images: names of the image files that can be decoded here; unread: of images in formats that
    cannot; others: of other files; system: of folders made by operating systems or programs.
    Hidden names are in none of them. sizes: compressed sizes of the images, empty if not
    requested. stamp: changes when names are added or removed; empty if that is not guaranteed.
    below: the subfolders.
    """

    path: str
    images: Names
    unread: tuple[str, ...]
    others: tuple[str, ...]
    system: tuple[str, ...]
    sizes: bytes
    stamp: tuple[int, ...]
    below: tuple[Tree, ...]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def holds_images(self) -> bool:
        """True when images lie directly in this folder, whether their format is readable or not."""
        return bool(self.images.count or self.unread)

    @property
    def prefix(self) -> str:
        """The path with a trailing slash, to prepend to file names; empty for the root."""
        return f"{self.path}/" if self.path else ""

    def id(self, name: str) -> str:
        """The path of a file in this folder, relative to the root."""
        return self.prefix + name

    def bytes_by_name(self) -> dict[str, int]:
        """Image name to size in bytes; -1 if it is not a regular file."""
        sizes = array("q")
        sizes.frombytes(zlib.decompress(self.sizes))
        return dict(zip(self.images.listed(), sizes, strict=True))

    def sizes_digest(self) -> str:
        """SHA-256 digest of all folder paths and image sizes, here and below."""
        sha = hashlib.sha256()
        for folder in self.walk():
            # Folders that hold no images may have names that are not UTF-8.
            head = f"{folder.prefix}\0{len(folder.sizes)}\0".encode("utf-8", "surrogateescape")
            sha.update(head + folder.sizes)
        return sha.hexdigest()

    def walk(self) -> Iterator[Tree]:
        """The folder and all below it."""
        yield self
        for folder in self.below:
            yield from folder.walk()


def read_tree(root: Path, *, sizes: bool = True, depth: int | None = None) -> Tree:
    """Read the tree below a folder; links are followed, names are in case-sensitive order.

    sizes: also read file sizes; depth: number of levels below `root` to list (None: all).
    UsageError for names that are not plain text and for circular links; DataMissingError for a
    folder that cannot be listed.
    """
    key = _key(root, sizes, depth)
    before = recall(key, Tree)
    folders = {folder.path: folder for folder in before.walk()} if before else {}
    tree = _whole(_Reader(root, sizes, folders), depth)
    if sizes and folders and _sample_differs(root, tree, folders):
        tree = _whole(_Reader(root, sizes, {}), depth)
    if tree != before:
        store(key, tree)
    return tree


def look_again(root: Path) -> tuple[str, ...]:
    """Read all folders and file sizes anew, ignoring the cached tree, and cache the result.

    Returns the paths of the folders whose cached sizes differ.
    """
    key = _key(root, True, None)
    before = recall(key, Tree)
    tree = _whole(_Reader(root, True, {}), None)
    store(key, tree)
    folders = {folder.path: folder for folder in before.walk()} if before else {}
    return tuple(
        folder.path
        for folder in tree.walk()
        if folder.path in folders and folders[folder.path].sizes != folder.sizes
    )


def ending(name: str) -> str:
    """The file extension in lower case, without the dot; empty if there is none."""
    return name.rpartition(".")[2].lower() if "." in name else ""


@dataclass(frozen=True)
class _Reader:
    """Reads a tree, reusing folders in `known` (by path) that have not changed."""

    root: Path
    sizes: bool
    known: Mapping[str, Tree]

    def read(self, path: str, depth: int | None, above: tuple[tuple[int, int], ...] = ()) -> Tree:
        """Read one folder and its subfolders; above: (device, inode) of each parent folder."""
        taken, status = time.time_ns(), os.stat(self.root / path)
        here = status.st_dev, status.st_ino
        if here in above:
            raise UsageError(
                f"{self.root / path} is a link to a folder that it lies in: remove the link"
            )
        stamp: tuple[int, ...] = (
            status.st_ino,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_nlink,
            status.st_size,
        )
        if max(status.st_mtime_ns, status.st_ctime_ns) > taken - RACY_NS:
            stamp = ()
        tree = self.known.get(path)
        if tree is not None and stamp and tree.stamp == stamp:
            # A cached link to a folder may be broken by now; then this folder is listed again.
            with suppress(OSError):
                return self._enter(tree, depth, (*above, here))
        return self._enter(self._list(path, stamp), depth, (*above, here))

    def _enter(self, tree: Tree, depth: int | None, above: tuple[tuple[int, int], ...]) -> Tree:
        """The tree with its subfolders read; the same object if none of them changed."""
        deeper = None if depth is None else depth - 1
        below = [self.read(inner.path, deeper, above) for inner in tree.below if depth != 0]
        if len(below) == len(tree.below) and all(map(operator.is_, below, tree.below)):
            return tree
        return msgspec.structs.replace(tree, below=tuple(below))

    def _list(self, path: str, stamp: tuple[int, ...]) -> Tree:
        prefix = f"{path}/" if path else ""
        images: list[os.DirEntry[str]] = []
        unread, others, system, below = (list[str]() for _ in range(4))
        with os.scandir(self.root / path) as entries:
            listed = sorted(entries, key=operator.attrgetter("name"))
        for entry in listed:
            name = entry.name
            if name[0] == ".":
                continue
            if is_folder(entry):
                (system if is_system_folder(name) else below).append(name)
            elif is_image(name) and (entry.is_symlink() or entry.is_file()):
                images.append(entry)
            elif image_remedy(ending(name)):
                unread.append(name)
            elif name.casefold() not in SYSTEM_FILES:
                others.append(name)
        self._check_plain(prefix, [entry.name for entry in images])
        sizes = array("q", map(file_size, images)) if self.sizes else array("q")
        return Tree(
            path,
            Names.of([entry.name for entry in images]),
            tuple(unread),
            tuple(others),
            tuple(system),
            zlib.compress(sizes.tobytes(), 1),
            stamp,
            tuple(map(_list_unlisted, (prefix + name for name in below))),
        )

    def _check_plain(self, prefix: str, names: list[str]) -> None:
        for name in [] if (prefix + "".join(names)).isprintable() else names:
            if not (prefix + name).isprintable() and not plain_text(prefix + name):
                raise UsageError(
                    f"{self.root} holds the path {prefix + name!a}: expected names in UTF-8 "
                    "without control characters (rename it)"
                )


def _whole(reader: _Reader, depth: int | None) -> Tree:
    """The tree from its root; DataMissingError for a folder that cannot be listed."""
    try:
        return reader.read("", depth)
    except OSError as error:
        raise DataMissingError(
            f"folder {error.filename or reader.root} cannot be listed ({error.strerror or error}): "
            "make it readable for this user, or take it out of the data"
        ) from None


def _list_unlisted(path: str) -> Tree:
    """Placeholder for a folder that has not been listed: only its path is set."""
    return Tree(path, Names.of(()), (), (), (), zlib.compress(b"", 1), (), ())


def _sample_differs(root: Path, tree: Tree, folders: Mapping[str, Tree]) -> bool:
    """True if, in a sample of files from reused folders, any size differs from the cached one."""
    same = [folder for folder in tree.walk() if folders.get(folder.path) is folder]
    count = sum(folder.images.count for folder in same)
    step = max(1, count // SAMPLE)
    position = random.randrange(step)
    for folder in same:
        if position < folder.images.count:
            sizes = list(folder.bytes_by_name().items())
            for name, size in sizes[position::step]:
                if file_size(f"{root}/{folder.id(name)}") != size:
                    return True
        position = (position - folder.images.count) % step
    return False


def _key(root: Path, sizes: bool, depth: int | None) -> str:
    """Cache key; includes the image extensions, because decoders may be installed later."""
    return f"tree\0{root.resolve()}\0{sizes}\0{depth}\0{' '.join(image_endings())}"
