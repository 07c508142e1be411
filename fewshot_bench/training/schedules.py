"""Training schedules shared by several methods: epochs by shots, learning rates by epoch.

`coop_epochs` and `dassl_rate` are CoOp's and Dassl's; equal arguments give equal bits.
"""

from __future__ import annotations

from fewshot_bench.training.steps import cosine


def coop_epochs(shots: int) -> int:
    """Passes over the support set: 50 at 1 shot, 100 at 2 to 4, 200 above (CoOp COOP.md:13-21)."""
    return 50 if shots <= 1 else 100 if shots <= 4 else 200


def dassl_rate(epoch: int, epochs: int, base: float, warmup: float) -> float:
    """Learning rate of an epoch, counted from 0: `warmup` in epoch 0, then a cosine from `base`.

    Dassl's ConstantWarmupScheduler around CosineAnnealingLR(T_max=epochs) first steps the cosine at
    the end of epoch 1, so that epoch e >= 1 has rate base * (1 + cos(pi (e - 1) / epochs)) / 2.
    """
    return cosine(base, epoch - 1, epochs) if epoch else warmup
