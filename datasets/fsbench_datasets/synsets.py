"""ImageNet's 1000 classes by synset (`n01440764`): names, folders, development kit numbers.

`synset_names` lists the classes in label order. The development kit lists its validation images by
class numbers in another order, unchanged since 2012 and stored here as a list (`kit_synsets`).
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from fewshot_bench import DataMissingError, DatasetCard, UsageError
from fewshot_bench.api.sources import Names, Pools, plain_text
from fsbench_datasets.kept_lists import keep, lists_digest
from fsbench_datasets.split_lists import copy_note, revision_of
from fsbench_datasets.trees import read_tree

NAMES_FILE = "imagenet_classes.txt"
LOCAL_NAMES = "classnames.txt"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LARGEST = 64 * 2**20
ORDER_FILE = "imagenet_devkit_classes.txt"


@cache
def synset_names() -> Mapping[str, str]:
    """Synset to class name, in the order of the labels; two pairs of synsets share a name."""
    text = files("fsbench_datasets").joinpath(NAMES_FILE).read_text("utf-8")
    return dict(_parse(text))


@cache
def numbered_synsets() -> Mapping[str, str]:
    """Class number, as text without leading zeros, to synset."""
    return {str(number): synset for number, synset in enumerate(synset_names())}


def _parse(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        synset, _, name = line.strip().partition(" ")
        if synset:
            yield synset, name.strip()


def synset_card(
    known: DatasetCard, synsets: tuple[str, ...], pools: Pools, folder: Path, beside: Path
) -> DatasetCard:
    """The card of an ImageNet copy with these classes; `pools` has no `val`.

    beside: a copy of the class names may be in this folder or its parent.
    """
    counts = {role: len(items) for role, items in pools.items()}
    notes = (
        *known.notes,
        *copy_note(known, len(synsets), counts),
        *_local_names_note((beside, beside.parent)),
    )
    return replace(
        known,
        classnames=tuple(synset_names()[synset] for synset in synsets),
        class_ids=synsets,
        counts=counts,
        revision=keep(
            f"revision {lists_digest(pools)}", str, lambda: revision_of({**pools, "val": ()})
        ),
        notes=notes,
        folder=str(folder),
    )


def _local_names_note(folders: Sequence[Path]) -> tuple[str, ...]:
    """A note if classnames.txt near the images is unreadable or differs from the built-in names."""
    path = next((f / LOCAL_NAMES for f in folders if (f / LOCAL_NAMES).is_file()), None)
    if path is None:
        return ()
    try:
        local = dict(_parse(path.read_text("utf-8-sig")))
    except (OSError, ValueError) as error:
        return (f"{path} cannot be read ({error}); the built-in class names are used",)
    other = [(s, n) for s, n in synset_names().items() if local.get(s, n) != n]
    if not other:
        return ()
    synset, name = other[0]
    return (
        f"{path} names {len(other)} classes otherwise, {synset} '{local[synset]}' instead of "
        f"'{name}' first; the built-in class names are used",
    )


def class_files(folder: Path) -> dict[str, Names]:
    """Class folder to image names, both in case-sensitive order; folders are only listed.

    DataMissingError for a class folder without images, and for a name that is not plain text.
    """
    try:
        folders = read_tree(folder, sizes=False, depth=1).below
    except UsageError as error:
        raise DataMissingError(str(error)) from None
    for below in folders:
        if not below.images.count:
            raise DataMissingError(
                f"class folder {folder / below.path} has no images directly in it: unpack the "
                "archive again, or remove the folder"
            )
    return {below.name: below.images for below in folders}


def check_plain(name: str, path: Path) -> None:
    """DataMissingError for a file name with control characters, or that is not UTF-8."""
    if not (name.isascii() and name.isprintable()) and not plain_text(name):
        raise DataMissingError(f"{path} holds {name!a}: expected a name in plain UTF-8 (rename it)")


def check_synsets(synsets: Sequence[str], path: Path) -> None:
    """DataMissingError if a class is not among ImageNet's 1000."""
    unknown = [synset for synset in synsets if synset not in synset_names()]
    if unknown:
        raise DataMissingError(
            f"{path} holds '{unknown[0]}', which is no class of ImageNet-1k (expected synsets "
            f"such as n01440764): remove it, or use folder:{path} for classes of your own"
            + (f"; {len(unknown) - 1} more are unknown" if len(unknown) > 1 else "")
        )


@cache
def kit_synsets() -> Mapping[str, str]:
    """`ILSVRC2012_ID` of the kit's meta.mat, as text, to synset; not in label order."""
    text = files("fsbench_datasets").joinpath(ORDER_FILE).read_text("ascii")
    return {str(number): synset for number, synset in enumerate(text.split(), 1)}


def validation_synsets(devkit: Path) -> tuple[str, ...]:
    """The synset of every validation image; index 0 is image number 1.

    DataMissingError when the kit is damaged or lacks the list of class numbers.
    """
    numbers = _read(devkit).decode("ascii", "replace").split()
    synsets = kit_synsets()
    for line, number in enumerate(numbers, 1):
        if number not in synsets:
            raise _devkit_error(
                devkit, f"{TRUTH}, line {line} is {number!r:.40}, expected 1 to 1000"
            )
    return tuple(synsets[number] for number in numbers)


def _read(devkit: Path) -> bytes:
    """Content of the list of class numbers, found by file name in any folder of the archive."""
    content = None
    try:
        with tarfile.open(devkit, "r:*") as archive:
            for info in archive:
                name = info.name.rpartition("/")[2]
                if name == TRUTH and info.isreg() and info.size <= LARGEST:
                    file = archive.extractfile(info)
                    content = file.read() if file is not None else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RecursionError) as error:
        raise _devkit_error(devkit, f"{type(error).__name__}: {error}") from None
    if content is None:
        raise _devkit_error(devkit, f"it holds no {TRUTH}")
    return content


def _devkit_error(devkit: Path, problem: str) -> DataMissingError:
    return DataMissingError(
        f"development kit {devkit} cannot be used: {problem}; fetch it again from image-net.org"
    )
