"""Nearest neighbors of unit features, found in blocks, and sparse weights between images.

Main entry points: `nearest`, `nearest_others` and `Links`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 2**24
"""Cosines that are held at once: 64 MB."""


def nearest(rows: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The keys (m, d) with the largest cosines for each row (n, d), all of unit length.

    Two tensors (n, min(count, m)): cosines, the largest first, and numbers of keys.
    """
    return _search(rows, keys, min(count, len(keys)), others=False)


def nearest_others(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same among the features (n, d) themselves, none of which is its own neighbor.

    Two tensors (n, min(count, n - 1)); equal features are neighbors of each other.
    """
    return _search(features, features, min(count, len(features) - 1), others=True)


def _search(rows: Tensor, keys: Tensor, count: int, *, others: bool) -> tuple[Tensor, Tensor]:
    found = []
    size, start = max(1, CELLS // max(1, len(keys))), 0
    for block in torch.split(rows, size):
        cosines = block @ keys.T
        if others:
            cosines.diagonal(start).fill_(-torch.inf)
        found.append(cosines.topk(count, dim=1))
        start += len(block)
    values, numbers = zip(*found, strict=True)
    return torch.cat(values), torch.cat(numbers)


@dataclass(frozen=True)
class Links:
    """A sparse matrix (n, m) of weights, stored row by row.

    Row i has the weights `starts[i]` to `starts[i + 1]`, in the columns of the same places.

    >>> Links.both_ways(*nearest_others(features, 3)) @ z
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, weights: Tensor, count: int) -> Links:
        """The matrix of `count` rows with these weights (e,); those of one place add up."""
        rows, order = rows.sort(stable=True)
        starts = torch.searchsorted(rows, torch.arange(count + 1, device=rows.device))
        return cls(starts, columns[order], weights[order])

    @classmethod
    def both_ways(cls, weights: Tensor, neighbors: Tensor) -> Links:
        """A + A' (n, n), where row i of A has `weights[i]` in the columns `neighbors[i]`."""
        count, each = neighbors.shape
        rows = torch.arange(count, device=neighbors.device).repeat_interleave(each)
        ends, double = neighbors.flatten(), weights.flatten().repeat(2)
        return cls.of(torch.cat([rows, ends]), torch.cat([ends, rows]), double, count)

    def split(self, size: int) -> Sequence[Links]:
        """Blocks of `size` rows; on an accelerator, which would wait for their places, all rows."""
        if not self.starts.is_cpu:
            return (self,)
        parts = []
        for first in range(0, len(self.starts) - 1, size):
            starts = self.starts[first : first + size + 1]
            own = slice(int(starts[0]), int(starts[-1]))
            parts.append(Links(starts - starts[0], self.columns[own], self.weights[own]))
        return parts

    def __matmul__(self, values: Tensor) -> Tensor:
        """The product (n, c) with dense values (m, c)."""
        return F.embedding_bag(
            self.columns,
            values,
            self.starts,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )
