"""Derived pools and texts in the user's cache, keyed by a text with the digest of their inputs.

Main entry points: `kept_pools` and `kept_text`. A cache entry is never stale, because changed
inputs give another key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from fewshot_bench import Item
from fewshot_bench.api.sources import (
    ItemList,
    Names,
    Pools,
    Run,
    keep_list,
    kept_list,
    packed,
)

# Change it when the encoding changes, or when the same inputs yield other results.
VERSION = 1


def kept_pools(made_of: str, make: Callable[[], Pools]) -> Mapping[str, ItemList]:
    """Return the packed pools from the cache, or call `make` and cache its result.

    made_of: the cache key; it determines the result uniquely.
    """
    key = f"pools {VERSION}\0{made_of}"
    content = kept_list(key)
    if content is not None:
        # Whatever is wrong with cached pools, they can be made again.
        with suppress(Exception):
            return _decode(content)
    pools = {role: packed(items) for role, items in make().items()}
    keep_list(key, _encode(pools))
    return pools


def kept_text(made_of: str, make: Callable[[], str]) -> str:
    """Return the text from the cache, or call `make` and cache its result."""
    key = f"text {VERSION}\0{made_of}"
    content = kept_list(key)
    if content is not None:
        return content.decode()
    text = make()
    keep_list(key, text.encode())
    return text


def lists_digest(pools: Mapping[str, Sequence[Item]]) -> str:
    """SHA-256 digest of pools; equal pools have equal digests if they consist of the same runs."""
    return hashlib.sha256(_encode(pools)).hexdigest()


def _encode(pools: Mapping[str, Sequence[Item]]) -> bytes:
    """A line of JSON with a row per run, then the packed names of all runs."""
    runs = [(role, run) for role, items in pools.items() for run in packed(items).runs]
    rows = [
        [role, run.folder, run.label, run.classname, run.count, len(run.names.packed)]
        for role, run in runs
    ]
    head = json.dumps([list(pools), rows]).encode()
    return b"".join([head, b"\n", *(run.names.packed for _, run in runs)])


def _decode(content: bytes) -> Mapping[str, ItemList]:
    position = content.index(b"\n") + 1
    roles, rows = json.loads(content[:position])
    pools: dict[str, list[Run]] = {role: [] for role in roles}
    for role, folder, label, classname, count, size in rows:
        names = Names(count, content[position : position + size])
        pools[role].append(Run(folder, label, classname, names))
        position += size
    return {role: ItemList(runs) for role, runs in pools.items()}
