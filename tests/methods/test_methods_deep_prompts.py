"""IVLP and MaPLe against their mathematics: one step, a whole fit, first values, parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from fsbench_methods.ivlp import Ivlp
from fsbench_methods.maple import MaPLe

from fewshot_bench.utils.errors import UsageError
from tests.reference import deep_prompts as plain
from tests.reference.toy import context, random_backbone, random_task
from tests.support.encoder_fits import TOLERANCE, assert_same_fit, assert_same_step, dassl_rates

CASES = [
    (Ivlp(), plain.ivlp_loss),
    (Ivlp(text_tokens=2, vision_tokens=3, depth=2), plain.ivlp_loss),
    (Ivlp(depth=1), plain.ivlp_loss),
    (MaPLe(), plain.maple_loss),
    (MaPLe(tokens=3, depth=2), plain.maple_loss),
]


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.parametrize("parts", [1, 6])
@pytest.mark.parametrize(("method", "loss"), CASES)
def test_a_step_equals_the_reference(backbone: Any, method: Any, loss: Any, parts: int) -> None:
    # Rows mapped into both encoders: 1.05e-5 on processors with other kernels.
    tolerance = 3e-5 if isinstance(method, MaPLe) else TOLERANCE
    assert_same_step(method, random_task(backbone), backbone, loss, parts, tolerance)


@pytest.mark.parametrize(
    ("method", "loss", "answers"),
    [
        (Ivlp(epochs=3, lr=0.02), plain.ivlp_loss, plain.ivlp_answers),
        (MaPLe(epochs=3, lr=0.02), plain.maple_loss, plain.maple_answers),
    ],
)
def test_a_fit_equals_the_reference(backbone: Any, method: Any, loss: Any, answers: Any) -> None:
    task = random_task(backbone)
    sgd = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)
    rates = dassl_rates(3, len(task.train) // 4, 0.02)
    assert_same_fit(method, task, backbone, loss, answers, sgd, rates)


def test_rows_start_at_the_words_and_maps_but_the_first_are_identical(backbone: Any) -> None:
    task, module = random_task(backbone), backbone.module
    words = module.token_embedding(backbone.tokenize([plain.WORDS]))[0, 1:5]
    independent = Ivlp().initial(task, backbone, context())
    assert torch.equal(independent["text"][0], words)
    assert independent["text"][1:].std() == pytest.approx(0.02, rel=0.2)
    assert independent["vision"].std() == pytest.approx(0.02, rel=0.2)
    coupled = MaPLe().initial(task, backbone, context())
    assert torch.equal(coupled["rows"][0], words[:2])
    for name in ("weight", "bias"):
        first, second, third = coupled[name]
        assert not torch.equal(first, second)
        assert torch.equal(second, third)
        assert first.abs().max() < 48**-0.5
        assert first.std() == pytest.approx((48 * 3) ** -0.5, rel=0.3)


def test_words_of_several_tokens_are_an_error(backbone: Any) -> None:
    method = Ivlp(context_init="supercalifragilisticexpialidocious photo of a")
    with pytest.raises(UsageError, match=r"context_init=.*: expected 4 words of one token each"):
        method.initial(random_task(backbone), backbone, context())


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [(Ivlp, {"context_init": "a photo of"}, 4), (MaPLe, {"tokens": 8}, 8)],
)
def test_too_few_words_are_an_error_before_a_run(
    kind: Any, options: dict[str, Any], expected: int
) -> None:
    with pytest.raises(UsageError, match=rf"context_init=.*: expected {expected} words of one"):
        kind(**options)


def test_without_words_rows_are_random(backbone: Any) -> None:
    found = Ivlp(context_init="").initial(random_task(backbone), backbone, context())
    assert found["text"][0].std() == pytest.approx(0.02, rel=0.3)
