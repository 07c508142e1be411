"""Constants of papers and official code, of which whole fits show too little."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from fsbench_methods import gda, head_search, logistic, proker, zs_lp
from fsbench_methods.adalora import AdaLora, Allocation, Stack
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.dora import Dora
from fsbench_methods.full_ft import FullFineTuning
from fsbench_methods.mma import Mma
from fsbench_methods.mmrl import Mmrl
from fsbench_methods.two_stage import TwoStage

from fewshot_bench import Augment
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import Site
from fewshot_bench.training.provisional import EncoderLearner
from tests.reference.toy import CPU, MemoryShots, context, random_backbone, random_task

BACKBONE = random_backbone()
TASK = random_task(BACKBONE, shots=1, val=0)


def test_heads_of_cross_modal_have_its_settings_and_rates() -> None:
    assert head_search.LRS == (1e-3, 1e-4)
    assert head_search.DECAYS == (0.0, 0.01, 1e-4)
    assert head_search.SIZES == (8, 32)
    rates = [head_search.rate(step, 1e-3, 12800) for step in (0, 1, 25, 50, 6450)]
    assert rates == pytest.approx([1e-5, 2e-5, 5e-4, 1e-3, 5e-4])


def test_searches_of_a_constant_have_the_official_grids() -> None:
    assert gda.ALPHAS == (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100)
    assert logistic.GRID == (6, 4, 2, 0, -2, -4, -6)


def test_encoders_are_trained_on_the_crops_of_each_code() -> None:
    learners = {
        name: found
        for name in registry().methods.names()
        if issubclass(found := registry().method_class(name), EncoderLearner)
    }
    own = {
        "full-ft": Augment(scale=(0.9, 1.0), flip=0.0),
        "mmrl": Augment(scale=(0.5, 1.0)),
    }
    assert own.keys() < learners.keys()
    for name, learner in learners.items():
        assert learner.augment == own.get(name, Augment()), name
    assert [name for name, learner in learners.items() if learner.max_norm] == ["full-ft"]
    assert FullFineTuning.max_norm == 1.0


@pytest.mark.parametrize("encoder", ["both", "text"])
def test_low_rank_updates_are_trained_on_the_crops_of_clip_lora(
    encoder: Literal["both", "text"], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for kind in ("batches", "views"):
        plain = getattr(MemoryShots, kind)

        def noted(shots: MemoryShots, *args: Any, plain: Any = plain, **named: Any) -> Any:
            asked.extend(one for one in (*args, *named.values()) if isinstance(one, Augment))
            return plain(shots, *args, **named)

        monkeypatch.setattr(MemoryShots, kind, noted)
    ClipLora(encoder=encoder, iterations=1).fit(TASK, BACKBONE, context())
    assert asked == [Augment()]


def test_probes_of_clap_have_a_first_epoch_at_the_rate_of_dassl() -> None:
    assert (zs_lp.MOMENTUM, zs_lp.WARMUP_LR) == (0.9, 1e-5)


def test_proker_has_the_official_grid_and_the_constants_of_imagenet() -> None:
    assert proker.BETAS[::19] == (0.5, 3.0)
    assert len(proker.BETAS) == 20
    assert proker.PENALTIES[::9] == pytest.approx((0.001, 1.0))
    assert len(proker.PENALTIES) == 10
    found = {1: (3.0, 0.05), 2: (2.6, 0.05), 4: (1.5, 0.05), 8: (1.66, 0.07), 16: (1.7, 0.1)}
    assert found == proker.TRANSFERRED


def test_both_stages_of_2sfs_end_their_cosine_at_eta_min() -> None:
    method = TwoStage()
    assert [method.first(total) for total in (2, 3, 300, 4800)] == [1, 1, 180, 2880]
    for last, steps in ((179, 180), (299, 120)):
        end = 1e-6 + (2e-4 - 1e-6) * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2
        assert method.rate(last, 10, 300) == pytest.approx(end, rel=1e-9)
    assert method.rate(0, 10, 300) == method.rate(180, 10, 300) == 2e-4


def test_full_fine_tuning_warms_up_for_a_tenth_of_the_steps_at_most() -> None:
    method = FullFineTuning()
    for total, rising in ((100, 10), (10_000, 500), (9, 0)):
        rates = [method.rate(step, 10, total) for step in range(total)]
        assert rates[:rising] == pytest.approx(
            [3e-5 * (step + 1) / rising for step in range(rising)]
        )
        falling = total - rising
        cosine = [3e-5 * (1 + math.cos(math.pi * step / falling)) / 2 for step in range(falling)]
        assert rates[rising:] == pytest.approx(cosine)


def test_adapters_of_mma_start_with_variance_two_over_outputs() -> None:
    found = Mma(adapter_width=8).initial(TASK, BACKBONE, context())
    outputs = {"text.down": 8, "shared": 8, "text.up": 32, "vision.up": 32}
    for name, count in outputs.items():
        assert float(found[f"{name}.weight"].std()) == pytest.approx((2 / count) ** 0.5, rel=0.15)
        assert not found[f"{name}.bias"].any()


def test_the_second_projection_of_mmrl_starts_like_that_of_clip() -> None:
    found = Mmrl().initial(TASK, BACKBONE, context())
    assert float(found["projection"].std()) == pytest.approx(32**-0.5, rel=0.1)
    assert float(found["tokens"].std()) == pytest.approx(0.02, rel=0.1)


def test_adalora_starts_and_smooths_as_published() -> None:
    method = AdaLora()
    model = method.model(TASK, BACKBONE, context())
    stacks = method.stacks(method.adapter(model, CPU, context()), context())
    drawn = torch.cat([one.flatten() for stack in stacks for one in (stack.q, stack.p)])
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.05)
    ones = [torch.ones(size) for size in ((1, 1, 4), (1, 4, 1), (1, 1))]
    stack = Stack((Site("text", 0, "q"),), *ones)
    allocation = Allocation([stack], 10, 1, 1, 1)
    allocation.observe(ones, torch.ones(()))
    # Importance 0.15 and uncertainty 0.15 * 0.85, of E, Q and P alike.
    assert float(allocation.scores()) == pytest.approx(3 * 0.15 * 0.15 * 0.85)


def test_dora_and_adalora_end_their_cosine_at_a_millionth() -> None:
    for method in (Dora, AdaLora):
        assert method().schedule(10).last == 1e-6
        assert method(lr=1e-7).schedule(10).last == 1e-7
