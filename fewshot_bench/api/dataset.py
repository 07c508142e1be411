"""The contract of a data set: its card, its pools of labeled images, and access to image files.

`Recipe` declares the files to fetch for it, `data_roots` are the folders that are searched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from fewshot_bench.api.items import Item
from fewshot_bench.utils.errors import ContractError, keys, texts, whole_number


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One remote file, placed below a data root.

    urls: sources in the order in which they are tried; empty if the file must be fetched by hand.
    place: path relative to the data root, of the file itself or of the folder that an archive is
        unpacked into.
    provides: paths relative to the data root (files, or folders that are not empty); if all exist,
        nothing is fetched. If empty, `place` is checked instead.
    alternatives: relative paths; any one of them replaces all of `provides` (the same images in
        the layout of another tool).
    sha256, md5: expected digests of the downloaded file; empty if unknown.
    size: bytes of the downloaded file; 0 if unknown.
    unpack: unpack the file, an archive (zip; tar, plain or with gzip, xz or bzip2).
    strip: leading folder that is removed from member paths; members outside of it are skipped.
    inner: archives inside the archive (by member path) that are unpacked in turn, beside it.
    max_unpacked: limit on the unpacked size in bytes; 0 for the general limit.
    split: the file is the data set's split file, which `--split-file` can supply.
    """

    name: str
    place: str
    urls: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    sha256: str = ""
    md5: str = ""
    size: int = 0
    unpack: bool = False
    strip: str = ""
    inner: tuple[str, ...] = ()
    max_unpacked: int = 0
    split: bool = False

    @property
    def digests(self) -> dict[str, str]:
        """Known digests by algorithm name."""
        digests = {"sha256": self.sha256, "md5": self.md5}
        return {name: digest.lower() for name, digest in digests.items() if digest}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All files of a data set.

    by_hand: exact steps for files that no program may or can fetch (a license to accept, a dead
    source), one per line, ending with the destination of each file; shown if a file is missing.
    """

    files: tuple[RemoteFile, ...] = ()
    by_hand: tuple[str, ...] = ()


DATA_VARIABLE = "FSBENCH_DATA"


def data_roots() -> tuple[Path, ...]:
    """The folders listed in FSBENCH_DATA, or ./data."""
    listed = [part for part in os.environ.get(DATA_VARIABLE, "").split(os.pathsep) if part]
    return tuple(Path(part).expanduser() for part in listed) or (Path("data"),)


SIMPLE_TEMPLATES = ("a photo of a {}.",)
# The seven prompts that CLIP's authors selected for ImageNet; Tip-Adapter uses them.
ENSEMBLE_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
# The templates of each template set; None stands for the data set's own.
TEMPLATE_SETS: Mapping[str, tuple[str, ...] | None] = {
    "simple": SIMPLE_TEMPLATES,
    "custom": None,
    "ensemble": ENSEMBLE_TEMPLATES,
}
ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class DatasetCard:
    """Facts of a data set shown beside its results: source, counts, class names, templates.

    `expected_counts` and `expected_classes` describe the published set (0: unknown), `counts` this
    copy. `mirrored`: a mirrored image still shows its class; if False (digits, letters), no method
    gets mirrored training images. `class_ids` identify classes if `classnames` are ambiguous
    (ImageNet has two classes `missile`); equal ids in two data sets denote the same class.
    `left_out` describes the unused files beside the images, one line per reason; `run` and
    `data verify` show it too.

    >>> DatasetCard("pets", "Oxford-IIIT Pets", ("Abyssinian", "Bengal"))
    """

    name: str
    title: str
    classnames: tuple[str, ...]
    custom_templates: tuple[str, ...] = SIMPLE_TEMPLATES
    counts: Mapping[str, int] = field(default_factory=dict)
    expected_counts: Mapping[str, int] = field(default_factory=dict)
    expected_classes: int = 0
    license: str = "unknown"
    revision: str = ""
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folder: str = ""
    mirrored: bool = True
    class_ids: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for a field of another type, a template without {}, unknown pools."""
        for name in ("name", "title", "license", "revision", "folder"):
            if not isinstance(getattr(self, name), str):
                raise ContractError(f"DatasetCard.{name} is {getattr(self, name)!r}, expected text")
        if not isinstance(self.mirrored, bool):
            raise ContractError(
                f"DatasetCard.mirrored is {self.mirrored!r}, expected True or False"
            )
        for name in ("classnames", "sources", "notes", "class_ids", "left_out"):
            texts(f"DatasetCard.{name}", getattr(self, name))
        texts("DatasetCard.custom_templates", self.custom_templates, contain="{}")
        if not self.custom_templates:
            raise ContractError("DatasetCard.custom_templates is empty, expected a text with {}")
        whole_number("DatasetCard.expected_classes", self.expected_classes, 0)
        for name in ("counts", "expected_counts"):
            counts = getattr(self, name)
            keys(f"DatasetCard.{name}", counts, ROLES)
            for role in counts:
                whole_number(f"DatasetCard.{name}[{role!r}]", counts[role], 0)

    @property
    def identities(self) -> tuple[str, ...]:
        """Class identities by label: `class_ids`, or `classnames` if there are no ids."""
        return self.class_ids or self.classnames

    def templates(self, prompts: str) -> tuple[str, ...]:
        """The templates of the template set `prompts`."""
        return TEMPLATE_SETS[prompts] or self.custom_templates


@runtime_checkable
class Dataset(Protocol):
    """A source of labeled images with fixed train, val and test pools.

    The harness draws few-shot picks from the `train` and `val` pools, in the order of `items`; the
    whole `test` pool is evaluated.

    >>> items = dataset.items()["test"]
    """

    def card(self) -> DatasetCard:
        """Class names (index = label), templates, license and sources. Must not decode images."""

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The pools `train`, `val` and `test`; DataMissingError names missing data and its place.

        Without a `val` pool, validation images are held out of `train`: they are drawn from the
        images that were not picked. A data set with an empty `train` pool can only be evaluated on
        (`--transfer`).
        """

    def read(self, item: Item) -> bytes:
        """The encoded image file (JPEG, PNG, ...) of one item; OSError when it cannot be read."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """File stamp: identity of an image file without reading it; equal stamps mean equal bytes.

    size: in bytes. changed: time of the last change, in seconds since 1970. token: different for
    every version of the file and for every other file.
    """

    size: int
    changed: float
    token: str


def file_stamp(path: str | os.PathLike[str]) -> Stamp | None:
    """File stamp from inode, size and times; None if the file does not exist or is inaccessible."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    token = f"{status.st_dev}:{status.st_ino}:{status.st_size}:{times}"
    return Stamp(status.st_size, max(status.st_mtime, status.st_ctime), token)


@runtime_checkable
class Stamped(Protocol):
    """A data set with file stamps to detect changed images; others are read every time."""

    def stamp(self, item: Item) -> Stamp | None:
        """The file stamp of one item; None if it cannot be determined."""


@runtime_checkable
class Keeping(Protocol):
    """A data set that draws its own split, which must stay the same when images are added later.

    Its factory has a parameter `splits`: the folder in the results store for kept splits.
    """

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Write the split to `splits`, or beside the data; return its file, None without split."""


@runtime_checkable
class Undivided(Protocol):
    """A data set that may hold out training images for validation or testing."""

    def undivided(self) -> Dataset:
        """The same data set without held-out images; images given as test images stay in `test`."""


@runtime_checkable
class Relisting(Protocol):
    """A data set that caches its file listing instead of checking every file each time."""

    def look_again(self) -> Sequence[str]:
        """Check every file before anything is listed.

        Returns the folders with files that were replaced unnoticed since the cached listing.
        """


@runtime_checkable
class Preparable(Protocol):
    """A data set with a recipe for `fsbench data prepare`."""

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""


def all_items(dataset: Dataset) -> Iterator[tuple[str, Item]]:
    """Every (role, item) of a data set, in order."""
    pools = dataset.items()
    for role in ROLES:
        for item in pools.get(role, ()):
            yield role, item
