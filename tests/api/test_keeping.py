"""Classifiers restored from their tensors: fields filled by name, and rejected classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fewshot_bench import Backbone, Classifier, Images, RunContext, Task, Vocabulary
from fewshot_bench.api.keeping import class_named, name_of_class, restore
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.training import LinearClassifier
from fewshot_bench.utils.errors import ContractError, NotApplicableError

VOCABULARY = Vocabulary(("red", "blue"), ("a photo of a {}.",))


@dataclass(frozen=True)
class Answer:
    weight: Tensor
    sharpness: float
    ratio: float
    class_features: Tensor
    logit_scale: float
    vocabulary: Vocabulary
    bias: Tensor | None = None

    def logits(self, queries: Images) -> Tensor:
        return queries.features @ self.weight.T

    def tensors(self) -> Mapping[str, Tensor]:
        return {}


@dataclass(frozen=True)
class Named:
    name: ClassVar[str] = "named"
    ratio: float = 0.25

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Answer:
        raise NotImplementedError


def test_fields_are_filled_by_name() -> None:
    backbone, weight = toy_backbone(), torch.ones(2, 3)
    sharpness = torch.tensor(0.1, dtype=torch.float64)
    found: Any = restore(
        Named(0.5), {"weight": weight, "sharpness": sharpness}, VOCABULARY, backbone
    )
    assert torch.equal(found.weight, weight)
    assert (found.sharpness, found.ratio, found.bias) == (0.1, 0.5, None)
    assert torch.equal(found.class_features, backbone.class_features(VOCABULARY))
    assert found.logit_scale == backbone.logit_scale
    assert found.vocabulary == VOCABULARY


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"weight": torch.ones(2)}, "Answer.sharpness is neither among tensors"),
        ({"weight": torch.ones(2), "extra": torch.ones(1)}, "tensors.. holds extra"),
    ],
)
def test_what_does_not_fit_is_named(tensors: dict[str, Tensor], complaint: str) -> None:
    with pytest.raises(ContractError, match=complaint) as raised:
        restore(Named(), tensors, VOCABULARY, toy_backbone())
    assert "give Named a method restore(tensors, vocabulary, backbone)" in str(raised.value)


def test_a_fit_that_names_no_class_asks_for_restore() -> None:
    @dataclass(frozen=True)
    class Vague:
        name: ClassVar[str] = "vague"

        def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Classifier:
            raise NotImplementedError

    with pytest.raises(ContractError, match="does not name a dataclass"):
        restore(Vague(), {}, VOCABULARY, toy_backbone())


def test_a_method_says_why_it_cannot_be_kept() -> None:
    @dataclass(frozen=True)
    class Lazy:
        name: ClassVar[str] = "lazy"
        cannot_be_kept: ClassVar[str] = "it holds a million neighbours"

    with pytest.raises(NotApplicableError, match="a million neighbours"):
        restore(Lazy(), {}, VOCABULARY, toy_backbone())


def test_classes_of_other_packages_are_not_imported() -> None:
    name = name_of_class(Answer(torch.ones(1), 1.0, 1.0, torch.ones(1), 1.0, VOCABULARY))
    assert class_named(name, Named()) is Answer
    for other in ("antigravity:Answer", "subprocess:Popen", "", ":", "tests.api:nobody", "tests:"):
        assert class_named(other, Named()) is None
    assert "antigravity" not in sys.modules


def test_the_shared_classifier_is_found_and_nothing_through_its_module() -> None:
    """`fit` of a method in a file, without an annotation, may return it."""
    name = name_of_class(LinearClassifier(torch.ones(2, 2)))
    assert class_named(name, Named()) is LinearClassifier
    module = name.partition(":")[0]
    for other in (f"{module}:Tensor", f"{module}s:LinearClassifier", "fewshot_bench.cli.main:cli"):
        assert class_named(other, Named()) is None
