"""Content-addressed feature cache, one row per image or prompt, shared by methods, shots and seeds.

`FeatureCache.rows` is the way in. A row is known by its context (what computed it: weights,
precision, preprocessing ...) and by a key of its own. A file holds the rows of one computation with
their keys and its cost, is never changed, and counts only while its SHA-256 is right.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils import cache_dir as cache_folder
from fewshot_bench.utils.locks import once

MEMORY = 2 << 30
KEY = 32


@functools.lru_cache(maxsize=64)
def numbered(count: int) -> tuple[bytes, ...]:
    """Keys of rows that have a place in their context and nothing else of their own."""
    return tuple(number.to_bytes(KEY, "big") for number in range(count))


@dataclasses.dataclass
class _Table:
    """The rows of one context: the file and the place in it of each, and the cost of every file."""

    places: dict[bytes, tuple[int, int]] = dataclasses.field(default_factory=dict)
    files: list[tuple[Tensor, Cost]] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)
    size: int = 0

    def take(self, keys: Sequence[bytes], features: Tensor, cost: Cost) -> None:
        """Add the rows of one computation, which had this cost."""
        for row, key in enumerate(keys):
            self.places.setdefault(key, (len(self.files), row))
        self.files.append((features, cost))
        self.size += features.nbytes

    def copy(self) -> _Table:
        """A table for rows that are not to be kept."""
        return _Table(dict(self.places), list(self.files), set(self.seen), self.size)

    def gathered(self, keys: Sequence[bytes]) -> Tensor:
        """(n, width): the rows of `keys`, which must not be changed."""
        places = [self.places[key] for key in keys]
        by_file: dict[int, list[int]] = {}
        for place, (file, _) in enumerate(places):
            by_file.setdefault(file, []).append(place)
        first = self.files[places[0][0]][0]
        rows = torch.tensor([row for _, row in places])
        if len(by_file) == 1:
            whole = len(rows) == len(first) and torch.equal(rows, torch.arange(len(first)))
            return first if whole else first[rows]
        result = first.new_empty(len(keys), first.shape[1])
        for file, found in by_file.items():
            result[found] = self.files[file][0][rows[found]]
        return result

    def charge(self, keys: set[bytes], meter: Meter) -> None:
        """Bill rows at their equal shares of what their files had cost."""
        for file, rows in Counter(self.places[key][0] for key in keys).items():
            features, cost = self.files[file]
            meter.charge(cost.scaled(rows, len(features)))


class FeatureCache:
    """Rows in memory, and in the files of a folder that several processes may share."""

    def __init__(self, folder: Path | None, is_sound: Callable[[], bool] = lambda: True) -> None:
        """is_sound: False where features that are computed now must reach no other cell."""
        self._folder = folder
        self._is_sound = is_sound
        self._tables: dict[str, _Table] = {}

    def rows(
        self,
        context: Mapping[str, Any],
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Tensor],
        meter: Meter,
        dataset: str = "",
        *,
        lasting: bool = True,
        images: bool = True,
    ) -> Tensor:
        """(n, width): the rows of `keys`, each billed once per cell at what it had cost.

        The result may be the memory of the cache and must not be changed.

        compute: places in `keys` to their features; called for what nobody has computed, once per
        key. `dataset` is the name they are listed under; what is not `lasting` stays in memory.
        images: there is one row per encoded image, else per prompt.
        """
        name = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()
        folder = self._folder / name[:16] if self._folder is not None and lasting else None
        table = self._tables.setdefault(name, _Table())
        if any(key not in table.places for key in keys):
            with once(self._folder if lasting else None, f"{name} {dataset}"):
                if folder is not None:
                    _load(folder, name, table)
                places = {key: place for place, key in enumerate(keys) if key not in table.places}
                if places:
                    wanted, sound = list(places.values()), self._is_sound()
                    found = meter.measure(lambda: compute(wanted), images=images)
                    if not (sound and self._is_sound()):
                        table = table.copy()
                    elif folder is not None:
                        _save(folder, name, table, list(places), *found, dataset)
                    table.take(list(places), *found)
        table.charge(meter.uncharged(name, keys), meter)
        result = table.gathered(keys)
        self._forget()
        return result

    def _forget(self) -> None:
        """Drop whole contexts, the oldest first, until the rest fits into `MEMORY`."""
        size = sum(table.size for table in self._tables.values())
        for name in list(self._tables)[:-1]:
            if size <= MEMORY:
                return
            size -= self._tables.pop(name).size


def _load(folder: Path, name: str, table: _Table) -> None:
    """Read the files of a context that this process has not read yet."""
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        if file.name not in table.seen:
            table.seen.add(file.name)
            found = _read(file, name)
            if found is not None:
                table.take(*found)


def _read(file: Path, name: str) -> tuple[list[bytes], Tensor, Cost] | None:
    """The rows of a file; None where it is damaged, or of another context."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            features, rows = opened.get_tensor("features"), opened.get_tensor("keys")
        if metadata["context"] != name or metadata["sha256"] != tensors_digest(rows, features):
            return None
        joined = rows.numpy().tobytes()
        keys = [joined[start : start + KEY] for start in range(0, len(joined), KEY)]
        cost = Cost.from_dict(json.loads(metadata["cost"]))
        cache_folder.touch(file)
        return (keys, features, cost) if len(keys) == len(features) else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _save(
    folder: Path,
    name: str,
    table: _Table,
    keys: Sequence[bytes],
    features: Tensor,
    cost: Cost,
    dataset: str,
) -> None:
    """Write beside and rename; a full or read-only disk only costs the cache."""
    from safetensors.torch import save

    joined = b"".join(keys)
    rows = torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(-1, KEY)
    metadata = {
        "context": name,
        "sha256": tensors_digest(rows, features),
        "cost": json.dumps(cost.to_dict()),
        "dataset": dataset,
    }
    data = save({"features": features.contiguous(), "keys": rows}, metadata)
    file = folder / f"{hashlib.sha256(joined).hexdigest()}.safetensors"
    table.seen.add(file.name)
    with suppress(OSError):
        cache_folder.write(file, data)


def tensors_digest(*tensors: Tensor) -> str:
    """SHA-256 over types, shapes and bytes of tensors, one after the other."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
