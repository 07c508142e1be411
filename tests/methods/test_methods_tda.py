"""TDA against its mathematics: a stream, its caches, and the unit of the entropy."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.tda import Tda, TdaClassifier, TdaStream
from torch import Tensor

from fewshot_bench import UsageError
from fewshot_bench.api.method_card import FitSetting
from tests.reference import tda as reference

SCALE, CLASSES, WIDTH = 100.0, 15, 48


def draw(count: int = 120) -> tuple[Tensor, Tensor]:
    """Unit features (count, WIDTH) of a stream, and of classes, some of which are much alike."""
    rng = torch.Generator().manual_seed(3)
    text = F.normalize(torch.randn(CLASSES, WIDTH, generator=rng), dim=-1)
    own = text[torch.randint(CLASSES, (count,), generator=rng)]
    stream = 0.35 * own + 0.16 * torch.randn(count, WIDTH, generator=rng)
    return F.normalize(stream, dim=-1), F.normalize(text + 3 * text.roll(1, 1)[:1], dim=-1)


def classifier(text: Tensor, **options: Any) -> TdaClassifier:
    backbone: Any = SimpleNamespace(logit_scale=SCALE)
    return TdaClassifier(text, backbone, Tda(**options))


def images(features: Tensor) -> Any:
    """Queries of which only the features are asked."""
    return SimpleNamespace(features=features)


def ask(stream: TdaStream, features: Tensor, size: int = 1000) -> Tensor:
    return torch.cat([stream.answer(images(part)) for part in features.split(size)])


@pytest.mark.parametrize("options", [{}, {"alpha": 4.0, "beta": 8.0}])
@pytest.mark.parametrize("unit", ["nats", "bits"])
def test_a_stream_equals_plain_lists(options: dict[str, float], unit: Any) -> None:
    stream, text = draw()
    ours = ask(classifier(text, unit=unit, **options).start(), stream)
    expected = reference.logits(stream, text, SCALE, in_nats=unit == "nats", **options)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    added = ours - SCALE * stream @ text.T
    assert (added > 0.1).sum() > len(stream) / 2
    assert (added < -0.1).sum() > len(stream)


def test_the_unit_of_the_entropy_decides_who_is_uncertain() -> None:
    stream, text = draw()
    nats, bits = (
        reference.logits(stream, text, SCALE, in_nats=in_nats) for in_nats in (True, False)
    )
    assert ((nats - bits).abs().amax(1) > 0.1).any()
    # The window of nats ends where the entropy is 72 % of the largest.
    assert round(0.5 * math.log2(CLASSES) / math.log(CLASSES), 2) == 0.72


def test_the_first_answer_uses_its_own_query_alone() -> None:
    stream, text = draw()
    for query in stream[:40]:
        answer = ask(classifier(text, negative_alpha=0.0).start(), query[None])[0]
        plain = SCALE * query @ text.T
        expected = plain + 2.0 * F.one_hot(plain.argmax(), CLASSES)
        torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_prefix_is_unchanged_by_its_tail_whatever_the_parts(size: int) -> None:
    stream, text = draw()
    made = classifier(text)
    whole = ask(made.start(), stream)
    assert torch.equal(ask(made.start(), stream, size), whole)
    other = torch.cat([stream[:60], stream[60:].flip(0)])
    assert torch.equal(ask(made.start(), other, size)[:60], whole[:60])
    assert not torch.equal(ask(made.start(), stream.flip(0)).flip(0), whole)
    # Nothing is left in the classifier.
    assert torch.equal(ask(made.start(), stream), whole)


def test_permuted_classes_permute_answers() -> None:
    stream, text = draw()
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(1))
    whole, permuted = (ask(classifier(t).start(), stream) for t in (text, text[order]))
    torch.testing.assert_close(permuted, whole[:, order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes_one_query_and_equal_queries(classes: int) -> None:
    stream, text = draw()
    made = classifier(text[:classes])
    assert ask(made.start(), stream[:1]).shape == (1, classes)
    assert made.start().answer(images(stream[:0])).shape == (0, classes)
    equal = ask(made.start(), stream[:1].expand(30, -1))
    expected = reference.logits(stream[:1].expand(30, -1), text[:classes], SCALE)
    torch.testing.assert_close(equal, expected, atol=1e-4, rtol=0)


def test_state_grows_with_the_classes_alone() -> None:
    stream, _ = draw()

    def values(count: int) -> tuple[int, int]:
        rng = torch.Generator().manual_seed(count)
        many = F.normalize(torch.randn(count, WIDTH, generator=rng), dim=-1)
        made = classifier(many).start()
        ask(made, stream)
        held = [*vars(made._positive).values(), *vars(made._negative).values()]
        return sum(one.numel() for one in held), sum(len(one) == count for one in held)

    sizes = {count: values(count) for count in (100, 1000)}
    assert sizes[1000][0] == 10 * sizes[100][0]
    assert sizes[1000][1] == 6
    assert sizes[1000][0] / 1000 < 5 * (WIDTH + 36)


def test_several_features_of_a_class_count_by_the_closest() -> None:
    stream, text = draw()
    texts = torch.stack([text, text.roll(1, 0)], dim=1)
    answer = ask(classifier(texts, alpha=0.0, negative_alpha=0.0).start(), stream)
    expected = SCALE * (stream @ texts.flatten(0, 1).T).view(len(stream), CLASSES, 2).amax(-1)
    torch.testing.assert_close(answer, expected, atol=1e-4, rtol=0)


def test_authors_values_by_data_set() -> None:
    card = Tda.card
    for name, pair in {
        "imagenet": None,
        "imagenet-a": None,
        "caltech101": (5.0, 5.0),
        "dtd": (2.0, 3.0),
        "eurosat": (4.0, 8.0),
        "fgvc_aircraft": (2.0, 2.0),
        "food101": (1.0, 1.0),
        "oxford_flowers": (1.0, 5.0),
        "oxford_pets": (2.0, 7.0),
        "stanford_cars": (1.0, 7.0),
        "sun397": (2.0, 3.0),
        "ucf101": (3.0, 8.0),
        "imagenet-r": (1.0, 8.0),
        "imagenet-v2": (1.0, 8.0),
        "imagenet-sketch": (2.363, 7.45),
    }.items():
        found = replace(Tda(), **card.published_in(FitSetting(name, 16, False)))
        assert (found.alpha, found.beta) == (pair or (2.0, 5.0)), name


def test_wrong_options_are_named() -> None:
    with pytest.raises(UsageError, match=r"upper=0\.1"):
        Tda(upper=0.1)
    with pytest.raises(UsageError, match="mask=1"):
        Tda(mask=1.0)
