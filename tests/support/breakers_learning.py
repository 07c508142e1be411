"""Methods that each break exactly one rule of learning or of process hygiene."""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Backbone, Images, MethodCard, RunContext, Task, Vocabulary
from tests.support.breakers import Head, Linear, breaks, rebuilt


@dataclass
class Forgetful(Linear):
    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight}


@breaks("check_trained_parameters_are_stored")
@dataclass(frozen=True)
class ForgetsBias(Head):
    cannot_be_kept: ClassVar[str] = "its bias is not among its tensors"
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


@breaks("check_training_moves_parameters")
@dataclass(frozen=True)
class HasASpareParameter(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        torch.optim.SGD([torch.zeros(3, requires_grad=True)]).step()
        return super().fit(task, backbone, ctx)


@breaks("check_captured_steps_do_the_same")
@dataclass(frozen=True)
class ChangesItsStep(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        weight = backbone.class_features(task).clone().requires_grad_()
        bias, factors = weight.new_zeros(len(weight)), iter(range(1, 100))
        features, labels = task.train.features, task.train.labels

        def loss() -> Tensor:
            scores = features @ F.normalize(weight, dim=-1).T
            return next(factors) * F.cross_entropy(backbone.logit_scale * scores, labels)

        step = ctx.train_step(loss, torch.optim.AdamW([weight], lr=self.rate))
        for _ in range(10):
            step()
        return Linear(weight.detach(), bias, backbone.logit_scale)


@breaks("check_permuted_classes_permute_predictions")
@dataclass(frozen=True)
class AssumesClassOrder(Head):
    """Assumes that support images are sorted by class."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        count = len(task.classnames)
        groups = task.train.features.reshape(count, -1, backbone.embed_dim)
        weight = F.normalize(groups.mean(dim=1), dim=-1)
        return Linear(weight, weight.new_zeros(count), backbone.logit_scale)


@breaks("check_permuted_classes_permute_predictions")
@dataclass(frozen=True)
class FavorsFirst(Head):
    """Training-free; adds a constant to the logits of the first class."""

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


@breaks("check_learns_a_separable_task")
@dataclass(frozen=True)
class Unlearns(Head):
    """Steps uphill: still well above chance, and below the text features that it starts from."""

    rate: float = 0.06

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        weight = backbone.class_features(task).clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=self.rate, maximize=True)
        for _ in range(5):
            optimizer.zero_grad()
            scores = task.train.features @ F.normalize(weight, dim=-1).T
            F.cross_entropy(scores, task.train.labels).backward()
            optimizer.step()
        weight = weight.detach()
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
    """Shift every logit of the head slightly."""
    head.bias += 1e-4 * amount
    return head


SALTS = itertools.count()


@breaks("check_same_seed_gives_the_same_logits")
@dataclass(frozen=True)
class SaltedInstance(Head):
    @functools.cached_property
    def _salt(self) -> float:
        return next(SALTS) % 4

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


@breaks("check_fits_and_predicts_in_bf16")
@dataclass(frozen=True)
class MixesPrecisions(Head):
    """Multiplies float32 by features that were encoded under autocast."""

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        tokens = backbone.tokenize(task.prompts(task.templates[0]))
        with ctx.autocast():
            features = backbone.text_tower().encode_tokens(tokens)
        assert bool((torch.eye(len(features), device=ctx.device) @ features).isfinite().all())
        return super().fit(task, backbone, ctx)


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


@breaks("check_texts_of_classes_move_the_logits")
@dataclass(frozen=True)
class IgnoresTexts(Head):
    card: ClassVar[MethodCard] = MethodCard("none")

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        return super().fit(replace(task, texts=()), backbone, ctx)


@dataclass
class Amnesiac(Linear):
    """Predicts other classes as if nothing had been learned."""

    backbone: Backbone

    def for_classes(self, vocabulary: Vocabulary) -> Amnesiac:
        weight = self.backbone.class_features(vocabulary)
        return Amnesiac(weight, torch.zeros(len(weight)), self.scale, self.backbone)


@breaks("check_other_classes_are_answered_consistently")
@dataclass(frozen=True)
class ForgetsWhatItLearned(Head):
    rate: float = 0.1

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        return Amnesiac(**vars(super().fit(task, backbone, ctx)), backbone=backbone)
