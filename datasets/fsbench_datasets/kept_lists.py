"""Lists and texts in the user's cache that take long to make: `keep`, and `keep_pools` for pools.

A value is never stale: its key holds the digest, or the file stamps, of what it is made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from fewshot_bench import Item
from fewshot_bench.api.sources import ItemList, Pools, Run, keep_list, kept_list, packed

# Change it when the form of a value changes, or when the same inputs yield other results.
VERSION = 2

Value = TypeVar("Value")


def recall(key: str, kind: type[Value]) -> Value | None:
    """The value that was kept under a key; None if there is none."""
    content = kept_list(f"{VERSION}\0{key}")
    # Whatever is wrong with a kept value, it can be made again.
    with suppress(msgspec.DecodeError):
        return None if content is None else msgspec.msgpack.decode(content, type=kind)
    return None


def store(key: str, value: object) -> None:
    """Keep a value; nothing is kept of one with texts that are not UTF-8."""
    with suppress(UnicodeEncodeError):
        keep_list(f"{VERSION}\0{key}", msgspec.msgpack.encode(value))


def keep(key: str, kind: type[Value], make: Callable[[], Value]) -> Value:
    """The value that was kept under a key, else the one that `make` returns, which is kept."""
    value = recall(key, kind)
    if value is None:
        value = make()
        store(key, value)
    return value


def keep_pools(made_of: str, make: Callable[[], Pools]) -> Mapping[str, ItemList]:
    """`keep` for pools. made_of: a text that determines the result uniquely."""
    runs = keep(f"pools\0{made_of}", dict[str, list[Run]], lambda: _runs_of(make()))
    return {role: ItemList(listed) for role, listed in runs.items()}


def lists_digest(pools: Mapping[str, Sequence[Item]]) -> str:
    """SHA-256 digest of pools; equal pools have equal digests if they consist of the same runs."""
    return hashlib.sha256(msgspec.msgpack.encode(_runs_of(pools))).hexdigest()


def _runs_of(pools: Mapping[str, Sequence[Item]]) -> dict[str, list[Run]]:
    return {role: list(packed(items).runs) for role, items in pools.items()}
