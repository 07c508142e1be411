"""Packing of many token sequences into one matrix: a shared prefix first, then groups by length.

`pack` is the entry point; several runs of the sequences, each behind its own prefix, also fit in
one matrix. Padding within a group is computed, and no token attends to another sequence.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Overhead of a group of sequences, in tokens of computation, for a model of this width.
GROUP_TOKENS, GROUP_WIDTH = {"cpu": 8, "other": 1024}, 512


@dataclass(frozen=True)
class Group:
    """`count` sequences of `length` tokens from row `row` on; first: index of the first one."""

    row: int
    count: int
    length: int
    first: int

    @property
    def rows(self) -> slice:
        """Its token rows."""
        return slice(self.row, self.row + self.count * self.length)

    @property
    def members(self) -> slice:
        """The sequences of this group."""
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True)
class Layout:
    """Layout of flat tokens: `prefix` shared rows, then (count, length) sequences per group.

    With `runs`, that many prefixes of `prefix` rows each come first; every group then holds the
    sequences of the first run, those of the second, and so on.
    `pooled` (n,) are the rows that are read out at the end, one per sequence, in the order of the
    groups. Text is `causal`: no token attends to later ones. Images are not, and have no prefix.
    """

    prefix: int
    shape: tuple[tuple[int, int], ...]
    causal: bool
    pooled: Tensor
    runs: int = 1

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups with the places of their tokens."""
        return tuple(self._groups())

    def _groups(self) -> Iterator[Group]:
        row, first = self.runs * self.prefix, 0
        for count, length in self.shape:
            yield Group(row, count, length, first)
            row, first = row + count * length, first + count

    @property
    def prefix_group(self) -> Group:
        """The prefixes as sequences of their own."""
        return Group(0, self.runs, self.prefix, 0)

    @functools.cached_property
    def prefix_hidden(self) -> Tensor:
        """(prefix, prefix) attention mask of the prefix: True for masked keys."""
        return self._later(self.prefix)

    @functools.cached_property
    def hidden(self) -> tuple[Tensor, ...]:
        """Per group (length, length) mask within a sequence: True for masked keys."""
        return tuple(self._later(group.length) for group in self.groups)

    def _later(self, length: int) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool, device=self.pooled.device).triu(1)

    @functools.cached_property
    def pooled_hidden(self) -> tuple[Tensor, ...]:
        """Per group (count, 1, length) mask of the pooled tokens: True for masked keys."""
        return tuple(self._after(group) for group in self.groups)

    def _after(self, group: Group) -> Tensor:
        device = self.pooled.device
        starts = group.row + group.length * torch.arange(group.count, device=device)
        ends = self.pooled[group.members] - starts
        return (torch.arange(group.length, device=device) > ends[:, None])[:, None, :]


@dataclass(frozen=True)
class Packing:
    """Sequences after a shared prefix, padded only within groups of similar length.

    rows (t,) are indices into the flattened suffixes (n, s); positions (t,) their positions in the
    sequence; `order` (n,) restores the order of the sequences, None if it did not change.
    """

    layout: Layout
    rows: Tensor
    positions: Tensor
    order: Tensor | None

    @property
    def tokens(self) -> int:
        """The number of computed tokens, with every prefix once."""
        return self.layout.runs * self.layout.prefix + self.rows.shape[0]

    def repeated(self, runs: int) -> Packing:
        """Repeat a packing of one run behind `runs` prefixes, without reads on the host."""
        layout, device = self.layout, self.rows.device
        if runs == 1:
            return self
        rows, pooled, slots, behind = [], [], [], runs * layout.prefix
        for group in layout.groups:
            size, own = group.count * group.length, group.row - layout.prefix
            rows.append(torch.arange(own, own + size, device=device).repeat(runs))
            inside = layout.pooled[group.members] - group.row + behind + runs * own
            pooled.append((inside + size * torch.arange(runs, device=device)[:, None]).flatten())
            first = torch.arange(runs, device=device)[:, None] * group.count + runs * group.first
            slots.append(first + torch.arange(group.count, device=device))
        every = torch.cat(rows)
        order = torch.cat(slots, dim=1)
        order = order if self.order is None else order[:, self.order]
        shape = tuple((runs * count, length) for count, length in layout.shape)
        return Packing(
            Layout(layout.prefix, shape, layout.causal, torch.cat(pooled), runs),
            self.rows[every],
            self.positions[every],
            None if len(shape) == 1 and self.order is None else order.flatten(),
        )

    def divide(self, parts: int) -> list[Part]:
        """Split a packing of one run into at most `parts` parts with similar numbers of tokens.

        The parts are in the order of the groups.
        """
        layout, total = self.layout, len(self.rows)
        pieces: dict[int, list[tuple[int, int, int]]] = {}
        for group in layout.groups:
            for number in range(group.count):
                start = group.row + number * group.length
                piece = pieces.setdefault((start - layout.prefix) * parts // total, [])
                piece.append((group.first + number, start, group.length))
        return [self._part(pieces[index]) for index in sorted(pieces)]

    def _part(self, sequences: list[tuple[int, int, int]]) -> Part:
        """The part of consecutive sequences, given as index, first row and length of each."""
        (first, start, _), (last, begin, length) = sequences[0], sequences[-1]
        prefix, device = self.layout.prefix, self.rows.device
        own = slice(start - prefix, begin + length - prefix)
        pooled = self.layout.pooled[first : last + 1]
        lengths = itertools.groupby(length for _, _, length in sequences)
        shape = tuple((len(list(equal)), length) for length, equal in lengths)
        layout = Layout(prefix, shape, self.layout.causal, pooled - (start - prefix))
        visited = torch.arange(len(self.layout.pooled), device=device)
        if self.order is not None:
            visited = self.order.argsort()
        before, after = torch.arange(prefix), torch.arange(start, begin + length)
        return Part(
            Packing(layout, self.rows[own], self.positions[own], None),
            torch.cat([before, after]).to(device),
            torch.arange(first, last + 1, device=device),
            visited[first : last + 1],
        )


@dataclass(frozen=True)
class Part:
    """Some sequences of a packing, and their indices in the whole packing.

    packed: the part as its own packing, of the same suffixes; rows (t,): indices of its tokens in
    the whole, including the prefix; pooled (m,): indices of its pooled rows among all pooled rows;
    members (m,): indices of the sequences that its features belong to, in their order.
    """

    packed: Any
    rows: Tensor
    pooled: Tensor
    members: Tensor


def pack(prefix: int, end: Tensor, width: int, model_width: int = GROUP_WIDTH) -> Packing:
    """Pack suffixes (n, width) that end at index `end` (n,), behind `prefix` shared tokens.

    The narrower the model, the more padding is cheaper than another group. Reads the lengths on
    the host, and so is called once per task, not once per step.
    """
    ends = end.tolist()
    index = torch.arange(width)
    tokens = GROUP_TOKENS["cpu" if end.device.type == "cpu" else "other"]
    members = _by_length(ends, round(tokens * (GROUP_WIDTH / model_width) ** 2))
    rows, pooled, row = [], [], prefix
    for group, length in members:
        starts = torch.tensor(group) * width
        rows.append((starts[:, None] + index[:length]).flatten())
        offsets = row + length * torch.arange(len(group))
        pooled.append(offsets + torch.tensor([ends[prompt] for prompt in group]))
        row += length * len(group)
    flat = torch.cat(rows)
    visited = torch.tensor([prompt for group, _ in members for prompt in group])
    shape = tuple((len(group), length) for group, length in members)
    layout = Layout(prefix, shape, True, torch.cat(pooled).to(end.device))
    order = None if len(members) == 1 else visited.argsort().to(end.device)
    positions = (prefix + flat % width).to(end.device)
    return Packing(layout, flat.to(end.device), positions, order)


def _by_length(ends: list[int], overhead: int) -> list[tuple[list[int], int]]:
    """Group sequences by similar length, padded to the longest of the group.

    Of all ways to split the sorted lengths, the one with the fewest tokens, where each group adds
    the cost of `overhead` tokens.
    """
    members: dict[int, list[int]] = {}
    for index, end in enumerate(ends):
        members.setdefault(end + 1, []).append(index)
    lengths = sorted(members)
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(lengths) + 1):
        costs, count = [], 0
        for start in range(stop - 1, -1, -1):
            count += len(members[lengths[start]])
            costs.append((best[start][0] + overhead + count * lengths[stop - 1], start))
        best.append(min(costs))
    groups, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        chosen = [index for length in lengths[start:stop] for index in members[length]]
        groups.append((sorted(chosen), lengths[stop - 1]))
        stop = start
    return groups[::-1]
