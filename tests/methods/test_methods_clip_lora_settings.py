"""CLIP-LoRA's knobs: schedule, batches, positions, parameter counts, wrong values."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.lora_layers import layers_at
from fsbench_methods.lora_model import LoraModel
from torch import Tensor

from fewshot_bench.backbones import Site
from fewshot_bench.profiling.cost import Cost, counting
from tests.reference.toy import CPU, context, random_backbone, random_task


def test_one_fit_takes_the_official_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone()
    task = random_task(backbone, shots=2)
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    ClipLora(iterations=7).fit(task, backbone, context())
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(other, 14, eta_min=1e-6)
    expected = []
    for _ in range(14):
        expected.append(scheduler.get_last_lr()[0])
        other.step()
        scheduler.step()
    assert rates == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("encoder", ["both", "text"])
def test_batches_are_whole_epochs_with_a_short_last_batch(encoder: Any) -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    method = ClipLora(encoder=encoder, batch_size=7)
    model = method.model(task, backbone, context())
    stream = method.batches(model, 6, task, backbone, context())
    drawn = [labels for _, labels in itertools.islice(stream, 6)]
    assert [len(labels) for labels in drawn] == [7, 7, 4] * 2
    for epoch in (drawn[:3], drawn[3:]):
        assert torch.cat(epoch).bincount().tolist() == [3] * 6


class Shape:
    """A tower with only a size."""

    def __init__(self, layers: int, width: int) -> None:
        self.layers, self.width = layers, width

    def weight(self, site: Site) -> Tensor:
        return torch.empty(self.width, self.width, device="meta")


@pytest.mark.parametrize(
    ("rank", "vision", "text", "count"),
    [
        (2, (12, 768), (12, 512), 184_320),
        (4, (12, 768), (12, 512), 368_640),
        (2, (24, 1024), (12, 768), 405_504),
    ],
)
def test_parameter_counts_of_the_published_models(
    rank: int, vision: Any, text: Any, count: int
) -> None:
    model = LoraModel(Shape(*vision), Shape(*text), (), None, 100.0, context().autocast)  # type: ignore[arg-type]
    adapter = ClipLora(rank=rank).adapter(model, CPU, context())
    assert sum(parameter.numel() for parameter in adapter.parameters()) == count
    assert set(adapter.named_tensors()) >= {"vision.0.q.A", "text.11.v.B"}


@pytest.mark.parametrize(
    ("position", "layers"),
    [
        ("all", range(12)),
        ("top-half", range(6, 12)),
        ("bottom-half", range(6)),
        ("top", range(8, 12)),
        ("middle", range(4, 8)),
        ("bottom", range(4)),
        ("top3", range(9, 12)),
    ],
)
def test_positions_of_twelve_layers(position: str, layers: range) -> None:
    assert layers_at(position, 12) == layers
    for depth in range(1, 30):
        chosen = layers_at(position, depth)
        assert 0 < len(chosen) <= depth
        assert 0 <= chosen[0] <= chosen[-1] < depth


def test_texts_pass_the_layers_below_the_first_update_once() -> None:
    backbone = random_backbone(layers=4)
    task = random_task(backbone)
    method = ClipLora(position="top-half", dropout=0)
    model, seen = method.model(task, backbone, context()), []
    assert model.text_start == 2
    pixels, labels = task.train.pixels, task.train.labels  # type: ignore[attr-defined]
    for one in (model, replace(model, text_start=0).for_classes(task, backbone)):
        adapter, done = method.adapter(model, CPU, context()), Cost()
        for _, b in adapter.factors.values():
            b.data.fill_(0.1)
        with counting(done):
            one.backward(pixels, labels, adapter, lambda loss: loss)
        merged = one.merged(adapter)
        gradients = [a.grad for a, _ in adapter.factors.values()]
        seen.append((done.flops, [*gradients, merged.class_features(None)]))
    (ours, found), (whole, expected) = seen
    assert ours < whole
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))  # type: ignore[arg-type]
