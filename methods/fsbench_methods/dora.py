"""DoRA: weights decomposed into magnitude and direction, at CLIP-LoRA's sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench import Backbone, MethodCard, RunContext, Task, Vocabulary, hyper
from fewshot_bench.backbones import ImageTower, Site, TextTower
from fewshot_bench.training import WithoutRun
from fsbench_methods.clip_lora import ClipLora, require_updates
from fsbench_methods.lora_layers import LowRank, Masks, named_factors, site_name, with_deltas
from fsbench_methods.lora_model import (
    LoraClassifier,
    LoraModel,
    MergedClassifier,
    restored,
    update_step,
)

_BIASES = {"o": "attn.out_proj.bias", "fc": "mlp.c_fc.bias", "proj": "mlp.c_proj.bias"}


@dataclass(frozen=True)
class Decomposed:
    """W' = m (W + s B A) / |W + s B A|, row by row of (d_out, d_in) (Liu et al. 2024, eq. 5).

    magnitudes (d_out,) are m, frozen holds W and the bias of every site. norms (d_out,), those of
    the rows as they are now, are constants in the backward pass (section 4.3), computed by
    `for_step`.
    """

    low: LowRank
    magnitudes: Mapping[Site, Tensor]
    frozen: Mapping[Site, tuple[Tensor, Tensor]]
    norms: Mapping[Site, Tensor]

    def adapts(self, site: Site) -> bool:
        """True when the matrix is decomposed."""
        return self.low.adapts(site)

    def add(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        """g (x W' + s x A' B') + bias of a `product` x W' + bias, with g = m / norm."""
        if not any(map(self.adapts, sites)):
            return product
        width = product.shape[-1] // len(sites)
        excess, shift = [], []
        for site in sites:
            gain, bias = product.new_zeros(width), product.new_zeros(width)
            if self.adapts(site):
                # Less 1, since 16 bits hold small numbers better than those near 1.
                exact = self.magnitudes[site] / self.norms[site] - 1
                gain, bias = exact.to(gain), (exact * self.frozen[site][1]).to(bias)
            excess.append(gain)
            shift.append(bias)
        updated = self.low.add(sites, x, product)
        return torch.addcmul(updated - torch.cat(shift), updated, torch.cat(excess))

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """(..., d_out) what is added to the frozen product at `site`."""
        if not self.adapts(site):
            return None
        weight, bias = self.frozen[site]
        product = torch.nn.functional.linear(x, weight, bias.to(weight))
        return self.add((site,), x, product.clone()) - product

    def snapshot(self) -> Any:
        """The state that the dropout draws from."""
        return self.low.snapshot()

    def rewind(self, snapshot: Any) -> None:
        """Draw the masks again that came after a snapshot."""
        self.low.rewind(snapshot)

    def masked(self, masks: Callable[[Masks], Masks]) -> Decomposed:
        """The same weights with other dropout masks."""
        return replace(self, low=self.low.masked(masks))

    @torch.no_grad()
    def for_step(self) -> Decomposed:
        """With the norms that rows have now."""
        norms = {site: row.norm(dim=1) for site, row in self._directions().items()}
        return replace(self, norms=norms)

    def merged(self) -> dict[Site, Tensor]:
        """(d_out, d_in) W' - W of every site."""
        return {
            site: (self.magnitudes[site] / row.norm(dim=1))[:, None] * row - self.frozen[site][0]
            for site, row in self._directions().items()
        }

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with W' in place of W."""
        return with_deltas(self.merged(), vision, text)

    def _directions(self) -> dict[Site, Tensor]:
        return {site: self.frozen[site][0] + delta for site, delta in self.low.merged().items()}

    def detached(self) -> Decomposed:
        """The same weights for prediction: no gradients, no dropout."""
        fixed = {site: one.detach() for site, one in self.magnitudes.items()}
        return replace(self, low=self.low.detached(), magnitudes=fixed)

    def parameters(self) -> list[dict[str, Any]]:
        """A and B, and the magnitudes: CLIP's are not 0, and decay does not pull them there."""
        return [
            {"params": self.low.parameters()},
            {"params": list(self.magnitudes.values()), "weight_decay": 0.0},
        ]

    def named_tensors(self) -> dict[str, Tensor]:
        """A, B and m by name, such as `vision.0.q.m`."""
        own = {f"{site_name(site)}.m": one for site, one in self.magnitudes.items()}
        return self.low.named_tensors() | own


def decomposed(
    low: LowRank, model: LoraModel, magnitudes: Mapping[Site, Tensor] | None = None
) -> Decomposed:
    """The weights of a model's towers under updates; magnitudes are parameters of CLIP's size."""
    frozen = {}
    for site in low.factors:
        tower = model.vision if site.encoder == "vision" else model.text
        assert tower is not None
        named, weight = tower.parameters(), tower.weight(site).float()
        start, width = f"blocks.{site.layer}.", len(weight)
        if site.matrix in "qkv":
            row = "qkv".index(site.matrix) * width
            bias = named[f"{start}attn.in_proj_bias"][row : row + width]
        else:
            bias = named[start + _BIASES[site.matrix]]
        frozen[site] = (weight, bias.float())
    if magnitudes is None:
        start_at = {site: weight.norm(dim=1) for site, (weight, _) in frozen.items()}
        magnitudes = {site: torch.nn.Parameter(one) for site, one in start_at.items()}
    return Decomposed(low, magnitudes, frozen, {}).for_step()


@dataclass(frozen=True)
class Dora:
    """DoRA (Liu et al., ICML 2024) at CLIP-LoRA's sites, by CLIP-LoRA's schedule.

    Rows of the adapted matrices have a trained magnitude and a direction that a low-rank update
    turns. Norms are constants of the backward pass, as the paper proposes (section 4.3) and the
    published code computes them. The paper adapts language models: sites, schedule and scaling are
    those of `clip-lora`, whose `scaling=sqrt` is rsLoRA's (Kalajdzievski 2023).
    """

    name: ClassVar[str] = "dora"
    version: ClassVar[str] = "1"
    card: ClassVar[MethodCard] = MethodCard(
        "clip-lora-500 per shot",
        deviations=(
            "sites, scaling and schedule are CLIP-LoRA's: no setting for few shots is published",
            "dropout acts on the input of the update alone, in the published code on W's too",
            "weight decay leaves the magnitudes alone",
            "several templates are averaged, and the scale of logits is the backbone's own",
        ),
    )

    rank: int = hyper(2, "rank r of the updates of directions", source="as clip-lora")
    alpha: float = hyper(1.0, "s is alpha/sqrt(r)", source="as clip-lora")
    dropout: float = hyper(0.25, "dropout on the input of an update", source="as clip-lora")
    encoder: Literal["both", "vision", "text"] = hyper(
        "both", "encoders whose matrices are decomposed", source="as clip-lora"
    )
    matrices: str = hyper("qkv", "letters of q k v o m", source="as clip-lora")
    iterations: int = hyper(500, "steps per shot", unit="steps/shot", source="as clip-lora")
    lr: float = hyper(2e-4, "AdamW's learning rate", source="as clip-lora")
    weight_decay: float = hyper(1e-2, "AdamW's decay of A and B", source="as clip-lora")
    batch_size: int = hyper(32, "images of a step", unit="images", source="as clip-lora")

    def __post_init__(self) -> None:
        """UsageError for values out of range, as for CLIP-LoRA."""
        require_updates(self)

    @property
    def lora(self) -> ClipLora:
        """CLIP-LoRA with the same settings."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ClipLora(**own)

    def quick(self) -> Dora:
        """Two steps per shot, for the conformance kit."""
        return replace(self, iterations=2)

    def views_per_image(self, shots: int, classes: int) -> int:
        """Views that a frozen image encoder encodes, as of CLIP-LoRA."""
        return self.lora.views_per_image(shots, classes)

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> LoraClassifier[Decomposed]:
        """Trains magnitudes and updates."""
        lora = self.lora
        model = lora.sized_model(task, backbone, ctx)
        adapter = decomposed(lora.adapter(model, backbone.device, ctx), model)
        step = update_step(model, adapter)
        lora.train(model, adapter.parameters(), step, task, backbone, ctx)
        return LoraClassifier(model, adapter.detached(), backbone)

    @torch.no_grad()
    def restore(
        self, tensors: Mapping[str, Tensor], vocabulary: Vocabulary, backbone: Backbone
    ) -> MergedClassifier:
        """CLIP with the weights that were kept."""
        model = self.lora.model(vocabulary, backbone, WithoutRun(backbone))
        low = LowRank(named_factors(tensors), self.lora.gain)
        magnitudes = {site: tensors[f"{site_name(site)}.m"] for site in low.factors}
        return restored(model, decomposed(low, model, magnitudes))
