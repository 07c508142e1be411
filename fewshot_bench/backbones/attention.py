"""Attention over packed prompts: sequences attend to a shared prefix and to themselves.

`attend` and `attend_pooled` are the entry points, for one prefix or one per run of the sequences.
In groups, scores against a prefix are one product for all its sequences, so that its keys and
values are never copied, and a product sums their gradients, too; softmax runs over both parts
together. In exact layouts, one fused attention runs over copies in slots of equal length.
Keys and values of `Prefix` edits stand before all others, and take part as a shared prefix does;
`attend_everywhere` is attention without a mask. Entries of a prefix are those of the runs, or of
the sequences, whose layout then shares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Prefix
from fewshot_bench.backbones.packing import Group, Layout, Slots


def attend(qkv: Tensor, layout: Layout, heads: int, prefixes: Sequence[Prefix] = ()) -> Tensor:
    """Every token attends to the prefix and, causally, to its own sequence.

    qkv: (t, 3 width), queries, keys and values concatenated; returns (t, width).
    """
    if layout.exact:
        slots = layout.slots
        q, k, v = _spread(qkv, slots, heads)
        mixed = _mixed(q, k, v, slots, prefixes)
        moved: Tensor = _Moved.apply(mixed, slots.queries, slots.asked)  # type: ignore[no-untyped-call]
        return moved
    return _by_group(None, qkv, layout, heads, prefixes)


def attend_pooled(
    q: Tensor, kv: Tensor, layout: Layout, heads: int, prefixes: Sequence[Prefix] = ()
) -> Tensor:
    """One query per sequence, q (n, width), attends to keys and values (t, 2 width)."""
    if layout.exact:
        slots = layout.pooled_slots
        queries = q.view(len(q), 1, heads, -1).transpose(1, 2)
        k, v = _spread(kv, slots, heads)
        return _mixed(queries, k, v, slots, prefixes)
    return _by_group(q, kv, layout, heads, prefixes)


def attend_everywhere(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    prefixes: Sequence[Prefix] = (),
    added: Tensor | None = None,
) -> Tensor:
    """Attention within sequences of one length, all to all: (count, heads, length, d) each.

    added: what is added to the scores, (..., queries, length). Returns (count, heads, queries, d).
    """
    joint = _joint(prefixes, heads, q.dtype)
    if joint is not None:
        k, v = (
            torch.cat([one.expand(len(q), -1, -1, -1), own], dim=2)
            for one, own in zip(joint, (k, v), strict=True)
        )
        added = None if added is None else F.pad(added, (joint[0].shape[2], 0))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    for one in prefixes:
        mixed = mixed if one.gate is None else mixed + _gated(q, one, heads)
    return mixed


def _joint(
    prefixes: Sequence[Prefix], heads: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Keys and values (k, heads, n, d) of all prefixes without a gate; k is 1 if all share them."""
    own = [one for one in prefixes if one.gate is None]
    if not own:
        return None
    entries = max(len(one.keys) if one.each else 1 for one in own)
    keys, values = (
        torch.cat([_of_heads(x, heads).expand(entries, -1, -1, -1) for x in every], dim=2)
        for every in ([one.keys for one in own], [one.values for one in own])
    )
    return keys.to(dtype), values.to(dtype)


def _of_heads(x: Tensor, heads: int) -> Tensor:
    """Entries (k, n, width), or (n, width) of one, as (k, heads, n, d)."""
    return x.view(-1, x.shape[-2], heads, x.shape[-1] // heads).transpose(1, 2)


def _gated(q: Tensor, prefix: Prefix, heads: int) -> Tensor:
    """Attention of q (count, heads, queries, d) to a prefix alone, times its gate.

    Every entry serves as many queries in a row as there are for it.
    """
    assert prefix.gate is not None
    keys, values = (_of_heads(x.to(q.dtype), heads) for x in (prefix.keys, prefix.values))
    if len(keys) != len(q):
        share = len(q) // len(keys)
        keys, values = (x.repeat_interleave(share, 0) if share > 1 else x for x in (keys, values))
    mixed = F.scaled_dot_product_attention(q, keys, values)
    return (mixed * prefix.gate.view(-1, 1, 1)).to(q.dtype)


def _mixed(
    q: Tensor, k: Tensor, v: Tensor, slots: Slots, prefixes: Sequence[Prefix] = ()
) -> Tensor:
    """(count * queries, width) of attention in slots; q, k, v (count, heads, length, d)."""
    heads, ahead = q.shape[1], 0
    joint = _joint(prefixes, heads, q.dtype)
    if joint is not None:
        ahead, share = joint[0].shape[2], slots.count // len(joint[0])
        k, v = (
            torch.cat([one.repeat_interleave(share, 0), own], dim=2)
            for one, own in zip(joint, (k, v), strict=True)
        )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=slots.mask(q.dtype, ahead))
    for one in prefixes:
        if one.gate is not None:
            # Gradients of empty slots may be any number, and keys of a prefix are not theirs.
            mixed = mixed + _gated(q, one, heads).masked_fill(~slots.filled, 0)
    return mixed.transpose(1, 2).reshape(q.shape[0] * q.shape[2], -1)


def _by_group(
    q: Tensor | None, fused: Tensor, layout: Layout, heads: int, prefixes: Sequence[Prefix]
) -> Tensor:
    """Attention group by group, (t, width); (n, width) with a query q of every sequence."""
    entries = layout.runs if layout.prefix else layout.sequences
    joint = _joint(prefixes, heads, fused.dtype) or ()
    ahead = (one.expand(entries, -1, -1, -1).transpose(0, 1) for one in joint)
    mixed: Tensor = _Packed.apply(q, fused, layout, heads, *ahead)  # type: ignore[no-untyped-call]
    for one in prefixes:
        if one.gate is not None:
            queries = fused[:, : mixed.shape[1]] if q is None else q
            mixed = mixed + _gated_by_group(queries, one, layout, heads, pooled=q is not None)
    return mixed


def _gated_by_group(
    q: Tensor, prefix: Prefix, layout: Layout, heads: int, *, pooled: bool
) -> Tensor:
    """Attention of packed queries (t, width) to a prefix alone, times its gate: (t, width)."""

    def part(rows: slice, entries: slice) -> Tensor:
        own = replace(prefix, keys=prefix.keys[entries], values=prefix.values[entries])
        queries = q[rows].view(len(own.keys), -1, heads, q.shape[1] // heads).transpose(1, 2)
        return _gated(queries, own, heads).transpose(1, 2).reshape(-1, q.shape[1])

    if not prefix.each:
        queries = q.view(1, len(q), heads, -1).transpose(1, 2)
        return _gated(queries, prefix, heads).transpose(1, 2).reshape(q.shape)
    groups = [(one.members if pooled else one.rows, one) for one in layout.groups]
    if not layout.prefix:
        return torch.cat([part(rows, one.members) for rows, one in groups])
    first = [] if pooled else [part(layout.prefix_group.rows, slice(None))]
    return torch.cat([*first, *(part(rows, slice(None)) for rows, _ in groups)])


def _spread(fused: Tensor, slots: Slots, heads: int) -> Sequence[Tensor]:
    """Packed rows (t, parts * width) in slots, by part: (count, heads, length, d)."""
    spread: tuple[Tensor, ...] = _Spread.apply(fused, slots, heads)  # type: ignore[no-untyped-call]
    return spread


class _Spread(torch.autograd.Function):
    """Queries, if slots have any, keys and values in their slots, by one copy of the packed rows.

    Gradients of a prefix are sums over the copies of its rows.
    """

    @staticmethod
    def forward(ctx: Any, fused: Tensor, slots: Slots, heads: int) -> tuple[Tensor, ...]:
        parts = 2 if slots.queries is None else 3
        shape = slots.count, slots.prefix + slots.length, parts, heads, -1
        every = fused.index_select(0, slots.rows).view(shape).permute(2, 0, 3, 1, 4)
        ctx.slots = slots
        if slots.queries is None:
            return every[0], every[1]
        return every[0, :, :, slots.prefix :], every[1], every[2]

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        slots: Slots = ctx.slots
        *queries, keys, values = (one.transpose(1, 2).flatten(2) for one in outer)
        gathered = _gathered(torch.cat([keys, values], dim=2), slots)
        if slots.queries is not None:
            own = queries[0].flatten(0, 1).index_select(0, slots.queries)
            gathered = torch.cat([own, gathered], dim=1)
        return gathered, None, None


def _gathered(gradient: Tensor, slots: Slots) -> Tensor:
    """(t, width) gradients of packed rows from those of their slots (count, length, width)."""
    own = gradient.flatten(0, 1).index_select(0, slots.own)
    if not slots.prefix:
        return own
    by_run = gradient.view(slots.runs, -1, *gradient.shape[1:])[:, :, : slots.prefix]
    return torch.cat([by_run.sum(1).flatten(0, 1), own])


class _Moved(torch.autograd.Function):
    """Rows `there` of x; rows `back` of the gradient, in which others than `there` may be any."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        return outer[0].index_select(0, ctx.back), None, None


class _Packed(torch.autograd.Function):
    """softmax(q k' / sqrt(d)) v with a shared prefix, group by group, forward and backward.

    ahead: keys and values (heads, entries, n, d) before all others, for each run, or each sequence
    where no prefix is shared; or none.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor | None, fused: Tensor, layout: Layout, heads: int, *ahead: Tensor
    ) -> Tensor:
        queries, keys, values = _by_head(q, fused, heads)
        first = _Part(layout.prefix_group)
        behind = alone = [first.take(keys), first.take(values)]
        each = bool(ahead) and not layout.prefix
        if each:
            alone = list(ahead)
        elif ahead:
            alone = [one.flatten(0, 1) for one in ahead]
            behind = [torch.cat(pair, dim=1) for pair in zip(alone, behind, strict=True)]
        else:
            alone = [one[:, :0] for one in behind]
        parts = _parts(layout, pooled=q is not None)
        mixed = fused.new_empty(queries.shape[1], heads, queries.shape[2]).transpose(0, 1)
        kept: list[Tensor] = []
        for part in parts:
            own = part.take_queries(queries), part.take(keys), part.take(values)
            before = part.before(behind, alone, each=each)
            weights = _weights(own[0], own[1], before[0], part)
            part.put_queries(mixed, _mix(weights, own[2], before[1]))
            kept += [*own, weights]
        ctx.save_for_backward(*behind, *alone, *kept)
        ctx.parts, ctx.heads, ctx.prefix = parts, heads, layout.prefix_group.rows
        ctx.shapes, ctx.each = ((None if q is None else q.shape), fused.shape), each
        ctx.ahead = [one.shape for one in ahead]
        return mixed.transpose(0, 1).reshape(-1, heads * queries.shape[2])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        behind, alone, kept = saved[:2], saved[2:4], saved[4:]
        of_q = None if ctx.shapes[0] is None else outer[0].new_empty(ctx.shapes[0])
        of_fused = outer[0].new_empty(ctx.shapes[1])
        of_queries, of_keys, of_values = _by_head(of_q, of_fused, ctx.heads)
        over = _heads(outer[0].contiguous(), ctx.heads)
        of_behind, of_alone = ([torch.zeros_like(x) for x in pair] for pair in (behind, alone))
        for index, part in enumerate(ctx.parts):
            queries, keys, values, weights = kept[4 * index : 4 * index + 4]
            down = part.take_queries(over)
            before = part.before(behind, alone, each=ctx.each)
            scores = _of_scores(weights, down, values, before[1])
            part.put_queries(of_queries, _mix(scores, keys, before[0]))
            part.put(of_keys, _own(scores, keys).mT @ queries)
            part.put(of_values, _own(weights, keys).mT @ down)
            size = before[0].shape[1]
            for total, own, rows in zip(
                of_behind if part.behind and not ctx.each else of_alone,
                (scores, weights),
                (queries, down),
                strict=True,
            ):
                if ctx.each:
                    added = own[..., :size].mT @ _long(rows, own)
                    total[:, part.group.members] = added.unflatten(0, (ctx.heads, -1))
                elif size:
                    total.baddbmm_(own[..., :size].mT, _long(rows, own))
        size = 0 if ctx.each else alone[0].shape[1]
        copied = ctx.parts[0].behind
        for gradient, total in zip((of_keys, of_values), of_behind, strict=True):
            rows = gradient[:, ctx.prefix]
            own = total[:, size:].reshape(rows.shape)
            rows.copy_(own) if copied else rows.add_(own)
        if not ctx.each:
            of_alone = [x + y[:, :size] for x, y in zip(of_alone, of_behind, strict=True)]
        of_ahead = [x.view(s) for x, s in zip(of_alone, ctx.ahead, strict=False)]
        return of_q, of_fused, None, None, *of_ahead


class _Part:
    """A group of sequences, or the prefix itself (behind: False), and its attention mask.

    hidden: mask, True for masked keys, (length, length) or (count, 1, length).
    """

    def __init__(
        self,
        group: Group,
        hidden: Tensor | None = None,
        *,
        behind: bool = True,
        pooled: bool = False,
    ) -> None:
        self.group, self.hidden, self.behind, self.pooled = group, hidden, behind, pooled

    @property
    def _queries(self) -> slice:
        return self.group.members if self.pooled else self.group.rows

    def take(self, x: Tensor) -> Tensor:
        """(heads, t, d) to (heads * count, length, d) of these sequences."""
        return self._apart(x[:, self.group.rows], self.group.length)

    def take_queries(self, x: Tensor) -> Tensor:
        """The same for queries, of which `pooled` parts have one per sequence."""
        return self._apart(x[:, self._queries], 1 if self.pooled else self.group.length)

    def _apart(self, x: Tensor, length: int) -> Tensor:
        return x.reshape(x.shape[0] * self.group.count, length, x.shape[-1])

    def before(
        self, behind: Sequence[Tensor], alone: Sequence[Tensor], *, each: bool
    ) -> Sequence[Tensor]:
        """What its sequences attend to before their own: (entries, n, d) for all their entries.

        each: `alone` (heads, sequences, n, d) are entries of sequences.
        """
        if each:
            return [one[:, self.group.members].flatten(0, 1) for one in alone]
        return behind if self.behind else alone

    def put(self, x: Tensor, values: Tensor) -> None:
        """The inverse of `take`."""
        part = x[:, self.group.rows]
        part.copy_(values.reshape(part.shape))

    def put_queries(self, x: Tensor, values: Tensor) -> None:
        """The inverse of `take_queries`."""
        part = x[:, self._queries]
        part.copy_(values.reshape(part.shape))


def _parts(layout: Layout, *, pooled: bool) -> list[_Part]:
    if pooled:
        pairs = zip(layout.groups, layout.pooled_hidden, strict=True)
        return [_Part(group, hidden, pooled=True) for group, hidden in pairs]
    groups = zip(layout.groups, layout.hidden, strict=True)
    parts = [_Part(group, hidden) for group, hidden in groups]
    if not layout.prefix:
        return parts
    return [_Part(layout.prefix_group, layout.prefix_hidden, behind=False), *parts]


def _heads(x: Tensor, heads: int) -> Tensor:
    """(t, heads * d) as (heads, t, d)."""
    return x.view(-1, heads, x.shape[-1] // heads).transpose(0, 1)


def _by_head(q: Tensor | None, fused: Tensor, heads: int) -> Sequence[Tensor]:
    """Queries, keys and values as (heads, t, d)."""
    parts = fused.chunk(3, dim=-1) if q is None else (q, *fused.chunk(2, dim=-1))
    return [_heads(part, heads) for part in parts]


def _long(x: Tensor, like: Tensor) -> Tensor:
    """(heads * count, length, d) as (heads, count * length, d)."""
    return x.view(like.shape[0], -1, x.shape[-1])


def _own(weights: Tensor, keys: Tensor) -> Tensor:
    """The columns of weights for a sequence's own keys, (heads * count, queries, length)."""
    own = weights[..., weights.shape[-1] - keys.shape[1] :]
    return own.reshape(keys.shape[0], -1, keys.shape[1])


def _weights(queries: Tensor, keys: Tensor, prefix: Tensor, part: _Part) -> Tensor:
    """(heads * runs, count * queries, prefix + length): softmax over prefix and own keys.

    count: the number of the part's sequences behind one prefix.
    """
    scale = queries.shape[-1] ** -0.5
    first = queries.view(prefix.shape[0], -1, queries.shape[-1]) @ prefix.mT
    own = queries @ keys.mT
    if part.hidden is not None:
        by_sequence = own.view(-1, part.group.count, *own.shape[1:])
        by_sequence.masked_fill_(part.hidden, float("-inf"))
    scores = torch.cat([first, own.view(prefix.shape[0], -1, keys.shape[1])], dim=-1).mul_(scale)
    return scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)


def _mix(weights: Tensor, values: Tensor, prefix: Tensor) -> Tensor:
    """(heads * count, queries, d): weights times the values of the prefix and the sequence."""
    own = _own(weights, values)
    first = weights[..., : prefix.shape[1]] @ prefix
    return torch.baddbmm(first.view(own.shape[0], -1, first.shape[-1]), own, values)


def _of_scores(weights: Tensor, down: Tensor, values: Tensor, prefix: Tensor) -> Tensor:
    """The gradient of the unscaled scores, times the scale."""
    first = _long(down, weights) @ prefix.mT
    own = (down @ values.mT).view(*first.shape[:2], -1)
    of_weights = torch.cat([first, own], dim=-1).mul_(weights)
    of_weights.addcmul_(weights, of_weights.sum(dim=-1, keepdim=True), value=-1)
    return of_weights.mul_(down.shape[-1] ** -0.5)
