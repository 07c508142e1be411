"""The part of a backbone that methods use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.mistyped import one_of, whole_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fewshot_bench.api.edits import Edits
    from fewshot_bench.api.task import Vocabulary

Encoder = Literal["vision", "text"]
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
        """ContractError for a name that no tower has: nothing would ever be adapted there."""
        one_of("Site.encoder", self.encoder, ENCODERS)
        one_of("Site.matrix", self.matrix, MATRICES)
        whole_number("Site.layer", self.layer, 0)

    def within(self, layers: int) -> Site:
        """This site; ContractError where a tower has no such block."""
        if self.layer >= layers:
            raise ContractError(
                f"{self}: the {self.encoder} tower has {layers} layers, 0 to {layers - 1}"
            )
        return self


class Adapter(Protocol):
    """Low-rank (or other) additive updates applied inside a tower's blocks."""

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """The update to add to the frozen product `x W'` at `site`; None where nothing is adapted.

        x: (..., d_in), the block's input to that matrix; returns (..., d_out).
        """
        ...


@runtime_checkable
class FusedAdapter(Adapter, Protocol):
    """An adapter that updates several matrices on one input at once, and can repeat its draws."""

    def adapts(self, site: Site) -> bool:
        """True when there is an update at `site`."""
        ...

    def add(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        """`product` plus the updates of `sites`, whose outputs lie side by side in it.

        x: (t, d_in), product: (t, sum of d_out); the product may be overwritten.
        """
        ...

    def snapshot(self) -> Any:
        """The state of whatever it draws from."""
        ...

    def rewind(self, snapshot: Any) -> None:
        """Draw again as from a snapshot on."""
        ...


class ImageTower(Protocol):
    """The image encoder as a function of frozen weights and an optional adapter."""

    @property
    def layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        ...

    def encode(
        self,
        pixels: Tensor,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """(b, 3, h, w) pixels to (b, embed) raw features; differentiable in adapter and edits.

        `recompute` keeps little for the backward pass and computes it again: the same numbers in
        less memory. With `edits.rows` features are (b, rows, embed).
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Every frozen tensor by name, such as `blocks.0.ln_1.weight` or `projection`."""
        ...

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> ImageTower:
        """A tower with these tensors in place of its own, differentiable in them.

        ContractError for other names and shapes.
        """
        ...

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`."""
        ...

    def with_deltas(self, deltas: dict[Site, Tensor]) -> ImageTower:
        """A tower whose matrices at the given sites have (d_out, d_in) deltas added (merged)."""
        ...


class PromptPart(Protocol):
    """Some prompts of packed ones, and where they lie in the whole."""

    @property
    def packed(self) -> Any:
        """The prompts to encode instead of all; features are spread by `members`."""
        ...

    @property
    def rows(self) -> Tensor:
        """(t,) its tokens among all, the prefix included, as an adapter meets them."""
        ...

    @property
    def pooled(self) -> Tensor:
        """(m,) its prompts, as an adapter meets them where one token per prompt is left."""
        ...

    @property
    def members(self) -> Tensor:
        """(m,) which prompts its features belong to."""
        ...


class PackedPrompts(Protocol):
    """Prompts laid out for the text tower: a shared prefix once, no padding."""

    @property
    def tokens(self) -> int:
        """The number of tokens that are computed."""
        ...

    def divide(self, parts: int) -> Sequence[PromptPart]:
        """At most `parts` parts of about as many tokens each, the prefix in every one."""
        ...


class TextTower(Protocol):
    """The text encoder: computes a prefix that all prompts share once, and stops at end of text."""

    @property
    def layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        ...

    def encode_tokens(
        self, tokens: Tensor, adapter: Adapter | None = None, *, edits: Edits | None = None
    ) -> Tensor:
        """(n, context) token ids to (n, embed) raw features; differentiable in adapter, edits."""
        ...

    def pack_tokens(self, tokens: Tensor, prefix: int | None = None) -> PackedPrompts:
        """Token ids (n, context) made ready once, for many calls of `encode_packed`.

        prefix: at most so many tokens of all that the prompts share are computed once; 1 where
        edits write other rows behind the start token of each prompt.
        """
        ...

    def encode_packed(
        self,
        packed: Any,
        adapter: Adapter | None = None,
        *,
        edits: Edits | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """As `encode_tokens`, for packed prompts; without a read on the host."""
        ...

    def pack_lengths(self, prefix: int, end: Tensor, length: int) -> PackedPrompts:
        """Packing of the prompts of `encode_embeddings`, made once for many calls."""
        ...

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
        """Prompts given as embeddings, without positions: (n, embed) raw features.

        prefix: (p, width), shared by all prompts (start token, shared context ...); or
        (runs, p, width), where all prompts are encoded behind each: (runs, n, embed) features.
        suffix: (n, s, width), what follows in each prompt, padded at the end.
        end: (n,) index within the suffix of the end-of-text token. Differentiable in both inputs.
        packing: of `pack_lengths(p, end, s)`; without it lengths are read on the host.
        """
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids (...,) to token embeddings (..., width), without positions."""
        ...

    def weight(self, site: Site) -> Tensor:
        """(d_out, d_in) the frozen matrix at `site`."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Every frozen tensor by name, such as `blocks.0.ln_1.weight` or `projection`."""
        ...

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> TextTower:
        """A tower with these tensors in place of its own, differentiable in them.

        Packed prompts stay valid. ContractError for other names and shapes.
        """
        ...

    def with_deltas(self, deltas: dict[Site, Tensor]) -> TextTower:
        """A tower with (d_out, d_in) deltas merged into its matrices."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A frozen vision-language model, ready on its device."""

    name: str
    embed_dim: int
    logit_scale: float

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    @property
    def module(self) -> nn.Module:
        """The underlying open_clip model (frozen, in eval mode)."""
        ...

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(n, context) int64 token ids on the backbone's device."""
        ...

    def encode_image(self, pixels: Tensor, *, projected: bool = True) -> Tensor:
        """(b, 3, h, w) to (b, embed_dim) raw float32 features, without gradients.

        Not projected: the pooled rows behind the last norm (b, width of the tower);
        UnsupportedBackboneError where there is no tower.
        """
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """(n, embed_dim) raw float32 features of prompts, without gradients."""
        ...

    def class_features(self, task: Vocabulary) -> Tensor:
        """(classes, embed_dim) unit length: normalized mean of the unit features over templates."""
        ...

    def image_tower(self) -> ImageTower:
        """Functional image encoder; UnsupportedBackboneError unless it is a plain ViT."""
        ...

    def text_tower(self) -> TextTower:
        """Functional text encoder; UnsupportedBackboneError unless it is CLIP's transformer."""
        ...


@runtime_checkable
class LoadedBackbone(Backbone, Protocol):
    """The part of a backbone that the harness needs besides."""

    image_size: tuple[int, int]
    weights_digest: str

    def preprocess(self, image: Any) -> Any:
        """PIL image to a PIL RGB image of `image_size`: resize and crop exactly as published."""
        ...

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (b, 3, h, w) to float32 normalized with the backbone's mean and std."""
        ...

    def fingerprint(self) -> str:
        """Digest of every weight, buffer, flag and hook, to prove that a method changed nothing."""
        ...
