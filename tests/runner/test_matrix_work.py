"""Work of a whole matrix: shared work is done once, checked by an independent counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.api.record import Record
from fewshot_bench.engines.matrix import encodings_saved
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from tests.support.helpers import METHODS, cells, quick

FROZEN = tuple(name for name in METHODS if name != "clip-lora")


class Patches:
    """Counts images at the patch embedding, which all images pass."""

    def __init__(self) -> None:
        self.images = 0
        self._conv2d = F.conv2d

    def __call__(self, x: Any, *arguments: Any, **options: Any) -> Any:
        self.images += len(x)
        return self._conv2d(x, *arguments, **options)


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> Patches:
    """A counter in place of torch's convolution."""
    found = Patches()
    monkeypatch.setattr("torch.nn.functional.conv2d", found)
    return found


def run(specs: Any, session: Session) -> list[Record]:
    """Run all cells in order and assert that they are done."""
    records = [run_one(spec, session).record for spec in specs]
    assert {record.status for record in records} == {"done"}, [r.error for r in records]
    return records


def total(records: list[Record], kind: str, what: str) -> int:
    """A count over all records."""
    return sum(record.footprint["work"][kind][what] for record in records)


def test_frozen_methods_encode_every_test_image_once(patches: Patches) -> None:
    specs = cells(
        *("zero-shot", "linear-probe", "tip-adapter"),
        shots=(1, 2),
        seeds=(1, 2),
        options=quick(("linear-probe",)),
        limit=None,
    )
    session = Session()
    session.backbone(specs[0])[0].image_tower()
    patches.images = 0
    records = run(specs, session)
    queries = records[0].split["test"]
    others = patches.images - queries
    support = {1: 10, 2: 20}
    # Ten views for keys and one plain encoding per support image, plus validation images.
    assert others <= 2 * sum(count * (10 + 1 + 1) for count in support.values()) + 32
    assert total(records, "computed", "images") == patches.images
    per_cell = [record.footprint["work"]["billed"]["images"] for record in records]
    assert min(per_cell) == queries
    assert sum(per_cell) > 12 * queries


def test_saved_encodings_are_those_of_the_encoder(patches: Patches) -> None:
    specs = cells(*FROZEN, shots=(1,), seeds=(1, 2), options=quick(FROZEN), limit=60)
    session = Session()
    session.backbone(specs[0])[0].image_tower()
    patches.images = 0
    records = run(specs, session)
    computed, billed = patches.images, total(records, "billed", "images")
    assert 2 * computed < billed
    line = f"frozen encoder: {computed:,} images encoded instead of {billed:,}, "
    assert encodings_saved(records) == f"{line}{billed / computed:.1f} times fewer"


def test_images_of_adapted_encoders_are_not_shared() -> None:
    lora = cells("clip-lora", shots=(2,), options=("clip-lora.iterations=5",), limit=60)
    (adapted, *frozen) = run([*lora, *cells("zero-shot", seeds=(1, 2), limit=60)], Session())
    assert adapted.footprint["work"]["computed"]["images"] == 10 * 20 + 60
    assert encodings_saved([adapted]) == encodings_saved([adapted, frozen[0]]) == ""
    line = "frozen encoder: 60 images encoded instead of 120, 2.0 times fewer"
    assert encodings_saved(frozen) == line
    assert encodings_saved([adapted, *frozen]) == f"{line}; through adapted encoders: 260"


def test_text_is_encoded_once_and_billed_to_everyone() -> None:
    session = Session()
    specs = cells("zero-shot", "tip-adapter", shots=(1, 2))
    records = run(specs, session)
    assert total(records[1:], "computed", "text_tokens") == 0
    billed = {record.footprint["work"]["billed"]["text_tokens"] for record in records}
    assert len(billed) == 1
    assert billed == {records[0].footprint["work"]["computed"]["text_tokens"]}
    times = {record.timings["phases"]["encode_text"]["billed"]["wall"] for record in records}
    assert len(times) == 1
    assert min(times) > 0


@pytest.mark.parametrize("method", ["zero-shot", "coop", "clip-lora"])
def test_flops_of_a_cell_agree_with_torch(method: str) -> None:
    options = (*quick((method,)), *(["clip-lora.dropout=0"] if method == "clip-lora" else []))
    (spec,) = cells(method, shots=(2,), options=options)
    # Nothing is asked again to verify the answers: that is not counted.
    session = Session(raises=True)
    backbone, _ = session.backbone(spec)
    backbone.image_tower()
    backbone.text_tower()
    with FlopCounterMode(display=False) as counter:
        (record,) = run([spec], session)
    counted = record.footprint["work"]["computed"]["flops"]
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.15)
    assert torch.is_grad_enabled()


def test_training_seeds_see_views_of_their_own_on_one_support_set() -> None:
    # Training-free with a fixed support set: only the views can differ.
    def logits(seed: int) -> torch.Tensor:
        asked = {"datasets": ("digits",), "shots": (1,), "seeds": (seed,), "split_seed": 1}
        (cell,) = cells("tip-adapter", limit=60, **asked)
        found = run_one(cell, Session(None)).logits
        assert found is not None
        return found

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
