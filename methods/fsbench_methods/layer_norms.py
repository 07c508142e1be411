"""LN-tuning and BitFit: train the LayerNorms of the blocks, or all biases, of both encoders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Vocabulary
from fewshot_bench.training import Encoders, StepLearner
from fsbench_methods import papers

SCHEDULE = "2sfs-300 per shot"
PROMPTS = (
    "prompts are the run's templates, averaged if there are several; the official code has "
    "`a photo of a {}.` for all sets"
)
_NORMS = re.compile(r"(vision|text)\.blocks\.\d+\.ln_[12]\.(weight|bias)")


def is_block_norm(name: str) -> bool:
    """True for gains and biases of LayerNorms within blocks, not of those around the blocks."""
    return bool(_NORMS.fullmatch(name))


def is_bias(name: str) -> bool:
    """True for every bias of a tower, including those of all LayerNorms and of q, k and v."""
    return name.endswith("bias")


def chosen(backbone: Backbone, choice: Callable[[str], bool]) -> dict[str, Tensor]:
    """The chosen tensors of both towers, in float32."""
    every = Encoders(backbone.image_tower(), backbone.text_tower()).parameters()
    return {name: value.float() for name, value in every.items() if choice(name)}


@dataclass(frozen=True)
class LnTuning(StepLearner):
    """LayerNorm tuning of CLIP, as 2SFS (Farina et al., CVPR 2025) runs it alone (`ln_only`).

    Trains gains and biases of the LayerNorms in all blocks of both encoders. The LayerNorms before
    and after the blocks stay frozen, as in the published code, which lists them for the optimizer
    but disables their gradients.
    """

    name: ClassVar[str] = "ln-tuning"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        SCHEDULE,
        family="weights inside",
        paper=papers.OF_METHOD["ln-tuning"],
        cost="minutes",
        trained=lambda s: 4 * s.blocks,
        deviations=(PROMPTS,),
    )

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The LayerNorm parameters of all blocks."""
        return chosen(backbone, is_block_norm)


@dataclass(frozen=True)
class BitFit(StepLearner):
    """BitFit (Ben Zaken et al., ACL 2022) on CLIP, in the setting of 2SFS's comparison.

    Trains all biases of both encoders, including those of the LayerNorms. The published code of
    2SFS misses the biases of q, k and v, which are one fused tensor; they are trained here.
    """

    name: ClassVar[str] = "bitfit"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        SCHEDULE,
        family="weights inside",
        paper=papers.OF_METHOD["bitfit"],
        cost="minutes",
        trained=lambda s: 11 * s.blocks + 2 * s.vision + s.text,
        deviations=(PROMPTS, "biases of q, k and v are trained: 2SFS's code misses them"),
    )

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """The biases."""
        return chosen(backbone, is_bias)
