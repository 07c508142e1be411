"""Each check of the conformance kit is proved by a method that breaks exactly its rule."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task, hyper
from fewshot_bench.errors import UsageError
from fewshot_bench.testing import (
    CheckFailure,
    all_checks,
    check_method,
    parametrize_with_checks,
    run_checks,
)


@dataclass
class Linear:
    """Unit features times one weight row per class, plus a bias."""

    weight: Tensor
    bias: Tensor
    scale: float

    def logits(self, queries: Images) -> Tensor:
        return self.scale * queries.features @ F.normalize(self.weight, dim=-1).T + self.bias

    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}


@dataclass(frozen=True)
class Head:
    """A well-behaved method: trains a linear head that starts at the text features."""

    name: ClassVar[str] = "head"
    rate: float = hyper(1e-3, "learning rate of AdamW")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        weight = backbone.class_features(task).clone().requires_grad_()
        bias = torch.zeros(len(task.classnames), device=backbone.device, requires_grad=True)
        features, labels = task.train.features, task.train.labels
        optimizer = torch.optim.AdamW([weight, bias], lr=self.rate)
        rng = ctx.rng("batches")
        for _ in range(10):
            picks = torch.randperm(len(labels), generator=rng)[:8].to(backbone.device)
            head = Linear(weight, bias, backbone.logit_scale)
            scores = head.scale * features[picks] @ F.normalize(weight, dim=-1).T + bias
            optimizer.zero_grad()
            F.cross_entropy(scores, labels[picks]).backward()
            optimizer.step()
        return Linear(weight.detach(), bias.detach(), backbone.logit_scale)


BREAKERS: dict[str, tuple[str, type]] = {}


def breaks(check: str) -> Callable[[type], type]:
    """Register a class as the one that breaks a check."""

    def register(kind: type) -> type:
        BREAKERS[kind.__name__] = (check, kind)
        return kind

    return register


@breaks("check_hyperparameters_are_typed_fields")
@dataclass(frozen=True)
class Untyped(Head):
    momentum = 0.9


@breaks("check_hyperparameters_are_typed_fields")
@dataclass(frozen=True)
class NotParsable(Head):
    rates: tuple[float, ...] = (0.1, 0.2)


@breaks("check_name_is_a_class_variable")
@dataclass(frozen=True)
class BadName(Head):
    name: ClassVar[str] = "My Head"


@dataclass
class ListClassifier(Linear):
    def tensors(self) -> Any:
        return Several(super().tensors())


class Several(dict):  # type: ignore[type-arg]
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__({0: tensors["weight"], 1: tensors["bias"]})


def rebuilt(kind: type, *extra: str) -> Callable[..., Any]:
    """A fit that returns the head's parts in another classifier."""

    def fit(self: Any, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        head = Head.fit(self, task, backbone, ctx)
        return kind(head.weight, head.bias, head.scale)

    return fit


@breaks("check_fit_returns_a_classifier")
@dataclass(frozen=True)
class UnnamedTensors(Head):
    fit = rebuilt(ListClassifier)


@dataclass
class HalfPrecision(Linear):
    def logits(self, queries: Images) -> Tensor:
        return (1000 * super().logits(queries)).round().long()


@breaks("check_logits_are_one_finite_row_per_query")
@dataclass(frozen=True)
class IntegerLogits(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        kind = (
            HalfPrecision if task.shots == 4 and len(task.classnames) == 4 and task.val else Linear
        )
        return rebuilt(kind)(self, task, backbone, ctx)


@dataclass
class Centered(Linear):
    def logits(self, queries: Images) -> Tensor:
        scores = super().logits(queries)
        return scores - 0.1 * scores.mean(dim=0)


@breaks("check_logits_do_not_depend_on_the_batch")
@dataclass(frozen=True)
class BatchDependent(Head):
    fit = rebuilt(Centered)


@dataclass
class Attached(Linear):
    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight.requires_grad_(), "bias": self.bias}


@breaks("check_tensors_are_detached_and_finite")
@dataclass(frozen=True)
class AttachedTensors(Head):
    fit = rebuilt(Attached)


@dataclass
class Copies(Linear):
    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight.clone(), "bias": self.bias.clone()}


@breaks("check_logits_come_from_the_stored_tensors")
@dataclass(frozen=True)
class StoresCopies(Head):
    fit = rebuilt(Copies)


@dataclass
class Forgetful(Linear):
    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight}


@breaks("check_trained_parameters_are_stored")
@dataclass(frozen=True)
class ForgetsBias(Head):
    fit = rebuilt(Forgetful)


@breaks("check_training_moves_parameters")
@dataclass(frozen=True)
class NoStep(Head):
    trains: ClassVar[bool] = True

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        weight = backbone.class_features(task)
        return Linear(weight, weight.new_zeros(len(weight)), backbone.logit_scale)


@breaks("check_training_moves_parameters")
@dataclass(frozen=True)
class ZeroRate(Head):
    rate: float = 0.0


@breaks("check_training_moves_parameters")
@dataclass(frozen=True)
class DeniesTraining(Head):
    trains: ClassVar[bool] = False


@breaks("check_permuted_classes_permute_predictions")
@dataclass(frozen=True)
class AssumesClassOrder(Head):
    """Takes it that class 0 is the first class of the images."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        count = len(task.classnames)
        groups = task.train.features.reshape(count, -1, backbone.embed_dim)
        weight = F.normalize(groups.mean(dim=1), dim=-1)
        return Linear(weight, weight.new_zeros(count), backbone.logit_scale)


@breaks("check_permuted_classes_permute_predictions")
@dataclass(frozen=True)
class FavorsFirst(Head):
    """Training-free, and adds a little to the first class."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        head = NoStep.fit(self, task, backbone, ctx)  # type: ignore[arg-type]
        head.bias[0] += 0.05
        return head


@breaks("check_learns_a_separable_task")
@dataclass(frozen=True)
class UpsideDown(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        weight = -backbone.class_features(task)
        return Linear(weight, weight.new_zeros(len(weight)), backbone.logit_scale)


@breaks("check_one_shot_is_enough")
@dataclass(frozen=True)
class NeedsPairs(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        if len(task.train) < 2 * len(task.classnames):
            raise ValueError("need two images per class")
        return super().fit(task, backbone, ctx)


@breaks("check_needs_no_validation")
@dataclass(frozen=True)
class NeedsValidation(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        assert len(task.val) >= 1  # type: ignore[arg-type]
        return super().fit(task, backbone, ctx)


@breaks("check_one_and_two_classes_work")
@dataclass(frozen=True)
class NeedsThreeClasses(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        if len(task.classnames) < 3:
            raise ValueError("too few classes")
        return super().fit(task, backbone, ctx)


@breaks("check_backbone_is_left_as_found")
@dataclass(frozen=True)
class Thaws(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        backbone.module.requires_grad_(True)
        return super().fit(task, backbone, ctx)


@dataclass
class Hooks(Linear):
    backbone: Any = None

    def logits(self, queries: Images) -> Tensor:
        self.backbone.module.register_forward_hook(lambda *_: None)
        return super().logits(queries)


@breaks("check_backbone_is_left_as_found")
@dataclass(frozen=True)
class HooksAtPrediction(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        head = super().fit(task, backbone, ctx)
        return Hooks(head.weight, head.bias, head.scale, backbone)


def noisy(head: Linear, amount: float) -> Linear:
    """The head with a little added to every logit."""
    head.bias += 1e-4 * amount
    return head


@breaks("check_same_seed_gives_the_same_logits")
@dataclass(frozen=True)
class SaltedInstance(Head):
    @functools.cached_property
    def _salt(self) -> float:
        return int.from_bytes(os.urandom(4), "big") / 2**32

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        return noisy(super().fit(task, backbone, ctx), self._salt)


@breaks("check_fit_is_repeatable")
@dataclass(frozen=True)
class CountsFits(Head):
    @functools.cached_property
    def _fits(self) -> list[None]:
        return []

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        self._fits.append(None)
        return noisy(super().fit(task, backbone, ctx), min(len(self._fits) - 1, 1))


@dataclass
class Elsewhere(Linear):
    def tensors(self) -> Mapping[str, Tensor]:
        return {**super().tensors(), "cache": torch.zeros(1, device="meta")}


@breaks("check_follows_the_device")
@dataclass(frozen=True)
class LeavesTensorElsewhere(Head):
    fit = rebuilt(Elsewhere)


@breaks("check_prints_nothing")
@dataclass(frozen=True)
class Prints(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        print("epoch 1")
        return super().fit(task, backbone, ctx)


@breaks("check_prints_nothing")
@dataclass(frozen=True)
class WritesBelowPython(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        os.write(2, b"iteration 1\n")
        return super().fit(task, backbone, ctx)


@breaks("check_draws_from_no_global_generator")
@dataclass(frozen=True)
class DrawsGlobally(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        return noisy(super().fit(task, backbone, ctx), random.random() + float(torch.rand(1)))


@breaks("check_leaves_process_state_alone")
@dataclass(frozen=True)
class ChangesProcess(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        os.environ["FSBENCH_TEST_LEFTOVER"] = "1"
        os.chdir(os.sep)
        return super().fit(task, backbone, ctx)


@dataclass
class Peeks(Linear):
    def logits(self, queries: Images) -> Tensor:
        getattr(queries, "labels", None)
        return super().logits(queries)


@breaks("check_asks_only_for_what_is_handed_over")
@dataclass(frozen=True)
class AsksForTestLabels(Head):
    fit = rebuilt(Peeks)


@pytest.mark.parametrize("name", sorted(BREAKERS))
def test_a_breaker_fails_exactly_its_check(name: str) -> None:
    check, kind = BREAKERS[name]
    failed = {r.name: r.reason for r in run_checks(kind()) if r.outcome == "failed"}
    assert set(failed) == {check}, failed
    assert failed[check]


def test_every_check_has_a_breaker() -> None:
    assert {check for check, _ in BREAKERS.values()} == {check.name for check in all_checks()}


def test_every_check_says_its_rule_in_one_sentence() -> None:
    for check in all_checks():
        assert check.rule.endswith("."), check.name


@parametrize_with_checks([Head()])
def test_the_example_passes(method: Any, check: Callable[[Any], None]) -> None:
    check(method)


def test_breakers_leave_no_trace_in_the_process() -> None:
    before = os.getcwd()
    run_checks(ChangesProcess())
    assert os.getcwd() == before
    assert "FSBENCH_TEST_LEFTOVER" not in os.environ


def test_an_expected_failure_is_accepted_with_its_reason() -> None:
    check_method(Prints(), expected_failures={"check_prints_nothing": "a progress line"})


def test_an_expected_failure_that_passes_is_an_error() -> None:
    with pytest.raises(CheckFailure, match=r"passes; remove it from expected_failures"):
        check_method(Head(), expected_failures={"check_prints_nothing": "a progress line"})


def test_the_failures_are_listed_together() -> None:
    with pytest.raises(CheckFailure, match=r"head breaks 1 rules:\n  check_prints_nothing: wrote"):
        check_method(Prints())


def test_an_unknown_expected_failure_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'check_prints_nothing'"):
        check_method(Head(), expected_failures={"check_print_nothing": "typo"})


def test_expected_failures_become_strict_xfails() -> None:
    decorator = parametrize_with_checks(
        [Prints()], expected_failures={"head": {"check_prints_nothing": "a progress line"}}
    )
    marked = [case for case in decorator.args[1] if case.marks]
    assert [case.id for case in marked] == ["head-check_prints_nothing"]
    (mark,) = marked[0].marks
    assert mark.kwargs == {"strict": True, "reason": "a progress line"}
