"""CLAP: a linear probe with a class-wise penalty toward the zero-shot prototypes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import MethodCard
from fsbench_methods import papers
from fsbench_methods.zs_lp import DEVIATIONS, Probe, ZsLp

ROWS = 8192


@dataclass(frozen=True)
class Clap(ZsLp):
    """Class-adaptive linear probing (Silva-Rodriguez et al., CVPR 2024), its `l2` form.

    ZS-LP with a penalty: the mean over classes of a_k |w_k - t_k|^2, on raw (not normalized)
    vectors. The multiplier a_k is the mean zero-shot probability of the true class over all views
    of the class's support images. It is fixed during training, as in the README's configuration
    (only `adaptative` constraints update it). No validation data, one configuration, last epoch.
    """

    name: ClassVar[str] = "clap"
    card: ClassVar[MethodCard] = MethodCard(
        schedule="clap-300",
        family="linear head",
        paper=papers.OF_METHOD["clap"],
        cost="seconds",
        trained=lambda s: s.classes * s.features,
        official={"templates": "eight on ImageNet, one elsewhere"},
        deviations=DEVIATIONS,
    )

    def penalty(self, probe: Probe) -> Callable[[Tensor], Tensor]:
        """The weighted squared distance from the text features (adapters.py:219-230)."""
        strength = multipliers(probe)
        return lambda vectors: (strength * (vectors - probe.base).square().sum(dim=-1)).mean()


@torch.no_grad()
def multipliers(probe: Probe) -> Tensor:
    """(classes,) mean zero-shot probability of the true class (adapters.py:232-252)."""
    sums, counts = (probe.base.new_zeros(len(probe.base)) for _ in range(2))
    blocks = (torch.split(part, ROWS) for part in (probe.pool, probe.labels))
    for features, labels in zip(*blocks, strict=True):
        true = probe.logits(features, probe.base).softmax(dim=-1).gather(1, labels[:, None])[:, 0]
        members = F.one_hot(labels, len(sums)).to(true.dtype)
        sums += true @ members
        counts += members.sum(dim=0)
    return sums / counts
