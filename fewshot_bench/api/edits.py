"""Changes of one forward pass of a tower: `Edits`, the optional argument of its `encode` methods.

Edits write token rows into the sequences, add residual branches inside the blocks, and select the
rows that are read. Without edits a tower computes exactly CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from fewshot_bench.utils.errors import ContractError, one_of, whole_number

if TYPE_CHECKING:
    from torch import Tensor

Encoder = Literal["vision", "text"]
Place = Literal["start", "end"]
Mode = Literal["insert", "replace"]
Point = Literal["attn", "mlp", "block"]


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

    def __post_init__(self) -> None:
        """ContractError for empty `rows`."""
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if self.rows is not None and not self.rows:
            raise ContractError("Edits.rows=(): expected places of a sequence, such as (0,)")

    def before(self, layer: int) -> tuple[Tokens, ...]:
        """The token rows written before block `layer`."""
        return tuple(one for one in self.tokens if one.layer == layer)

    def of(self, members: Tensor) -> Edits:
        """The edits for the prompts or images `members` (m,); selects their own values."""
        tokens = tuple(
            one if one.values.dim() == 2 else replace(one, values=one.values[members])
            for one in self.tokens
        )
        return replace(self, tokens=tokens)

    def within(self, layers: int, width: int) -> Edits:
        """These edits; ContractError if a tower lacks the block or has another width."""
        for one in self.tokens:
            if one.layer >= layers:
                raise ContractError(
                    f"Tokens.layer={one.layer}: the tower has {layers} layers, 0 to {layers - 1}"
                )
            if one.values.shape[-1] != width:
                raise ContractError(
                    f"Tokens.values are {one.values.shape[-1]} wide: the tower is {width} wide"
                )
        return self
