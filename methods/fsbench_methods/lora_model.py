"""CLIP with low-rank updates: logits while it is trained, and with the updates merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import (
    Backbone,
    Images,
    ImageTower,
    PackedPrompts,
    TextTower,
    Vocabulary,
)
from fsbench_methods.lora_layers import LowRank
from fsbench_methods.lora_runs import of_runs
from fsbench_methods.training import Autocast, must_recompute, unit

EVAL_BATCH = 256


@dataclass(frozen=True)
class LoraModel:
    """CLIP with low-rank updates; a tower that is not adapted is None, its features are frozen.

    prompts are packed per template, frozen_text holds (classes, embed) unit features. `recompute`
    names the encoders that keep little for the backward pass, since memory is short.
    """

    vision: ImageTower | None
    text: TextTower | None
    prompts: tuple[PackedPrompts, ...]
    frozen_text: Tensor | None
    scale: float
    autocast: Autocast
    recompute: frozenset[str] = frozenset()

    def class_features(self, adapter: LowRank | None) -> Tensor:
        """(classes, embed): unit features averaged over the templates, unit length, float32."""
        if self.text is None:
            assert self.frozen_text is not None
            return self.frozen_text
        with self.autocast():
            again = "text" in self.recompute
            raw = [
                self.text.encode_packed(packed, adapter, recompute=again) for packed in self.prompts
            ]
        if len(raw) == 1:
            return unit(raw[0])
        return unit(torch.stack([unit(features) for features in raw]).mean(dim=0))

    def image_features(self, batch: Tensor, adapter: LowRank | None) -> Tensor:
        """Unit features of pixels; with a frozen image encoder `batch` holds features already."""
        if self.vision is None:
            return batch
        with self.autocast():
            raw = self.vision.encode(batch, adapter, recompute="vision" in self.recompute)
        return unit(raw)

    def logits(self, batch: Tensor, class_features: Tensor, adapter: LowRank | None) -> Tensor:
        """(b, classes) in float32; with several runs each run's images with its own classes."""
        images = self.scale * self.image_features(batch, adapter)
        runs = adapter.runs if adapter else 1
        if runs == 1 or self.text is None:
            return images @ class_features.T
        return (of_runs(images, runs) @ of_runs(class_features, runs).mT).flatten(0, 1)

    def loss(self, batch: Tensor, labels: Tensor, adapter: LowRank) -> Tensor:
        """Cross-entropy of one batch, differentiable in every A and B; summed over the runs."""
        logits = self.logits(batch, self.class_features(adapter), adapter)
        loss = F.cross_entropy(logits, labels)
        return loss if adapter.runs == 1 else adapter.runs * loss

    def for_classes(self, vocabulary: Vocabulary, backbone: Backbone) -> LoraModel:
        """The same encoders with other class prompts."""
        if self.text is None:
            return replace(self, frozen_text=backbone.class_features(vocabulary))
        tokens = [backbone.tokenize(vocabulary.prompts(one)) for one in vocabulary.templates]
        return replace(self, prompts=tuple(self.text.pack_tokens(ids) for ids in tokens))

    def within_memory(
        self, batch: int, runs: int, device: torch.device, parts: int = 1
    ) -> LoraModel:
        """The same model for `runs` times `batch` images, sparing memory where that is short.

        parts: `RunContext.memory_parts`.
        """
        tokens = {
            "vision": runs * batch * self.vision.tokens if self.vision else 0,
            "text": runs * sum(packed.tokens for packed in self.prompts),
        }
        towers = {"vision": self.vision, "text": self.text}
        short = {
            name for name in towers if must_recompute(towers[name], tokens[name], device, parts)
        }
        return replace(self, recompute=frozenset(short))

    def merged(self, adapter: LowRank) -> LoraModel:
        """The model with the updates added to its weights."""
        deltas = adapter.merged()
        return replace(
            self,
            vision=None if self.vision is None else self.vision.with_deltas(deltas),
            text=None if self.text is None else self.text.with_deltas(deltas),
        )


@dataclass(frozen=True)
class LoraClassifier:
    """CLIP with merged updates."""

    model: LoraModel
    adapter: LowRank
    backbone: Backbone

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes): merges the updates, then encodes the queries in batches of 256."""
        model = self.model.merged(self.adapter)
        class_features = model.class_features(None)
        if model.vision is None:
            return model.logits(queries.features, class_features, None)
        batches = queries.batches(EVAL_BATCH, device=class_features.device)
        parts = [model.logits(pixels, class_features, None) for pixels in batches]
        return torch.cat(parts)

    def for_classes(self, vocabulary: Vocabulary) -> LoraClassifier:
        """The adapted encoders with other class prompts."""
        return replace(self, model=self.model.for_classes(vocabulary, self.backbone))

    def tensors(self) -> Mapping[str, Tensor]:
        """A and B of every adapted matrix, such as `vision.0.q.A`."""
        return self.adapter.named_tensors()
