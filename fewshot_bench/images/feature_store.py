"""Feature matrices by content, each with what it cost: computed once, billed to everyone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from fewshot_bench.images.feature_rows import FeatureRows, cost_from, tensors_digest
from fewshot_bench.profiling.meter import Cost, Meter
from fewshot_bench.utils import cache_dir as cache_folder
from fewshot_bench.utils.turns import alone

MEMORY = 2 << 30


class FeatureStore:
    """Feature matrices by content key, in memory and on disk, each with what it cost to compute.

    A file holds its own key and the SHA-256 of its tensor; one that does not match is recomputed.
    `rows` keeps features image by image, for those that do not depend on a whole list.
    """

    def __init__(self, folder: Path | None) -> None:
        self.rows = FeatureRows(folder)
        self._folder = folder
        self._memory: dict[str, tuple[Tensor, Cost]] = {}
        self._used = 0

    def get(
        self,
        parts: dict[str, Any],
        compute: Callable[[], Tensor],
        meter: Meter,
        about: str = "",
        *,
        lasting: bool = True,
        images: bool = True,
    ) -> Tensor:
        """The features of `parts`: cached, or computed under the meter and kept. Always billed.

        `about` is the data set that they are listed under; what is not `lasting` is kept in memory.
        images: there is one row per encoded image, else per prompt.
        """
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        found = self._memory.get(key)
        if found is None:
            with alone(self._folder if lasting else None, key):
                found = self._load(key) if lasting else None
                if found is None:
                    found = meter.measure(compute, images=images)
                    if lasting:
                        self._save(key, *found, about)
        features, cost = found
        self._keep(key, features, cost)
        meter.bill(key, cost)
        return features

    def _keep(self, key: str, features: Tensor, cost: Cost) -> None:
        size = features.numel() * features.element_size()
        if key not in self._memory and self._used + size <= MEMORY:
            self._memory[key] = (features, cost)
            self._used += size

    def _path(self, key: str) -> Path | None:
        return self._folder / key[:2] / f"{key}.safetensors" if self._folder else None

    def _load(self, key: str) -> tuple[Tensor, Cost] | None:
        from safetensors import SafetensorError, safe_open

        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata, features = file.metadata(), file.get_tensor("features")
            if metadata["key"] != key or metadata["sha256"] != tensors_digest(features):
                return None
            cache_folder.touch(path)
            return features, cost_from(metadata["cost"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def _save(self, key: str, features: Tensor, cost: Cost, about: str) -> None:
        """Write beside and rename; a full or read-only disk only costs the cache."""
        from safetensors.torch import save

        path = self._path(key)
        if path is None:
            return
        metadata = {
            "key": key,
            "sha256": tensors_digest(features),
            "cost": json.dumps(dataclasses.asdict(cost)),
            "dataset": about,
        }
        data = save({"features": features.contiguous()}, metadata)
        with suppress(OSError):
            cache_folder.write(path, data)
