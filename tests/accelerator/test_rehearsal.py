"""The rehearsal fails for methods with planted faults, and names the line of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, RunContext, Task
from fewshot_bench.training import unit
from tests.support.rehearsal import DEVICE, Head, Planted, Step, rehearse

pytestmark = pytest.mark.usefixtures("rehearsal")


def _in_backward(act: Callable[[Tensor], Tensor]) -> Callable[[Step], Tensor]:
    class Acting(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *outer: Tensor) -> Tensor:
            return act(outer[0])

    return lambda step: Acting.apply(step.weight).sum()


def _branch(step: Step) -> None:
    if step.loss < 0:
        raise AssertionError


def _noise(step: Step) -> Tensor:
    return torch.randn(3, device=DEVICE, generator=step.ctx.rng("noise")).sum()


def _sixteen_bits(step: Step) -> Tensor:
    with step.ctx.autocast():
        hidden = step.features @ step.weight.T
    return (hidden @ step.weight).sum()


def _event(step: Step) -> None:
    event = torch.Event(device=DEVICE)
    event.record()
    event.synchronize()


IN_STEPS: dict[str, tuple[Callable[[Step], Any], str]] = {
    "item": (lambda step: step.loss.item() and None, "read by _local_scalar_dense"),
    "float": (lambda step: float(step.loss.detach()) and None, "read by _local_scalar_dense"),
    "printed": (lambda step: print(f"loss {step.loss.detach():.3f}"), "read by"),
    "branch": (_branch, "read by _local_scalar_dense"),
    "to the host": (lambda step: step.loss.detach().cpu() and None, "read by _copy_from"),
    "list": (lambda step: step.labels.tolist() and None, "read by _copy_from"),
    "mask": (lambda step: step.features[step.labels == 0].sum(), "read by nonzero"),
    "sizes": (lambda step: step.labels.unique().sum(), "read by _unique2"),
    "one-hot": (lambda step: F.one_hot(step.labels).sum(), "read by _local_scalar_dense"),
    "solver": (lambda step: torch.linalg.inv(torch.eye(2, device=DEVICE)).sum(), "read by"),
    "waiting": (lambda step: torch.accelerator.synchronize(DEVICE), "synchronization by"),
    "waiting for an event": (_event, "synchronization by synchronize of an event"),
    "moved in": (lambda step: torch.tensor([1.0], device=DEVICE).sum(), "upload by _copy_from"),
    "not pinned": (lambda step: torch.ones(2).to(DEVICE, non_blocking=True).sum(), "upload by"),
    "order of the host": (lambda step: step.features[torch.arange(2)].sum(), "upload by"),
    "numpy": (lambda step: step.loss.detach().numpy(), f"can't convert {DEVICE} device type"),
    "made on the host": (lambda step: (step.loss * torch.ones(3)).sum(), "at least two devices"),
    "multiplied on the host": (lambda step: (step.features @ torch.ones(32)).sum(), "two devices"),
    "another device": (
        lambda step: (step.features + torch.ones(1, device="rehearsal:0")).sum(),
        "at least two devices, rehearsal:1 and rehearsal:0",
    ),
    "made in backward": (_in_backward(lambda outer: outer * torch.ones(4, 32)), "two devices"),
    "item in backward": (_in_backward(lambda outer: outer * outer.max().item()), "read by _local"),
    "stream of the host": (_noise, "Expected a 'rehearsal' device type for generator"),
}
IN_LOGITS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda logits: logits / logits.max().item(), "in logits: read by _local_scalar"),
    "to the host": (lambda logits: logits.cpu(), "in logits: read by _copy_from"),
    "mask": (lambda logits: logits[logits > 9].sum() + logits, "in logits: read by nonzero"),
    "made on the host": (lambda logits: torch.zeros(logits.shape), "logits on cpu"),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_sound_method_has_no_fault(precision: str) -> None:
    assert rehearse(Planted(), precision).faults() == []


@pytest.mark.parametrize("fault", IN_STEPS)
def test_fault_in_a_step(fault: str) -> None:
    act, expected = IN_STEPS[fault]
    found = rehearse(Planted(act)).faults()
    assert found
    assert all(expected in one and "test_rehearsal.py" in one for one in found), found


@pytest.mark.parametrize("fault", IN_LOGITS)
def test_fault_in_logits(fault: str) -> None:
    finish, expected = IN_LOGITS[fault]
    assert expected in rehearse(Planted(finish=finish)).faults()[0]


def test_parameters_left_on_the_host() -> None:
    (found,) = rehearse(Planted(weight="cpu")).faults()
    assert "at least two devices" in found


def test_a_scaler_reads_overflows_for_optimizers_that_are_not_fused() -> None:
    assert rehearse(Planted(fused=False), "fp32").faults() == []
    found = rehearse(Planted(fused=False), "fp16").faults()
    assert "read by _local_scalar_dense" in found[0]


def test_precisions_that_do_not_mix() -> None:
    assert rehearse(Planted(_sixteen_bits)).faults() == []
    for precision in ("bf16", "fp16"):
        (found,) = rehearse(Planted(_sixteen_bits), precision).faults()
        assert "dtype" in found


def test_what_happens_before_training_is_free() -> None:
    class Early(Planted):
        def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Head:
            float(task.train.features.sum())
            return super().fit(task, backbone, ctx)

    assert rehearse(Early()).faults() == []


def test_features_in_float32_where_autocast_of_a_device_wants_it() -> None:
    def act(step: Step) -> None:
        with step.ctx.autocast():
            half = step.features @ step.weight.T
            assert half.dtype is torch.bfloat16
            assert F.layer_norm(half, half.shape[-1:]).dtype is torch.float32
            assert half.softmax(dim=-1).dtype is torch.float32
        assert unit(half).dtype is torch.float32

    assert rehearse(Planted(act), "bf16").faults() == []
