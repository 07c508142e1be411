"""What the data sets here share: names, counts and a digest of their lists."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from fewshot_bench import Pools, load_split, save_split

__all__ = [
    "ROLES",
    "Pools",
    "classnames_of",
    "counts_of",
    "file_sizes",
    "load_split",
    "plain_text",
    "revision_of",
    "save_split",
]

ROLES = ("train", "val", "test")


def classnames_of(pools: Pools) -> tuple[str, ...]:
    """Class names by label; labels are 0 to n - 1."""
    names = {item.label: item.classname for role in ROLES for item in pools[role]}
    return tuple(names[label] for label in sorted(names))


def counts_of(pools: Pools) -> dict[str, int]:
    """Images per role."""
    return {role: len(pools[role]) for role in ROLES}


def revision_of(pools: Pools, contents: Iterable[bytes] = ()) -> str:
    """SHA-256 over role, id, label and class name of every item, then over `contents`."""
    sha = hashlib.sha256()
    for role in ROLES:
        for item in pools[role]:
            sha.update(f"{role}\t{item.id}\t{item.label}\t{item.classname}\n".encode())
    for content in contents:
        sha.update(content)
    return sha.hexdigest()


def file_sizes(base: Path, pools: Pools) -> Iterable[bytes]:
    """The size of every image file, so that a revision changes when images are replaced."""
    for role in ROLES:
        for item in pools[role]:
            try:
                size = (base / item.id).stat().st_size
            except OSError:
                size = -1
            yield f"{size}\n".encode()


def plain_text(text: str) -> bool:
    """Whether a name is free of control characters and of bytes that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
