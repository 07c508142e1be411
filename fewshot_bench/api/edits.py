"""Changes of one forward pass of a tower: `Edits`, the optional argument of its `encode` methods.

Token rows are written into the sequences, branches are added inside the blocks, and other rows than
the projected ones are read. Without edits a tower computes exactly CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from fewshot_bench.api.backbone import Encoder
from fewshot_bench.utils.errors import ContractError
from fewshot_bench.utils.mistyped import one_of, whole_number

if TYPE_CHECKING:
    from torch import Tensor

Place = Literal["start", "end"]
Mode = Literal["insert", "replace"]
Point = Literal["attn", "mlp", "block"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Rows that are written into all sequences before block `layer` (from 0).

    values: (n, width), the same in all sequences; or (k, n, width), of each prompt or image, or of
    each run where prompts are encoded behind several prefixes. place: `start` is behind the start
    token of a text or the class token of an image, `end` the end of an image. mode: `insert` makes
    the sequences longer by n rows, `replace` overwrites n rows. Values get no position. At layer 0
    they are written before the norm that precedes an image's blocks. ContractError for values that
    cannot be written.
    """

    layer: int
    values: Tensor
    place: Place = "start"
    mode: Mode = "replace"

    def __post_init__(self) -> None:
        """ContractError for what no tower can write."""
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
        """n, the rows in each sequence."""
        return self.values.shape[-2]


class Branch(Protocol):
    """A residual branch inside the blocks: adapters beside or behind attention, MLP or block."""

    def __call__(
        self, encoder: Encoder, layer: int, point: Point, normed: Tensor, output: Tensor
    ) -> Tensor | None:
        """The addition to the output of a part of a block (t, width); None adds nothing.

        point: `attn`, `mlp`, or `block`. normed (t, width) is the normalized input of that part
        (for `block` that of its attention), output (t, width) what the part has computed (for
        `block` with the residual stream). Rows are tokens of all sequences, the last block has
        pooled rows alone; each row must be computed from itself, without random numbers.
        """
        ...


@dataclass(frozen=True, slots=True)
class Edits:
    """All changes of one call.

    projected: False reads rows after the last norm (..., width of the tower) instead of features.
    rows: places in each image's final sequence to read, negative ones from its end; features are
    then (images, len(rows), ...). Text is read at its end alone.
    """

    tokens: tuple[Tokens, ...] = ()
    branch: Branch | None = None
    projected: bool = True
    rows: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """ContractError for `rows` without a row."""
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if self.rows is not None and not self.rows:
            raise ContractError("Edits.rows=(): expected places of a sequence, such as (0,)")

    def before(self, layer: int) -> tuple[Tokens, ...]:
        """The token rows that are written before a block."""
        return tuple(one for one in self.tokens if one.layer == layer)

    def of(self, members: Tensor) -> Edits:
        """The edits of some of the prompts or images (m,), for values of each."""
        tokens = tuple(
            one if one.values.dim() == 2 else replace(one, values=one.values[members])
            for one in self.tokens
        )
        return replace(self, tokens=tokens)

    def within(self, layers: int, width: int) -> Edits:
        """These edits; ContractError where a tower has no such block or another width."""
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
