"""CLIP with low-rank updates: logits while it is trained, and with the updates merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, Vocabulary
from fewshot_bench.backbones import ImageTower, PackedPrompts, PromptPart, TextTower
from fewshot_bench.training import unit
from fewshot_bench.training.provisional import (
    Autocast,
    Backward,
    Encode,
    Encoding,
    Scale,
    backward_in_parts,
    chunks_for,
    encode_in_parts,
    must_recompute,
)
from fsbench_methods.lora_layers import Change, Update, for_images, for_prompts, product_dtype

EVAL_BATCH = 256
U = TypeVar("U", bound=Change)


@dataclass(frozen=True)
class LoraModel:
    """CLIP with low-rank updates; a tower that is not adapted is None, its features are frozen.

    prompts are packed per template, as they are before text block `text_start`: no update is below
    it. frozen_text holds (classes, embed) unit features. To save memory, the encoders in
    `recompute` recompute activations in the backward pass, and a step is split into `chunks` of
    images and of prompts (`divided`, per template).
    """

    vision: ImageTower | None
    text: TextTower | None
    prompts: tuple[PackedPrompts, ...]
    frozen_text: Tensor | None
    scale: float
    autocast: Autocast
    recompute: frozenset[str] = frozenset()
    chunks: int = 1
    divided: tuple[Sequence[PromptPart], ...] = ()
    text_start: int = 0

    def class_features(self, adapter: Update | None) -> Tensor:
        """(classes, embed): unit features averaged over the templates, unit length, float32."""
        if self.text is None:
            assert self.frozen_text is not None
            return self.frozen_text
        if self.divided and not torch.is_grad_enabled():
            pairs = zip(self.prompts, self.divided, strict=True)
            return _average(
                [
                    encode_in_parts(parts, self._encoder(packed, parts, adapter))
                    for packed, parts in pairs
                ]
            )
        return _average([self._prompt_features(packed, adapter) for packed in self.prompts])

    def _prompt_features(self, packed: PackedPrompts, adapter: Update | None) -> Tensor:
        assert self.text is not None
        with self.autocast():
            return self.text.encode_packed(packed, adapter, recompute="text" in self.recompute)

    def _encoder(
        self, packed: PackedPrompts, parts: Sequence[PromptPart], adapter: Update | None
    ) -> Encode:
        """Function that encodes a part of `packed` with its share of the whole's dropout masks.

        The random state is rewound for every part to that of this call.
        """
        start = adapter.snapshot() if adapter else None
        prompts = sum(len(part.members) for part in parts)

        def encode(part: PromptPart) -> Tensor:
            if adapter is None:
                return self._prompt_features(part.packed, None)
            adapter.rewind(start)
            mine = for_prompts(adapter, part, packed.tokens, prompts)
            return self._prompt_features(part.packed, mine)

        return encode

    def image_features(self, batch: Tensor, adapter: Update | None) -> Tensor:
        """Unit features of pixels; with a frozen image encoder `batch` holds features already."""
        if self.vision is None:
            return batch
        with self.autocast():
            raw = self.vision.encode(batch, adapter, recompute="vision" in self.recompute)
        return unit(raw)

    def logits(self, batch: Tensor, class_features: Tensor, adapter: Update | None) -> Tensor:
        """(b, classes) in float32."""
        images = self.scale * self.image_features(batch, adapter)
        return images @ class_features.T

    def loss(self, batch: Tensor, labels: Tensor, adapter: Update | None) -> Tensor:
        """Cross-entropy of one batch, differentiable in every A and B."""
        logits = self.logits(batch, self.class_features(adapter), adapter)
        return F.cross_entropy(logits, labels)

    def backward(self, batch: Tensor, labels: Tensor, adapter: Update | None, scale: Scale) -> None:
        """Add the gradients of `scale(loss)` to those of the trained parameters, in `chunks`."""
        if self.chunks == 1:
            torch.autograd.backward(scale(self.loss(batch, labels, adapter)))
            return
        encoders, raw = [], []
        for packed, parts in zip(self.prompts, self.divided, strict=True):
            encoders.append(self._encoder(packed, parts, adapter))
            raw.append(encode_in_parts(parts, encoders[-1]).requires_grad_())
        whole = _average(raw) if raw else self.class_features(adapter)
        class_features = whole.detach().requires_grad_(whole.requires_grad)
        start = adapter.snapshot() if adapter else None
        for chunk in torch.arange(len(batch), device=batch.device).tensor_split(self.chunks):
            if len(chunk):
                if adapter:
                    adapter.rewind(start)
                loss = self._share(batch, labels, chunk, class_features, adapter)
                torch.autograd.backward(scale(loss))
        end = adapter.snapshot() if adapter else None
        if raw:
            torch.autograd.backward(whole, class_features.grad)
        for parts, encode, features in zip(self.divided, encoders, raw, strict=True):
            assert features.grad is not None
            backward_in_parts(parts, encode, features.grad)
        if adapter:
            adapter.rewind(end)

    def _share(
        self,
        batch: Tensor,
        labels: Tensor,
        chunk: Tensor,
        class_features: Tensor,
        adapter: Update | None,
    ) -> Tensor:
        """The contribution of a chunk of images to the loss of their batch."""
        tokens = self.vision.tokens if self.vision else 1
        mine = for_images(adapter, chunk, len(batch), tokens) if adapter else None
        logits = self.logits(batch[chunk], class_features, mine)
        return F.cross_entropy(logits, labels[chunk]) * (len(chunk) / len(batch))

    @torch.no_grad()
    def predict(self, queries: Images, class_features: Tensor) -> Tensor:
        """(n, classes) of merged encoders, in batches of 256."""
        if self.vision is None:
            return self.logits(queries.features, class_features, None)
        batches = queries.batches(EVAL_BATCH, device=class_features.device)
        return torch.cat([self.logits(pixels, class_features, None) for pixels in batches])

    def for_classes(self, vocabulary: Vocabulary, backbone: Backbone) -> LoraModel:
        """The same encoders with other class prompts."""
        if self.text is None:
            return replace(self, frozen_text=backbone.class_features(vocabulary))
        tokens = [
            backbone.tokenize(vocabulary.prompts(template)) for template in vocabulary.templates
        ]
        packed = [self.text.pack_tokens(ids) for ids in tokens]
        if self.text_start:
            packed = [self.text.advance(one, self.text_start) for one in packed]
        return replace(self, prompts=tuple(packed))._divide(self.chunks)

    def _divide(self, chunks: int) -> LoraModel:
        parts = tuple(packed.divide(chunks) for packed in self.prompts) if chunks > 1 else ()
        return replace(self, chunks=chunks, divided=parts)

    def within_memory(
        self, batch: int, device: torch.device, parts: int = 1, precision: str = "fp32"
    ) -> LoraModel:
        """The same model, with recomputation and chunks if `batch` images need too much memory.

        parts, precision: `RunContext.memory_parts` and `precision`.
        """
        tokens = {
            "vision": batch * self.vision.tokens if self.vision else 0,
            "text": sum(packed.tokens for packed in self.prompts),
        }
        slots = tokens | {"text": sum(packed.slots for packed in self.prompts)}
        towers = {"vision": self.vision, "text": self.text}
        short = {
            name
            for name, tower in towers.items()
            if must_recompute(tower, tokens[name], device, parts, precision, slots=slots[name])
        }
        return replace(self, recompute=frozenset(short))._divide(chunks_for(parts))

    def merged(self, change: Change) -> LoraModel:
        """The model with `change` applied to its weights."""
        vision, text = change.applied(self.vision, self.text)
        return replace(self, vision=vision, text=text)


def model_of(
    backbone: Backbone,
    vocabulary: Vocabulary,
    ctx: Encoding,
    *,
    vision: bool,
    text: bool,
    text_start: int = 0,
) -> LoraModel:
    """The frozen part of a model in which the chosen encoders are adapted.

    text_start: the first text block with an update.
    """
    blank = LoraModel(
        backbone.image_tower() if vision else None,
        backbone.text_tower() if text else None,
        (),
        None,
        backbone.logit_scale,
        ctx.autocast,
        text_start=text_start,
    )
    return blank.for_classes(vocabulary, backbone)


def update_step(model: LoraModel, adapter: Update) -> Backward:
    """The backward pass of one batch through a model with trained updates."""

    def backward(batch: Tensor, labels: Tensor, scale: Scale) -> None:
        with model.autocast():
            dtype = product_dtype(batch.device)
        model.backward(batch, labels, adapter.for_step(dtype), scale)

    return backward


def _average(raw: Sequence[Tensor]) -> Tensor:
    """(classes, embed) unit mean of unit features; raw: features of each template."""
    if len(raw) == 1:
        return unit(raw[0])
    return unit(torch.stack([unit(features) for features in raw]).mean(dim=0))


@dataclass(frozen=True)
class LoraClassifier(Generic[U]):
    """CLIP with merged updates."""

    model: LoraModel
    adapter: U
    backbone: Backbone

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes): merges the updates, then encodes the queries in batches of 256."""
        model = self.model.merged(self.adapter)
        return model.predict(queries, model.class_features(None))

    def for_classes(self, vocabulary: Vocabulary) -> LoraClassifier[U]:
        """The adapted encoders with other class prompts."""
        return replace(self, model=self.model.for_classes(vocabulary, self.backbone))

    def tensors(self) -> Mapping[str, Tensor]:
        """The trained tensors of every adapted matrix, such as `vision.0.q.A`."""
        return self.adapter.named_tensors()


@dataclass(frozen=True)
class MergedClassifier:
    """A restored classifier, with updates merged and class prompts encoded ahead."""

    model: LoraModel
    class_features: Tensor
    adapter: Change

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): bit-identical to the `LoraClassifier` that was saved."""
        return self.model.predict(queries, self.class_features)

    def tensors(self) -> Mapping[str, Tensor]:
        """The trained tensors, as saved."""
        return self.adapter.named_tensors()


def restored(model: LoraModel, adapter: Change) -> MergedClassifier:
    """The classifier of a model with saved updates."""
    merged = model.merged(adapter)
    return MergedClassifier(merged, merged.class_features(None), adapter)
