"""TPT: a context of the prompts is tuned for each query until its confident views agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench import (
    Augment,
    Backbone,
    Images,
    MethodCard,
    Published,
    RunContext,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.training import require, require_not_negative, require_positive
from fewshot_bench.training.provisional import (
    Encoding,
    PromptModel,
    WithoutRun,
    build_prompts,
    embedded_words,
)
from fsbench_methods import papers
from fsbench_methods.query_views import CROPS, by_entropy, in_blocks

_CODE = "TPT (Shu et al. 2022), tpt_classification.py"
SCALE = 1024.0
"""Factor of a loss, taken from its gradient again: exact in all formats, and fp16 keeps more."""
TOKENS = 6 * 2**10
"""Prompt tokens above which blocks are recomputed: about 2 GB of activations at ViT-B/16."""
MIXED = (
    *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
    *("sun397", "dtd", "eurosat", "ucf101"),
)


@dataclass(frozen=True)
class TunedClassifier:
    """Zero-shot classification with a context of its own for each query."""

    model: PromptModel
    context: Tensor
    method: Tpt
    model_for: Callable[[Vocabulary], PromptModel]

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): all prompts are encoded, and differentiated, for every query."""
        start = self.context.clone().requires_grad_()
        with torch.enable_grad():
            # At the start of every query: its steps share the activations.
            classes = self.model.class_features(start)
        rows = [self.model.scale * classes.new_empty(0, len(classes))]
        for views in in_blocks(queries, self.method.views, self.method.augment):
            rows += [self._answer(of_query, start, classes)[None] for of_query in views]
        return torch.cat(rows)

    def _answer(self, views: Tensor, start: Tensor, classes: Tensor) -> Tensor:
        """(classes,) logits of a query from its views (v, embed)."""
        scale, method = self.model.scale, self.method
        kept = max(1, int(method.keep * len(views)))
        confident = views[by_entropy(scale * views @ classes.detach().T)[:kept]]
        context = torch.nn.Parameter(self.context.clone())
        optimizer = torch.optim.AdamW([context], lr=method.lr, weight_decay=method.weight_decay)
        with torch.enable_grad():
            for step in range(method.steps):
                if step:
                    start, classes = context, self.model.class_features(context)
                loss = SCALE * entropy_of_mean(scale * confident @ classes.T)
                (gradient,) = torch.autograd.grad(loss, start, retain_graph=not step)
                context.grad = gradient / SCALE
                optimizer.step()
        return scale * self.model.class_features(context.detach()) @ views[0]

    def for_classes(self, vocabulary: Vocabulary) -> TunedClassifier:
        """The same for other classes."""
        return replace(self, model=self.model_for(vocabulary))

    def tensors(self) -> Mapping[str, Tensor]:
        """The context (M, width) that every query starts from."""
        return {"context": self.context}


def entropy_of_mean(logits: Tensor) -> Tensor:
    """The entropy of the mean probabilities of views (v, classes) (equation 3)."""
    logs = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
    return -(logs.exp() * logs).sum()


@dataclass(frozen=True)
class Tpt:
    """Test-time prompt tuning (Shu et al., NeurIPS 2022).

    Of 64 views of a query, the 10 % whose predictions have the lowest entropy are kept; one step of
    AdamW on the embeddings of "a photo of a" lowers the entropy of their mean probabilities. The
    plain view is then classified with the tuned context, which is forgotten afterwards. As a first
    step of Adam moves every coordinate by the learning rate, whatever the size of the gradient,
    rate and number of steps are the method. All prompts are encoded and differentiated per query.
    """

    name: ClassVar[str] = "tpt"
    version: ClassVar[str] = "1"

    views: int = hyper(
        64, "views of a query, the plain one included", unit="views", source=f"{_CODE}:325"
    )
    keep: float = hyper(0.1, "share of the views that are confident", source=f"{_CODE}:332")
    steps: int = hyper(1, "optimizer steps per query", unit="steps", source=f"{_CODE}:333")
    lr: float = hyper(5e-3, "learning rate of AdamW", source=f"{_CODE}:326")
    weight_decay: float = hyper(0.01, "weight decay of AdamW", source="the default of torch")
    context_init: str = hyper(
        "a photo of a", "words whose embeddings start the context", source="TPT scripts/test_tpt.sh"
    )
    augmix: bool = hyper(
        False, "blend the crops by AugMix", source="TPT data/datautils.py:68-84; off on ImageNet"
    )

    @property
    def card(self) -> MethodCard:
        """The method card; its views are an option."""
        return MethodCard(
            "tpt-1",
            text="class names",
            at_test="crops of the image",
            sees="views",
            views_per_query=self.views,
            family="at test time",
            paper=papers.OF_METHOD["tpt"],
            cost="hours",
            trained=lambda s: 4 * s.text,
            published=(Published({"augmix": True}, MIXED, source=f"{_CODE}:171-172"),),
            deviations=(
                "the loss has a fixed scale; that of the official code doubles every 2,000 queries "
                "until it overflows, and the query of an overflow gets no step",
                "AugMix is rounded to whole levels of 255",
            ),
        )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require(self, "views", self.views >= 2, "at least 2, the plain one included")
        require(self, "keep", 0 < self.keep <= 1, "a share in (0, 1]")
        require_positive(self, "steps", "lr")
        require_not_negative(self, "weight_decay")
        require(self, "context_init", bool(self.context_init.strip()), "words")

    @property
    def augment(self) -> Augment:
        """How views are cut."""
        return replace(CROPS, augmix=self.augmix)

    def quick(self) -> Self:
        """Few views, and words and a rate for the random text tower of the conformance kit."""
        return replace(self, views=16, context_init="a picture of something", lr=1e-4)

    def views_per_image(self, shots: int, classes: int) -> int:
        """0: no support image is used."""
        return 0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> TunedClassifier:
        """Lay out the prompts; no image is used."""
        context = embedded_words(self.context_init, backbone, backbone.text_tower())
        return self._classifier(context, task, backbone, ctx)

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> TunedClassifier:
        """From the context that every query starts from."""
        return self._classifier(tensors["context"], vocabulary, backbone, WithoutRun(backbone))

    def _classifier(
        self, context: Tensor, vocabulary: Vocabulary, backbone: Backbone, ctx: Encoding
    ) -> TunedClassifier:
        tower = backbone.text_tower()

        def model_for(classes: Vocabulary) -> PromptModel:
            prompts = build_prompts(
                classes.classnames,
                backbone,
                tower,
                tokens=len(context),
                position="end",
                class_specific=False,
            )
            recompute = prompts.packing.tokens > TOKENS
            return PromptModel(prompts, tower, backbone.logit_scale, ctx.autocast, recompute)

        return TunedClassifier(model_for(vocabulary), context, self, model_for)
