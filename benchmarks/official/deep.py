"""Learned rows inside the encoders: both, or the image encoder alone, on every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fsbench_methods.sixty_templates import SIXTY_TEMPLATES
from torch import Tensor, nn

from benchmarks.official import clip
from benchmarks.official.clip import Edit
from benchmarks.official.prompts import WORDS
from benchmarks.official.step import Context, Setting, Step


def behind_start(rows: Sequence[Tensor]) -> Edit:
    """Replaces the rows behind the first one before blocks 1 and up; those of 0 are a context."""

    def edit(layer: int, x: Tensor) -> Tensor:
        if not 0 < layer < len(rows):
            return x
        own = rows[layer][:, None].expand(-1, x.shape[1], -1)
        return torch.cat([x[:1], own, x[1 + len(own) :]])

    return edit


def at_end(rows: Sequence[Tensor]) -> dict[str, Any]:
    """Rows behind the patches, replaced before blocks 1 and up."""

    def edit(layer: int, x: Tensor) -> Tensor:
        if not 0 < layer < len(rows):
            return x
        own = rows[layer][:, None].expand(-1, x.shape[1], -1)
        return torch.cat([x[: -len(own)], own])

    return {"appended": rows[0], "edit": edit}


class VptDeep(Step):
    """VPT: rows in every block of the image encoder; class features are computed once."""

    count, depth = 8, 12

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        width = self.module.visual.positional_embedding.shape[1]
        layers = min(self.depth, len(self.vision))
        self.rows = [self.normal(self.count, width) for _ in range(layers)]
        self.learned, self.frozen = [*self.rows], self.written()

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        features = self.images(images, **at_end(self.rows))
        return (self.cross_entropy(features, self.frozen, labels),)


class VptShallow(VptDeep):
    """VPT with rows before the first block alone."""

    depth = 1


class _Deep(Step):
    """A context, and rows that replace it in the blocks above."""

    count, depth = 4, 9

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.prompts = Context(self, self.count, WORDS)
        self.layers = min(self.depth, len(self.text), len(self.vision))
        first = nn.Parameter(self.prompts.first.clone())
        deeper = [self.normal(self.count, first.shape[1]) for _ in range(1, self.layers)]
        self.rows = [first, *deeper]
        self.width = self.module.visual.positional_embedding.shape[1]

    def classes(self) -> Tensor:
        """Unit class features."""
        embedded, edit = self.prompts(self.rows[0]), behind_start(self.rows)
        return clip.text_features(self.module, embedded, self.prompts.ends, self.text, edit=edit)


class Ivlp(_Deep):
    """IVLP: separate rows in both encoders."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.seen = [self.normal(self.count, self.width) for _ in range(self.layers)]
        self.learned = [*self.rows, *self.seen]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        features = self.images(images, **at_end(self.seen))
        return (self.cross_entropy(features, self.classes(), labels),)


class PromptSrc(Ivlp):
    """PromptSRC: IVLP, and three distances to frozen CLIP, which sees every batch too."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        total = sum(self.raw_written(template) for template in SIXTY_TEMPLATES)
        self.frozen = F.normalize(total, dim=-1)  # type: ignore[arg-type]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy and distances of class features, image features and logits."""
        features, classes = self.images(images, **at_end(self.seen)), self.classes()
        with torch.no_grad():
            seen = self.images(images)
            teacher = self.scale * seen @ self.frozen.T
        logits = self.scale * features @ classes.T
        pairs = logits.log_softmax(dim=1), teacher.log_softmax(dim=1)
        divergence = F.kl_div(*pairs, reduction="sum", log_target=True) / logits.numel()
        loss = F.cross_entropy(logits, labels) + 25 * F.l1_loss(classes, self.frozen)
        return (loss + 10 * F.l1_loss(features, seen) + divergence,)


class MaPLe(_Deep):
    """MaPLe: the rows of images are linear maps of those of texts."""

    count = 2

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        inputs = self.rows[0].shape[1]
        self.maps = [self.linear(inputs, self.width) for _ in range(self.layers)]
        self.learned = [*self.rows, *(one.weight for one in self.maps)]
        self.learned += [one.bias for one in self.maps]

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        seen = [one(rows) for one, rows in zip(self.maps, self.rows, strict=True)]
        features = self.images(images, **at_end(seen))
        return (self.cross_entropy(features, self.classes(), labels),)


class _Scaled(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * outer[0], None


class Mma(Step):
    """MMA: adapters beside the upper blocks, with a layer that both encoders share."""

    depth, inner, factor = 8, 32, 1e-3

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.ids = self.tokens()
        blocks = min(self.depth, len(self.vision), len(self.text))
        wide = self.module.visual.positional_embedding.shape[1]
        narrow = self.module.positional_embedding.shape[1]
        sizes = {"shared": (self.inner, self.inner)}
        for name, width in (("text", narrow), ("vision", wide)):
            sizes |= {f"{name}.down": (width, self.inner), f"{name}.up": (self.inner, width)}
        self.of = {
            name: [self.linear(*size) for _ in range(blocks)] for name, size in sizes.items()
        }
        for layers in self.of.values():
            self.learned += [one.weight for one in layers]
            self.learned += [one.bias for one in layers]

    def beside(self, encoder: str, blocks: int) -> clip.Branch:
        """The adapters of an encoder."""

        def branch(layer: int, block: Any, x: Tensor) -> Tensor | None:
            index = layer - blocks + len(self.of["shared"])
            if index < 0:
                return None
            hidden = block.ln_1(_Scaled.apply(x, self.factor))  # type: ignore[no-untyped-call]
            for name in (f"{encoder}.down", "shared"):
                hidden = self.of[name][index](hidden).relu()
            up = self.of[f"{encoder}.up"][index](hidden) * self.factor
            return _Scaled.apply(up, 1 / self.factor)  # type: ignore[no-any-return, no-untyped-call]

        return branch

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy."""
        features = self.images(images, branch=self.beside("vision", len(self.vision)))
        classes = self.classes_of(self.ids, branch=self.beside("text", len(self.text)))
        return (self.cross_entropy(features, classes, labels),)


class Mmrl(Step):
    """MMRL: rows inserted in the upper blocks, and a second read-out; frozen CLIP sees batches."""

    count, depth, inner, alpha, weight = 5, 7, 512, 0.7, 6.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        ids = self.tokens()
        self.embedded, self.ends = self.module.token_embedding(ids).detach(), ids.argmax(dim=-1)
        self.frozen = self.written()
        self.blocks = min(self.depth, len(self.vision), len(self.text))
        wide, embed = self.module.visual.proj.shape
        narrow = self.module.positional_embedding.shape[1]
        self.rows, self.projection = self.normal(self.count, self.inner), self.normal(wide, embed)
        self.to_image, self.to_text = (
            [self.linear(self.inner, width) for _ in range(self.blocks)] for width in (wide, narrow)
        )
        self.learned = [self.rows]
        for maps in (self.to_image, self.to_text):
            self.learned += [*(one.weight for one in maps), *(one.bias for one in maps)]
        self.learned.append(self.projection)
        length = ids.shape[1] + self.count
        self.mask = torch.full((length, length), float("-inf"), device=self.device).triu(1)

    def inserted(self, maps: Sequence[nn.Linear], blocks: int) -> Edit:
        """Rows behind the first one: inserted at the first upper block, then replaced."""
        rows, first = [one(self.rows) for one in maps], blocks - len(maps)

        def edit(layer: int, x: Tensor) -> Tensor:
            if layer < first:
                return x
            own = rows[layer - first][:, None].expand(-1, x.shape[1], -1)
            return torch.cat([x[:1], own, x[1 + (layer > first) * self.count :]])

        return edit

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropies of both read-outs and distances to frozen features."""
        with torch.no_grad():
            frozen = self.images(images)
        edit, visual = self.inserted(self.to_image, len(self.vision)), self.module.visual
        x = clip.image_rows(self.module, images, self.vision, edit=edit)
        x = visual.ln_post(x[:, : 1 + self.count])
        own = F.normalize(x[:, 0] @ visual.proj, dim=-1)
        other = F.normalize(x[:, 1:].mean(dim=1) @ self.projection, dim=-1)
        edit = self.inserted(self.to_text, len(self.text))
        classes = clip.text_features(
            self.module, self.embedded, self.ends + self.count, self.text, mask=self.mask, edit=edit
        )
        loss = self.alpha * self.cross_entropy(own, classes, labels)
        loss = loss + (1 - self.alpha) * self.cross_entropy(other, classes, labels)
        for one, target in ((own, frozen), (classes, self.frozen)):
            loss = loss + self.weight * (1 - F.cosine_similarity(one, target, dim=1).mean())
        return (loss,)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.learned, lr=1e-3, weight_decay=5e-4)


class PlotPlusPlus(Step):
    """PLOT++, first stage: rows of images alone are trained, all prompts are encoded anew."""

    count, rows, eps, rounds = 4, 2, 0.1, 100
    PHRASES = ("a photo of a", "this is a photo", "this is picture of", "one picture of a")

    def __init__(self, setting: Setting, tolerance: float = 1e-2) -> None:
        super().__init__(setting)
        self.tolerance = tolerance
        self.prompts = [Context(self, 4, phrase) for phrase in self.PHRASES]
        width = self.module.visual.positional_embedding.shape[1]
        self.sets = self.normal(self.count, self.rows, width)
        self.learned = [self.sets]

    @torch.no_grad()
    def plans(self, kernel: Tensor) -> Tensor:
        """Transport plans of (problems, m, n); all end in the same round, which the host asks."""
        rows, columns = (kernel.new_ones(len(kernel), size, 1) for size in kernel.shape[1:])
        turned = kernel.mT.contiguous()
        for _ in range(self.rounds):
            last, rows = rows, 1 / (kernel.shape[1] * (kernel @ columns))
            columns = 1 / (kernel.shape[2] * (turned @ rows))
            if (rows - last).abs().mean().item() < self.tolerance:
                break
        return (rows @ columns.mT) * kernel

    def losses(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Cross-entropy of transported cosines and those of pooled features."""
        raw = [self.raw_images(images, appended=rows) for rows in self.sets]
        embedded = torch.cat([prompts(prompts.first) for prompts in self.prompts])
        ends = torch.cat([prompts.ends for prompts in self.prompts])
        classes = clip.raw_text_features(self.module, embedded, ends, self.text)
        features, classes = torch.stack(raw), classes.view(len(self.prompts), -1, classes.shape[1])
        pooled = [F.normalize(one.mean(dim=0), dim=-1) for one in (features, classes)]
        sides = F.normalize(features, dim=-1), F.normalize(classes, dim=-1)
        cosines = torch.einsum("mbd,ncd->bcmn", *sides)
        count, shape = len(images), cosines.shape
        cosines = cosines.reshape(-1, *shape[2:]).contiguous()
        plans = self.plans(((cosines - 1) / self.eps).exp())
        if torch.isnan(plans).any():
            raise FloatingPointError("the official code leaves this batch out")
        logits = self.scale * (plans * cosines).sum(dim=(1, 2)).view(count, -1)
        logits = logits + self.scale * pooled[0] @ pooled[1].T
        return (F.cross_entropy(logits, labels),)
