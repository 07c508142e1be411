"""ImageNet's 1000 classes by synset (`n01440764`), and folders of images named by class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from fewshot_bench import DataMissingError
from fsbench_datasets.disk import is_image, subfolders
from fsbench_datasets.split_file import plain_text

NAMES_FILE = "imagenet_classes.txt"
LOCAL_NAMES = "classnames.txt"


@cache
def synset_names() -> Mapping[str, str]:
    """Synset to class name, in the order of the labels; two pairs of synsets share a name."""
    text = files("fsbench_datasets").joinpath(NAMES_FILE).read_text("utf-8")
    return dict(_parsed(text))


@cache
def numbered_synsets() -> Mapping[str, str]:
    """Class number, as text without leading zeros, to synset."""
    return {str(number): synset for number, synset in enumerate(synset_names())}


def _parsed(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        synset, _, name = line.strip().partition(" ")
        if synset:
            yield synset, name.strip()


def local_names_note(folders: Sequence[Path]) -> tuple[str, ...]:
    """A note when a copy of the names beside the images differs from the built-in names."""
    path = next((f / LOCAL_NAMES for f in folders if (f / LOCAL_NAMES).is_file()), None)
    if path is None:
        return ()
    try:
        local = dict(_parsed(path.read_text("utf-8-sig")))
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


def class_files(folder: Path) -> dict[str, list[str]]:
    """Class folder to image names, both in case-sensitive order; no file is looked at.

    DataMissingError for a class folder without images, and for a name that is not plain text.
    """
    return {below.name: _image_names(below) for below in subfolders(folder)}


def _image_names(folder: Path) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if is_image(name))
    except OSError as error:
        raise DataMissingError(f"class folder {folder} cannot be read: {error}") from None
    if not names:
        raise DataMissingError(
            f"class folder {folder} has no images directly in it: unpack the archive again, or "
            "remove the folder"
        )
    for name in names:
        check_plain(name, folder)
    return names


def check_plain(name: str, place: Path) -> None:
    """DataMissingError for a file name with control characters, or that is not UTF-8."""
    if not (name.isascii() and name.isprintable()) and not plain_text(name):
        raise DataMissingError(
            f"{place} holds {name!a}: expected a name in plain UTF-8 (rename it)"
        )


def check_synsets(found: Sequence[str], place: Path) -> None:
    """DataMissingError for a class that is not among ImageNet's 1000."""
    unknown = [synset for synset in found if synset not in synset_names()]
    if unknown:
        raise DataMissingError(
            f"{place} holds '{unknown[0]}', which is no class of ImageNet-1k (expected synsets "
            f"such as n01440764): remove it, or use folder:{place} for classes of your own"
            + (f"; {len(unknown) - 1} more are unknown" if len(unknown) > 1 else "")
        )
