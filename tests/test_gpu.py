"""Every method on a CUDA device, close to the CPU's float32."""

from __future__ import annotations

import pytest
import torch

from fewshot_bench.runner import run_one
from fewshot_bench.session import Session
from tests.helpers import METHODS, cells, quick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Largest difference relative to the spread of the logits; half precision rounds features.
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
