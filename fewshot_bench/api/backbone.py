"""The contract of a backbone: features, image and text towers, and what changes inside them.

Adapters add to the products of a tower's matrices; `Edits`, the optional argument of `encode`
methods, write token rows into the sequences, put keys and values before those of attention, scale
what blocks compute inside, add residual branches, and select the rows that are read. Without either
a tower computes exactly CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from fewshot_bench.utils.errors import ContractError, one_of, whole_number

if TYPE_CHECKING:
    from torch import Tensor

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, runtime_checkable

Encoder = Literal["vision", "text"]
Place = Literal["start", "end"]
Mode = Literal["insert", "replace"]
Point = Literal["attn", "mlp", "block"]
Inner = Literal["q", "k", "v", "heads", "hidden"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token rows written into all sequences before block `layer` (from 0).

    values: (n, width), the same in all sequences; or (k, n, width), one entry per prompt or image,
    or per run if prompts are encoded after several prefixes. place: `start` is after the start
    token of a text or the class token of an image, `end` the end of an image. mode: `insert` makes
    the sequences n rows longer, `replace` overwrites n rows. Values get no position embedding. At
    layer 0 they are written before the norm that precedes an image's blocks. ContractError for
    invalid values.
    """

    layer: int
    values: Tensor
    place: Place = "start"
    mode: Mode = "replace"

    def __post_init__(self) -> None:
        """ContractError for values that no tower can write."""
        whole_number("Tokens.layer", self.layer, 0)
        one_of("Tokens.place", self.place, ("start", "end"))
        one_of("Tokens.mode", self.mode, ("insert", "replace"))
        shape = tuple(self.values.shape)
        if len(shape) not in (2, 3) or 0 in shape:
            raise ContractError(
                f"Tokens.values of shape {shape}: expected (n, width), or (k, n, width) of k "
                "prompts, images or runs"
            )

    @property
    def count(self) -> int:
        """n, the number of rows written into each sequence."""
        return self.values.shape[-2]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of block `layer` (from 0) that every position attends to beside its own.

    keys, values: (n, width), the heads side by side as the matrices k and v give them, the same for
    all sequences; or (k, n, width), one entry per prompt or image, or per run if prompts are
    encoded after several prefixes. No position shifts, and no bias is added. gate: without one,
    they stand before a sequence's own keys in one softmax (Li and Liang, 2021). With one, of shape
    () or (heads,), attention to them has a softmax of its own, and its result times the gate is
    added (Zhang et al., LLaMA-Adapter, 2024); a gate of 0 changes nothing, and nor does n = 0.
    ContractError for invalid values.
    """

    layer: int
    keys: Tensor
    values: Tensor
    gate: Tensor | None = None

    def __post_init__(self) -> None:
        """ContractError for keys and values that no tower can attend to."""
        whole_number("Prefix.layer", self.layer, 0)
        shape, other = tuple(self.keys.shape), tuple(self.values.shape)
        if shape != other or len(shape) not in (2, 3):
            raise ContractError(
                f"Prefix.keys of shape {shape} and values of shape {other}: expected (n, width), "
                "or (k, n, width) of k prompts, images or runs, for both"
            )
        if self.gate is not None and self.gate.dim() > 1:
            raise ContractError(
                f"Prefix.gate of shape {tuple(self.gate.shape)}: expected (), or (heads,)"
            )

    @property
    def count(self) -> int:
        """n, the number of keys that every position sees."""
        return self.keys.shape[-2]

    @property
    def each(self) -> bool:
        """True if every prompt, image or run has keys of its own."""
        return self.keys.dim() == 3


@dataclass(frozen=True, slots=True)
class Scale:
    """Factors of what block `layer` (from 0) computes inside: IA3, temperatures, gates of heads.

    at: `q`, `k` or `v`, the outputs of these matrices with their biases; `heads`, what attention
    mixed, before matrix `o`; `hidden`, the hidden layer of the MLP after its activation, before
    `proj`. values: one per value of it, or (heads,) but for `hidden`; they stay in float32.
    ContractError for invalid values.
    """

    layer: int
    at: Inner
    values: Tensor

    def __post_init__(self) -> None:
        """ContractError for a place that no block has."""
        whole_number("Scale.layer", self.layer, 0)
        one_of("Scale.at", self.at, ("q", "k", "v", "heads", "hidden"))
        if self.values.dim() != 1:
            raise ContractError(
                f"Scale.values of shape {tuple(self.values.shape)}: expected one row of factors"
            )

    def over(self, size: int, heads: int) -> Tensor:
        """(size,) factors of what is scaled; ContractError if values fit neither it nor heads."""
        count = len(self.values)
        if count == size:
            return self.values
        if count == heads and self.at != "hidden":
            return self.values.repeat_interleave(size // heads)
        raise ContractError(
            f"Scale.values has {count} factors: {self.at!r} of block {self.layer} has {size} values"
            + ("" if self.at == "hidden" else f" in {heads} heads")
        )


@dataclass(frozen=True, slots=True)
class Scores:
    """What is added to the scores of attention in block `layer` (from 0) of images.

    values: (length, length), or (heads, length, length), from query to key, of all rows that the
    block has, the class token first; with a first dimension of k images, their own. -inf hides a
    key. Keys of a `Prefix` get nothing. Texts are packed, and have none.
    ContractError for invalid values.
    """

    layer: int
    values: Tensor

    def __post_init__(self) -> None:
        """ContractError for values that are no square matrices."""
        whole_number("Scores.layer", self.layer, 0)
        shape = tuple(self.values.shape)
        if len(shape) not in (2, 3, 4) or shape[-1] != shape[-2]:
            raise ContractError(
                f"Scores.values of shape {shape}: expected (length, length), with heads before it, "
                "or (k, heads, length, length) of k images"
            )


class Branch(Protocol):
    """A residual branch inside blocks: an adapter beside or after attention, MLP or block."""

    def __call__(
        self, encoder: Encoder, layer: int, point: Point, normed: Tensor, output: Tensor
    ) -> Tensor | None:
        """(t, width) to add to the output of a part of a block; None adds nothing.

        point: `attn`, `mlp` or `block`. normed: (t, width), the normalized input of that part (for
        `block`, the input of its attention). output: (t, width), the part's output (for `block`,
        including the residual stream). Rows are the tokens of all sequences, only pooled rows in
        the last block; each row must be computed from itself alone, without random numbers.
        """


@dataclass(frozen=True, slots=True)
class Edits:
    """All changes of one call.

    projected: if False, return rows after the last norm (..., width of the tower), not features.
    rows: positions in each image's final sequence to read, negative ones from its end; features
    are then (images, len(rows), ...). Text is read only at its end-of-text token.
    """

    tokens: tuple[Tokens, ...] = ()
    branch: Branch | None = None
    projected: bool = True
    rows: tuple[int, ...] | None = None
    prefixes: tuple[Prefix, ...] = ()
    scales: tuple[Scale, ...] = ()
    scores: tuple[Scores, ...] = ()

    def __post_init__(self) -> None:
        """ContractError for empty `rows`."""
        for name in ("tokens", "prefixes", "scales", "scores"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.rows is not None and not self.rows:
            raise ContractError("Edits.rows=(): expected places of a sequence, such as (0,)")

    def before(self, layer: int) -> tuple[Tokens, ...]:
        """The token rows written before block `layer`."""
        return tuple(one for one in self.tokens if one.layer == layer)

    def prefixes_in(self, layer: int) -> tuple[Prefix, ...]:
        """The keys and values put before those of block `layer`."""
        return tuple(one for one in self.prefixes if one.layer == layer and one.count)

    def scales_in(self, layer: int) -> tuple[Scale, ...]:
        """The factors inside block `layer`."""
        return tuple(one for one in self.scales if one.layer == layer)

    def scores_in(self, layer: int) -> tuple[Scores, ...]:
        """What is added to the scores of block `layer`."""
        return tuple(one for one in self.scores if one.layer == layer)

    def _layered(self) -> tuple[Tokens | Prefix | Scale | Scores, ...]:
        return *self.tokens, *self.prefixes, *self.scales, *self.scores

    def of(self, members: Tensor) -> Edits:
        """The edits for the prompts or images `members` (m,); selects their own values."""
        tokens = tuple(
            one if one.values.dim() == 2 else replace(one, values=one.values[members])
            for one in self.tokens
        )
        prefixes = tuple(
            replace(one, keys=one.keys[members], values=one.values[members]) if one.each else one
            for one in self.prefixes
        )
        scores = tuple(
            replace(one, values=one.values[members]) if one.values.dim() == 4 else one
            for one in self.scores
        )
        return replace(self, tokens=tokens, prefixes=prefixes, scores=scores)

    def from_block(self, start: int) -> Edits:
        """These edits; ContractError if one of them precedes block `start`."""
        for one in self._layered():
            if one.layer < start:
                raise ContractError(
                    f"{type(one).__name__}.layer={one.layer}: these rows have passed the blocks "
                    f"before {start} already"
                )
        return self

    def within(self, layers: int, width: int) -> Edits:
        """These edits; ContractError if a tower lacks the block or has another width."""
        for one in self._layered():
            name = type(one).__name__
            if one.layer >= layers:
                raise ContractError(
                    f"{name}.layer={one.layer}: the tower has {layers} layers, 0 to {layers - 1}"
                )
            if isinstance(one, Tokens | Prefix) and one.values.shape[-1] != width:
                raise ContractError(
                    f"{name}.values are {one.values.shape[-1]} wide: the tower is {width} wide"
                )
        return self


if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fewshot_bench.api.task import Vocabulary

ENCODERS: tuple[Encoder, ...] = ("vision", "text")
MATRICES = ("q", "k", "v", "o", "fc", "proj")


@dataclass(frozen=True, slots=True)
class Site:
    """One adaptable matrix: block `layer` (from 0) of `encoder`, `matrix` of that block.

    encoder: `vision` or `text`. matrix: `q`, `k`, `v`, `o` of the attention, `fc`, `proj` of the
    MLP (in, out). ContractError for other values.
    """

    encoder: Encoder
    layer: int
    matrix: str

    def __post_init__(self) -> None:
        """ContractError for a site that no tower has; it would silently never be adapted."""
        one_of("Site.encoder", self.encoder, ENCODERS)
        one_of("Site.matrix", self.matrix, MATRICES)
        whole_number("Site.layer", self.layer, 0)

    def within(self, layers: int) -> Site:
        """This site; ContractError if a tower of `layers` blocks lacks its block."""
        if self.layer >= layers:
            raise ContractError(
                f"{self}: the {self.encoder} tower has {layers} layers, 0 to {layers - 1}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Factors:
    """A matrix (parts * rows, d_in) as U diag(s) V' of its parts, which lie below one another.

    left: U (parts, rows, r). values: s (parts, r). right: V' (parts, r, d_in). The fused matrix of
    q, k and v has three parts, others have one.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    def of(self, parts: slice) -> Factors:
        """The factors of adjacent parts."""
        return Factors(self.left[parts], self.values[parts], self.right[parts])


class Adapter(Protocol):
    """Low-rank (or other) additive updates applied inside a tower's blocks."""

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """The update to add to the frozen product `x W'` at `site`; None where nothing is adapted.

        x: (..., d_in), the block's input to that matrix; returns (..., d_out), in any float dtype.
        It runs under autocast at the precision of the run.
        """


@runtime_checkable
class FusedAdapter(Adapter, Protocol):
    """An adapter that updates several matrices of one input at once and can repeat its draws."""

    def adapts(self, site: Site) -> bool:
        """True if there is an update at `site`."""

    def add(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        """`product` plus the updates of `sites`, whose outputs are concatenated in it.

        x: (t, d_in). product: (t, sum of d_out); it may be overwritten.
        """

    def snapshot(self) -> Any:
        """The random state that the adapter draws from."""

    def rewind(self, snapshot: Any) -> None:
        """Restore a snapshot, so that the draws after it are repeated."""


class ImageTower(Protocol):
    """The image encoder as a function of frozen weights and an optional adapter.

    It computes at the precision of the run by itself, forward and backward, and returns float32
    features; within an autocast context of the caller they have the dtype of that one.
    """

    @property
    def layers(self) -> int:
        """Number of blocks."""

    @property
    def width(self) -> int:
        """Size of the residual stream."""

    @property
    def heads(self) -> int:
        """Heads of attention in every block."""

    @property
    def tokens(self) -> int:
        """Tokens per image."""

    def encode(
        self,
        pixels: Tensor,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
        start: int = 0,
    ) -> Tensor:
        """(b, 3, h, w) pixels to (b, embed) raw features; differentiable in adapter and edits.

        `recompute` is activation checkpointing: the same numbers in less memory, more computation.
        With `edits.rows`, features are (b, rows, embed). start: `pixels` are the rows that
        `advance` gave for that block.
        """

    def advance(self, pixels: Tensor, layer: int) -> Tensor:
        """(b, 3, h, w) pixels to rows (b, tokens, width) before block `layer`, without gradients.

        Blocks that nothing changes can thus run once for several calls of `encode`.
        """

    def parameters(self) -> dict[str, Tensor]:
        """Every frozen tensor by name, such as `blocks.0.ln_1.weight` or `projection`."""

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> ImageTower:
        """A tower with these tensors in place of its own, differentiable in them.

        ContractError for other names and shapes.
        """

    def with_factors(self, factors: Mapping[str, Factors]) -> ImageTower:
        """A tower that multiplies by the factors of these matrices, never by whole ones.

        Differentiable in their `values`. ContractError for other names and shapes.
        """

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`."""

    def with_deltas(self, deltas: dict[Site, Tensor]) -> ImageTower:
        """A tower whose matrices at the given sites have (d_out, d_in) deltas added (merged)."""


class PromptPart(Protocol):
    """A subset of packed prompts, and its indices among all of them."""

    @property
    def packed(self) -> Any:
        """The packed prompts of this part; `members` maps its features to all prompts."""

    @property
    def rows(self) -> Tensor:
        """(t,) indices of its tokens among all, prefix included, in the order adapters see them."""

    @property
    def pooled(self) -> Tensor:
        """(m,) indices of its prompts among all, as adapters see them with one token per prompt."""

    @property
    def members(self) -> Tensor:
        """(m,) indices of the prompts that its features belong to."""


class PackedPrompts(Protocol):
    """Prompts laid out for the text tower: the shared prefix once, little padding."""

    @property
    def tokens(self) -> int:
        """The number of computed tokens."""

    @property
    def slots(self) -> int:
        """The number of tokens in attention, copies and padding included; at least `tokens`."""

    def divide(self, parts: int) -> Sequence[PromptPart]:
        """At most `parts` parts with about equally many tokens, each including the prefix."""


class TextTower(Protocol):
    """The text encoder; a causal one computes a shared prefix once and stops at end of text.

    Its precision is that of `ImageTower`.
    """

    @property
    def layers(self) -> int:
        """Number of blocks."""

    @property
    def width(self) -> int:
        """Size of the residual stream."""

    @property
    def heads(self) -> int:
        """Heads of attention in every block."""

    def encode_tokens(
        self, tokens: Tensor, adapter: Adapter | None = None, *, edits: Edits | None = None
    ) -> Tensor:
        """(n, context) token ids to (n, embed) raw features; differentiable in adapter, edits."""

    def pack_tokens(self, tokens: Tensor, prefix: int | None = None) -> PackedPrompts:
        """Pack token ids (n, context) once, for many calls of `encode_packed`.

        prefix: upper limit on the shared prefix tokens that are computed once.
        """

    def encode_packed(
        self,
        packed: Any,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """As `encode_tokens`, for packed prompts; does not synchronize with the host."""

    def advance(self, packed: Any, layer: int) -> PackedPrompts:
        """Packed prompts as they are before block `layer`, without gradients.

        Blocks below the first one that a method changes can thus run once for many calls of
        `encode_packed`. A tower in which one of these blocks is another runs them again.
        """

    def pack_lengths(self, prefix: int, end: Tensor, length: int) -> PackedPrompts:
        """Packing for the prompts of `encode_embeddings`, made once for many calls."""

    def encode_embeddings(
        self,
        prefix: Tensor,
        suffix: Tensor,
        end: Tensor,
        packing: Any = None,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """(n, embed) raw features of prompts given as embeddings without positions.

        prefix: (p, width), shared by all prompts (start token, shared context tokens ...); or
        (runs, p, width), to encode all prompts after each prefix: (runs, n, embed) features.
        suffix: (n, s, width), the rest of each prompt, padded at the end.
        end: (n,) index of the end-of-text token within the suffix.
        packing: from `pack_lengths(p, end, s)`; without it, reading lengths synchronizes with the
        host. Differentiable in prefix and suffix.
        """

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (...,) to token embeddings (..., width), without positions."""

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`."""

    def parameters(self) -> dict[str, Tensor]:
        """Every frozen tensor by name, such as `blocks.0.ln_1.weight` or `projection`."""

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> TextTower:
        """A tower with these tensors in place of its own, differentiable in them.

        Packed prompts stay valid. ContractError for other names and shapes.
        """

    def with_factors(self, factors: Mapping[str, Factors]) -> TextTower:
        """As `ImageTower.with_factors`."""

    def with_deltas(self, deltas: dict[Site, Tensor]) -> TextTower:
        """A tower with (d_out, d_in) deltas merged into its matrices."""


@runtime_checkable
class Backbone(Protocol):
    """A frozen vision-language model, ready on its device.

    >>> text = backbone.class_features(task)  # (classes, embed), unit length
    """

    name: str
    embed_dim: int
    logit_scale: float

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    @property
    def module(self) -> nn.Module:
        """The underlying open_clip model (frozen, in eval mode)."""

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(n, context) int64 token ids on the backbone's device."""

    def encode_image(self, pixels: Tensor, *, projected: bool = True) -> Tensor:
        """(b, 3, h, w) to (b, embed_dim) raw float32 features, without gradients.

        With `projected=False`: rows before the projection, after the last norm, (b, width of the
        tower); UnsupportedBackboneError if there is neither an image tower nor a projection tower.
        """

    def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:
        """(n, embed_dim) raw float32 features of prompts, without gradients.

        cut: read the start of a text that is longer than the encoder reads; else it is an error.
        """

    def class_features(self, task: Vocabulary) -> Tensor:
        """(classes, embed_dim) unit-length: normalized mean of unit features over templates.

        With `task.texts`: over the texts of each class, pooled as `task.pooling` says, which for
        `mean` is not of unit length and for `max` (classes, texts, embed_dim).
        """

    def image_tower(self) -> ImageTower:
        """Functional image encoder; UnsupportedBackboneError unless it is a plain ViT."""

    def text_tower(self) -> TextTower:
        """Functional text encoder; UnsupportedBackboneError unless it is CLIP's transformer."""


@runtime_checkable
class ProjectingBackbone(Protocol):
    """A backbone that hands out its image encoder for methods that change its projection alone."""

    def projection_tower(self) -> ImageTower:
        """The image encoder with the tensor `projection` (width, embed) among its parameters.

        `image_tower()` where there is one. Else a tower without layers, such as that of a ResNet:
        `encode` takes no adapter, and no edit but `Edits(projected=False)`. It may have a
        `projection_bias` (embed,). UnsupportedBackboneError for other encoders.
        """


@runtime_checkable
class LoadedBackbone(Backbone, Protocol):
    """A backbone with the additional members that the harness needs."""

    image_size: tuple[int, int]
    weights_digest: str

    def preprocess(self, image: Any) -> Any:
        """PIL image to a PIL RGB image of `image_size`: resize and crop exactly as published."""

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (b, 3, h, w) to float32 normalized with the backbone's mean and std."""

    def fingerprint(self) -> str:
        """Digest of every weight, buffer, flag and hook; proves that a method changed nothing."""
