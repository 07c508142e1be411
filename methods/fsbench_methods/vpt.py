"""VPT: learned tokens appended to the image patches, in the first layer or in all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Vocabulary, hyper
from fewshot_bench.training import Encoders, EpochLearner, Learned, require_positive
from fsbench_methods import papers
from fsbench_methods.deep_prompts import appended

_REPO = "MaPLe's repository, configs/trainers/VPT"


@dataclass(frozen=True)
class VptDeep(EpochLearner):
    """Visual prompt tuning, deep (Jia et al., ECCV 2022), as MaPLe's repository runs it on CLIP.

    `tokens` learned tokens without position embeddings are appended to the patches, before the
    LayerNorm that precedes the blocks. Each of the first `depth` blocks has its own tokens, which
    replace those of the block before. Class features are those of the frozen text encoder. One
    configuration for all data sets.
    """

    name: ClassVar[str] = "vpt-deep"
    version: ClassVar[str] = "1"
    trains: ClassVar[tuple[str, ...]] = ("vision",)
    card: ClassVar[MethodCard] = MethodCard(
        "maple-5",
        family="deep prompts",
        paper=papers.OF_METHOD["vpt-deep"],
        cost="minutes",
        trained=lambda s: 8 * s.layers * s.vision,
        official={"lr, weight_decay": "swept per data set by VPT's own code, with a linear head"},
        deviations=(
            "16 bits are trained with a loss scaler: the official code has none",
            "the data set's templates stand for `a photo of a {}.`",
        ),
    )

    tokens: int = hyper(8, "rows per layer", unit="tokens", source=_REPO)
    depth: int = hyper(12, "layers with rows of their own; a tower may have fewer", source=_REPO)
    init_std: float = hyper(0.02, "standard deviation of the first values", source=_REPO)
    batch_size: int = hyper(4, "images per step", unit="images", source=_REPO)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "tokens", "depth", "init_std")

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        """`prompts` (layers, tokens, width), normal."""
        tower = backbone.image_tower()
        shape = (min(self.depth, tower.layers), self.tokens, tower.width)
        return {"prompts": torch.empty(shape).normal_(std=self.init_std, generator=ctx.rng("init"))}

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """The image tower with the tokens of each layer appended to the patches."""
        return replace(frozen, vision_edits=appended(learned["prompts"]))


@dataclass(frozen=True)
class VptShallow(VptDeep):
    """Visual prompt tuning, shallow (Jia et al., ECCV 2022): tokens before the first block only.

    Otherwise as `vpt-deep`.
    """

    name: ClassVar[str] = "vpt-shallow"
    card: ClassVar[MethodCard] = replace(VptDeep.card, trained=lambda s: 8 * s.vision)

    depth: int = hyper(1, "layers with rows of their own", source="VPT, section 3.2")

    def quick(self) -> Self:
        """One token, which learns in few epochs, for the conformance kit."""
        return replace(self, tokens=1, epochs=20)
