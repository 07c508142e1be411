"""Pools made from the lists of a folder, kept in the user's cache by the digest of these lists.

`kept_pools` and `kept_text` are the entries. Nothing that is kept can be out of date: other lists
have another digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence

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

# Another one where lists are kept in another form, or other ones are made of the same lists.
VERSION = 1


def kept_pools(made_of: str, make: Callable[[], Pools]) -> Mapping[str, ItemList]:
    """The result of `make`, packed, which is called unless the result is kept.

    made_of: a text of which there is one for each result.
    """
    key = f"pools {VERSION}\0{made_of}"
    content = kept_list(key)
    if content is not None:
        return _decoded(content)
    pools = {role: packed(items) for role, items in make().items()}
    keep_list(key, _encoded(pools))
    return pools


def kept_text(made_of: str, make: Callable[[], str]) -> str:
    """The result of `make`, in the same way."""
    key = f"text {VERSION}\0{made_of}"
    content = kept_list(key)
    if content is not None:
        return content.decode()
    text = make()
    keep_list(key, text.encode())
    return text


def lists_digest(pools: Mapping[str, Sequence[Item]]) -> str:
    """Equal for equal pools that are packed alike."""
    return hashlib.sha256(_encoded(pools)).hexdigest()


def _encoded(pools: Mapping[str, Sequence[Item]]) -> bytes:
    """A line of JSON with a row per run, and the names."""
    runs = [(role, run) for role, items in pools.items() for run in packed(items).runs]
    rows = [
        [role, run.folder, run.label, run.classname, run.count, len(run.names.packed)]
        for role, run in runs
    ]
    head = json.dumps([list(pools), rows]).encode()
    return b"".join([head, b"\n", *(run.names.packed for _, run in runs)])


def _decoded(content: bytes) -> Mapping[str, ItemList]:
    place = content.index(b"\n") + 1
    roles, rows = json.loads(content[:place])
    pools: dict[str, list[Run]] = {role: [] for role in roles}
    for role, folder, label, classname, count, size in rows:
        names = Names(count, content[place : place + size])
        pools[role].append(Run(folder, label, classname, names))
        place += size
    return {role: ItemList(runs) for role, runs in pools.items()}
