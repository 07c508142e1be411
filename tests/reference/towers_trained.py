"""MMA, TCP, MMRL and full fine-tuning written out over the full encoders, one loss each.

Each `*_loss` takes (open_clip's module, learned, pixels, labels, task), each `*_logits` (module,
learned, pixels, task), as `tests.support.encoder_fits` calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fewshot_bench import Task
from tests.reference.encoders import Branched, image_features, image_rows, text_rows
from tests.reference.vpt import zero_shot_classes

Learned = Mapping[str, Tensor]
SCALE = 1e-3


def tokenize(task: Task) -> Any:
    """Tokenizer function of the task's backbone."""
    return task.train.backbone.tokenize  # type: ignore[attr-defined]


def frozen_classes(module: Any, task: Task) -> Tensor:
    """Zero-shot class features (classes, embed) of the frozen text encoder."""
    with torch.no_grad():
        return zero_shot_classes(module, tokenize(task), task)


def embedded(module: Any, task: Task) -> tuple[Tensor, Tensor]:
    """Embedded prompts of the one template, positions added (n, 77, width); end positions (n,)."""
    (template,) = task.templates
    ids = tokenize(task)(task.prompts(template))
    return module.token_embedding(ids) + module.positional_embedding, ids.argmax(dim=-1)


def cosines(module: Any, images: Tensor, classes: Tensor) -> Tensor:
    """Cosines times the logit scale; the features need not be normalized."""
    images, classes = F.normalize(images, dim=-1), F.normalize(classes, dim=-1)
    return module.logit_scale.exp() * images @ classes.T  # type: ignore[no-any-return]


def held_back(x: Tensor, factor: float) -> Tensor:
    """x unchanged in the forward pass; its gradient is multiplied by `factor`."""
    return factor * x + ((1 - factor) * x).detach()


def mma_logits(module: Any, learned: Learned, pixels: Tensor, task: Task) -> Tensor:
    """MMA: x + attn + mlp + s up(shared(down(ln_1 x))), with gradients scaled as in gsl.py."""

    def branch(encoder: str, layers: int) -> Branched:
        def added(layer: int, point: str, normed: Tensor, output: Tensor) -> Tensor | float:
            index = layer - layers + len(learned["shared.weight"])
            if point != "block" or index < 0:
                return 0.0

            def linear(name: str, x: Tensor) -> Tensor:
                return x @ learned[f"{name}.weight"][index].T + learned[f"{name}.bias"][index]

            hidden = linear(f"{encoder}.down", held_back(normed, SCALE)).relu()
            up = linear(f"{encoder}.up", linear("shared", hidden).relu())
            return held_back(up * SCALE, 1 / SCALE)

        return added

    rows = image_rows(
        module, pixels, branch=branch("vision", len(module.visual.transformer.resblocks))
    )
    x, end = embedded(module, task)
    texts = text_rows(module, x, branch=branch("text", len(module.transformer.resblocks)))
    classes = texts[torch.arange(len(end)), end] @ module.text_projection
    return cosines(module, rows[:, 0] @ module.visual.proj, classes)


def mma_loss(module: Any, learned: Learned, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(mma_logits(module, learned, pixels, task), labels)


def tcp_classes(module: Any, learned: Learned, task: Task) -> Tensor:
    """Raw class features (classes, embed); class rows replace the context before the last block."""
    features = frozen_classes(module, task)
    hidden = features @ learned["linear1.weight"].T + learned["linear1.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    rows = hidden @ learned["linear2.weight"].T + learned["linear2.bias"]
    context = learned["context"]
    rows = rows.reshape(len(features), len(context), -1)
    filler = " ".join(["X"] * len(context))
    ids = tokenize(task)([f"{filler} {name.replace('_', ' ')}." for name in task.classnames])
    words = module.token_embedding(ids)
    middle = context.expand(len(ids), -1, -1)
    x = torch.cat([words[:, :1], middle, words[:, 1 + len(context) :]], dim=1)
    last = len(module.transformer.resblocks) - 1

    def before(layer: int, x: Tensor) -> Tensor:
        if layer != last:
            return x
        return torch.cat([x[:, :1], rows, x[:, 1 + len(context) :]], dim=1)

    out = text_rows(module, x + module.positional_embedding, before)
    return out[torch.arange(len(ids)), ids.argmax(dim=-1)] @ module.text_projection  # type: ignore[no-any-return]


def tcp_loss(module: Any, learned: Learned, seen: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy plus 8 cosine distances to the frozen classes; `seen`: pixels or features."""
    images = seen if seen.dim() == 2 else image_features(module, seen).detach()
    classes = tcp_classes(module, learned, task)
    near = F.cosine_similarity(classes, frozen_classes(module, task), dim=1).mean()
    return F.cross_entropy(cosines(module, images, classes), labels) + 8 * (1 - near)


def tcp_logits(module: Any, learned: Learned, pixels: Tensor, task: Task) -> Tensor:
    """Scaled cosines of frozen image features and learned class features."""
    images = image_features(module, pixels)
    return cosines(module, images, tcp_classes(module, learned, task))


def mmrl_features(
    module: Any, learned: Learned, pixels: Tensor, task: Task
) -> tuple[Tensor, Tensor, Tensor]:
    """Raw image features of the class token and of the mean added token, and raw class features."""
    count = len(learned["tokens"])

    def before(encoder: str, layers: int) -> Any:
        weights, biases = learned[f"{encoder}.weight"], learned[f"{encoder}.bias"]

        def written(layer: int, x: Tensor) -> Tensor:
            index = layer - layers + len(weights)
            if index < 0:
                return x
            rows = learned["tokens"] @ weights[index].T + biases[index]
            kept = x[:, 1:] if index == 0 else x[:, 1 + count :]
            return torch.cat([x[:, :1], rows.expand(len(x), -1, -1), kept], dim=1)

        return written

    images = image_rows(module, pixels, before("vision", len(module.visual.transformer.resblocks)))
    x, end = embedded(module, task)
    texts = text_rows(module, x, before("text", len(module.transformer.resblocks)))
    classes = texts[torch.arange(len(end)), end + count] @ module.text_projection
    tokens = images[:, 1 : 1 + count].mean(dim=1) @ learned["projection"]
    return images[:, 0] @ module.visual.proj, tokens, classes


def mmrl_loss(module: Any, learned: Learned, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """0.7 and 0.3 of the cross-entropies, plus 6 times both cosine distances to frozen features."""
    own, tokens, classes = mmrl_features(module, learned, pixels, task)
    fit = 0.7 * F.cross_entropy(cosines(module, own, classes), labels)
    fit = fit + 0.3 * F.cross_entropy(cosines(module, tokens, classes), labels)
    frozen = image_features(module, pixels).detach()
    away = 1 - F.cosine_similarity(own, frozen, dim=1).mean()
    return (
        fit
        + 6 * away
        + 6 * (1 - F.cosine_similarity(classes, frozen_classes(module, task), dim=1).mean())
    )


def mmrl_logits(module: Any, learned: Learned, pixels: Tensor, task: Task) -> Tensor:
    """0.7 of the class token's logits plus 0.3 of the added tokens' logits."""
    own, tokens, classes = mmrl_features(module, learned, pixels, task)
    return 0.7 * cosines(module, own, classes) + 0.3 * cosines(module, tokens, classes)


class _Visual(torch.nn.Module):
    """open_clip's image encoder as a submodule, for `functional_call` with other weights."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.visual = module.visual

    def forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)  # type: ignore[no-any-return]


NAMES = {
    "patch_weight": "conv1.weight",
    "positions": "positional_embedding",
    "projection": "proj",
}


def full_logits(module: Any, learned: Learned, pixels: Tensor, task: Task) -> Tensor:
    """Linear head on unit features of the image encoder with the learned weights."""
    weights = {}
    for name, value in learned.items():
        if name.startswith("vision."):
            ours = name.removeprefix("vision.").replace("blocks.", "transformer.resblocks.")
            weights[f"visual.{NAMES.get(ours, ours)}"] = value
    features = functional_call(_Visual(module), weights, (pixels,))
    return F.linear(F.normalize(features, dim=-1), learned["head"], learned["head.bias"])


def full_loss(module: Any, learned: Learned, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of the head."""
    return F.cross_entropy(full_logits(module, learned, pixels, task), labels)
