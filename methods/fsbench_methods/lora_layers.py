"""Low-rank updates of the backbone's matrices, with dropout on their input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fewshot_bench.backbones import (
    FusedAdapter,
    ImageTower,
    PromptPart,
    Site,
    TextTower,
    fewer_kernels,
)

Factors = Mapping[Site, tuple[Tensor, Tensor]]
"""A (rank, d_in) and B (d_out, rank) of every adapted matrix."""


class Masks(Protocol):
    """A source of dropout masks."""

    @property
    def rate(self) -> float:
        """The share of elements that are dropped."""
        ...

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x` is kept."""
        ...

    def snapshot(self) -> Any:
        """The random state from which masks are drawn."""
        ...

    def rewind(self, snapshot: Any) -> None:
        """Restore a snapshot, so that the masks drawn after it are repeated."""
        ...


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout that draws from its own generator, never from a global one.

    Sixteen random bits decide on each element, so that rates are exact to 1/65536; four elements
    share a 64-bit draw, which is many times faster on a CPU than one Bernoulli draw each.
    """

    rate: float
    generator: torch.Generator

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x` is kept, of the shape of `x`."""
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return bits >= round(self.rate * 65536) - 32768

    def snapshot(self) -> Tensor:
        """The state of the generator."""
        return self.generator.get_state()

    def rewind(self, snapshot: Tensor) -> None:
        """Restore a snapshot, so that the masks drawn after it are repeated."""
        self.generator.set_state(snapshot)


class Change(Protocol):
    """A trained change of the encoders' weights, as stored in classifiers."""

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with the change applied to their weights."""
        ...

    def named_tensors(self) -> dict[str, Tensor]:
        """All trained tensors by name, such as `vision.0.q.A`."""
        ...


class Update(Change, FusedAdapter, Protocol):
    """Updates of the backbone's matrices, in the form that `LoraModel` trains."""

    def masked(self, masks: Callable[[Masks], Masks]) -> Update:
        """The same updates, with their source of dropout masks replaced by `masks(source)`."""
        ...

    def for_step(self, dtype: torch.dtype) -> Update:
        """The updates for the next step, with quantities derived from their current values.

        dtype: that of the products in the towers.
        """
        ...

    def detached(self) -> Update:
        """The same updates for prediction: no gradients, no dropout."""
        ...

    def parameters(self) -> ParamsT:
        """All trained parameters, in the form that an optimizer accepts."""
        ...


class _Updated(torch.autograd.Function):
    """product += gain * ((x * keep_m) A_m') B_m' for every matrix m, in place.

    product (..., w) holds the outputs of several matrices side by side; `rows` holds the first
    column of each. Saves x, one byte per mask element and the (t, rank) products for the backward
    pass. Plain operations would save x * keep for every matrix and materialize every update before
    it is added. All matrices share one product with a block matrix of all B.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Tensor,
        x: Tensor,
        gain: float,
        rows: Sequence[int],
        keeps: Sequence[Tensor],
        *pairs: Tensor,
    ) -> Tensor:
        a, b = pairs[: len(rows)], pairs[len(rows) :]
        dtype = product.dtype
        x, keeps = x.flatten(0, -2).to(dtype), [keep.flatten(0, -2) for keep in keeps]
        parts = [_drop(x, keeps, m) @ factor.mT.to(dtype) for m, factor in enumerate(a)]
        hidden = torch.cat(parts, dim=-1)
        joined = _join(b, rows, product.shape[-1]).to(dtype)
        product.flatten(0, -2).addmm_(hidden, joined.mT, alpha=gain)
        ctx.save_for_backward(x, hidden, *keeps, *pairs)
        ctx.gain, ctx.rows, ctx.masks = gain, rows, len(keeps)
        ctx.mark_dirty(product)
        return product

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, hidden, *rest = ctx.saved_tensors
        keeps, pairs = rest[: ctx.masks], rest[ctx.masks :]
        a, b = pairs[: len(ctx.rows)], pairs[len(ctx.rows) :]
        gradient = outer[0].flatten(0, -2)
        joined = _join(b, ctx.rows, gradient.shape[-1]).to(gradient.dtype)
        inner = (gradient @ joined) * ctx.gain
        whole = gradient.mT @ hidden * ctx.gain
        ranks = [len(factor) for factor in a]
        inners, wholes = inner.split(ranks, dim=-1), whole.split(ranks, dim=-1)
        of_a = [(inners[m].mT @ _drop(x, keeps, m)).to(a[m].dtype) for m in range(len(a))]
        of_b = [
            wholes[m].narrow(0, row, len(other)).to(other.dtype)
            for m, (row, other) in enumerate(zip(ctx.rows, b, strict=True))
        ]
        of_x = None
        if ctx.needs_input_grad[1]:
            of_x = _of_input(inners, a, keeps).view(outer[0].shape[:-1] + x.shape[-1:])
        return outer[0], of_x, None, None, None, *of_a, *of_b


class _Stacked(torch.autograd.Function):
    """product_m += ((x * keep_m) A_m') B_m' for all matrices m of a block at once, in place.

    product (t, w) holds the outputs of several matrices of equal size side by side, those of m in
    its `columns`. x (t, d_in), keeps (m, t, d_in) or None, a (m, rank, d_in), b (m, d_out, rank).
    """

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, x: Tensor, columns: slice, keeps: Tensor | None, *pair: Tensor
    ) -> Tensor:
        a, b = pair
        x = x.to(product.dtype)
        hidden = _drop_each(x, keeps, len(a)) @ a.mT
        _apart(product, b, columns).baddbmm_(hidden, b.mT)
        ctx.save_for_backward(x, hidden, a, b, *(() if keeps is None else (keeps,)))
        ctx.columns = columns
        ctx.mark_dirty(product)
        return product

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        x, hidden, a, b, *rest = ctx.saved_tensors
        keeps = rest[0] if rest else None
        gradient = _apart(outer[0], b, ctx.columns)
        inner = gradient @ b
        of_b = gradient.mT @ hidden
        of_a = inner.mT @ _drop_each(x, keeps, len(a))
        of_x = None
        if ctx.needs_input_grad[1]:
            parts = inner @ a
            of_x = (parts if keeps is None else parts.mul_(keeps)).sum(dim=0)
        return outer[0], of_x, None, None, of_a, of_b


def product_dtype(device: torch.device, plain: torch.dtype = torch.float32) -> torch.dtype:
    """The dtype of matrix products on a device: autocast's, or `plain` outside of it."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else plain


def _drop_each(x: Tensor, keeps: Tensor | None, count: int) -> Tensor:
    """(count, t, d_in): x for every matrix, with the elements that it drops set to 0."""
    return x.expand(count, *x.shape) if keeps is None else x * keeps


def _apart(product: Tensor, b: Tensor, columns: slice) -> Tensor:
    """The outputs (m, t, d_out) of the matrices in `columns`, a view of (t, w)."""
    return product.view(len(product), -1, b.shape[1]).transpose(0, 1)[columns]


@dataclass(frozen=True)
class Stack:
    """Factors of the matrices of a block that share their input, for one kernel of all.

    a (m, rank, d_in); b (m, d_out, rank) includes the scaling.
    """

    sites: tuple[Site, ...]
    a: Tensor
    b: Tensor

    def of(self, sites: Sequence[Site]) -> Stack:
        """The part for adjacent `sites`."""
        if len(sites) == len(self.sites):
            return self
        part = slice(self.sites.index(sites[0]), self.sites.index(sites[-1]) + 1)
        return Stack(self.sites[part], self.a[part], self.b[part])


def stack(factors: Factors, gain: float, dtype: torch.dtype) -> dict[Site, Stack]:
    """The stack of every site, cut from a few tensors in which all blocks of a tower lie.

    A step in parts differentiates through them once per part: no operation here saves a tensor.
    """
    blocks: dict[tuple[str, int, str], list[Site]] = {}
    for site in factors:
        kind = "qkv" if site.matrix in "qkv" else site.matrix
        blocks.setdefault((site.encoder, site.layer, kind), []).append(site)
    alike: dict[tuple[str, str, int], list[tuple[Site, ...]]] = {}
    for (encoder, _, kind), sites in blocks.items():
        alike.setdefault((encoder, kind, len(sites)), []).append(tuple(sites))
    stacks: dict[Site, Stack] = {}
    for (*_, count), groups in alike.items():
        first, second = zip(*(factors[site] for group in groups for site in group), strict=True)
        a, b = torch.stack(first), torch.stack(second)
        b = torch.add(b.new_zeros(()), b, alpha=gain)
        parts = zip(groups, *(x.to(dtype).split(count) for x in (a, b)), strict=True)  # type: ignore[no-untyped-call]
        for group, *pair in parts:
            stacks |= dict.fromkeys(group, Stack(group, *pair))
    return stacks


def _drop(x: Tensor, keeps: Sequence[Tensor], index: int) -> Tensor:
    return x * keeps[index].to(x.dtype) if keeps else x


def _of_input(inners: Sequence[Tensor], a: Sequence[Tensor], keeps: Sequence[Tensor]) -> Tensor:
    """Sum over the matrices of (inner A) * keep: the gradient of their common input."""
    total: Tensor | None = None
    for m, (inner, factor) in enumerate(zip(inners, a, strict=True)):
        part = inner @ factor.to(inner.dtype)
        keep = keeps[m].to(part.dtype) if keeps else None
        if total is None:
            total = part if keep is None else part.mul_(keep)
        else:
            total = total.add_(part) if keep is None else total.addcmul_(part, keep)
    assert total is not None
    return total


def _join(b: Sequence[Tensor], rows: Sequence[int], width: int) -> Tensor:
    """(width, sum of ranks): block matrix with each B at its row offset, in separate columns."""
    whole = b[0].new_zeros(width, sum(factor.shape[1] for factor in b))
    column = 0
    for row, factor in zip(rows, b, strict=True):
        whole[row : row + len(factor), column : column + factor.shape[1]] = factor
        column += factor.shape[1]
    return whole


@dataclass(frozen=True)
class LowRank:
    """Adds s * B A dropout(x) to the frozen products (LoRA, Hu et al. 2022).

    `scaling` is s. With dropout every matrix of a block draws its own mask over the common input,
    as CLIP-LoRA does for q, k and v. stacks: the factors in the form of one step on an accelerator,
    where few large kernels are faster; empty on a CPU.
    """

    factors: Factors
    scaling: float
    dropout: Masks | None = None
    stacks: Mapping[Site, Stack] = field(default_factory=dict)
    _gain: float = field(init=False)

    def __post_init__(self) -> None:
        """Fold the dropout's 1 / (1 - rate) into the scaling."""
        kept = 1.0 if self.dropout is None else 1.0 - self.dropout.rate
        object.__setattr__(self, "_gain", self.scaling / kept)

    def adapts(self, site: Site) -> bool:
        """True when there is an update at `site`."""
        return site in self.factors

    def add(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        """`product` (..., sum of d_out) plus the updates at `sites`, which share the input x."""
        width = product.shape[-1] // len(sites)
        factors = [(i * width, self.factors[s]) for i, s in enumerate(sites) if s in self.factors]
        if not factors:
            return product
        if self.stacks:
            return self._add_stacked(sites, x, product)
        keeps = [self.dropout.mask(x) for _ in factors] if self.dropout else []
        pairs = [pair[part] for part in (0, 1) for _, pair in factors]
        rows = [row for row, _ in factors]
        updated: Tensor = _Updated.apply(product, x, self._gain, rows, keeps, *pairs)  # type: ignore[no-untyped-call]
        return updated

    def _add_stacked(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        places = [place for place, site in enumerate(sites) if site in self.factors]
        own = self.stacks[sites[places[0]]].of([sites[place] for place in places])
        columns = slice(places[0], places[-1] + 1, places[1] - places[0] if places[1:] else 1)
        keeps = self.dropout.mask(x.expand(len(places), *x.shape)) if self.dropout else None
        updated: Tensor = _Stacked.apply(product, x, columns, keeps, own.a, own.b)  # type: ignore[no-untyped-call]
        return updated

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """(..., d_out) update at `site` for its input x (..., d_in); None where there is none."""
        if site not in self.factors:
            return None
        dtype = product_dtype(x.device, x.dtype)
        width = len(self.factors[site][1])
        return self.add((site,), x, x.new_zeros(*x.shape[:-1], width, dtype=dtype))

    def snapshot(self) -> Any:
        """The random state of the dropout; None without dropout."""
        return self.dropout.snapshot() if self.dropout else None

    def rewind(self, snapshot: Any) -> None:
        """Restore a snapshot, so that the masks drawn after it are repeated."""
        if self.dropout:
            self.dropout.rewind(snapshot)

    def masked(self, masks: Callable[[Masks], Masks]) -> LowRank:
        """The same updates, with the source of dropout masks replaced by `masks(source)`."""
        return replace(self, dropout=masks(self.dropout)) if self.dropout else self

    def for_step(self, dtype: torch.dtype) -> LowRank:
        """Return self on a CPU; elsewhere stack the factors of each tower, and cast them once."""
        if not fewer_kernels(next(iter(self.factors.values()))[0].device):
            return self
        return replace(self, stacks=stack(self.factors, self._gain, dtype))

    def merged(self) -> dict[Site, Tensor]:
        """(d_out, d_in) s * B A of every site, to be added to the frozen weights."""
        return {site: self.scaling * (b @ a) for site, (a, b) in self.factors.items()}

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with the updates added to their weights."""
        return with_deltas(self.merged(), vision, text)

    def detached(self) -> LowRank:
        """The same updates for prediction: no gradients, no dropout."""
        factors = {site: (a.detach(), b.detach()) for site, (a, b) in self.factors.items()}
        return replace(self, factors=factors, dropout=None, stacks={})

    def parameters(self) -> list[Tensor]:
        """Every A and B."""
        return [factor for pair in self.factors.values() for factor in pair]

    def named_tensors(self) -> dict[str, Tensor]:
        """Every A and B by name, such as `vision.0.q.A`."""
        named = {}
        for site, (a, b) in self.factors.items():
            name = site_name(site)
            named[f"{name}.A"], named[f"{name}.B"] = a, b
        return named


def with_deltas(
    deltas: dict[Site, Tensor], vision: ImageTower | None, text: TextTower | None
) -> tuple[ImageTower | None, TextTower | None]:
    """Add (d_out, d_in) deltas to the weights of both towers; None stays None."""
    changed = None if vision is None else vision.with_deltas(deltas)
    return changed, None if text is None else text.with_deltas(deltas)


def site_name(site: Site) -> str:
    """The name of a site in saved models: `vision.0.q`."""
    return f"{site.encoder}.{site.layer}.{site.matrix}"


def named_site(name: str) -> Site:
    """The inverse of `site_name`."""
    encoder, layer, matrix = name.split(".")
    return Site(encoder, int(layer), matrix)  # type: ignore[arg-type]


def named_factors(tensors: Mapping[str, Tensor]) -> Factors:
    """The factors in the result of `LowRank.named_tensors`."""
    sites = {}
    for name in tensors:
        sites[named_site(name[:-2])] = name[:-2]
    return {site: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for site, name in sites.items()}


def init_factors(
    sites: Iterable[tuple[Site, tuple[int, int]]],
    rank: int,
    rng: torch.Generator,
    device: torch.device,
) -> dict[Site, tuple[Tensor, Tensor]]:
    """A uniform in +-1/sqrt(d_in) (Kaiming uniform with a = sqrt(5)), B zero, as parameters.

    sites: each with the shape (d_out, d_in) of its matrix.
    """
    factors: dict[Site, tuple[Tensor, Tensor]] = {}
    for site, (d_out, d_in) in sites:
        bound = 1 / math.sqrt(d_in)
        a = torch.empty(rank, d_in).uniform_(-bound, bound, generator=rng).to(device)
        b = torch.zeros(d_out, rank, device=device)
        factors[site] = (torch.nn.Parameter(a), torch.nn.Parameter(b))
    return factors


def tower_sites(
    tower: ImageTower | TextTower, encoder: str, layers: Iterable[int], matrices: Iterable[str]
) -> list[tuple[Site, tuple[int, int]]]:
    """The chosen sites of one tower with the shapes of their matrices."""
    names = tuple(matrices)
    sites = [Site(encoder, layer, name) for layer in layers for name in names]  # type: ignore[arg-type]
    return [(site, (tower.weight(site).shape[0], tower.weight(site).shape[1])) for site in sites]


def layers_at(position: str, depth: int) -> range:
    """The layers (of `depth`) selected by a position name (CLIP-LoRA loralib/utils.py:10-39).

    Halves are the paper's Up and Bottom. `top`, `middle` and `bottom` are thirds (4 of 12 layers),
    `top3` the last three; every position has at least one layer.
    """
    half, third = max(1, depth // 2), max(1, depth // 3)
    start, size = {
        "all": (0, depth),
        "top-half": (depth - half, half),
        "bottom-half": (0, half),
        "top": (depth - third, third),
        "middle": ((depth - third) // 2, third),
        "bottom": (0, third),
        "top3": (max(0, depth - 3), min(3, depth)),
    }[position]
    return range(start, start + size)


@dataclass(frozen=True)
class PartMasks:
    """Masks for a part of a batch: its rows of the masks that `whole` draws for the batch.

    tokens, sequences: number of rows of the whole batch before and after pooling; rows, pooled:
    indices of the part's rows among these.
    """

    whole: Masks
    tokens: int
    rows: Tensor
    sequences: int
    pooled: Tensor

    @property
    def rate(self) -> float:
        """The share of elements that are dropped."""
        return self.whole.rate

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x` (the part's tokens, or its pooled rows) is kept.

        x: (t, d_in), or (m, t, d_in) for m matrices.
        """
        full = x.shape[-2] == len(self.rows)
        count, rows = (self.tokens, self.rows) if full else (self.sequences, self.pooled)
        shape = (*x.shape[:-2], count, x.shape[-1])
        return self.whole.mask(x[..., :1, :].expand(shape))[..., rows, :]

    def snapshot(self) -> Any:
        """The state that masks are drawn from."""
        return self.whole.snapshot()

    def rewind(self, snapshot: Any) -> None:
        """Restore a snapshot, so that the masks drawn after it are repeated."""
        self.whole.rewind(snapshot)


def for_prompts(adapter: Update, part: PromptPart, tokens: int, count: int) -> Update:
    """The adapter for a part of `count` prompts, which have `tokens` tokens in total."""
    return adapter.masked(lambda whole: PartMasks(whole, tokens, part.rows, count, part.pooled))


def for_images(adapter: Update, images: Tensor, count: int, tokens: int) -> Update:
    """The adapter for the images at these indices of a batch of `count`, `tokens` tokens each."""

    def masks(whole: Masks) -> PartMasks:
        rows = images[:, None] * tokens + torch.arange(tokens, device=images.device)
        return PartMasks(whole, count * tokens, rows.flatten(), count, images)

    return adapter.masked(masks)
