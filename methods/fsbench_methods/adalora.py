"""AdaLoRA: updates in SVD form, whose ranks are allocated from a common budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, Site, TextTower, fewer_kernels
from fewshot_bench.training import require, require_not_negative
from fewshot_bench.training.provisional import Scale, WithoutRun
from fsbench_methods import papers
from fsbench_methods.lora_layers import (
    LowRank,
    named_site,
    product_dtype,
    site_name,
    with_deltas,
)
from fsbench_methods.lora_model import LoraClassifier, LoraModel, MergedClassifier, restored
from fsbench_methods.lora_tuning import ENCODED_VIEWS, SHARED_MASK, LowRankTuning

# Smoothing of importance and of its uncertainty (section 3.2 and the published code).
_SMOOTH = 0.85
Triplets = Mapping[Site, tuple[Tensor, Tensor, Tensor]]
"""Q (rank, d_in), P (d_out, rank) and E (rank,) of every adapted matrix."""


@dataclass(frozen=True)
class Stack:
    """Triplets of matrices: q (n, rank, d_in), p (n, d_out, rank), e (n, rank).

    On an accelerator those of all matrices of one size, so that few large kernels work on them at
    once; on a CPU those of a single one.
    """

    sites: tuple[Site, ...]
    q: Tensor
    p: Tensor
    e: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q, P and E."""
        return self.q, self.p, self.e

    def leaves(self) -> Stack:
        """The same values as new leaves of a graph."""
        return Stack(self.sites, *(x.detach().requires_grad_() for x in self.tensors))

    def apart(self) -> Triplets:
        """Views of every matrix."""
        return dict(
            zip(self.sites, zip(*map(torch.unbind, self.tensors), strict=True), strict=True)
        )


def parameters_of(stacks: Sequence[Stack]) -> Triplets:
    """Every Q, P and E as a parameter in the memory of its stack."""
    return {
        site: tuple(map(torch.nn.Parameter, triplet))  # type: ignore[misc]
        for stack in stacks
        for site, triplet in stack.apart().items()
    }


def penalty(stacks: Sequence[Stack]) -> Tensor:
    """Mean over all P and Q of |P'P - I| and |QQ' - I| (eq. 4)."""
    whole = torch.cat([_gram(x) for s in stacks for x in (s.q.mT, s.p)])
    eye = torch.eye(whole.shape[-1], device=whole.device)
    distances: Tensor = torch.linalg.matrix_norm(whole - eye)
    return distances.mean()


def _gram(x: Tensor) -> Tensor:
    """x'x of (n, d, rank); on a CPU, the product of a single matrix rounds as a plain one."""
    if fewer_kernels(x.device):
        return x.mT @ x
    return torch.stack([one.T @ one for one in x.unbind()])


class Allocation:
    """Tracks the importance of triplets and masks the least important ones (section 3.2 and 3.3).

    steps: number of training steps; warm, final: number of first steps with all ranks and of last
    steps with the final ranks. budget: sum of ranks at the end. What changes from step to step is
    on the device, so that steps can be captured.
    """

    def __init__(
        self, stacks: Sequence[Stack], steps: int, warm: int, final: int, budget: int
    ) -> None:
        self.stacks = stacks
        self._steps, self._warm, self._final, self._budget = steps, warm, final, budget
        tensors = [x for stack in stacks for x in stack.tensors]
        self._smooth, self._doubt = (list(map(torch.zeros_like, tensors)) for _ in range(2))
        self._kept = torch.cat([torch.ones_like(stack.e).flatten() for stack in stacks])
        device, every = self._kept.device, range(steps + 1)
        surplus = [len(self._kept) - self.allowed(done) for done in every]
        self._surplus = torch.tensor(surplus, device=device)
        self._fixed = torch.tensor([done > steps - final for done in every], device=device)
        self._done = torch.zeros(1, dtype=torch.int64, device=device)

    def allowed(self, done: int) -> int:
        """Budget after `done` steps: a cubic decay from all ranks to the final ones (eq. 12)."""
        everything = len(self._kept)
        span = max(1, self._steps - self._final - self._warm)
        left = 1 - min(max((done - self._warm) / span, 0.0), 1.0)
        return self._budget + int((everything - self._budget) * left**3)

    @torch.no_grad()
    def observe(self, gradients: Sequence[Tensor], unit: Tensor) -> None:
        """Update the importance |w grad| by the gradients of a step, which are scaled by `unit`.

        gradients: of Q, P and E of all stacks. Non-finite ones, of steps that a loss scaler skips,
        leave the importance unchanged; the uncertainty still decays.
        """
        self._done += 1
        tensors = [x for stack in self.stacks for x in stack.tensors]
        each = zip(tensors, gradients, self._smooth, self._doubt, strict=True)
        for factor, gradient, smooth, doubt in each:
            now = (factor * gradient / unit).abs()
            finite = now.isfinite()
            smooth.lerp_(torch.where(finite, now, smooth), 1 - _SMOOTH)
            doubt.lerp_(torch.where(finite, (now - smooth).abs(), doubt), 1 - _SMOOTH)

    @torch.no_grad()
    def mask(self) -> None:
        """Set E of the least important triplets to 0; of none in the first `warm` steps.

        In the last `final` steps, the selection does not change.
        """
        scores = self.scores()
        lowest = torch.cat([scores.new_full((1,), -torch.inf), scores.sort().values])
        chosen = scores > lowest[self._surplus[self._done]]
        self._kept.copy_(torch.where(self._fixed[self._done], self._kept, chosen))
        places = self._kept.split([stack.e.numel() for stack in self.stacks])  # type: ignore[no-untyped-call]
        for stack, place in zip(self.stacks, places, strict=True):
            stack.e.mul_(place.view_as(stack.e))

    def scores(self) -> Tensor:
        """Importance times uncertainty: of E, plus the means over Q's rows and P's columns."""
        each = [a * b for a, b in zip(self._smooth, self._doubt, strict=True)]
        parts = zip(each[::3], each[1::3], each[2::3], strict=True)
        return torch.cat([(e + q.mean(dim=2) + p.mean(dim=1)).flatten() for q, p, e in parts])


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
    """The backward pass of one batch: loss, orthogonality penalty and update of importances.

    triplets: the trained parameters (`parameters_of`).
    """

    model: LoraModel
    triplets: Triplets
    plain: LowRank
    allocation: Allocation
    orthogonality: float

    def __call__(self, batch: Tensor, labels: Tensor, scale: Scale) -> None:
        """Mask E, set the gradients of P, E and Q, and update the importances."""
        self.allocation.mask()
        stacks = [stack.leaves() for stack in self.allocation.stacks]
        # All chunks of a step share E Q: its gradient is collected in leaves, then passed on once.
        rows = [stack.e[:, :, None] * stack.q for stack in stacks]
        leaves = [value.detach().requires_grad_() for value in rows]
        self.model.backward(batch, labels, self._updates(stacks, leaves), scale)
        torch.autograd.backward(rows, [leaf.grad for leaf in leaves])
        torch.autograd.backward(scale(self.orthogonality * penalty(stacks)))
        gradients = [x.grad for stack in stacks for x in stack.tensors]
        self.allocation.observe(gradients, scale(torch.ones((), device=batch.device)))  # type: ignore[arg-type]
        for stack in stacks:
            found = zip(*(x.grad.unbind() for x in stack.tensors), strict=True)  # type: ignore[union-attr]
            for site, triplet in zip(stack.sites, found, strict=True):
                for parameter, gradient in zip(self.triplets[site], triplet, strict=True):
                    parameter.grad = gradient

    def _updates(self, stacks: Sequence[Stack], rows: Sequence[Tensor]) -> LowRank:
        """The updates P (E Q)."""
        factors = {
            site: (a, b)
            for stack, row in zip(stacks, rows, strict=True)
            for site, a, b in zip(stack.sites, row.unbind(), stack.p.unbind(), strict=True)
        }
        with self.model.autocast():
            dtype = product_dtype(rows[0].device)
        return replace(self.plain, factors=factors).for_step(dtype)


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

    def stacks(self, plain: LowRank, ctx: RunContext) -> list[Stack]:
        """New triplets at the sites of `plain`: P and Q normal (std 0.02), E zero."""
        rng = ctx.rng("triplets")
        alike: dict[Site | tuple[int, int], list[Site]] = {}
        together = fewer_kernels(next(iter(plain.factors.values()))[0].device)
        drawn: dict[Site, list[Tensor]] = {}
        for site, (a, b) in plain.factors.items():
            size = a.shape[1], len(b)
            alike.setdefault(size if together else site, []).append(site)
            q, p = (torch.empty(one, self.start_rank) for one in size)
            drawn[site] = [one.normal_(std=0.02, generator=rng) for one in (q.T, p)]
        stacks = []
        for sites in alike.values():
            pairs = zip(*(drawn[site] for site in sites), strict=True)
            q, p = (torch.stack(pair).to(plain.factors[sites[0]][0]) for pair in pairs)
            stacks.append(Stack(tuple(sites), q, p, q.new_zeros(q.shape[:2])))
        return stacks

    def allocation(self, stacks: Sequence[Stack], shots: int) -> Allocation:
        """The allocation of ranks over a whole training."""
        steps = self.iterations * shots
        warm, final = int(self.warm * steps), int(self.final * steps)
        budget = self.rank * sum(len(stack.sites) for stack in stacks)
        return Allocation(stacks, steps, warm, final, budget)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Ranked]:
        """Train the triplets while ranks are allocated to them."""
        model = self.sized_model(task, backbone, ctx)
        plain = self.adapter(model, backbone.device, ctx)
        allocation = self.allocation(self.stacks(plain, ctx), task.shots)
        triplets = parameters_of(allocation.stacks)
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
