"""CLIP with trained tensors in its encoders: features, logits, gradients in bounded memory.

`EncoderModel` is the entry point; methods define in `EncoderHooks` how tensors change the towers.
Steps in parts (`RunContext.memory_parts`) and recomputed blocks change results by rounding at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import (
    Adapter,
    Edits,
    Factors,
    ImageTower,
    PackedPrompts,
    PromptPart,
    TextTower,
)
from fewshot_bench.api.task import Images, Vocabulary
from fewshot_bench.training.memory import (
    backward_in_parts,
    chunks_for,
    encode_in_parts,
    must_recompute,
)
from fewshot_bench.training.prompts import Prompts
from fewshot_bench.training.steps import Autocast, Scale, unit

EVAL_BATCH = 256
T = TypeVar("T")
Learned = Mapping[str, Tensor]
"""Trained tensors by name."""


@dataclass(frozen=True)
class Encoders:
    """Both towers in one forward pass, with their edits, adapter and context of learned prompts.

    A tower that no trained tensor changes is None; its features are frozen. classes: frozen class
    features (classes, embed), for methods that derive prompts from them
    (`EncoderLearner.from_classes`). adapter: adds its `delta(site, x)` to the products of both
    towers. image_start: block that images enter, as rows that have passed
    the ones before it (`EncoderLearner.unchanged`).

    >>> optimizer = AdamW(encoders.parameters().values())
    """

    vision: ImageTower | None
    text: TextTower | None
    vision_edits: Edits | None = None
    text_edits: Edits | None = None
    context: Tensor | None = None
    classes: Tensor | None = None
    adapter: Adapter | None = None
    image_start: int = 0

    def parameters(self) -> dict[str, Tensor]:
        """Every tensor of the towers by name, such as `vision.blocks.0.ln_1.weight`."""
        towers = {"vision": self.vision, "text": self.text}
        return {
            f"{encoder}.{name}": value
            for encoder, tower in towers.items()
            if tower is not None
            for name, value in tower.parameters().items()
        }

    def with_parameters(self, tensors: Learned) -> Encoders:
        """Put these tensors into the towers, differentiable in them; skip other names."""
        vision, text = _by_tower(tensors)
        return replace(
            self,
            vision=None if self.vision is None else self.vision.with_parameters(vision),
            text=None if self.text is None else self.text.with_parameters(text),
        )

    def with_factors(self, factors: Mapping[str, Factors]) -> Encoders:
        """Multiply by these factors in place of whole matrices; differentiable in their values."""
        vision, text = _by_tower(factors)
        return replace(
            self,
            vision=None if self.vision is None else self.vision.with_factors(vision),
            text=None if self.text is None else self.text.with_factors(text),
        )


def _by_tower(values: Mapping[str, T]) -> Iterator[dict[str, T]]:
    """Values with names of the vision tower, and of the text tower."""
    for start in ("vision.", "text."):
        yield {name.removeprefix(start): values[name] for name in values if name.startswith(start)}


class TextPrompts(Protocol):
    """The prompts of all classes, laid out once per task."""

    @property
    def tokens(self) -> int:
        """The number of computed tokens."""
        ...

    @property
    def slots(self) -> int:
        """The number of slots in attention, as in `PackedPrompts`."""
        ...

    def divide(self, parts: int) -> Sequence[PromptPart]:
        """At most `parts` parts with about equally many tokens each."""
        ...

    def encode(self, encoders: Encoders, part: PromptPart | None, *, recompute: bool) -> Tensor:
        """(classes, embed) raw features, of all or a part; (runs, classes, embed) for runs."""
        ...


@dataclass(frozen=True)
class TemplatePrompts:
    """Prompts of one template."""

    packed: PackedPrompts

    @property
    def tokens(self) -> int:
        """The number of computed tokens."""
        return self.packed.tokens

    @property
    def slots(self) -> int:
        """The number of slots in attention, as in `PackedPrompts`."""
        return self.packed.slots

    def divide(self, parts: int) -> Sequence[PromptPart]:
        """Parts of packed prompts."""
        return self.packed.divide(parts)

    def encode(self, encoders: Encoders, part: PromptPart | None, *, recompute: bool) -> Tensor:
        """(classes, embed) raw features."""
        assert encoders.text is not None
        packed = self.packed if part is None else part.packed
        edits = _edits_of(encoders, part)
        return encoders.text.encode_packed(
            packed, encoders.adapter, edits=edits, recompute=recompute
        )


@dataclass(frozen=True)
class ContextPrompts:
    """Prompts with the learned context of `Encoders`, or with each of `runs` contexts."""

    prompts: Prompts
    runs: int = 1

    @property
    def tokens(self) -> int:
        """The number of computed tokens."""
        return self.runs * self.prompts.packing.tokens

    @property
    def slots(self) -> int:
        """The number of slots in attention, as in `PackedPrompts`."""
        return self.runs * self.prompts.packing.slots

    def divide(self, parts: int) -> Sequence[PromptPart]:
        """Parts of packed prompts."""
        return self.prompts.packing.divide(parts)

    def encode(self, encoders: Encoders, part: PromptPart | None, *, recompute: bool) -> Tensor:
        """(classes, embed) raw features; (runs, classes, embed) for several contexts."""
        assert encoders.text is not None
        assert encoders.context is not None
        edits = _edits_of(encoders, part)
        return self.prompts.features(
            encoders.text,
            encoders.context,
            part,
            adapter=encoders.adapter,
            edits=edits,
            recompute=recompute,
        )


def _edits_of(encoders: Encoders, part: PromptPart | None) -> Edits | None:
    edits = encoders.text_edits
    return edits if edits is None or part is None else edits.of(part.members)


@dataclass(frozen=True)
class EncoderBatch:
    """The batch that losses get.

    classes, images: results of `EncoderHooks.read_classes` and `read_images`, by default
    (classes, embed) and (b, embed) at unit length. labels: (b,). pixels: (b, 3, h, w), their rows
    (b, tokens, width) where images enter at a later block (`Encoders.image_start`), or frozen
    features (b, embed) if the image tower is not changed. scale: the logit scale. frozen:
    (b, embed) unit features of the frozen encoder, if asked for (`EncoderLearner.with_frozen`).
    """

    classes: Tensor
    images: Tensor
    labels: Tensor
    pixels: Tensor
    scale: float
    frozen: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """(b, classes) scaled cosines."""
        return self.scale * self.images @ self.classes.T

    def cross_entropy(self) -> Tensor:
        """The mean cross-entropy over the batch."""
        return F.cross_entropy(self.logits, self.labels)


BatchLoss = Callable[[EncoderBatch], Tensor]
"""A scalar: a mean over the images of a batch, plus what no image has a part in."""


class EncoderHooks:
    """Hooks by which a method changes the encoders and their outputs; all have defaults."""

    @property
    def image_runs(self) -> int:
        """Number of times that `encode_images` encodes every image."""
        return 1

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """The towers of one forward pass, differentiable in `learned`.

        Default: the frozen ones, with the tensors of `learned` that have names of theirs.
        """
        return frozen.with_parameters(learned)

    def merged(self, learned: Learned, frozen: Encoders) -> Encoders:
        """The towers for prediction, made once for many calls; default: `encoders`.

        For towers that are cheaper once nothing is trained any more.
        """
        return self.encoders(learned, frozen)

    def encode_images(self, encoders: Encoders, pixels: Tensor, *, recompute: bool) -> Tensor:
        """Raw features of pixels (b, 3, h, w) for `read_images`: (b, embed) by default."""
        tower, edits, start = encoders.vision, encoders.vision_edits, encoders.image_start
        assert tower is not None
        return tower.encode(pixels, encoders.adapter, edits=edits, recompute=recompute, start=start)

    def read_images(self, raw: Tensor, learned: Learned, frozen: Encoders) -> Tensor:
        """Image features in float32 from the tower's output; default: (b, embed) at unit length."""
        return unit(raw)

    def read_fixed(self, fixed: Tensor, learned: Learned, *, fitted: bool) -> Tensor:
        """Class features (classes, embed) if the text tower is frozen; default: `fixed` itself."""
        return fixed

    def read_classes(self, raw: Sequence[Tensor], learned: Learned, frozen: Encoders) -> Tensor:
        """Class features from those per template; default: unit mean direction (classes, embed)."""
        if len(raw) == 1:
            return unit(raw[0])
        return unit(torch.stack([unit(features) for features in raw]).mean(dim=0))

    def scores(self, images: Tensor, classes: Tensor, scale: float, *, fitted: bool) -> Tensor:
        """(n, classes) logits of the features; fitted: the classes are those of the fit."""
        return scale * images @ classes.T


@dataclass(frozen=True)
class EncoderModel:
    """The frozen part of a model: towers, class prompts and memory settings.

    fixed: class features (classes, embed) if the text tower is not changed. recompute: towers whose
    blocks are recomputed in the backward pass. chunks: number of image chunks (micro-batches) of a
    step. divided: the prompts of each template, divided into parts for a step in chunks.
    """

    hooks: EncoderHooks
    classnames: tuple[str, ...]
    frozen: Encoders
    prompts: tuple[TextPrompts, ...]
    fixed: Tensor | None
    scale: float
    autocast: Autocast
    fitted: bool = True
    recompute: frozenset[str] = frozenset()
    chunks: int = 1
    divided: tuple[Sequence[PromptPart], ...] = ()

    def merged(self, learned: Learned) -> Encoders:
        """The towers for prediction."""
        with self.autocast():
            return self.hooks.merged(learned, self.frozen)

    def class_features(self, learned: Learned, encoders: Encoders | None = None) -> Tensor:
        """Class features: `read_classes` of the prompt features, or `read_fixed` of `fixed`.

        encoders: those of `merged`, for prediction.
        """
        if self.fixed is not None:
            return self.hooks.read_fixed(self.fixed, learned, fitted=self.fitted)
        if self.divided and not torch.is_grad_enabled():
            pairs = zip(self.prompts, self.divided, strict=True)
            raw = [
                encode_in_parts(parts, self._encoder(prompts, learned, encoders))
                for prompts, parts in pairs
            ]
        else:
            raw = [self._encoder(prompts, learned, encoders)() for prompts in self.prompts]
        return self.hooks.read_classes(raw, learned, self.frozen)

    def _encoder(
        self, prompts: TextPrompts, learned: Learned, encoders: Encoders | None = None
    ) -> Callable[..., Tensor]:
        def encode(part: PromptPart | None = None) -> Tensor:
            with self.autocast():
                towers = encoders or self.hooks.encoders(learned, self.frozen)
                return prompts.encode(towers, part, recompute="text" in self.recompute)

        return encode

    def image_features(
        self, batch: Tensor, learned: Learned, encoders: Encoders | None = None
    ) -> Tensor:
        """Image features: `read_images` of encoded pixels; frozen features are returned as is.

        encoders: those of `merged`, for prediction.
        """
        return self._entered_features(self._enter(batch), learned, encoders)

    def _enter(self, pixels: Tensor) -> Tensor:
        """Rows of the images before the first changed block; pixels if that is the first one."""
        start, tower = self.frozen.image_start, self.frozen.vision
        if tower is None or not start:
            return pixels
        with self.autocast():
            return tower.advance(pixels, start)

    def _entered_features(
        self, entered: Tensor, learned: Learned, encoders: Encoders | None = None
    ) -> Tensor:
        if self.frozen.vision is None:
            return entered
        with self.autocast():
            towers = encoders or self.hooks.encoders(learned, self.frozen)
            recompute = "vision" in self.recompute
            raw = self.hooks.encode_images(towers, entered, recompute=recompute)
        return self.hooks.read_images(raw, learned, self.frozen)

    def batch(
        self, pixels: Tensor, labels: Tensor, classes: Tensor, learned: Learned
    ) -> EncoderBatch:
        """The `EncoderBatch` for a loss."""
        entered = self._enter(pixels)
        images = self._entered_features(entered, learned)
        return EncoderBatch(classes, images, labels, entered, self.scale)

    def backward(
        self,
        pixels: Tensor,
        labels: Tensor,
        loss: BatchLoss,
        learned: Learned,
        scale: Scale,
        frozen: Tensor | None = None,
    ) -> None:
        """Add the gradients of `scale(loss)` to those of the learned tensors, in `chunks`.

        frozen: `EncoderBatch.frozen`.
        """
        if self.chunks == 1:
            batch = self.batch(pixels, labels, self.class_features(learned), learned)
            batch = replace(batch, frozen=frozen)
            torch.autograd.backward(scale(loss(batch)))
            return
        raw = [
            encode_in_parts(parts, self._encoder(prompts, learned)).requires_grad_()
            for prompts, parts in zip(self.prompts, self.divided, strict=True)
        ]
        if raw:
            read = self.hooks.read_classes(raw, learned, self.frozen)
        else:
            read = self.class_features(learned)
        classes = read.detach().requires_grad_(read.requires_grad)
        for chunk in torch.arange(len(pixels), device=pixels.device).tensor_split(self.chunks):
            if len(chunk):
                batch = self.batch(pixels[chunk], labels[chunk], classes, learned)
                batch = replace(batch, frozen=None if frozen is None else frozen[chunk])
                share = loss(batch) * (len(chunk) / len(pixels))
                torch.autograd.backward(scale(share))
        if classes.grad is not None:
            torch.autograd.backward(read, classes.grad)
        for prompts, parts, features in zip(self.prompts, self.divided, raw, strict=True):
            assert features.grad is not None
            backward_in_parts(parts, self._encoder(prompts, learned), features.grad)

    @torch.no_grad()
    def predict(
        self, queries: Images, classes: Tensor, learned: Learned, encoders: Encoders | None = None
    ) -> Tensor:
        """(n, classes) logits, in batches of 256 images; encoders: those of `merged`."""
        score = partial(self.hooks.scores, classes=classes, scale=self.scale, fitted=self.fitted)
        if self.frozen.vision is None:
            return score(queries.features)
        batches = queries.batches(EVAL_BATCH, device=classes.device)
        features = (self.image_features(pixels, learned, encoders) for pixels in batches)
        return torch.cat([score(images) for images in features])

    def within_memory(
        self, images: int, device: torch.device, parts: int, precision: str = "fp32"
    ) -> EncoderModel:
        """This model for steps of `images` images, with recomputation and chunks as memory needs.

        parts, precision: `RunContext.memory_parts` and `precision`.
        """
        towers = {"vision": self.frozen.vision, "text": self.frozen.text}
        images *= self.hooks.image_runs
        tokens = {
            "vision": images * self.frozen.vision.tokens if self.frozen.vision else 0,
            "text": sum(prompts.tokens for prompts in self.prompts),
        }
        slots = tokens | {"text": sum(prompts.slots for prompts in self.prompts)}
        short = {
            name
            for name, tower in towers.items()
            if must_recompute(tower, tokens[name], device, parts, precision, slots=slots[name])
        }
        chunks = chunks_for(parts)
        divided = tuple(prompts.divide(chunks) for prompts in self.prompts) if chunks > 1 else ()
        return replace(self, recompute=frozenset(short), chunks=chunks, divided=divided)


@dataclass(frozen=True)
class EncoderClassifier:
    """CLIP with learned tensors.

    encoders, classes: the towers for prediction (`EncoderHooks.merged`) and class features, if they
    were computed in advance by `ahead`.
    """

    model: EncoderModel
    learned: Learned
    model_for: Callable[[Vocabulary], EncoderModel]
    encoders: Encoders | None = None
    classes: Tensor | None = None

    @torch.no_grad()
    def logits(self, queries: Images) -> Tensor:
        """(n, classes); prompts are encoded once, queries in batches of 256."""
        if self.encoders is None or self.classes is None:
            return self.ahead().logits(queries)
        return self.model.predict(queries, self.classes, self.learned, self.encoders)

    def for_classes(self, vocabulary: Vocabulary) -> EncoderClassifier:
        """The same tensors with other class prompts."""
        same = vocabulary.classnames == self.model.classnames
        model = replace(self.model_for(vocabulary), fitted=self.model.fitted and same)
        return replace(self, model=model, encoders=None, classes=None)

    @torch.no_grad()
    def ahead(self) -> EncoderClassifier:
        """This classifier with class features encoded in advance, for many calls."""
        encoders = self.model.merged(self.learned)
        classes = self.model.class_features(self.learned, encoders)
        return replace(self, encoders=encoders, classes=classes)

    def tensors(self) -> Learned:
        """All trained tensors."""
        return self.learned
