"""Packing of many token sequences into one matrix: a shared prefix first, then the sequences.

`pack` is the entry point; several runs of the sequences, each behind its own prefix, also fit in
one matrix. No token attends to another sequence. The device chooses the layout (`fewer_kernels`):
a CPU computes groups of similar length one by one, padding included; an accelerator has rows
without padding, and one attention over all sequences, for which `Slots` pads them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fewshot_bench.utils.devices import fewer_kernels
from fewshot_bench.utils.tracing import is_exporting
from fewshot_bench.utils.transfer import send

# Overhead of a group of sequences, in tokens of computation, for a model of this width.
GROUP_TOKENS, GROUP_WIDTH = 8, 512
MASK_ALIGNMENT = 8
"""Fused attention copies a mask whose rows do not start at multiples of so many values."""
T = TypeVar("T")


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


@dataclass(frozen=True, eq=False)
class Layout:
    """Layout of flat tokens: `prefix` shared rows, then (count, length) sequences per group.

    With `runs`, that many prefixes of `prefix` rows each come first; every group then holds the
    sequences of the first run, those of the second, and so on.
    `pooled` (n,) are the rows that are read out at the end, one per sequence, in the order of the
    groups. Text is `causal`: no token attends to later ones. Images are not, and have no prefix.
    With `exact`, no row is padding, each sequence ends at its pooled row, all groups of a run are
    before those of the next, and attention is over `slots`.
    """

    prefix: int
    shape: tuple[tuple[int, int], ...]
    causal: bool
    pooled: Tensor
    runs: int = 1
    exact: bool = False
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def keep(self, name: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, called once per layout: no training step makes it again."""
        if is_exporting():
            return make()
        if name not in self._kept:
            # What is made while predicting serves a later training step, too.
            with torch.inference_mode(False):
                self._kept[name] = make()
        kept: T = self._kept[name]
        return kept

    @property
    def slots(self) -> Slots:
        """The places of an exact layout's tokens in attention over all sequences at once."""
        return self.keep("slots", lambda: _slots(self, pooled=False))

    @property
    def pooled_slots(self) -> Slots:
        """The same for one query per sequence, its pooled row."""
        return self.keep("pooled slots", lambda: _slots(self, pooled=True))

    @functools.cached_property
    def own_tokens(self) -> int:
        """The number of rows behind the prefixes."""
        return sum(count * length for count, length in self.shape)

    @property
    def tokens(self) -> int:
        """The number of rows."""
        return self.runs * self.prefix + self.own_tokens

    @functools.cached_property
    def own_pairs(self) -> int:
        """The pairs of a row behind a prefix and a row that it attends to."""
        return sum(count * length * (self.prefix + length) for count, length in self.shape)

    @functools.cached_property
    def sequences(self) -> int:
        """The number of sequences of all runs."""
        return sum(count for count, _ in self.shape)

    @functools.cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The row of each sequence's first own token, in the order of the groups."""
        return tuple(
            group.row + number * group.length
            for group in self.groups
            for number in range(group.count)
        )

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


@dataclass(frozen=True, eq=False)
class Slots:
    """Places of packed tokens in attention where all sequences have one length.

    A sequence has slots for its prefix, then for its own tokens. Behind the sequences of each run
    are as many more as its prefix fills: they hold the queries of the prefix. Pooled slots have
    one query per sequence, no other sequences, and neither `queries` nor `asked`.
    rows (count * (prefix + length),): the packed row in every slot, and any row in an empty one.
    own (t,): the slots of all rows behind the prefixes. queries (t',): the place of every packed
    row among the slots for own tokens; asked (count * length,): the packed row in each of these.
    hidden (count, 1, length or 1, prefix + length): True for masked keys. An empty slot attends to
    itself alone and nothing attends to it, so that no number of it goes anywhere.
    filled (count, 1, length or 1, 1): True for queries of packed rows.
    """

    runs: int
    count: int
    prefix: int
    length: int
    rows: Tensor
    own: Tensor
    hidden: Tensor
    filled: Tensor
    queries: Tensor | None = None
    asked: Tensor | None = None
    _masks: dict[tuple[torch.dtype, int], Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def mask(self, dtype: torch.dtype, ahead: int = 0) -> Tensor:
        """`hidden` as the numbers to add to scores: fused attention would make them every time.

        ahead: keys before all others, which every filled slot sees.
        """
        if (dtype, ahead) not in self._masks:
            with torch.inference_mode(False):
                hidden = self.hidden
                if ahead:
                    hidden = torch.cat([(~self.filled).expand(-1, -1, -1, ahead), hidden], dim=-1)
                *shape, keys = hidden.shape
                wide = -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT
                whole = torch.zeros(*shape, wide, dtype=dtype, device=hidden.device)
                whole[..., :keys].masked_fill_(hidden, float("-inf"))
                self._masks[dtype, ahead] = whole[..., :keys]
        return self._masks[dtype, ahead]


def _slots(layout: Layout, *, pooled: bool) -> Slots:
    """The slots of an exact layout, made on the host and copied to the device once."""
    runs, prefix, device = layout.runs, layout.prefix, layout.pooled.device
    every = [length for count, length in layout.shape for _ in range(count)]
    lengths = torch.tensor(every[: len(every) // runs])
    length, total = int(lengths.max()), int(lengths.sum())
    slot, first = torch.arange(length), torch.arange(prefix)
    later, alone = slot > slot[:, None], ~torch.eye(length, dtype=torch.bool)
    filled = slot < lengths[:, None]
    rows = prefix + (lengths.cumsum(0) - lengths)[:, None] + slot
    hidden = torch.where(filled[..., None], later, alone)
    before = (~filled[..., None]).expand(-1, -1, prefix)
    asking = filled[:, :1]
    if pooled:
        hidden, before = ~filled[:, None], torch.zeros(len(filled), 1, prefix, dtype=torch.bool)
    elif prefix:
        place = torch.arange(-(-prefix // length) * length).view(-1, length)
        rows, filled = torch.cat([rows, place]), torch.cat([filled, place < prefix])
        holds = (place < prefix)[..., None]
        hidden = torch.cat([hidden, holds | alone])
        before = torch.cat([before, ~holds | (first > place[..., None])])
    count, slots = len(filled), prefix + length
    rows = torch.cat([first.expand(count, prefix), torch.where(filled, rows, 0)], dim=1)
    # In a run, its prefix is followed by its sequences; in all rows, by the other prefixes.
    run = torch.arange(runs)[:, None]
    placed = [run * prefix + first, runs * prefix + run * total + torch.arange(total)]
    rows = torch.cat(placed, dim=1)[:, rows].view(-1, slots)
    place = filled.flatten().nonzero().flatten()
    own = place[:total] // length * slots + prefix + place[:total] % length
    queries = [run * count * length + some for some in (place[total:], place[:total])]
    found = Slots(
        runs,
        runs * count,
        prefix,
        length,
        send(rows.flatten(), device),
        send((run * count * slots + own).flatten(), device),
        send(torch.cat([before, hidden], dim=2).repeat(runs, 1, 1)[:, None], device),
        send((asking if pooled else filled).repeat(runs, 1)[:, None, :, None], device),
    )
    if pooled:
        return found
    return replace(
        found,
        queries=send(torch.cat([some.flatten() for some in queries]), device),
        asked=send(rows[:, prefix:].flatten(), device),
    )


@dataclass(frozen=True)
class Packing:
    """Sequences after a shared prefix, padded at most within groups of similar length.

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

    @property
    def slots(self) -> int:
        """The number of tokens in attention: the slots of an exact layout, else `tokens`."""
        return len(self.layout.slots.rows) if self.layout.exact else self.tokens

    def repeated(self, runs: int) -> Packing:
        """Repeat a packing of one run behind `runs` prefixes, without reads on the host."""
        if runs == 1:
            return self
        make = self._run_by_run if self.layout.exact else self._group_by_group
        return self.layout.keep(("repeated", runs), lambda: make(runs))

    def _run_by_run(self, runs: int) -> Packing:
        layout, run = self.layout, torch.arange(runs, device=self.rows.device)[:, None]
        pooled = layout.pooled + (runs - 1) * layout.prefix + run * len(self.rows)
        return Packing(
            replace(layout, shape=layout.shape * runs, pooled=pooled.flatten(), runs=runs),
            self.rows.repeat(runs),
            self.positions.repeat(runs),
            None,
        )

    def _group_by_group(self, runs: int) -> Packing:
        layout, device = self.layout, self.rows.device
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
        layout = replace(self.layout, shape=shape, pooled=pooled - (start - prefix))
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

    On a CPU, the narrower the model, the more padding is cheaper than another group. Reads the
    lengths on the host, and so is called once per task, not once per step.
    """
    ends, exact = end.tolist(), fewer_kernels(end.device)
    index = torch.arange(width)
    if exact:
        members = _in_turn(ends)
    else:
        members = _by_length(ends, round(GROUP_TOKENS * (GROUP_WIDTH / model_width) ** 2))
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
    layout = Layout(prefix, shape, True, torch.cat(pooled).to(end.device), exact=exact)
    order = None if exact or len(members) == 1 else visited.argsort().to(end.device)
    positions = (prefix + flat % width).to(end.device)
    return Packing(layout, flat.to(end.device), positions, order)


def _in_turn(ends: list[int]) -> list[tuple[list[int], int]]:
    """Groups of neighbors of equal length: all sequences in their own order, without padding."""
    lengths = itertools.groupby(range(len(ends)), key=lambda index: ends[index] + 1)
    return [(list(equal), length) for length, equal in lengths]


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
