"""PromptSRC against its mathematics: one step, a whole fit with its sum over epochs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from fsbench_methods.promptsrc import PromptSrc
from fsbench_methods.sixty_templates import SIXTY_TEMPLATES

from fewshot_bench import UsageError
from tests.reference import deep_prompts, promptsrc
from tests.reference.toy import context, random_backbone, random_task
from tests.support.encoder_fits import Learned, assert_same_fit, assert_same_step, dassl_rates

# Few: each step encodes sixty prompts of every class.
NAMES = ("cat", "cat_tree", "U.S.")


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.parametrize("parts", [1, 6])
@pytest.mark.parametrize("weights", [(25.0, 10.0), (0.0, 300.0)])
def test_a_step_equals_the_reference(backbone: Any, weights: Any, parts: int) -> None:
    method = PromptSrc(text_weight=weights[0], image_weight=weights[1])
    plain = partial(promptsrc.loss, weights=weights)
    assert_same_step(method, random_task(backbone, classnames=NAMES), backbone, plain, parts)


def test_a_fit_equals_the_reference(backbone: Any) -> None:
    method = PromptSrc(epochs=4, lr=0.01, gpa_mean=2, gpa_std=1.5)
    task = random_task(backbone, classnames=NAMES, shots=4)
    per_epoch, sums = len(task.train) // 4, {}
    density = torch.distributions.Normal(2.0, 1.5).log_prob(torch.arange(1.0, 5)).exp()

    def after(step: int, learned: Learned) -> None:
        epoch, last = divmod(step + 1, per_epoch)
        if last == 0:
            share = density[epoch - 1] / density.sum()
            for name, one in learned.items():
                sums[name] = sums.get(name, 0) + share * one.detach()
        if epoch == 4:
            learned.update(sums)

    sgd = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)
    rates = dassl_rates(4, per_epoch, 0.01)
    answers = deep_prompts.ivlp_answers
    assert_same_fit(method, task, backbone, promptsrc.loss, answers, sgd, rates, after)


def test_a_narrow_gaussian_keeps_one_epoch(backbone: Any) -> None:
    task, kept = random_task(backbone, classnames=NAMES), {}
    method = PromptSrc(epochs=3, gpa_mean=2, gpa_std=0.01)
    fitted = method.fit(task, backbone, context()).tensors()  # type: ignore[attr-defined]
    learned = {name: one.clone() for name, one in method.initial(task, backbone, context()).items()}
    learned = {name: torch.nn.Parameter(one) for name, one in learned.items()}

    def after(done: int, total: int) -> None:
        if done == 2 * total // 3:
            kept.update({name: one.detach().clone() for name, one in learned.items()})

    method.train(learned, task, backbone, context(), after)
    for name, one in fitted.items():
        assert torch.equal(one, kept[name])


def test_epochs_far_from_the_mean_have_weights_too() -> None:
    weights = PromptSrc(epochs=3, gpa_mean=1000, gpa_std=1).epoch_weights
    assert sum(weights) == pytest.approx(1)
    assert weights[2] == pytest.approx(1)
    default = PromptSrc().epoch_weights
    assert default[29] == max(default)
    assert default[0] / default[29] == pytest.approx(0.627, abs=1e-3)


def test_a_deviation_whose_weights_overflow_is_refused() -> None:
    assert PromptSrc(epochs=3, gpa_mean=2, gpa_std=1e-100).epoch_weights == [0, 1, 0]
    with pytest.raises(UsageError, match="gpa_std=1e-300: expected at least 1e-100 epochs"):
        PromptSrc(gpa_std=1e-300)


def test_the_templates_are_sixty() -> None:
    assert len(set(SIXTY_TEMPLATES)) == len(SIXTY_TEMPLATES) == 60
    assert all(one.count("{}") == 1 for one in SIXTY_TEMPLATES)
