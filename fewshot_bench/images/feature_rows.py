"""Features image by image: each is encoded once, whoever asks and in whatever list it stands.

A row is known by what computed it (weights, precision, preprocessing ...: the context) and by a key
of its own, made from the image's bytes. Files hold the rows of one computation with their keys, and
are never changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.profiling.meter import Cost, Meter
from fewshot_bench.utils import cache_dir as cache_folder
from fewshot_bench.utils.turns import alone

MEMORY = 2 << 30
KEY = 32


@dataclasses.dataclass
class _Table:
    """The rows of one context: where each lies, and what one of its file had cost."""

    places: dict[bytes, tuple[int, int]] = dataclasses.field(default_factory=dict)
    files: list[tuple[Tensor, Cost]] = dataclasses.field(default_factory=list)
    seen: set[str] = dataclasses.field(default_factory=set)

    def take(self, keys: Sequence[bytes], features: Tensor, cost: Cost) -> None:
        """Add the rows of one computation; `cost` is that of one row."""
        for row, key in enumerate(keys):
            self.places.setdefault(key, (len(self.files), row))
        self.files.append((features, cost))


class FeatureRows:
    """Rows in memory and on disk, for several processes; damaged files are not used."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._tables: dict[str, _Table] = {}

    def get(
        self,
        context: dict[str, Any],
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Tensor],
        meter: Meter,
        about: str = "",
        *,
        lasting: bool = True,
    ) -> Tensor:
        """(n, width): the rows of `keys`, each billed once per cell at what it had cost.

        compute: places in `keys` to their features; asked for what nobody has computed, once per
        key. `about` is the data set they are listed under; what is not `lasting` stays in memory.
        """
        name = hashlib.sha256(json.dumps(context, sort_keys=True).encode()).hexdigest()
        table = self._tables.setdefault(name, _Table())
        if any(key not in table.places for key in keys):
            with alone(self._folder if lasting else None, f"{name} {about}"):
                self._complete(name, table, keys, compute, meter, about if lasting else None)
        new = meter.unpaid(name, keys)
        for file, rows in Counter(table.places[key][0] for key in new).items():
            meter.pay(table.files[file][1].times(rows))
        found = _gathered(table, keys)
        self._forget()
        return found

    def _complete(
        self,
        name: str,
        table: _Table,
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Tensor],
        meter: Meter,
        about: str | None,
    ) -> None:
        """Read what others have computed meanwhile, and compute the rest; None: memory only."""
        if about is not None:
            self._load(name, table)
        places = {key: place for place, key in enumerate(keys) if key not in table.places}
        if places:
            features, cost = meter.measure(lambda: compute(list(places.values())))
            share = _share(cost, len(places))
            if about is not None:
                self._save(name, table, list(places), features, share, about)
            table.take(list(places), features, share)

    def _forget(self) -> None:
        """Drop whole contexts, the oldest first, until the rest fits into `MEMORY`."""
        sizes = {
            name: sum(features.nbytes for features, _ in table.files)
            for name, table in self._tables.items()
        }
        for name in list(self._tables)[:-1]:
            if sum(sizes.values()) <= MEMORY:
                return
            del self._tables[name], sizes[name]

    def _load(self, name: str, table: _Table) -> None:
        folder = self._folder / name[:16] if self._folder else None
        for file in sorted(folder.glob("*.safetensors")) if folder and folder.is_dir() else ():
            if file.name not in table.seen:
                table.seen.add(file.name)
                found = _read(file, name)
                if found is not None:
                    table.take(*found)

    def _save(
        self,
        name: str,
        table: _Table,
        keys: Sequence[bytes],
        features: Tensor,
        share: Cost,
        about: str,
    ) -> None:
        """Write beside and rename; a full or read-only disk only costs the cache."""
        from safetensors.torch import save

        if self._folder is None:
            return
        rows = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY)
        metadata = {
            "context": name,
            "sha256": tensors_digest(rows, features),
            "cost": json.dumps(dataclasses.asdict(share)),
            "dataset": about,
        }
        data = save({"features": features.contiguous(), "keys": rows}, metadata)
        file = (
            self._folder / name[:16] / f"{hashlib.sha256(b''.join(keys)).hexdigest()}.safetensors"
        )
        table.seen.add(file.name)
        with suppress(OSError):
            cache_folder.write(file, data)


def _share(cost: Cost, rows: int) -> Cost:
    """The cost of one row; counts are the same for every image of one size."""
    return Cost(
        cost.wall / rows,
        cost.cpu / rows,
        *(count // rows for count in (cost.images, cost.text_tokens, cost.flops, cost.uncounted)),
    )


def _gathered(table: _Table, keys: Sequence[bytes]) -> Tensor:
    places = [table.places[key] for key in keys]
    first = table.files[places[0][0]][0]
    result = first.new_empty(len(keys), first.shape[1])
    by_file: dict[int, list[int]] = {}
    for place, (file, _) in enumerate(places):
        by_file.setdefault(file, []).append(place)
    for file, rows in by_file.items():
        result[rows] = table.files[file][0][[places[row][1] for row in rows]]
    return result


def _read(file: Path, name: str) -> tuple[list[bytes], Tensor, Cost] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
            features, rows = opened.get_tensor("features"), opened.get_tensor("keys")
        if metadata["context"] != name or metadata["sha256"] != tensors_digest(rows, features):
            return None
        cost = cost_from(metadata["cost"])
        cache_folder.touch(file)
        return [row.numpy().tobytes() for row in rows], features, cost
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def cost_from(text: str) -> Cost:
    """A cost as it is kept; TypeError or ValueError when it is none."""
    values = json.loads(text)
    if not isinstance(values, dict) or not all(
        type(value) in (int, float) and math.isfinite(value) for value in values.values()
    ):
        raise ValueError("a cost is no number")
    return Cost(**values)


def tensors_digest(*tensors: Tensor) -> str:
    """SHA-256 over types, shapes and bytes of tensors, one after the other."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
