"""Attention over packed prompts: sequences attend to a shared prefix and to themselves.

`attend` and `attend_pooled` are the entry points, for one prefix or one per run of the sequences.
In groups, scores against a prefix are one product for all its sequences, so that its keys and
values are never copied, and a product sums their gradients, too; softmax runs over both parts
together. In exact layouts, one fused attention runs over copies in slots of equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.backbones.packing import Group, Layout, Slots


def attend(qkv: Tensor, layout: Layout, heads: int) -> Tensor:
    """Every token attends to the prefix and, causally, to its own sequence.

    qkv: (t, 3 width), queries, keys and values concatenated; returns (t, width).
    """
    if layout.exact:
        slots = layout.slots
        q, k, v = _spread(qkv, slots, heads)
        mixed = _mixed(q, k, v, slots)
        moved: Tensor = _Moved.apply(mixed, slots.queries, slots.asked)  # type: ignore[no-untyped-call]
        return moved
    packed: Tensor = _Packed.apply(None, qkv, layout, heads)  # type: ignore[no-untyped-call]
    return packed


def attend_pooled(q: Tensor, kv: Tensor, layout: Layout, heads: int) -> Tensor:
    """One query per sequence, q (n, width), attends to keys and values (t, 2 width)."""
    if layout.exact:
        slots = layout.pooled_slots
        queries = q.view(len(q), 1, heads, -1).transpose(1, 2)
        k, v = _spread(kv, slots, heads)
        return _mixed(queries, k, v, slots)
    packed: Tensor = _Packed.apply(q, kv, layout, heads)  # type: ignore[no-untyped-call]
    return packed


def _mixed(q: Tensor, k: Tensor, v: Tensor, slots: Slots) -> Tensor:
    """(count * queries, width) of attention in slots; q, k, v (count, heads, length, d)."""
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=slots.mask(q.dtype))
    return mixed.transpose(1, 2).reshape(q.shape[0] * q.shape[2], -1)


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
    """softmax(q k' / sqrt(d)) v with a shared prefix, group by group, forward and backward."""

    @staticmethod
    def forward(ctx: Any, q: Tensor | None, fused: Tensor, layout: Layout, heads: int) -> Tensor:
        queries, keys, values = _by_head(q, fused, heads)
        first = _Part(layout.prefix_group)
        before = first.take(keys), first.take(values)
        none = before[0][:, :0], before[1][:, :0]
        parts = _parts(layout, pooled=q is not None)
        mixed = fused.new_empty(queries.shape[1], heads, queries.shape[2]).transpose(0, 1)
        kept: list[Tensor] = []
        for part in parts:
            own = part.take_queries(queries), part.take(keys), part.take(values)
            weights = _weights(own[0], own[1], (before if part.behind else none)[0], part)
            part.put_queries(mixed, _mix(weights, own[2], (before if part.behind else none)[1]))
            kept += [*own, weights]
        ctx.save_for_backward(*before, *kept)
        ctx.parts, ctx.heads, ctx.prefix = parts, heads, layout.prefix_group.rows
        ctx.shapes = (None if q is None else q.shape), fused.shape
        return mixed.transpose(0, 1).reshape(-1, heads * queries.shape[2])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        prefix_keys, prefix_values, *kept = ctx.saved_tensors
        none = prefix_keys[:, :0]
        of_q = None if ctx.shapes[0] is None else outer[0].new_empty(ctx.shapes[0])
        of_fused = outer[0].new_empty(ctx.shapes[1])
        of_queries, of_keys, of_values = _by_head(of_q, of_fused, ctx.heads)
        over = _heads(outer[0].contiguous(), ctx.heads)
        of_prefix = torch.zeros_like(prefix_keys), torch.zeros_like(prefix_values)
        for index, part in enumerate(ctx.parts):
            queries, keys, values, weights = kept[4 * index : 4 * index + 4]
            down = part.take_queries(over)
            first = (prefix_keys, prefix_values) if part.behind else (none, none)
            scores = _of_scores(weights, down, values, first[1])
            part.put_queries(of_queries, _mix(scores, keys, first[0]))
            part.put(of_keys, _own(scores, keys).mT @ queries)
            part.put(of_values, _own(weights, keys).mT @ down)
            if part.behind:
                size = prefix_keys.shape[1]
                of_prefix[0].baddbmm_(scores[..., :size].mT, _long(queries, scores))
                of_prefix[1].baddbmm_(weights[..., :size].mT, _long(down, scores))
        added = ctx.parts[0].behind
        for gradient, total in zip((of_keys, of_values), of_prefix, strict=True):
            rows = gradient[:, ctx.prefix]
            rows.copy_(total.view(rows.shape)) if added else rows.add_(total.view(rows.shape))
        return of_q, of_fused, None, None


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
