"""AdaLoRA: updates in SVD form, whose ranks are allocated from a common budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, Site, TextTower
from fewshot_bench.training import require, require_not_negative
from fewshot_bench.training.provisional import Scale, WithoutRun
from fsbench_methods import papers
from fsbench_methods.lora_layers import LowRank, named_site, site_name, with_deltas
from fsbench_methods.lora_model import LoraClassifier, LoraModel, MergedClassifier, restored
from fsbench_methods.lora_tuning import ENCODED_VIEWS, SHARED_MASK, LowRankTuning

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
        return [factor for triplet in self.triplets.values() for factor in triplet]

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
        if not self._smooth:
            self._smooth = [torch.zeros_like(factor) for factor in self._flat]
            self._doubt = [torch.zeros_like(factor) for factor in self._flat]
        for factor, smooth, doubt in zip(self._flat, self._smooth, self._doubt, strict=True):
            assert factor.grad is not None
            now = (factor * factor.grad / unit).abs()
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


_PAPER = "AdaLoRA (Zhang et al. 2023)"


@dataclass(frozen=True)
class Ranked:
    """Updates s P diag(E) Q, as stored in classifiers."""

    triplets: Triplets
    gain: float

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with the updates added."""
        deltas = {site: self.gain * (p * e) @ q for site, (q, p, e) in self.triplets.items()}
        return with_deltas(deltas, vision, text)

    def named_tensors(self) -> dict[str, Tensor]:
        """P, E and Q by name, such as `vision.0.q.P`."""
        named: dict[str, Tensor] = {}
        for site, (q, p, e) in self.triplets.items():
            start = site_name(site)
            named |= {f"{start}.P": p, f"{start}.E": e, f"{start}.Q": q}
        return named


@dataclass(frozen=True)
class Step:
    """The backward pass of one batch: loss, orthogonality penalty and update of importances."""

    model: LoraModel
    triplets: Triplets
    plain: LowRank
    allocation: Allocation
    orthogonality: float

    def before_step(self) -> bool:
        """Mask E by the budget of the step, which changes no other work; so the result is False."""
        self.allocation.mask()
        self.allocation.done += 1
        return False

    def __call__(self, batch: Tensor, labels: Tensor, scale: Scale) -> None:
        """Add the gradients of P, E and Q, and update the importances."""
        # All chunks of a step share E Q: its gradient is collected in leaves, then passed on once.
        rows = {site: e[:, None] * q for site, (q, _, e) in self.triplets.items()}
        leaves = {site: value.detach().requires_grad_() for site, value in rows.items()}
        factors = {site: (leaf, self.triplets[site][1]) for site, leaf in leaves.items()}
        self.model.backward(batch, labels, replace(self.plain, factors=factors), scale)
        gradients = [leaf.grad for leaf in leaves.values()]
        torch.autograd.backward(list(rows.values()), gradients)
        torch.autograd.backward(scale(self.orthogonality * penalty(self.triplets)))
        self.allocation.observe(scale(torch.ones((), device=batch.device)))


@dataclass(frozen=True)
class AdaLora(LowRankTuning):
    """AdaLoRA (Zhang et al., ICLR 2023) on the matrices and with the schedule of CLIP-LoRA.

    Every update starts with `start_rank` triplets of left vector, singular value and right vector.
    The values of the least important triplets are set to 0, until the total rank of all matrices is
    that of `clip-lora` with the same `rank`. Until then, more parameters are trained than by
    `clip-lora`: 1.5 times as many with the defaults. A penalty keeps the vectors orthogonal.
    """

    name: ClassVar[str] = "adalora"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        family="low-rank updates",
        paper=papers.OF_METHOD["adalora"],
        cost="minutes",
        trained=lambda s: 18 * (s.blocks + s.layers),
        deviations=(
            "sites, scaling and schedule are CLIP-LoRA's: no setting for few shots is published",
            "importance is that of values before a step, as in the paper, not after it; the last "
            "selection sees that of one step more",
            "budget and schedule of other papers' rows on CLIP are not stated",
            "several templates are averaged, and the scale of logits is the backbone's own",
            SHARED_MASK,
            ENCODED_VIEWS,
        ),
    )

    rank: int = hyper(2, "mean rank of all updates at the end", source="as clip-lora")
    start_rank: int = hyper(3, "rank of every update at first", source=f"{_PAPER}: 1.5 times")
    orthogonality: float = hyper(0.5, "weight of the penalty", source="PEFT, orth_reg_weight")
    warm: float = hyper(0.1, "share of steps with all ranks", source=f"{_PAPER}, appendix")
    final: float = hyper(0.3, "share of steps with final ranks", source=f"{_PAPER}, appendix")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        super().__post_init__()
        require_not_negative(self, "orthogonality", "warm", "final")
        require(self, "start_rank", self.start_rank >= self.rank, f"at least rank={self.rank}")
        require(self, "final", self.warm + self.final < 1, f"below 1 - warm={self.warm}")

    def quick(self) -> Self:
        """Few and large steps, for the conformance kit: P, E and Q start small."""
        return replace(self, iterations=4, lr=0.02)

    def triplets(self, plain: LowRank, ctx: RunContext) -> Triplets:
        """New triplets at the sites of `plain`: P and Q normal (std 0.02), E zero."""
        rng, values_of = ctx.rng("triplets"), {}
        for site, (a, b) in plain.factors.items():
            q, p = (torch.empty(size, self.start_rank) for size in (a.shape[1], len(b)))
            drawn = [tensor.normal_(std=0.02, generator=rng).to(a) for tensor in (q.T, p)]
            values = (*drawn, a.new_zeros(self.start_rank))
            values_of[site] = tuple(
                torch.nn.Parameter(tensor.detach().contiguous()) for tensor in values
            )
        return values_of  # type: ignore[return-value]

    def allocation(self, triplets: Triplets, shots: int) -> Allocation:
        """The allocation of ranks over a whole training."""
        steps = self.iterations * shots
        warm, final = int(self.warm * steps), int(self.final * steps)
        return Allocation(triplets, steps, warm, final, self.rank * len(triplets))

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Ranked]:
        """Train the triplets while ranks are allocated to them."""
        model = self.sized_model(task, backbone, ctx)
        plain = self.adapter(model, backbone.device, ctx)
        triplets = self.triplets(plain, ctx)
        allocation = self.allocation(triplets, task.shots)
        step = Step(model, triplets, plain, allocation, self.orthogonality)
        parameters = [factor for triplet in triplets.values() for factor in triplet]
        self.train(model, parameters, step, task, backbone, ctx)
        allocation.mask()
        fixed = {s: (q.detach(), p.detach(), e.detach()) for s, (q, p, e) in triplets.items()}
        return LoraClassifier(model, Ranked(fixed, self.gain), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """Rebuild the classifier from saved triplets."""
        starts = [name[:-2] for name in tensors if name.endswith(".P")]
        kept = {
            named_site(start): (tensors[f"{start}.Q"], tensors[f"{start}.P"], tensors[f"{start}.E"])
            for start in starts
        }
        model = self.model(vocabulary, backbone, WithoutRun(backbone))
        return restored(model, Ranked(kept, self.gain))
