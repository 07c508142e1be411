"""Where the parts of a public set may lie below the data roots."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fsbench_datasets.catalog import PublicSet


def places(roots: Iterable[Path], relatives: Iterable[str]) -> tuple[Path, ...]:
    """Every relative path below every root, root by root; a root may be the first folder itself."""
    relatives = tuple(relatives)
    return tuple(dict.fromkeys(p for root in roots for r in relatives for p in _below(root, r)))


def split_file_places(entry: PublicSet, roots: Iterable[Path]) -> tuple[Path, ...]:
    """Where the split file may lie: the set's folder, the root, `splits`, beside or in the images.

    Root by root, so that the first root's files win.
    """
    name = entry.split_file or ""
    found: list[Path] = []
    for root in roots:
        found += places([root], (*entry.folders, "", "splits"))
        for base in places([root], entry.images):
            found += [base.parent, base]
    return tuple(folder / name for folder in dict.fromkeys(found))


def _below(root: Path, relative: str) -> Iterator[Path]:
    yield root / relative
    first, _, rest = relative.partition("/")
    if first and os.path.basename(os.path.abspath(root)) == first:
        yield root / rest
