"""A cell that runs out of memory is retried with smaller parts, and its record says so."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.backbones.text_tower import TextTower
from fewshot_bench.backbones.vision_tower import VisionTower
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.label_process import LabelProcess
from fewshot_bench.engines.process import Slot, Worker
from fewshot_bench.runner.examiner import Outcome
from fewshot_bench.runner.run import run_group, run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.support.helpers import PATIENCE, cells

QUICK_LORA = ("clip-lora.iterations=3", "clip-lora.lr=0.002")
QUICK_COOP = ("coop.epochs=3", "coop.context_tokens=4")


@pytest.fixture(scope="module")
def session() -> Session:
    """A session of one process."""
    return Session()


def told(outcome: Outcome) -> list[str]:
    """The texts of the incidents about memory."""
    found = outcome.record.incidents
    return [incident["text"] for incident in found if incident["kind"] == "out-of-memory"]


def done(outcome: Outcome) -> torch.Tensor:
    """Logits of a cell; assert that it is done."""
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.logits is not None
    return outcome.logits


@pytest.mark.parametrize("kind", ["cuda", "cublas", "onednn", "cpu", "python"])
def test_a_fit_without_memory_is_tried_again_in_parts(
    kind: str, session: Session, methods: Any
) -> None:
    (spec,) = cells("hungry", options=(f"hungry.kind={kind}", "hungry.needs=8"))
    methods.HELD.clear()
    outcome = run_one(spec, session)
    plain = run_one(cells("hungry", options=("hungry.needs=1",))[0], session)
    assert torch.equal(done(outcome), done(plain))
    assert outcome.record.notes["parts"] == 8
    fits = [text for text in told(outcome) if ".fit " in text]
    assert [text.rpartition("=")[2] for text in fits] == ["2", "4", "8"]
    assert not told(plain)


def test_a_method_that_does_not_divide_fails_with_what_to_try(
    session: Session, methods: Any
) -> None:
    spec, fine = cells("hungry", options=("hungry.reads=false,true", "hungry.needs=2"))
    assert not spec.options["reads"]
    methods.HELD.clear()
    outcome = run_one(spec, session)
    error = outcome.record.error
    assert outcome.record.status == "failed"
    assert error is not None
    assert (error["type"], error["expected"]) == ("InsufficientMemoryError", True)
    for part in ("hungry.fit ran out of memory", "ctx.memory_parts", "Tried to allocate"):
        assert part in error["message"]
    for part in ("-o hungry.batch_size=16", "--precision bf16", "another --device", "--jobs"):
        assert part in error["message"]
    assert "plugin_methods" in error["traceback"] or "fsbench_misbehaving" in error["traceback"]
    assert len(methods.HELD) == 1
    done(run_one(fine, session))


def test_no_number_of_parts_is_enough(session: Session, methods: Any) -> None:
    outcome = run_one(cells("hungry", options=("hungry.needs=1000",))[0], session)
    assert outcome.record.status == "failed"
    assert outcome.record.error is not None
    assert "even in 64 parts" in outcome.record.error["message"]
    assert len(told(outcome)) == 6


def test_a_worker_begins_with_the_parts_that_the_engine_asks_for(
    tmp_path: Path, methods: Any
) -> None:
    (spec,) = cells("hungry", options=("hungry.needs=1",))
    events: queue.Queue[Any] = queue.Queue()
    store, settings = Store(tmp_path), Settings(threads=1)
    labels = LabelProcess(store.path, settings)
    worker = Worker.start(Slot("cpu/0", "cpu"), store, settings, events, labels)
    try:
        worker.send([spec], "", {}, force=False, eager=False, parts=4, incidents={})
        while events.get(timeout=PATIENCE)[1].event != "finished":
            pass
    finally:
        worker.stop()
        labels.stop()
    (record,) = Store(tmp_path).records()
    assert (record.status, record.notes["parts"]) == ("done", 4)


@pytest.mark.parametrize(
    ("method", "tower", "options"),
    [
        ("clip-lora", (VisionTower, "encode"), QUICK_LORA),
        ("clip-lora", (TextTower, "encode_packed"), QUICK_LORA),
        ("coop", (TextTower, "encode_embeddings"), QUICK_COOP),
    ],
    ids=["vision", "text", "coop"],
)
def test_blocks_are_recomputed_first_to_the_same_bits(
    method: str,
    tower: Any,
    options: tuple[str, ...],
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (spec,) = cells(method, shots=(2,), options=options)
    plain = run_one(spec, session)
    owner, name = tower
    whole = getattr(owner, name)

    def short(*args: Any, recompute: bool = False, **named: Any) -> Any:
        if torch.is_grad_enabled() and not recompute:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return whole(*args, recompute=recompute, **named)

    monkeypatch.setattr(owner, name, short)
    outcome = run_one(spec, session)
    assert torch.equal(done(outcome), done(plain))
    assert "memory_parts=2" in told(outcome)[0]
    assert outcome.record.footprint["steps"] == plain.record.footprint["steps"]


@pytest.mark.parametrize(
    ("method", "options", "images", "tokens", "parts"),
    [
        ("clip-lora", QUICK_LORA, 5, 10**6, 8),
        ("clip-lora", QUICK_LORA, 20, 23, 4),
        ("clip-lora", (*QUICK_LORA, "clip-lora.encoder=text"), 20, 14, 16),
        ("coop", QUICK_COOP, 20, 20, 4),
    ],
    ids=["images", "prompts", "prompts alone", "coop"],
)
def test_what_is_too_large_at_once_is_done_in_parts(
    method: str,
    options: tuple[str, ...],
    images: int,
    tokens: int,
    parts: int,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (spec,) = cells(method, shots=(2,), options=options)
    plain = run_one(spec, session)
    encode, encode_text = VisionTower.encode, TextTower._encode

    def short(self: VisionTower, pixels: torch.Tensor, *args: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and len(pixels) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return encode(self, pixels, *args, **named)

    def short_text(self: TextTower, x: torch.Tensor, *args: Any) -> Any:
        if len(x) > tokens:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return encode_text(self, x, *args)

    monkeypatch.setattr(VisionTower, "encode", short)
    monkeypatch.setattr(TextTower, "_encode", short_text)
    outcome = run_one(spec, session)
    gap = (done(outcome) - done(plain)).abs().max() / done(plain).abs().max()
    assert gap < 1e-4
    assert outcome.record.metrics["top1"] == plain.record.metrics["top1"]
    fits = [text for text in told(outcome) if ".fit " in text]
    assert fits[-1].endswith(f"memory_parts={parts}")
    assert outcome.record.spec == spec


def test_prediction_without_memory_is_tried_again_in_smaller_batches(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spec, other) = cells("clip-lora", options=QUICK_LORA, limit=200, classes=("base", "new"))
    plain = run_one(spec, session)
    whole = VisionTower.encode

    def short(self: VisionTower, pixels: torch.Tensor, *args: Any, **named: Any) -> Any:
        if len(pixels) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return whole(self, pixels, *args, **named)

    monkeypatch.setattr(VisionTower, "encode", short)
    for outcome in run_group([spec, other], session):
        done(outcome)
        (text,) = told(outcome)
        assert "batches of 32 queries instead of 256" in text
    outcome = run_one(spec, session)
    gap = (done(outcome) - done(plain)).abs().max() / done(plain).abs().max()
    assert gap < 1e-5
    assert outcome.record.footprint["steps"] == plain.record.footprint["steps"]


def test_a_prediction_without_batches_is_not_tried_again(session: Session, methods: Any) -> None:
    outcome = run_one(cells("hungry", options=("hungry.needs=0",))[0], session)
    assert outcome.record.error is not None
    assert "asks for no batches" in outcome.record.error["message"]
