"""Image digests and train/test overlaps in a record, and the cells that must agree on them.

`split["images"]` is a digest of all images, `split["test_images"]` of the test images, and
`split["overlap"]` counts test images whose bytes equal those of a train or validation image. Older
records lack some of these.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fewshot_bench.api.record import Record


def image_facts(
    train: Sequence[bytes], val: Sequence[bytes], test: Sequence[bytes]
) -> dict[str, Any]:
    """`images`, `test_images` and `overlap`, from the SHA-256 of every image in list order."""
    parts = [hashlib.sha256(b"".join(part)).hexdigest() for part in (train, val, test)]
    fitted = {*train, *val}
    return {
        "images": hashlib.sha256("".join(parts).encode()).hexdigest(),
        "test_images": parts[2],
        "overlap": sum(image in fitted for image in test),
    }


def split_digest(split: Mapping[str, Any]) -> str:
    """The digest of a record's split; empty if absent (the cell failed early)."""
    return split.get("digest") or ""


def images(split: Mapping[str, Any]) -> str:
    """The digest of all images of a record's split; empty if not recorded."""
    return split.get("images") or ""


class Overlap(NamedTuple):
    """`shared`: test images of a cell that equal one of its train or validation images by bytes.

    evaluated: the evaluated data set, as in tables. test: the number of test images.
    """

    evaluated: str
    shared: int
    test: int


def overlaps(records: Iterable[Record]) -> list[Overlap]:
    """The overlaps of the records that hold them."""
    splits = ((record.spec.evaluated, record.split) for record in records)
    return [
        Overlap(evaluated, split["overlap"], split["test"])
        for evaluated, split in splits
        if "overlap" in split and "test" in split
    ]


def overlap_texts(shares: Iterable[Overlap] | Mapping[Overlap, int]) -> dict[str, str]:
    """A sentence per evaluated data set whose test images overlap train or validation images.

    shares: the overlap of each cell, or the number of cells with each overlap.
    """
    by_set: defaultdict[str, list[tuple[Overlap, int]]] = defaultdict(list)
    for share, cells in Counter(shares).items():
        by_set[share.evaluated].append((share, cells))
    texts = {}
    for evaluated, counts in by_set.items():
        most = max((share for share, _ in counts), key=lambda share: share.shared)
        having = sum(cells for share, cells in counts if share.shared)
        total = sum(cells for _, cells in counts)
        where = f"or fewer, in {having:,} of {total:,} cells"
        if len({share.shared for share, _ in counts}) == 1:
            where = "in all cells" if total > 1 else "1 cell"
        if having:
            texts[evaluated] = (
                f"{evaluated}: {most.shared:,} of {most.test:,} test images are also among the "
                f"train or validation images, byte for byte ({where})"
            )
    return texts
