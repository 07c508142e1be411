"""Rank allocation of AdaLoRA: importance and uncertainty of triplets under a common budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewshot_bench.backbones import Site

# Smoothing of importance and of its uncertainty (section 3.2 and the published code).
_SMOOTH = 0.85
Triplets = Mapping[Site, tuple[Tensor, Tensor, Tensor]]
"""Q (rank, d_in), P (d_out, rank) and E (rank,) of every adapted matrix."""


def penalty(triplets: Triplets) -> Tensor:
    """Mean over all P and Q of |P'P - I| and |QQ' - I| (eq. 4)."""
    grams = [gram for q, p, _ in triplets.values() for gram in (q @ q.T, p.T @ p)]
    whole = torch.stack(grams)
    eye = torch.eye(whole.shape[-1], device=whole.device)
    distances: Tensor = torch.linalg.matrix_norm(whole - eye)
    return distances.mean()


@dataclass
class Allocation:
    """Tracks the importance of triplets and masks the least important ones (section 3.2 and 3.3).

    steps: number of training steps; warm, final: number of first steps with all ranks and of last
    steps with the final ranks. budget: sum of ranks at the end.
    """

    triplets: Triplets
    steps: int
    warm: int
    final: int
    budget: int
    done: int = 0
    kept: Tensor | None = None
    _smooth: list[Tensor] = field(default_factory=list)
    _doubt: list[Tensor] = field(default_factory=list)

    @property
    def _flat(self) -> list[Tensor]:
        return [one for triplet in self.triplets.values() for one in triplet]

    @property
    def allowed(self) -> int:
        """Budget after `done` steps: a cubic decay from all ranks to the final ones (eq. 12)."""
        everything = sum(len(e) for *_, e in self.triplets.values())
        span = max(1, self.steps - self.final - self.warm)
        left = 1 - min(max((self.done - self.warm) / span, 0.0), 1.0)
        return self.budget + int((everything - self.budget) * left**3)

    @torch.no_grad()
    def observe(self, unit: Tensor) -> None:
        """Update the importance |w grad| by the gradients of a step, which are scaled by `unit`.

        Non-finite gradients, of steps that a loss scaler skips, leave the importance unchanged;
        the uncertainty still decays.
        """
        self.done += 1
        if not self._smooth:
            self._smooth = [torch.zeros_like(one) for one in self._flat]
            self._doubt = [torch.zeros_like(one) for one in self._flat]
        for one, smooth, doubt in zip(self._flat, self._smooth, self._doubt, strict=True):
            assert one.grad is not None
            now = (one * one.grad / unit).abs()
            finite = now.isfinite()
            smooth.lerp_(torch.where(finite, now, smooth), 1 - _SMOOTH)
            doubt.lerp_(torch.where(finite, (now - smooth).abs(), doubt), 1 - _SMOOTH)

    @torch.no_grad()
    def mask(self) -> None:
        """Set E of the least important triplets to 0; no-op in the first `warm` steps.

        In the last `final` steps, the selection does not change.
        """
        if self.done <= self.warm or not self._smooth:
            return
        if self.done <= self.steps - self.final or self.kept is None:
            scores = self.scores()
            surplus = len(scores) - self.allowed
            self.kept = scores > scores.kthvalue(surplus).values if surplus else scores >= 0
        places = iter(self.kept.split([len(e) for *_, e in self.triplets.values()]))  # type: ignore[no-untyped-call]
        for *_, e in self.triplets.values():
            e.mul_(next(places))

    def scores(self) -> Tensor:
        """Importance times uncertainty: of E, plus the means over Q's rows and P's columns."""
        each = [a * b for a, b in zip(self._smooth, self._doubt, strict=True)]
        parts = zip(each[::3], each[1::3], each[2::3], strict=True)
        return torch.cat([e + q.mean(dim=1) + p.mean(dim=0) for q, p, e in parts])
