"""Low-rank updates: the fused product, its gradients, dropout and initial factors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.lora_layers import Dropout, LowRank, init_factors, product_dtype
from torch import Tensor

from fewshot_bench.backbones import Site
from tests.reference.toy import relative_gap

CPU = torch.device("cpu")
SITES = tuple(Site("vision", 0, matrix) for matrix in "qkv")


def some_updates(dtype: torch.dtype, absent: str) -> tuple[LowRank, list[Tensor]]:
    """Updates of q, k and v with dropout, and all their factors."""
    rng = torch.Generator().manual_seed(0)
    factors = {}
    for site in SITES:
        if site.matrix not in absent:
            a, b = (
                torch.randn(*size, generator=rng, dtype=dtype, requires_grad=True)
                for size in ((2, 12), (5, 2))
            )
            factors[site] = (a, b)
    adapter = LowRank(factors, 0.7, Dropout(0.25, torch.Generator().manual_seed(0)))
    return adapter, adapter.parameters()


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("absent", ["", "q", "k", "kv"])
def test_the_fused_update_passes_gradcheck(absent: str) -> None:
    adapter, leaves = some_updates(torch.float64, absent)
    rng = torch.Generator().manual_seed(1)
    x, weight = (
        torch.randn(size, generator=rng, dtype=torch.float64, requires_grad=True)
        for size in ((6, 12), (15, 12))
    )
    start = adapter.snapshot()

    def updated(x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
        adapter.rewind(start)
        return adapter.for_step(x.dtype).add(SITES, x, F.linear(x, weight))

    assert torch.autograd.gradcheck(updated, (x, weight, *leaves))


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_the_fused_update_equals_plain_operations(autocast: bool) -> None:
    adapter, leaves = some_updates(torch.float32, "")
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(50, 12, generator=rng, requires_grad=True)
    weight = torch.randn(15, 12, generator=rng)
    start = adapter.snapshot()
    masks = [adapter.dropout.mask(x) for _ in SITES]  # type: ignore[union-attr]
    adapter.rewind(start)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        ours = adapter.for_step(product_dtype(CPU)).add(SITES, x, F.linear(x, weight))
    assert ours.dtype == (torch.bfloat16 if autocast else torch.float32)
    ours.float().square().sum().backward()
    gradients = [leaf.grad for leaf in (x, *leaves)]
    for leaf in (x, *leaves):
        leaf.grad = None
    parts = []
    for mask, (a, b) in zip(masks, adapter.factors.values(), strict=True):
        parts.append(0.7 * ((x * mask / 0.75) @ a.T @ b.T))
    plain = x @ weight.T + torch.cat(parts, dim=1)
    plain.square().sum().backward()
    assert relative_gap(ours, plain) < (0.02 if autocast else 1e-6)
    for one, leaf in zip(gradients, (x, *leaves), strict=True):
        assert one is not None
        assert leaf.grad is not None
        assert one.dtype == torch.float32
        assert relative_gap(one, leaf.grad) < (0.03 if autocast else 1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_scales_it(rate: float) -> None:
    dropout = Dropout(rate, torch.Generator().manual_seed(0))
    x = torch.ones(1001, 331)
    mask = dropout.mask(x)
    assert mask.dtype == torch.bool
    mask = mask.float()
    assert float(mask.mean()) == pytest.approx(1 - rate, abs=0.003)
    assert not torch.equal(mask, dropout.mask(x).float())
    for axis in (0, 1):
        assert float(mask.mean(dim=axis).std()) < 1.5 * (rate * (1 - rate) / 331) ** 0.5


def test_initial_factors() -> None:
    site = Site("vision", 0, "q")
    a, b = init_factors([(site, (5, 64))], 200, torch.Generator().manual_seed(0), CPU)[site]
    assert a.shape == (200, 64)
    assert b.shape == (5, 200)
    assert not b.any()
    assert 0.12 < float(a.detach().abs().max()) <= 0.125
    assert float(a.detach().std()) == pytest.approx(0.125 / 3**0.5, rel=0.03)
