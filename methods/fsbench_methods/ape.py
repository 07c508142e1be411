"""APE: a cache on the channels that tell classes apart, each image weighted by its text score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fewshot_bench import (
    Backbone,
    Images,
    MethodCard,
    Published,
    RunContext,
    Task,
    Vocabulary,
    hyper,
)
from fewshot_bench.training import require, require_not_negative, require_positive, unit
from fewshot_bench.training.provisional import row_blocks
from fsbench_methods import papers
from fsbench_methods.ape_search import choose_channels, search
from fsbench_methods.cache_model import Cache, grid, largest_block
from fsbench_methods.tip_adapter import ALPHAS, BETAS, CacheMethod

GAMMAS, EPSILON = 20, 1e-6
CODE = "APE (Zhu et al. 2023)"
CONFIGS = f"{CODE}, configs/*.yaml"
OFFICIAL = {
    "validation set": "all of it (test set on ImageNet); here that of the run",
    "templates": "seven on ImageNet, one elsewhere",
}
DEVIATIONS = (
    "class texts are those of the run: the official code pools templates with sentences of a "
    "language model (CuPL)",
    "the scale of zero-shot logits is the backbone's own, not 100",
    "published for RN50 alone: numbers of channels are shares of the width here",
)


@dataclass(frozen=True)
class ApeClassifier:
    """Zero-shot logits plus alpha times those of a cache of weighted images.

    cache: unit keys (m, q) on `channels` (q,). weights: (m,). vectors: of classes, (classes, d).
    """

    cache: Cache
    weights: Tensor
    channels: Tensor
    vectors: Tensor
    scale: float
    beta: float
    alpha: float

    def logits(self, queries: Images) -> Tensor:
        """(n, classes): scale * f W' + alpha * (exp(-beta (1 - f_q K')) * weights) V."""
        return self.answer(queries.features)

    @torch.no_grad()
    def answer(self, features: Tensor) -> Tensor:
        """(n, classes) logits of unit features (n, d), in blocks."""
        size = largest_block(features, len(self.weights))
        parts = []
        for block in row_blocks(features, size):
            affinity = self.cache.affinity(unit(block[:, self.channels]))
            activation = torch.exp(self.beta * affinity - self.beta) * self.weights
            cached = self.cache.per_class(activation)
            parts.append(self.scale * block @ self.vectors.T + self.alpha * cached)
        return torch.cat(parts)

    def tensors(self) -> Mapping[str, Tensor]:
        """Keys, labels and weights of the cache, channels, class vectors, beta and alpha."""
        constants = {"beta": self.beta, "alpha": self.alpha}
        return {
            "keys": self.cache.keys,
            "labels": self.cache.labels,
            "weights": self.weights,
            "channels": self.channels,
            "vectors": self.vectors,
        } | {name: torch.tensor(value, dtype=torch.float64) for name, value in constants.items()}


@dataclass(frozen=True)
class Ape(CacheMethod):
    """Adaptive prior refinement without training (Zhu et al., ICCV 2023).

    The cache of `tip-adapter` on the channels that differ most between classes (`choose_channels`),
    at unit length; zero-shot logits are those of all channels. The value of an image is exp(gamma
    KL), KL = log2((1 + 1e-6) / (p + 1e-6)), where p is the probability of its class among the texts
    by unscaled cosines: these are so close that KL is nearly log2(classes) for every image. beta,
    alpha and gamma are searched on the run's validation set, on the official grid of 200 x 20 x 20
    points; without validation data, `init_beta`, `init_alpha` and `init_gamma` are used directly.
    """

    name: ClassVar[str] = "ape"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        family="cache",
        paper=papers.OF_METHOD["ape"],
        cost="closed form",
        trained=lambda s: 0,
        official=OFFICIAL | {"points of gamma": "5 on ImageNet, 20 elsewhere"},
        deviations=DEVIATIONS,
        # Channels of 1,024, weight of similarity, largest beta, alpha, gamma, first alpha.
        published=tuple(
            Published(
                {
                    "channels": channels / 1024,
                    "similarity": similarity,
                    "beta_scale": beta,
                    "alpha_scale": alpha,
                    "gamma_scale": gamma,
                    "init_alpha": first,
                },
                (dataset,),
                source=CONFIGS,
            )
            for dataset, (channels, similarity, beta, alpha, gamma, first) in {
                "imagenet": (500, 0.7, 7.0, 7.0, 0.5, 2.0),
                "caltech101": (800, 0.5, 7.0, 7.0, 1.0, 1.0),
                "oxford_pets": (800, 0.7, 7.0, 7.0, 1.0, 2.0),
                "stanford_cars": (500, 0.6, 10.0, 7.0, 1.0, 1.0),
                "oxford_flowers": (700, 0.4, 7.0, 7.0, 1.0, 3.0),
                "food101": (700, 0.3, 7.0, 7.0, 1.0, 0.8),
                "fgvc_aircraft": (800, 0.1, 20.0, 10.0, 1.0, 5.0),
                "sun397": (800, 0.7, 10.0, 7.0, 1.0, 1.0),
                "dtd": (400, 0.5, 7.0, 7.0, 1.0, 3.0),
                "eurosat": (700, 0.9, 30.0, 5.0, 1.5, 1.0),
                "ucf101": (700, 0.3, 10.0, 7.0, 1.5, 2.0),
            }.items()
        ),
    )

    beta_scale: float = hyper(
        7.0, "largest beta that is tried on validation", source=f"{CONFIGS}; median"
    )
    alpha_scale: float = hyper(
        7.0, "largest alpha that is tried on validation", source=f"{CONFIGS}; median"
    )
    init_alpha: float = hyper(
        2.0, "alpha (residual ratio) before, or without, the search", source=f"{CONFIGS}; median"
    )
    channels: float = hyper(
        0.7, "share of the channels that the cache uses", source=f"{CONFIGS}; near the median"
    )
    similarity: float = hyper(
        0.5,
        "weight of similarity between classes in a channel's score; the rest is that of variance",
        source=f"{CONFIGS}; median",
    )
    gamma_scale: float = hyper(
        1.0, "upper end of the gammas that are tried on validation", source=f"{CONFIGS}; median"
    )
    init_gamma: float = hyper(
        0.1, "gamma (weight of text scores) without the search", source=CONFIGS
    )

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require(self, "channels", 0 < self.channels <= 1, "a share in (0, 1]")
        require(self, "similarity", 0 <= self.similarity <= 1, "a share in [0, 1]")
        require_positive(self, "gamma_scale")
        require_not_negative(self, "init_gamma")

    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> ApeClassifier:
        """Rebuild the classifier from its saved tensors."""
        return rebuild(tensors, backbone)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> ApeClassifier:
        """Builds the cache on the chosen channels and searches its constants; trains nothing."""
        vectors, scale = backbone.class_features(task), backbone.logit_scale
        cache = self.build(task)
        channels = choose_channels(vectors, cache, self.channels, self.similarity)
        cache = cache.with_keys(unit(cache.keys[:, channels]))
        divergence = text_divergence(cache, unit(vectors[:, channels]))
        beta, alpha, gamma = self.init_beta, self.init_alpha, self.init_gamma
        if task.val is not None:
            betas, alphas = grid(self.beta_scale, BETAS), grid(self.alpha_scale, ALPHAS)
            gammas = [i * self.gamma_scale / GAMMAS for i in range(GAMMAS)]
            weights = torch.stack([torch.exp(each * divergence) for each in gammas], dim=1)
            seen = task.val.features
            zero_shot, narrowed = scale * seen @ vectors.T, unit(seen[:, channels])
            choice = search(cache, weights, narrowed, task.val.labels, zero_shot, betas, alphas)
            beta, alpha, gamma = choice.beta, choice.alpha, gammas[choice.weighting]
            ctx.count_selection(BETAS * ALPHAS * GAMMAS, len(task.val))
            ctx.note(val_correct=choice.correct)
        ctx.note(beta=beta, alpha=alpha, gamma=gamma)
        weights = torch.exp(gamma * divergence)
        return ApeClassifier(cache, weights, channels, vectors, scale, beta, alpha)


def text_divergence(cache: Cache, vectors: Tensor) -> Tensor:
    """(m,) log2((1 + 1e-6) / (p + 1e-6)), p of each key's class by unscaled cosines."""
    own = cache.affinity(vectors).T.softmax(dim=-1).gather(1, cache.labels[:, None])[:, 0]
    return torch.log2((1 + EPSILON) / (own + EPSILON))


def rebuild(tensors: Mapping[str, Tensor], backbone: Backbone) -> ApeClassifier:
    """The classifier of saved tensors."""
    vectors = tensors["vectors"]
    return ApeClassifier(
        Cache.build(tensors["keys"], tensors["labels"], len(vectors)),
        tensors["weights"],
        tensors["channels"],
        vectors,
        backbone.logit_scale,
        float(tensors["beta"]),
        float(tensors["alpha"]),
    )
