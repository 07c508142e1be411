"""Every method on a CUDA device, close to the CPU's float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp

from fewshot_bench import Vocabulary
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.runner.fit import Context
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from tests.helpers import METHODS, cells, quick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Tolerated mean difference relative to the spread of the logits; half precision rounds features.
TOLERANCE = {"fp32": 0.02, "bf16": 0.3, "fp16": 0.1}


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """Logits of every method on the CPU."""
    session = Session()
    found = {}
    for spec in cells(*METHODS, options=quick(METHODS)):
        logits = run_one(spec, session).logits
        assert logits is not None
        found[spec.method] = logits
    return found


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error at any host-device synchronization inside the block."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["clip-lora", "coop"])
def test_a_step_never_waits_for_the_device(method: str, precision: str) -> None:
    backbone = load_tiny("cuda", precision)
    context = Context(1, backbone.device, precision)
    vocabulary = Vocabulary(("one", "two", "three"), ("a photo of the digit {}.",))
    labels = torch.arange(3, device="cuda")
    if method == "clip-lora":
        lora = ClipLora()
        model = lora.model(vocabulary, backbone, context)
        adapter = lora.adapter(model, backbone.device, context)
        batch = torch.randn(3, 3, *backbone.image_size, device="cuda")
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(adapter.parameters(), fused=True)

        def loss() -> torch.Tensor:
            return model.loss(batch, labels, adapter)
    else:
        coop, tower = CoOp(), backbone.text_tower()
        start = coop.initial_context(vocabulary, backbone, tower, context)
        prompts = coop.model(vocabulary, backbone, tower, 16, context)
        learned = torch.nn.Parameter(start)
        features = torch.nn.functional.normalize(torch.randn(3, 64, device="cuda"), dim=-1)
        optimizer = torch.optim.SGD([learned], lr=0.1, fused=True)

        def loss() -> torch.Tensor:
            return prompts.batch(learned, features, labels).cross_entropy()

    take = context.train_step(loss, optimizer)
    take()
    with no_waiting():
        for _ in range(3):
            take()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_methods(reference: dict[str, torch.Tensor], method: str, precision: str) -> None:
    options = quick((method,))
    (spec,) = cells(method, options=options, device="cuda", precision=precision)
    outcome = run_one(spec, Session(device="cuda"))
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.logits is not None
    expected = reference[method]
    gap = (outcome.logits - expected).abs().mean() / expected.std()
    assert gap < TOLERANCE[precision]
    assert outcome.record.footprint["peak_memory_mb"] > 0
    assert "cuda" in outcome.record.environment["device"]
