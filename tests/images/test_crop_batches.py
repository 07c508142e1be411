"""Batches of crops: written where they are sent from, several ahead, without a pause per pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_bench import Augment, DataMissingError
from fewshot_bench.api.items import Item
from fewshot_bench.images.augment import draw_crops, draw_passes, passes_of
from fewshot_bench.images.decode import decode
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import ImageCost, Meter
from fewshot_bench.utils.prefetch import Ahead
from fewshot_bench.utils.rng import generator
from tests.reference.crops import stack_crops
from tests.support.image_cases import tiny
from tests.support.image_sets import COUNT, FILES, Memory

AUGMENT = Augment()


class Levels:
    """A backbone whose pixels stay uint8, in the memory that they were written to."""

    device = torch.device("cpu")
    image_size = (24, 20)

    def normalize(self, pixels: Tensor) -> Tensor:
        return pixels


def source_of(backbone: Any, depth: int, files: dict[str, bytes] = FILES) -> ImageSource:
    dataset = Memory(files)
    return ImageSource.of(dataset, dataset.items()["train"], backbone, threads=3, depth=depth)


def shots_of(depth: int, meter: Meter) -> Any:
    source = source_of(tiny(), depth)
    return image_view(source, FeatureCache(None), meter, phase="fit", labeled=True)


@pytest.mark.parametrize("depth", [0, 3])
def test_kept_batches_have_the_bits_of_the_plain_way(depth: int) -> None:
    source, order = source_of(Levels(), depth), [*range(COUNT), *reversed(range(COUNT))]
    seeds = draw_passes(2, generator(1, "augment"))
    kept = list(source.batches(5, order, AUGMENT, seeds))
    numbers = source.visit(order, passes_of(order), seeds).numbers(slice(None))
    images = [decode(FILES[f"{index}.png"]) for index in order]
    crops = draw_crops([image.size for image in images], AUGMENT, numbers)
    assert {crop.mirrored for crop in crops} == {True, False}
    assert torch.equal(torch.cat(kept), stack_crops(images, crops, Levels.image_size))


def epochs(seed: int, kept: int, count: int = 3) -> Iterator[Tensor]:
    stream = generator(seed, "order")
    return (torch.randperm(COUNT, generator=stream)[:kept] for _ in range(count))


@pytest.mark.parametrize("kept", [COUNT, 8])
def test_an_iterator_of_orders_is_calls_one_after_the_other(kept: int) -> None:
    meters = [Meter(torch.device("cpu")) for _ in range(2)]
    one, other = shots_of(0, meters[0]), shots_of(3, meters[1])
    stream = generator(1, "augment")
    expected = [
        batch
        for order in epochs(1, kept)
        for batch in one.batches(4, order=order, augment=AUGMENT, rng=stream, labels=True)
    ]
    again = generator(1, "augment")
    found = list(other.batches(4, order=epochs(1, kept), augment=AUGMENT, rng=again, labels=True))
    assert len(found) == len(expected) == 3 * -(-kept // 4)
    for (pixels, labels), (wanted, named) in zip(found, expected, strict=True):
        assert torch.equal(pixels, wanted)
        assert torch.equal(labels, named)
    assert meters[0].images_seen == meters[1].images_seen == 3 * kept
    assert torch.equal(stream.get_state(), again.get_state())


def test_a_pass_begins_while_the_one_before_is_in_use_and_counts_once_used() -> None:
    meter, taken = Meter(torch.device("cpu")), []

    def orders() -> Iterator[Tensor]:
        for number, order in enumerate(epochs(1, 4, 5)):
            taken.append(number)
            yield order

    batches = shots_of(3, meter).batches(
        2, order=orders(), augment=AUGMENT, rng=generator(1, "augment")
    )
    next(batches)
    assert taken == [0, 1]
    assert meter.images_seen == 4
    next(batches)
    next(batches)
    assert meter.images_seen == 8


def test_errors_come_in_their_place() -> None:
    files = FILES | {"7.png": FILES["7.png"][:60]}
    source = source_of(tiny(), 3, files)
    batches = source.batches(3, range(COUNT), AUGMENT, [1])
    assert [len(next(batches)) for _ in range(2)] == [3, 3]
    with pytest.raises(DataMissingError, match=r"'7\.png' does not decode"):
        next(batches)

    def broken() -> Iterator[Tensor]:
        yield torch.arange(4)
        raise ZeroDivisionError

    view = shots_of(3, Meter(torch.device("cpu")))
    passes = view.batches(2, order=broken(), augment=AUGMENT, rng=generator(1, "augment"))
    assert [len(next(passes)) for _ in range(2)] == [2, 2]
    with pytest.raises(ZeroDivisionError):
        next(passes)


def test_closing_early_leaves_nothing_running() -> None:
    busy, most, go = [0], [0], threading.Event()

    class Slow(Memory):
        def read(self, item: Item) -> bytes:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
            go.wait(0.02)
            try:
                return super().read(item)
            finally:
                busy[0] -= 1

    dataset = Slow(FILES)
    source = ImageSource.of(dataset, dataset.items()["train"], tiny(), threads=1, depth=3)
    batches: Any = source.batches(2, range(COUNT), AUGMENT, [1])
    next(batches)
    batches.close()
    assert (busy[0], most[0] > 0) == (0, True)


def test_late_batches_are_counted() -> None:
    gate, tally = threading.Event(), ImageCost()
    held = Ahead([lambda: gate.wait(10), lambda: True], depth=2)
    threading.Timer(0.05, gate.set).start()
    assert (next(held), held.late) == (True, True)
    held._pending[0].result()
    assert (next(held), held.late) == (True, False)
    for _ in source_of(tiny(), 0).batches(5, range(COUNT), AUGMENT, [1], tally):
        pass
    facts = tally.to_dict()
    assert (facts["batches"], facts["late"]) == (3, 3)
