"""Label spaces of a cell: fitted classes, evaluated classes, and the mapping between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
class LabelSpace(Vocabulary):
    """Class names and templates, and the identity of every class."""

    identities: tuple[str, ...]

    @classmethod
    def of(cls, card: DatasetCard, prompts: str, classes: str) -> LabelSpace:
        """All classes of a data set, or its base or new half."""
        half = class_half(len(card.classnames), classes)
        part = slice(half.start, half.stop)
        return cls(card.classnames[part], card.templates(prompts), card.identities[part])

    @classmethod
    def fitted(cls, card: DatasetCard, spec: RunSpec) -> LabelSpace:
        """The classes that a cell is fitted on; `card`: the card of its data set."""
        return cls.of(card, spec.prompts, "all" if spec.classes == "all" else "base")

    @classmethod
    def evaluated(cls, card: DatasetCard, spec: RunSpec) -> LabelSpace:
        """The classes that a cell is evaluated on; `card`: the card of its target."""
        return cls.of(card, spec.prompts, "all" if spec.target else spec.classes)

    def is_subset_of(self, other: LabelSpace) -> bool:
        """True if `other` contains all classes; False if identities are ambiguous."""
        distinct = all(len(set(q.identities)) == len(q.identities) for q in (self, other))
        return distinct and set(self.identities) <= set(other.identities)

    def is_answered_by(self, fitted: LabelSpace) -> bool:
        """True if a classifier of `fitted` answers: it has these classes and templates."""
        return self.is_subset_of(fitted) and self.templates == fitted.templates

    def named_as(self, fitted: LabelSpace) -> LabelSpace:
        """This space under the names of the prompts that answer for it.

        These are the names of `fitted` if it answers, which may be the user's own.
        """
        if not self.is_answered_by(fitted):
            return self
        names = dict(zip(fitted.identities, fitted.classnames, strict=True))
        return replace(self, classnames=tuple(names[identity] for identity in self.identities))


def adapt_classifier(
    classifier: Classifier, fitted: LabelSpace, evaluated: LabelSpace
) -> tuple[Classifier, Tensor | None]:
    """A classifier for `evaluated`, and the columns of its logits to keep (None: all).

    Under the same prompts, fitted classes are columns of the fitted classifier, whatever the
    method; other classes need `for_classes`. NotApplicableError if the classifier has none.
    """
    if fitted == evaluated:
        return classifier, None
    if evaluated.is_answered_by(fitted):
        import torch

        place = {identity: column for column, identity in enumerate(fitted.identities)}
        return classifier, torch.tensor([place[identity] for identity in evaluated.identities])
    if not isinstance(classifier, Transferable):
        raise NotApplicableError(TIED)
    return classifier.for_classes(Vocabulary(evaluated.classnames, evaluated.templates)), None
