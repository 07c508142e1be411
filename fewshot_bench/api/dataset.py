"""The contract of a data set: its card, its pools of labeled images, and access to image files.

`Recipe` declares the files to fetch for it, `data_roots` are the folders that are searched.
`CheckedItems` checks what a data set returns (`runner.preflight.check_items` the content of its
pools), `customize` and `Without` change names or leave images out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from unicodedata import normalize

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.items import Item, ItemList, relabeled, without
from fewshot_bench.utils.errors import (
    ContractError,
    FsbenchError,
    PluginError,
    UsageError,
    keys,
    texts,
    unknown,
    whole_number,
)
from fewshot_bench.utils.plugin_code import same_state
from fewshot_bench.utils.text import few, in_prompts


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


MOST_COMPARED = 20_000
"""Most images of a data set that are looked at closely, to find copies that look alike."""


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


class OfClasses(_Override):
    """The data set `inner` with only the classes of some labels, which are numbered anew."""

    def __init__(self, inner: Any, kept: Iterable[int]) -> None:
        super().__init__(inner, kept)
        names = inner.card().classnames
        self.places = {label: (at, names[label]) for at, label in enumerate(sorted(kept))}

    @cached_property
    def _card(self) -> DatasetCard:
        card: DatasetCard = self.inner.card()
        names = tuple(name for _, name in self.places.values())
        return replace(card, classnames=names, class_ids=(), counts={})

    @cached_property
    def _pools(self) -> Mapping[str, Sequence[Item]]:
        pools = self.inner.items().items()
        return {role: relabeled(items, lambda at, _: self.places.get(at)) for role, items in pools}


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


_POOLS = "a mapping of train, val and test to sequences of Item"


class CheckedItems(Wrapper):
    """A data set that raises PluginError if it returns what is no card, no pools or no bytes.

    name: the name under which the data set was opened; the card must be of that name, or for
    `family:argument` of that family. blame: start of the message.
    """

    def __init__(self, inner: Any, name: str, blame: str) -> None:
        super().__init__(inner)
        self._name = name
        self._blame = blame
        self._checked: list[object] = []
        self._plain: Mapping[str, Sequence[Item]] = {}
        if hasattr(inner, "stamp"):
            self.stamp = self._check_stamp

    def card(self) -> DatasetCard:
        """The card of the data set."""
        with same_state():
            card = self.inner.card()
        if not isinstance(card, DatasetCard):
            raise PluginError(
                f"{self._blame}: card() returned {card!r:.80}, expected a DatasetCard"
            )
        family, colon, _ = self._name.partition(":")
        if card.name != self._name and not (colon and card.name.startswith(f"{family}:")):
            # The name decides which published lists and picks the data set is compared with.
            raise PluginError(
                f"{self._blame}: its card has the name {card.name!r:.80}, expected that of the "
                f"registration, '{family}{colon}{'...' if colon else ''}'"
            )
        return card

    def items(self) -> Mapping[str, Sequence[Item]]:
        """The pools of the data set, with labels of type int; the same objects are checked once."""
        with same_state():
            pools: Any = self.inner.items()
        listed = list(pools.values()) if isinstance(pools, Mapping) else [pools]
        is_same_size = len(listed) == len(self._checked)
        if not is_same_size or any(a is not b for a, b in zip(listed, self._checked, strict=True)):
            problem = _pools_problem(pools)
            if problem:
                raise PluginError(f"{self._blame}: {problem}")
            self._checked = listed
            self._plain = {role: _with_plain_labels(pool) for role, pool in pools.items()}
        return dict(self._plain)

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        try:
            content: Any = self.inner.read(item)
        except SystemExit as error:
            raise self._failure("read", item, error) from error
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content)
        raise PluginError(
            f"{self._blame}: read() of '{item.id}' returned {_kind(content)}, expected the bytes "
            "of an image file"
        )

    def _check_stamp(self, item: Item) -> Stamp | None:
        """The stamp of an image file; None if it cannot be determined."""
        try:
            result: Any = self.inner.stamp(item)
        except FsbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise self._failure("stamp", item, error) from error
        if result is None or isinstance(result, Stamp):
            return result
        raise PluginError(
            f"{self._blame}: stamp() of '{item.id}' returned {result!r:.80}, expected a Stamp or "
            "None (file_stamp(path) gives that of a file)"
        )

    def _failure(self, function: str, item: Item, error: BaseException) -> PluginError:
        reason = error_text(error, type(self.inner))
        return PluginError(f"{self._blame}: {function}() of '{item.id}': {reason}")


def _pools_problem(pools: object) -> str:
    """The reason why `pools` are no pools of items; empty if they are."""
    if not isinstance(pools, Mapping):
        return f"items() returned {_kind(pools)}, expected {_POOLS}"
    for role, items in pools.items():
        problem = f"is {_kind(items)}, expected a sequence of Item (a tuple or a list)"
        if _is_sequence(items):
            entries: Iterable[Any] = items
            if isinstance(items, ItemList):
                # One item per run: the others differ in their names alone, which are texts.
                entries = (Item(run.folder or "-", run.label, run.classname) for run in items.runs)
            problem = next(filter(None, map(_item_problem, entries)), "")
        if problem:
            return f"items()[{role!r:.80}] {problem}"
    return ""


def _is_sequence(items: object) -> bool:
    if isinstance(items, str | bytes | Mapping):
        return False
    return isinstance(items, Sequence) or all(
        hasattr(type(items), name) for name in ("__len__", "__getitem__", "__iter__")
    )


def _item_problem(item: Any) -> str:
    if not isinstance(item, Item):
        return f"holds {item!r:.80}, expected an Item (id, label, class name)"
    if not isinstance(item.id, str) or not item.id or "\0" in item.id:
        return f"holds an item with the id {item.id!r:.80}, expected text without NUL characters"
    if not isinstance(item.label, Integral) or isinstance(item.label, bool):
        return f"holds item '{item.id:.80}' with the label {item.label!r:.80}, expected an integer"
    if not isinstance(item.classname, str):
        return f"holds item '{item.id:.80}' with the class name {item.classname!r:.80}, not text"
    return ""


def _with_plain_labels(items: Sequence[Item]) -> Sequence[Item]:
    """The same items; labels such as NumPy's, which JSON cannot hold, become int."""
    labels = [run.label for run in items.runs] if isinstance(items, ItemList) else None
    if all(type(label) is int for label in labels or (item.label for item in items)):
        return items
    return tuple(dataclasses.replace(item, label=int(item.label)) for item in items)


def _kind(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
