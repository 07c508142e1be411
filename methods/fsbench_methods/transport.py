"""Entropic optimal transport between small sets of features.

`transport` computes the plans of many pairs of sets at once; `TransportLearner` is the base of
methods that represent images and classes by such sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_bench import hyper
from fewshot_bench.backbones import Edits, Tokens
from fewshot_bench.training import (
    Encoders,
    EpochLearner,
    Learned,
    require_positive,
    unit,
)

_CODE = "PLOT's repository, plot-pp/trainers/plotpp.py"


def transport(cost: Tensor, eps: float, rounds: int, tolerance: float) -> Tensor:
    """The plan (..., m, n) of entropic optimal transport between uniform weights, by Sinkhorn.

    Each problem stops separately, after the round that changes its row factors by less than
    `tolerance` on average: its plan does not depend on the batch, and no round needs the host.
    """
    kernel = (-cost / eps).exp()
    rows, columns = torch.ones_like(cost[..., 0]), torch.ones_like(cost[..., 0, :])
    moving = torch.ones_like(rows[..., :1], dtype=torch.bool)
    for _ in range(rounds):
        by_row = 1 / (rows.shape[-1] * (kernel * columns[..., None, :]).sum(dim=-1))
        by_column = 1 / (columns.shape[-1] * (kernel * by_row[..., None]).sum(dim=-2))
        change = (by_row - rows).abs().mean(dim=-1, keepdim=True)
        rows, columns = rows.where(~moving, by_row), columns.where(~moving, by_column)
        moving = moving & (change >= tolerance)
    return rows[..., None] * columns[..., None, :] * kernel


@dataclass(frozen=True)
class TransportLearner(EpochLearner):
    """Base for images and classes with several features each (PLOT++).

    An image is encoded once per set of vision prompt tokens. A logit is the sum of the cosines
    weighted by the optimal transport plan, through which no gradient flows.
    """

    vision_prompts: int = hyper(
        4, "sets of rows; an image is encoded with each", source="plot-pp/train.py"
    )
    eps: float = hyper(0.1, "weight of the entropy of a plan", source=_CODE)
    max_iter: int = hyper(100, "rounds of Sinkhorn at most", source=_CODE)
    tolerance: float = hyper(1e-2, "mean change of the factors that ends them", source=_CODE)

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_positive(self, "vision_prompts", "eps", "max_iter", "tolerance")

    @property
    def image_runs(self) -> int:
        """One encoding per set of vision prompt tokens."""
        return self.vision_prompts

    def encoders(self, learned: Learned, frozen: Encoders) -> Encoders:
        """Both towers with text contexts, and vision prompt tokens appended to the patches."""
        rows = Edits((Tokens(0, learned["vision"], "end", "insert"),))
        return replace(frozen, vision_edits=rows, context=learned.get("text"))

    def encode_images(self, encoders: Encoders, pixels: Tensor, *, recompute: bool) -> Tensor:
        """(vision_prompts, b, embed): raw features of all images with each set of tokens."""
        assert encoders.vision is not None
        assert encoders.vision_edits is not None
        sets, images = self.vision_prompts, pixels.shape[0]
        (rows,) = encoders.vision_edits.tokens
        of_each = rows.values[:, None].expand(-1, images, -1, -1).flatten(0, 1)
        edits = Edits((replace(rows, values=of_each),))
        repeated = pixels.repeat(sets, 1, 1, 1)
        raw = encoders.vision.encode(repeated, edits=edits, recompute=recompute)
        return raw.view(sets, images, -1)

    def read_images(self, raw: Tensor, learned: Learned, frozen: Encoders) -> Tensor:
        """(vision_prompts, b, embed), not normalized, since their mean is used as well."""
        return raw.float()

    def read_classes(self, raw: Sequence[Tensor], learned: Learned, frozen: Encoders) -> Tensor:
        """(text_prompts, classes, embed), not normalized."""
        return raw[0].float()

    def scores(self, images: Tensor, classes: Tensor, scale: float, *, fitted: bool) -> Tensor:
        """(n, classes): scaled sum of cosines weighted by the transport plan."""
        cosines = torch.einsum("mbd,ncd->bcmn", unit(images), unit(classes))
        with torch.no_grad():
            plan = transport(1 - cosines, self.eps, self.max_iter, self.tolerance)
        return scale * (plan * cosines).sum(dim=(-2, -1))
