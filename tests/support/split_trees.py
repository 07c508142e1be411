"""Data sets for tests of splits: the published lists of DTD, and a small set with odd names."""

from __future__ import annotations

import functools
import json
import lzma
from pathlib import Path

from fewshot_bench import Item

DATA = Path(__file__).parents[1] / "data"
DTD_FILE = "split_zhou_DescribableTextures.json"
SMALL = {
    "train": [
        ["cat/a 1.jpg", 0, "house, cat"],
        ["cat/ä.jpg", 0, "house, cat"],
        ['dog/it\'s "1".jpg', 1, "dog's"],
        ["dog/same.jpg", 1, "dog's"],
    ],
    "val": [["cat/v.jpg", 0, "house, cat"], ["dog/v.jpg", 1, "dog's"]],
    "test": [["cat/same.jpg", 0, "house, cat"], ["dog/t.jpg", 1, "dog's"]],
}


def dtd_bytes() -> bytes:
    """The published split file."""
    return lzma.decompress((DATA / f"{DTD_FILE}.xz").read_bytes())


def write_dtd(root: Path) -> Path:
    """Write a data root with DTD: the published split file, and an empty file per image."""
    (root / "dtd").mkdir(parents=True)
    (root / "dtd" / DTD_FILE).write_bytes(dtd_bytes())
    ids = [entry[0] for entries in json.loads(dtd_bytes()).values() for entry in entries]
    for folder in {id.partition("/")[0] for id in ids}:
        (root / "dtd" / "images" / folder).mkdir(parents=True)
    for id in ids:
        (root / "dtd" / "images" / id).touch()
    return root


def write_small(root: Path) -> str:
    """Write a folder with `SMALL` as its split; return its data set name."""
    for entries in SMALL.values():
        for id, _, _ in entries:
            (root / "images" / str(id)).parent.mkdir(parents=True, exist_ok=True)
            (root / "images" / str(id)).touch()
    (root / "split.json").write_text(json.dumps(SMALL), "utf-8")
    return f"coop:{root}"


LISTS = Path(__file__).parents[1] / "data" / "coop_lists.json.xz"


@functools.cache
def real_pools(name: str) -> dict[str, tuple[Item, ...]]:
    """Train and val pools; labels are stored as (label, run length)."""
    content = json.loads(lzma.decompress(LISTS.read_bytes()))[name]
    pools: dict[str, tuple[Item, ...]] = {"test": ()}
    for role, lists in content.items():
        labels = [label for label, run in lists["labels"] for _ in range(run)]
        pairs = zip(lists["paths"], labels, strict=True)
        pools[role] = tuple(Item(path, label, str(label)) for path, label in pairs)
    return pools
