"""AdaLoRA: updates in the form of singular values, whose ranks compete for one budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, Site, TextTower
from fewshot_bench.training import Scale, WithoutRun, require, require_not_negative
from fsbench_methods.clip_lora import ClipLora, require_updates
from fsbench_methods.lora_layers import LowRank, named_site, site_name, with_deltas
from fsbench_methods.lora_model import LoraClassifier, LoraModel, MergedClassifier, restored

_PAPER = "AdaLoRA (Zhang et al. 2023)"
# Smoothing of importance and of its uncertainty (section 3.2 and the published code).
_SMOOTH = 0.85
Triplets = Mapping[Site, tuple[Tensor, Tensor, Tensor]]
"""Q (rank, d_in), P (d_out, rank) and E (rank,) of every adapted matrix."""


@dataclass(frozen=True)
class Ranked:
    """Updates s P diag(E) Q as classifiers hold them."""

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


def penalty(triplets: Triplets) -> Tensor:
    """Mean over all P and Q of |P'P - I| and |QQ' - I| (eq. 4)."""
    grams = [gram for q, p, _ in triplets.values() for gram in (q @ q.T, p.T @ p)]
    whole = torch.stack(grams)
    eye = torch.eye(whole.shape[-1], device=whole.device)
    distances: Tensor = torch.linalg.matrix_norm(whole - eye)
    return distances.mean()


@dataclass
class Allocation:
    """Importance of triplets, and which of them have a rank (section 3.2 and 3.3).

    steps: of the training; warm, final: steps with all ranks, and with the final ones. budget: the
    sum of ranks at the end.
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
        """The budget after `done` steps: a cubic fall from all ranks to the final ones (eq. 12)."""
        everything = sum(len(e) for *_, e in self.triplets.values())
        span = max(1, self.steps - self.final - self.warm)
        left = 1 - min(max((self.done - self.warm) / span, 0.0), 1.0)
        return self.budget + int((everything - self.budget) * left**3)

    @torch.no_grad()
    def observe(self, unit: Tensor) -> None:
        """Update the importance |w grad| by the gradients of a step, which are `unit` times true.

        Steps whose gradients are no numbers, which a loss scaler skips, leave it as it is.
        """
        self.done += 1
        if not self._smooth:
            self._smooth = [torch.zeros_like(one) for one in self._flat]
            self._doubt = [torch.zeros_like(one) for one in self._flat]
        for one, smooth, doubt in zip(self._flat, self._smooth, self._doubt, strict=True):
            assert one.grad is not None
            now = (one * one.grad / unit).abs()
            now = torch.where(now.isfinite(), now, smooth)
            smooth.lerp_(now, 1 - _SMOOTH)
            doubt.lerp_((now - smooth).abs(), 1 - _SMOOTH)

    @torch.no_grad()
    def mask(self) -> None:
        """Set E of the least important triplets to 0; in the final steps the same ones."""
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
        """Importance times uncertainty, of E, and of Q's rows and P's columns in the mean."""
        each = [a * b for a, b in zip(self._smooth, self._doubt, strict=True)]
        parts = zip(each[::3], each[1::3], each[2::3], strict=True)
        return torch.cat([e + q.mean(dim=1) + p.mean(dim=0) for q, p, e in parts])


@dataclass(frozen=True)
class Step:
    """The backward pass of one batch: loss, penalty, and what they say of importance."""

    model: LoraModel
    triplets: Triplets
    plain: LowRank
    allocation: Allocation
    orthogonality: float

    def __call__(self, batch: Tensor, labels: Tensor, scale: Scale) -> None:
        """Add the gradients of P, E and Q."""
        self.allocation.mask()
        # Parts of a step meet at E Q, which they share.
        rows = {site: e[:, None] * q for site, (q, _, e) in self.triplets.items()}
        leaves = {site: one.detach().requires_grad_() for site, one in rows.items()}
        factors = {site: (leaf, self.triplets[site][1]) for site, leaf in leaves.items()}
        self.model.backward(batch, labels, replace(self.plain, factors=factors), scale)
        gradients = [leaf.grad for leaf in leaves.values()]
        torch.autograd.backward(list(rows.values()), gradients)
        torch.autograd.backward(scale(self.orthogonality * penalty(self.triplets)))
        self.allocation.observe(scale(torch.ones((), device=batch.device)))


@dataclass(frozen=True)
class AdaLora:
    """AdaLoRA (Zhang et al., ICLR 2023) at CLIP-LoRA's sites, by CLIP-LoRA's schedule.

    Every update starts with `start_rank` triplets of a left vector, a value and a right vector;
    the least important ones are set to 0, until all matrices together have the sum of ranks of
    `clip-lora` of the same `rank`. Until then more is trained than by `clip-lora`: 1.5 times with
    the defaults. Vectors are held orthogonal by a penalty.
    """

    name: ClassVar[str] = "adalora"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        deviations=(
            "sites, scaling and schedule are CLIP-LoRA's: no setting for few shots is published",
            "importance is that of values before a step, as in the paper, not after it",
            "budget and schedule of other papers' rows on CLIP are not stated",
        ),
    )

    rank: int = hyper(2, "mean rank of all updates at the end", source="as clip-lora")
    start_rank: int = hyper(3, "rank of every update at first", source=f"{_PAPER}: 1.5 times")
    orthogonality: float = hyper(0.5, "weight of the penalty", source="PEFT, orth_reg_weight")
    warm: float = hyper(0.1, "share of steps with all ranks", source=f"{_PAPER}, appendix")
    final: float = hyper(0.3, "share of steps with final ranks", source=f"{_PAPER}, appendix")
    alpha: float = hyper(1.0, "s is alpha/sqrt(rank)", source="as clip-lora")
    dropout: float = hyper(0.25, "dropout on the input of an update", source="as clip-lora")
    encoder: Literal["both", "vision", "text"] = hyper(
        "both", "encoders whose matrices are updated", source="as clip-lora"
    )
    matrices: str = hyper("qkv", "letters of q k v o m", source="as clip-lora")
    iterations: int = hyper(500, "steps per shot", unit="steps/shot", source="as clip-lora")
    lr: float = hyper(2e-4, "AdamW's learning rate", source="as clip-lora")
    weight_decay: float = hyper(1e-2, "AdamW's decay", source="as clip-lora")
    batch_size: int = hyper(32, "images of a step", unit="images", source="as clip-lora")

    def __post_init__(self) -> None:
        """UsageError for values out of range."""
        require_updates(self)
        require_not_negative(self, "orthogonality", "warm", "final")
        require(self, "start_rank", self.start_rank >= self.rank, f"at least rank={self.rank}")
        require(self, "final", self.warm + self.final < 1, f"below 1 - warm={self.warm}")

    @property
    def lora(self) -> ClipLora:
        """CLIP-LoRA with the same settings."""
        names = {one.name for one in dataclasses.fields(ClipLora)}
        own = {one.name for one in dataclasses.fields(self)} & names
        return ClipLora(**{name: getattr(self, name) for name in own})

    def quick(self) -> AdaLora:
        """Few and large steps, for the conformance kit: P, E and Q start small."""
        return replace(self, iterations=4, lr=0.02)

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views that a frozen image encoder encodes, as of CLIP-LoRA."""
        return self.lora.views_per_image(shots, classes)

    def triplets(self, plain: LowRank, ctx: RunContext) -> Triplets:
        """Fresh ones at the sites of plain updates: P and Q normal (0.02), E zero."""
        rng, found = ctx.rng("triplets"), {}
        for site, (a, b) in plain.factors.items():
            q, p = (torch.empty(size, self.start_rank) for size in (a.shape[1], len(b)))
            drawn = [one.normal_(std=0.02, generator=rng).to(a) for one in (q.T, p)]
            values = (*drawn, a.new_zeros(self.start_rank))
            found[site] = tuple(torch.nn.Parameter(one.detach().contiguous()) for one in values)
        return found  # type: ignore[return-value]

    def allocation(self, triplets: Triplets, shots: int) -> Allocation:
        """The competition for ranks over a whole training."""
        steps = self.iterations * shots
        warm, final = int(self.warm * steps), int(self.final * steps)
        return Allocation(triplets, steps, warm, final, self.rank * len(triplets))

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Ranked]:
        """Trains triplets that compete for ranks."""
        lora = self.lora
        model = lora.sized_model(task, backbone, ctx)
        plain = lora.adapter(model, backbone.device, ctx)
        triplets = self.triplets(plain, ctx)
        allocation = self.allocation(triplets, task.shots)
        step = Step(model, triplets, plain, allocation, self.orthogonality)
        parameters = [one for triplet in triplets.values() for one in triplet]
        lora.train(model, parameters, step, task, backbone, ctx)
        allocation.mask()
        fixed = {s: (q.detach(), p.detach(), e.detach()) for s, (q, p, e) in triplets.items()}
        return LoraClassifier(model, Ranked(fixed, lora.gain), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """CLIP with the updates that were kept."""
        starts = [name[:-2] for name in tensors if name.endswith(".P")]
        kept = {
            named_site(start): (tensors[f"{start}.Q"], tensors[f"{start}.P"], tensors[f"{start}.E"])
            for start in starts
        }
        model = self.lora.model(vocabulary, backbone, WithoutRun(backbone))
        return restored(model, Ranked(kept, self.lora.gain))
