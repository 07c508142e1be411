"""Prefix tuning of both encoders: a base class, and edits of every block."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, RunContext, Vocabulary, hyper
from fewshot_bench.backbones import Edits, Prefix
from fewshot_bench.training import Encoders, EpochLearner, Learned


@dataclass(frozen=True)
class PrefixTuning(EpochLearner):
    """Learned keys and values before those of every block, in both encoders."""

    name: ClassVar[str] = "prefix-tuning"
    rows: int = hyper(4, "keys and values per block", unit="rows")
    batch_size: int = hyper(4, "images per step", unit="images")

    def initial(self, task: Vocabulary, backbone: Backbone, ctx: RunContext) -> dict[str, Tensor]:
        towers = {"vision": backbone.image_tower(), "text": backbone.text_tower()}
        rng = ctx.rng("init")
        return {
            f"{name}.{part}": 0.02 * torch.randn(t.layers, self.rows, t.width, generator=rng)
            for name, t in towers.items()
            for part in ("keys", "values")
        }

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        vision, text = (edits(learned, name) for name in ("vision", "text"))
        return replace(frozen, vision_edits=vision, text_edits=text)


def edits(learned: Learned, encoder: str) -> Edits:
    """The prefixes of one encoder, block by block."""
    pairs = zip(learned[f"{encoder}.keys"], learned[f"{encoder}.values"], strict=True)
    return Edits(prefixes=tuple(Prefix(layer, *pair) for layer, pair in enumerate(pairs)))
