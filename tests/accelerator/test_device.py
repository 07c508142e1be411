"""The rehearsal device itself: its memory, counts, copies, generators and place in torch."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F

DEVICE = "rehearsal:1"


def test_torch_finds_it(rehearsal: Any) -> None:
    assert str(torch.accelerator.current_accelerator()) == "rehearsal"
    assert torch.accelerator.device_count() == 2
    assert torch.get_device_module("rehearsal") is torch.rehearsal is rehearsal
    rehearsal.show_devices(0)
    assert torch.accelerator.current_accelerator(check_available=True) is None


def test_the_current_device_is_that_of_a_context(rehearsal: Any) -> None:
    with rehearsal.device(1):
        assert torch.ones(2, device="rehearsal").device == torch.device(DEVICE)
    assert torch.ones(2, device="rehearsal").device == torch.device("rehearsal:0")
    with pytest.raises(RuntimeError, match="rehearsal:2 is not there"):
        rehearsal.set_device(2)


def test_bytes_are_counted_per_device(rehearsal: Any) -> None:
    before = [rehearsal.memory_allocated(index) for index in (0, 1)]
    rehearsal.reset_peak_memory_stats(1)
    x = torch.ones(100, device=DEVICE)
    halved = F.layer_norm(x, (100,)).half()
    assert rehearsal.memory_allocated(1) == before[1] + 600
    assert rehearsal.max_memory_allocated(1) == before[1] + 400 + 400 + 200
    x.resize_(200)
    assert rehearsal.memory_allocated(1) == before[1] + 1000
    assert torch.accelerator.memory_allocated(1) == before[1] + 1000
    del x, halved
    assert [rehearsal.memory_allocated(index) for index in (0, 1)] == before


def test_memory_runs_out(rehearsal: Any) -> None:
    rehearsal.limit_memory(rehearsal.memory_allocated(1) + 1000, 1)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="rehearsal out of memory"):
            torch.empty(1001, dtype=torch.uint8, device=DEVICE)
        torch.empty(1000, dtype=torch.uint8, device=DEVICE)
    finally:
        rehearsal.limit_memory(None, 1)


def test_views_launch_nothing_and_lists_once(rehearsal: Any) -> None:
    x = torch.ones(4, 6, device=DEVICE)
    rehearsal.reset_counts()
    views = [x.T, x[1:], x.view(24), x.unfold(0, 2, 1), x.expand(2, 4, 6), *x.split(3, dim=1)]
    assert rehearsal.counts(1)["launches"] == 0
    views[0].zero_()
    torch._foreach_add_([x, views[1]], 1.0)
    assert rehearsal.launches_by_name() == {"aten::zero_": 1, "aten::_foreach_add_": 1}
    assert x.cpu()[:, 0].tolist() == [1, 2, 2, 2]


def test_attention_is_one_launch_with_the_gradients_of_the_host(rehearsal: Any) -> None:
    start, mask = torch.randn(3, 2, 2, 5, 8), torch.randn(5, 5)
    gradients = []
    for device in ("cpu", DEVICE):
        parts = start.to(device).requires_grad_()
        rehearsal.reset_counts()
        out = F.scaled_dot_product_attention(*parts.unbind(), attn_mask=mask.to(device))
        launches = rehearsal.launches_by_name()
        (gradient,) = torch.autograd.grad(out.square().sum(), parts)
        gradients.append(gradient.cpu())
    assert launches == {"aten::scaled_dot_product_attention": 1}
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("pinned", "late", "expected"),
    [(True, True, "sent"), (True, False, "uploads"), (False, True, "uploads")],
)
def test_copies_from_pinned_memory_do_not_block(
    rehearsal: Any, pinned: bool, late: bool, expected: str
) -> None:
    x = torch.ones(8).pin_memory() if pinned else torch.ones(8)
    assert x[3:].is_pinned() == pinned
    rehearsal.reset_counts()
    x[3:].to(DEVICE, non_blocking=late)
    counts = rehearsal.counts(1)
    assert {name for name in ("sent", "uploads", "reads") if counts[name]} == {expected}
    # torch makes the copy on the host in pinned memory.
    x.to(DEVICE).to("cpu", non_blocking=True)
    assert rehearsal.counts(1)["reads"] == 0


@pytest.mark.parametrize("waits", [True, False])
def test_memory_of_a_copy_may_be_written_after_a_wait(rehearsal: Any, waits: bool) -> None:
    heard = []
    batch = torch.ones(4).pin_memory()
    with rehearsal.listen(lambda kind, operator, device: heard.append((kind, device))):
        batch.to(DEVICE, non_blocking=True)
        event = torch.accelerator.current_stream(DEVICE).record_event()
        if waits:
            assert event.query()
        batch.zero_()
        torch.accelerator.synchronize(DEVICE)
    written = [] if waits else [("overwriting", 1)]
    assert heard == [*written, ("synchronization", 1)]


def test_a_forbidden_wait_shows_its_line(rehearsal: Any) -> None:
    x = torch.ones(3, device=DEVICE)
    with (
        rehearsal.forbid_waits(),
        pytest.raises(RuntimeError, match=r"waits for rehearsal:1: read by aten::_local") as found,
    ):
        x.sum().item()
    assert "x.sum().item()" in str(found.traceback[0].statement)
    assert x.sum().item() == 3


def test_generators_give_the_numbers_of_the_host(rehearsal: Any) -> None:
    torch.manual_seed(3)
    expected = torch.randn(20)
    torch.manual_seed(3)
    state = rehearsal.get_rng_state(1)
    assert torch.equal(torch.randn(20, device=DEVICE).cpu(), expected)
    rehearsal.set_rng_state(state, 1)
    assert torch.equal(torch.randn(20, device=DEVICE).cpu(), expected)
    own = torch.Generator(DEVICE).manual_seed(3)
    assert torch.equal(torch.randn(20, device=DEVICE, generator=own).cpu(), expected)
    state = rehearsal.get_rng_state(1)
    with torch.random.fork_rng([1], device_type="rehearsal"):
        torch.rand(1, device=DEVICE)
        assert not torch.equal(rehearsal.get_rng_state(1), state)
    assert torch.equal(rehearsal.get_rng_state(1), state)


def test_tensors_are_stored_and_copied(rehearsal: Any) -> None:
    x = torch.arange(6.0, device=DEVICE).view(2, 3).T
    file = io.BytesIO()
    torch.save(copy.deepcopy(x), file)
    file.seek(0)
    loaded = torch.load(file)
    assert loaded.device == x.device
    assert torch.equal(loaded.cpu(), x.cpu())


@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_skips_a_step_with_overflows(rehearsal: Any, fused: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused, foreach=not fused)
    scaler = torch.amp.GradScaler("rehearsal", init_scale=4.0)
    for factor in (1.0, float("inf")):
        before = weight.detach().clone()
        scaler.scale((weight * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(before.cpu(), weight.detach().cpu()) == (factor > 1)
    assert scaler.get_scale() == 2.0


def test_results_that_a_kernel_sizes(rehearsal: Any) -> None:
    sized = torch.empty(0, device=DEVICE)
    torch.add(torch.ones(5, device=DEVICE), 1, out=sized)
    assert sized.tolist() == [2.0] * 5
    assert rehearsal.memory_allocated(1) >= 20
