"""Crops and features on a device of another type: the CPU's, sent ahead without a wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fewshot_bench import Augment
from fewshot_bench.images import features
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.features import encode
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.testing import toy_backbone
from tests.support.image_sets import COUNT, FILES, Memory
from tests.support.rehearsal import DEVICE

pytestmark = pytest.mark.usefixtures("rehearsal")
ORDER, PASSES = [*range(COUNT), *range(COUNT)], (1, 2)
# A level of 255, normalized by the toy's standard deviation of a half.
LEVEL = 1 / 127.5


def source_on(device: str, *, by_torch: bool = False) -> ImageSource:
    dataset: Any = Memory(FILES)
    files = ImageFiles(dataset, dataset.items()["train"])
    return ImageSource(files, COUNT, toy_backbone(device), by_torch=by_torch, threads=2)


def crops_on(device: str, *, by_torch: bool = False) -> Any:
    return source_on(device, by_torch=by_torch).batches(4, ORDER, Augment(), PASSES)


def test_crops_cut_on_the_host_are_sent_without_a_wait(rehearsal: Any) -> None:
    batches = crops_on(DEVICE)
    kept = [next(batches)]
    rehearsal.reset_counts()
    with rehearsal.forbid_waits():
        kept += batches
    assert str(kept[0].device) == DEVICE
    made = rehearsal.counts(DEVICE)
    assert (made["sent"], made["launches"]) == (len(kept) - 1, 3 * (len(kept) - 1))
    assert torch.equal(torch.cat(kept).cpu(), torch.cat(list(crops_on("cpu"))))


def test_crops_cut_on_the_device_are_those_of_the_host_up_to_rounding(rehearsal: Any) -> None:
    batches = crops_on(DEVICE, by_torch=True)
    kept = [next(batches)]
    with rehearsal.forbid_waits(), torch.autocast("rehearsal", torch.bfloat16):
        kept += batches
    gap = (torch.cat(kept).cpu() - torch.cat(list(crops_on("cpu")))).abs()
    assert gap.max() < 2.1 * LEVEL
    assert (gap > LEVEL / 2).float().mean() < 0.02


def test_features_are_fetched_while_later_batches_are_encoded(
    rehearsal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "ENCODE_BATCH", 4)
    ends = []
    plain = features.record_event
    monkeypatch.setattr(
        features, "record_event", lambda device: ends.append(device) or plain(device)
    )
    found = encode(source := source_on(DEVICE), source.batches(4, range(COUNT)))
    assert ends == [torch.device(DEVICE)] * 4
    assert not found.is_pinned()
    host = source_on("cpu")
    assert_close(found, encode(host, host.batches(4, range(COUNT))), rtol=1e-4, atol=1e-4)
    rehearsal.reset_counts()
    encode(source, source.batches(4, range(COUNT)))
    assert rehearsal.counts(DEVICE)["reads"] == 0
