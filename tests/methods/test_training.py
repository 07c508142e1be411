"""`fewshot_bench.training` for third parties: the methods shown in the docs, and the exports."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from fsbench_methods.clip_adapter import ClipAdapter

from fewshot_bench import UsageError, backbones, training
from fewshot_bench.api.registry import registry
from fewshot_bench.training import provisional
from fewshot_bench.training.train_step import TrainStep
from tests.reference.toy import random_backbone
from tests.support.helpers import REPOSITORY

PAGE, TOWERS, ADAPTERS = (
    (REPOSITORY / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("train-a-method", "change-the-towers", "adapters-and-views")
)


@pytest.mark.parametrize(
    ("example", "name", "lines"),
    [
        ("training", "ClassVectors", 60),
        ("prompts", "ApartPrompts", 60),
        ("vpt", "DeepTokens", 60),
        ("lora", "HalfLora", 60),
        ("views", "TwoViews", 60),
    ],
)
def test_the_methods_shown_are_short_and_refuse_what_cannot_be_trained(
    example: str, name: str, lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = f"<!-- example: {example} -->\n```python\n"
    source = (PAGE + TOWERS + ADAPTERS).split(marked)[1].split("```\n")[0]
    assert len(source.splitlines()) <= lines
    (tmp_path / f"fsbench_from_the_page_{example}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    method = getattr(importlib.import_module(f"fsbench_from_the_page_{example}"), name)
    with pytest.raises(UsageError, match=r"lr=0: expected a finite number above 0"):
        method(lr=0)


@pytest.mark.parametrize("field", ["lr", "weight_decay"])
def test_numbers_beyond_float32_are_refused(field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field}=1e\+300: expected .* 0, at most 3e\+37 "):
        ClipAdapter(**{field: 1e300})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["taskres", "tip-adapter-f"])
def test_the_largest_learning_rate_is_one_that_adam_takes(name: str) -> None:
    weights = torch.nn.Parameter(torch.ones(2))
    weights.grad = torch.ones(2)
    torch.optim.Adam([weights], lr=3e37, foreach=False).step()
    assert weights.isfinite().all()
    with pytest.raises(UsageError, match=r"lr=1e\+38: expected .* at most 3e\+37 "):
        registry().method_class(name)(lr=1e38)


def test_every_name_is_documented() -> None:
    for module in (training, provisional):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert len(value.__doc__ or "") > 20, name


def test_edits_are_documented() -> None:
    for part in (
        backbones.Edits,
        backbones.Tokens,
        backbones.Prefix,
        backbones.Scale,
        backbones.Scores,
    ):
        about = TOWERS.split(f"`{part.__name__}(")[1].split(")`")[0]
        assert about.split(", ") == [field.name for field in dataclasses.fields(part)]
        described = f"{part.__doc__} {TOWERS}"
        assert all(re.search(rf"\b{name}\b", described) for name in about.split(", "))


def test_a_schedule_is_that_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, eta_min=0.1)
    for step in range(7):
        assert training.cosine(0.5, step, 7, 0.1) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_a_choice_that_is_none_is_refused() -> None:
    @dataclass(frozen=True)
    class Chosen:
        name: ClassVar[str] = "chosen"
        mode: Literal["a", "b"] = "a"

    training.require_choices(Chosen())
    with pytest.raises(UsageError, match="chosen: mode='c': expected one of a, b"):
        training.require_choices(Chosen(mode="c"))  # type: ignore[arg-type]


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 50.0])
def test_gradients_are_clipped_to_their_total_norm_as_in_torch(max_norm: float) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.ones(size)) for size in (3, 2)] for _ in range(2))
    optimizers = [torch.optim.SGD(one, lr=1.0) for one in (ours, theirs)]
    factor = torch.tensor([3.0, 4.0])

    def add_gradients(scale: provisional.Scale) -> None:
        torch.autograd.backward(scale((factor * ours[1]).sum() + ours[0].sum()))

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    TrainStep(add_gradients, optimizers[0], scaler, max_norm)()
    torch.autograd.backward((factor * theirs[1]).sum() + theirs[0].sum())
    if max_norm:
        torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    optimizers[1].step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def test_momentum_is_zero_where_the_first_step_overflowed() -> None:
    weight = torch.nn.Parameter(torch.ones(1000))
    optimizer = training.momentum_sgd([weight], lr=0.5, momentum=0.9, fused=True)
    assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.zeros(1000))
    weight.grad = torch.full_like(weight, float("inf"))
    optimizer.found_inf, optimizer.grad_scale = torch.ones(1), torch.ones(1)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, torch.ones(1000))
    weight.grad = torch.ones(1000)
    optimizer.found_inf = torch.zeros(1)  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(weight, torch.full((1000,), 0.5))


def test_names_of_the_towers_tensors_are_listed() -> None:
    backbone = random_backbone()
    for tower in (backbone.image_tower(), backbone.text_tower()):
        for name in tower.parameters():
            kind = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]
            if not name.startswith("blocks.") or name.startswith("blocks.0."):
                assert re.search(rf"\b{kind.replace('_bias', '_weight')}\b", TOWERS), name


def test_the_fields_of_base_classes_are_listed() -> None:
    for base in (training.EpochLearner, training.StepLearner):
        (row,) = [line for line in TOWERS.splitlines() if line.startswith(f"| `{base.__name__}`")]
        for field in dataclasses.fields(base):
            assert f"`{field.name}={field.default}`" in row
