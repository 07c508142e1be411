"""How the tokens of many sequences lie in one matrix: a shared prefix, then groups of one length."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Below this many padding tokens one padded group is faster than one group per length.
PADDING_ALLOWED = 256


@dataclass(frozen=True)
class Group:
    """`count` sequences of `length` tokens from row `row` on; `first` is the first one's number."""

    row: int
    count: int
    length: int
    first: int

    @property
    def rows(self) -> slice:
        """Where its tokens lie."""
        return slice(self.row, self.row + self.count * self.length)

    @property
    def members(self) -> slice:
        """Which sequences these are."""
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True)
class Layout:
    """How flat tokens divide: `prefix` shared rows, then (count, length) sequences per group.

    `causal` masks later tokens; `pooled` (n,) are the rows that are read in the end, one per
    sequence, in the order of the groups.
    """

    prefix: int
    shape: tuple[tuple[int, int], ...]
    causal: bool
    pooled: Tensor

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups with the places of their tokens."""
        return tuple(self._groups())

    def _groups(self) -> Iterator[Group]:
        row, first = self.prefix, 0
        for count, length in self.shape:
            yield Group(row, count, length, first)
            row, first = row + count * length, first + count

    @functools.cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """Per group (length, prefix + length) True where a query may look; None: everywhere."""
        return tuple(self._mask(group.length) for group in self.groups)

    def _mask(self, length: int) -> Tensor | None:
        if not self.causal:
            return None
        own = torch.ones(length, length, dtype=torch.bool, device=self.pooled.device).tril()
        return torch.cat([own.new_ones(length, self.prefix), own], dim=1)

    @functools.cached_property
    def pooled_masks(self) -> tuple[Tensor | None, ...]:
        """Per group (count, 1, 1, prefix + length): what each pooled token may look at."""
        return tuple(self._pooled_mask(group) for group in self.groups)

    def _pooled_mask(self, group: Group) -> Tensor | None:
        if not self.causal:
            return None
        device = self.pooled.device
        starts = group.row + group.length * torch.arange(group.count, device=device)
        ends = self.prefix + self.pooled[group.members] - starts
        columns = torch.arange(self.prefix + group.length, device=device)
        return (columns <= ends[:, None])[:, None, None, :]


@dataclass(frozen=True)
class Packing:
    """Sequences after a shared prefix, without padding.

    rows (t,) are indices into the suffixes (n, s), laid flat; positions (t,) their places in the
    sequence; `order` (n,) restores the order of the sequences, None where it never changed.
    """

    layout: Layout
    rows: Tensor
    positions: Tensor
    order: Tensor | None

    @property
    def tokens(self) -> int:
        """How many tokens are computed, the prefix once."""
        return self.layout.prefix + len(self.rows)


def pack(prefix: int, end: Tensor, width: int) -> Packing:
    """Packs suffixes (n, width) that end at index `end` (n,), behind `prefix` shared tokens.

    Reads the lengths on the host, so it is done once per task and not once per step.
    """
    ends = end.tolist()
    index = torch.arange(width)
    members = _by_length(ends)
    rows, pooled, row = [], [], prefix
    for group, length in members:
        starts = torch.tensor(group) * width
        rows.append((starts[:, None] + index[:length]).flatten())
        offsets = row + length * torch.arange(len(group))
        pooled.append(offsets + torch.tensor([ends[one] for one in group]))
        row += length * len(group)
    flat = torch.cat(rows)
    visited = torch.tensor([one for group, _ in members for one in group])
    shape = tuple((len(group), length) for group, length in members)
    layout = Layout(prefix, shape, True, torch.cat(pooled).to(end.device))
    order = None if len(members) == 1 else visited.argsort().to(end.device)
    positions = (prefix + flat % width).to(end.device)
    return Packing(layout, flat.to(end.device), positions, order)


def _by_length(ends: list[int]) -> list[tuple[list[int], int]]:
    """Sequences of one length each; one padded group where that wastes little."""
    lengths = [end + 1 for end in ends]
    longest = max(lengths)
    if longest * len(lengths) - sum(lengths) <= PADDING_ALLOWED:
        return [(list(range(len(lengths))), longest)]
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        groups.setdefault(length, []).append(index)
    return [(groups[length], length) for length in sorted(groups)]
