"""Methods that each break exactly one rule of the interface, and the valid method they extend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Backbone, Images, MethodCard, RunContext, Task, hyper


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


ALLOWS = "check_answers_use_what_the_card_allows"
BREAKERS: dict[str, tuple[str, type]] = {}


def breaks(check: str) -> Callable[[type], type]:
    """Register a class as a violation of the given check."""

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
    """A `fit` that returns the head's parameters in another classifier."""

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
        usual = task.shots == 4 and len(task.classnames) == 4 and task.val
        kind = HalfPrecision if usual and ctx.precision == "fp32" else Linear
        return rebuilt(kind)(self, task, backbone, ctx)


@dataclass
class Softmaxed(Linear):
    def logits(self, queries: Images) -> Tensor:
        return super().logits(queries).softmax(dim=-1)


@breaks("check_logits_are_no_probabilities")
@dataclass(frozen=True)
class Probabilities(Head):
    fit = rebuilt(Softmaxed)


@dataclass
class Centered(Linear):
    def logits(self, queries: Images) -> Tensor:
        scores = super().logits(queries)
        return scores - 0.1 * scores.mean(dim=0)


@breaks(ALLOWS)
@dataclass(frozen=True)
class BatchDependent(Head):
    fit = rebuilt(Centered)


@dataclass
class Small(Centered):
    def logits(self, queries: Images) -> Tensor:
        return 1e-4 * super().logits(queries)


@breaks(ALLOWS)
@dataclass(frozen=True)
class BatchDependentBelowOne(Head):
    fit = rebuilt(Small)


@dataclass
class Cropped(Linear):
    def logits(self, queries: Images) -> Tensor:
        views = queries.views(1, Augment(flip=0.0, scale=(0.9, 1.0)))[0]
        return super().logits(queries) + self.scale * views @ F.normalize(self.weight, dim=-1).T


@breaks(ALLOWS)
@dataclass(frozen=True)
class HidesViews(Head):
    fit = rebuilt(Cropped)


@dataclass(frozen=True)
class InBatches(Head):
    """Sees its batch, as it says."""

    card: ClassVar[MethodCard] = MethodCard("ten steps", sees="batch")
    fit = rebuilt(Centered)


@dataclass
class Positioned(Linear):
    def logits(self, queries: Images) -> Tensor:
        scores = super().logits(queries)
        scores[:, 0] += 0.01 * torch.arange(len(scores), device=scores.device)
        return scores


@breaks(ALLOWS)
@dataclass(frozen=True)
class UsesPositions(InBatches):
    fit = rebuilt(Positioned)


@dataclass
class Following(Linear):
    seen: list[Tensor] = field(default_factory=list)

    def logits(self, queries: Images) -> Tensor:
        scores = super().logits(queries)
        before = sum(self.seen[-1:], torch.zeros_like(scores[0]))
        self.seen.append(scores.mean(dim=0))
        return scores - 0.01 * before


@breaks(ALLOWS)
@dataclass(frozen=True)
class UsesTheLastBatch(InBatches):
    fit = rebuilt(Following)


@dataclass
class Demanding(Centered):
    def logits(self, queries: Images) -> Tensor:
        if len(queries) < 4:
            raise ValueError("fewer queries than classes")
        return super().logits(queries)


@breaks(ALLOWS)
@dataclass(frozen=True)
class NeedsSomeQueries(InBatches):
    fit = rebuilt(Demanding)


@dataclass
class Passing:
    """Scores less a part of their running mean; ahead: of the mean of all that come at once."""

    head: Linear
    ahead: bool
    total: Tensor
    count: int = 0

    def answer(self, queries: Images) -> Tensor:
        scores = self.head.logits(queries)
        sums = self.total + scores.cumsum(dim=0)
        counts = self.count + torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
        self.total, self.count = sums[-1], self.count + len(scores)
        return scores - 0.01 * (scores.mean(dim=0) if self.ahead else sums / counts)


@dataclass
class Starts:
    weight: Tensor
    bias: Tensor
    scale: float
    ahead: bool = False

    def start(self) -> Passing:
        head = Linear(self.weight, self.bias, self.scale)
        return Passing(head, self.ahead, torch.zeros_like(self.bias))

    def tensors(self) -> Mapping[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}


@dataclass
class StartsAhead(Starts):
    ahead: bool = True


@dataclass(frozen=True)
class InStreams(Head):
    """Remembers a stream, as it says."""

    card: ClassVar[MethodCard] = MethodCard("ten steps", sees="stream")
    fit = rebuilt(Starts)


@breaks(ALLOWS)
@dataclass(frozen=True)
class LooksAhead(InStreams):
    fit = rebuilt(StartsAhead)


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
class Rounded(Linear):
    digits: int = 9

    def logits(self, queries: Images) -> Tensor:
        return super().logits(queries).mul(10**self.digits).round().div(10**self.digits)


@breaks("check_restored_from_its_tensors_it_answers_alike")
@dataclass(frozen=True)
class ForgetsItsDigits(Head):
    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Any:
        found = Head.fit(self, task, backbone, ctx)
        return Rounded(found.weight, found.bias, found.scale, digits=3)
