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
    return str(split.get("digest") or "")


def images(split: Mapping[str, Any]) -> str:
    """The digest of all images of a record's split; empty if not recorded."""
    return _text(split.get("images"))


def test_images(split: Mapping[str, Any]) -> str:
    """The digest of the test images of a record's split; empty if not recorded."""
    return _text(split.get("test_images"))


class Overlap(NamedTuple):
    """`shared`: test images of a cell that equal one of its train or validation images by bytes.

    evaluated: the evaluated data set, as in tables. test: the number of test images.
    """

    evaluated: str
    shared: int
    test: int


def shared_images(split: Mapping[str, Any]) -> tuple[int, int] | None:
    """`shared` and `test` of an `Overlap`, of a record's split; None if not recorded."""
    count, test = split.get("overlap"), split.get("test")
    return (count, test) if isinstance(count, int) and isinstance(test, int) else None


def overlaps(records: Iterable[Record]) -> list[Overlap]:
    """The overlaps of the records that hold them."""
    found = ((record.spec.evaluated, shared_images(record.split)) for record in records)
    return [Overlap(evaluated, *counts) for evaluated, counts in found if counts]


def overlap_texts(found: Iterable[Overlap] | Mapping[Overlap, int]) -> dict[str, str]:
    """A sentence per evaluated data set whose test images overlap train or validation images.

    found: the overlap of each cell, or the number of cells with each overlap.
    """
    by_set: defaultdict[str, list[tuple[Overlap, int]]] = defaultdict(list)
    for one, cells in Counter(found).items():
        by_set[one.evaluated].append((one, cells))
    texts = {}
    for evaluated, counts in by_set.items():
        most, _ = max(counts, key=lambda pair: pair[0].shared)
        alike = len({one.shared for one, _ in counts}) == 1
        having = sum(cells for one, cells in counts if one.shared)
        if having:
            total = sum(cells for _, cells in counts)
            texts[evaluated] = (
                f"{evaluated}: {most.shared:,} of {most.test:,} test images are also among the "
                f"train or validation images, byte for byte ({_cells(having, total, alike)})"
            )
    return texts


def _cells(having: int, total: int, alike: bool) -> str:
    if alike:
        return "in all cells" if total > 1 else f"{total} cell"
    return f"or fewer, in {having:,} of {total:,} cells"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
