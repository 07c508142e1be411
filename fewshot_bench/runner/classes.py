"""Label spaces of a cell: fitted classes, evaluated classes, and the mapping between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.api.method import Classifier, Transferable
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.splits.draw import class_half
from fewshot_bench.utils.errors import NotApplicableError

if TYPE_CHECKING:
    from torch import Tensor

TIED = "its classifier has no for_classes(): it answers for the classes that it was fitted on only"


@dataclass(frozen=True)
class Question(Vocabulary):
    """Class names and templates, and the identity of every class."""

    identities: tuple[str, ...]

    @classmethod
    def of(cls, card: DatasetCard, prompts: str, classes: str) -> Question:
        """All classes of a data set, or its base or new half."""
        half = class_half(len(card.classnames), classes)
        part = slice(half.start, half.stop)
        return cls(card.classnames[part], card.templates(prompts), card.identities[part])

    @classmethod
    def fitted(cls, card: DatasetCard, spec: RunSpec) -> Question:
        """The fitted label space; `card` is that of the cell's data set."""
        return cls.of(card, spec.prompts, "all" if spec.classes == "all" else "base")

    @classmethod
    def evaluated(cls, card: DatasetCard, spec: RunSpec) -> Question:
        """The evaluated label space; `card` is that of the cell's target."""
        return cls.of(card, spec.prompts, "all" if spec.target else spec.classes)

    def within(self, other: Question) -> bool:
        """True when all classes are among those of `other`; not where identities are ambiguous."""
        distinct = all(len(set(q.identities)) == len(q.identities) for q in (self, other))
        return distinct and set(self.identities) <= set(other.identities)


def answering(
    classifier: Classifier, fitted: Question, asked: Question
) -> tuple[Classifier, Tensor | None]:
    """A classifier that answers, and the columns of its logits that are asked for (None: all).

    Classes that were fitted on are columns of the fitted classifier, whatever the method, under the
    same prompts; others need `for_classes`. NotApplicableError where the method has none.
    """
    if fitted == asked:
        return classifier, None
    if asked.within(fitted) and asked.templates == fitted.templates:
        import torch

        place = {identity: column for column, identity in enumerate(fitted.identities)}
        return classifier, torch.tensor([place[identity] for identity in asked.identities])
    if not isinstance(classifier, Transferable):
        raise NotApplicableError(TIED)
    return classifier.for_classes(Vocabulary(asked.classnames, asked.templates)), None
