"""DoRA: weights decomposed into magnitude and direction, at CLIP-LoRA's sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary
from fewshot_bench.training.provisional import WithoutRun
from fsbench_methods import papers
from fsbench_methods.lora_layers import LowRank, named_factors, site_name
from fsbench_methods.lora_model import LoraClassifier, MergedClassifier, restored, update_step
from fsbench_methods.lora_tuning import ENCODED_VIEWS, SHARED_MASK, LowRankTuning
from fsbench_methods.magnitudes import Decomposed, decomposed


@dataclass(frozen=True)
class Dora(LowRankTuning):
    """DoRA (Liu et al., ICML 2024) on the matrices and with the schedule of CLIP-LoRA.

    Each row of an adapted matrix has a trained magnitude, and a direction that a low-rank update
    changes. Row norms are constants in the backward pass, as proposed in the paper (section 4.3)
    and done in the published code. The paper adapts language models; matrices, schedule and scaling
    are those of `clip-lora`, whose `scaling=sqrt` is rsLoRA's (Kalajdzievski 2023).
    """

    name: ClassVar[str] = "dora"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        family="low-rank updates",
        paper=papers.OF_METHOD["dora"],
        cost="minutes",
        trained=lambda s: 15 * s.blocks,
        deviations=(
            "sites, scaling and schedule are CLIP-LoRA's: no setting for few shots is published",
            "dropout acts on the input of the update alone, in the published code on W's too",
            "weight decay leaves the magnitudes alone",
            "several templates are averaged, and the scale of logits is the backbone's own",
            SHARED_MASK,
            ENCODED_VIEWS,
        ),
    )

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Decomposed]:
        """Trains magnitudes and updates."""
        model = self.sized_model(task, backbone, ctx)
        adapter = decomposed(self.adapter(model, backbone.device, ctx), model)
        step = update_step(model, adapter)
        self.train(model, adapter.parameters(), step, task, backbone, ctx)
        return LoraClassifier(model, adapter.detached(), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """Rebuild the classifier from saved updates and magnitudes."""
        model = self.model(vocabulary, backbone, WithoutRun(backbone))
        low = LowRank(named_factors(tensors), self.gain)
        magnitudes = {site: tensors[f"{site_name(site)}.m"] for site in low.factors}
        return restored(model, decomposed(low, model, magnitudes))
