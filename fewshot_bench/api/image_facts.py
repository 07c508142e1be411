"""Image digests and train/test overlaps in a record, and the cells that must agree on them.

`split["images"]` is a digest of all images, `split["test_images"]` of the test images, and
`split["overlap"]` counts test images whose bytes equal those of a train or validation image. Older
records lack some of these.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec


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
    """`shared`: test images of a cell that equal one of its train or validation images by bytes."""

    spec: RunSpec
    shared: int
    test: int


def overlaps(records: Iterable[Record]) -> list[Overlap]:
    """The overlaps of the records that hold them."""
    found = []
    for record in records:
        count, test = record.split.get("overlap"), record.split.get("test")
        if isinstance(count, int) and isinstance(test, int):
            found.append(Overlap(record.spec, count, test))
    return found


def overlap_texts(found: Iterable[Overlap]) -> dict[str, str]:
    """A sentence per evaluated data set whose test images overlap train or validation images."""
    by_set: defaultdict[str, list[Overlap]] = defaultdict(list)
    for one in found:
        by_set[one.spec.evaluated].append(one)
    texts = {}
    for evaluated, cells in by_set.items():
        most = max(cells, key=lambda one: one.shared)
        having = sum(one.shared > 0 for one in cells)
        if having:
            texts[evaluated] = (
                f"{evaluated}: {most.shared:,} of {most.test:,} test images are also among the "
                f"train or validation images, byte for byte ({_cells(having, len(cells))})"
            )
    return texts


def _cells(having: int, total: int) -> str:
    if having == total:
        return "in all cells" if total > 1 else f"{total} cell"
    return f"or fewer, in {having:,} of {total:,} cells"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
