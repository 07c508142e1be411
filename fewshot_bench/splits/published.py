"""Is a local split, or a few-shot draw from it, the published one?"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fewshot_bench.api.task import Item, Split, digest_of


@dataclass(frozen=True)
class PublishedSplit:
    """What is known of one published split file and of the draws from it.

    `file_sha256` covers the file's bytes, `lists_sha256` the lists (`task.digest_of`), and
    `picks` maps "shots/seed" to the digests of train and val picks under protocol `coop`.
    """

    file: str
    file_sha256: str
    lists_sha256: str
    classes: int
    picks: Mapping[str, tuple[str, str]]


def picks_digest(items: Iterable[Item]) -> str:
    """SHA-256 of the newline-joined item ids, in drawing order."""
    return hashlib.sha256("\n".join(item.id for item in items).encode()).hexdigest()


def verified_picks(split: Split, catalog_name: str) -> bool | None:
    """Whether a draw equals the published picks; None when none are published for its setting.

    Train picks must match. Val picks must match when the validation policy draws as many as were
    published; under another policy nothing is published for val, and train alone decides.
    """
    known = published_splits().get(catalog_name)
    expected = known.picks.get(f"{split.shots}/{split.seed}") if known else None
    if known is None or expected is None or split.protocol != "coop":
        return None
    if picks_digest(split.train) != expected[0]:
        return False
    comparable = len(split.val) == known.classes * min(split.shots, 4)
    return not comparable or picks_digest(split.val) == expected[1]


def verified_split(pools: Mapping[str, tuple[Item, ...]], catalog_name: str) -> bool | None:
    """Whether the lists of a data set equal the published split; None when none is published."""
    known = published_splits().get(catalog_name)
    if known is None:
        return None
    roles = ((role, pools.get(role, ())) for role in ("train", "val", "test"))
    return digest_of(roles) == known.lists_sha256


def verified_file(content: bytes, catalog_name: str) -> bool | None:
    """Whether a split file is byte for byte the published one; None when none is published."""
    known = published_splits().get(catalog_name)
    return None if known is None else hashlib.sha256(content).hexdigest() == known.file_sha256


@functools.cache
def published_splits() -> Mapping[str, PublishedSplit]:
    """Everything published, by the catalog's data set name."""
    text = files("fewshot_bench.splits").joinpath("coop_picks.json").read_text("utf-8")
    return {name: _parse(entry) for name, entry in json.loads(text)["datasets"].items()}


def _parse(entry: Mapping[str, Any]) -> PublishedSplit:
    picks = {setting: (pair[0], pair[1]) for setting, pair in entry["picks"].items()}
    return PublishedSplit(
        entry["file"], entry["file_sha256"], entry["lists_sha256"], entry["classes"], picks
    )
