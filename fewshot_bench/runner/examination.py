"""Contract between the process that holds query labels and the one that runs plug-in code.

`Examination` is the contract, `examiner.Examiner` implements it. Queries are numbered in a shuffled
order: a `CellLists` holds no label, id or path of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.api.method import Classifier, Transferable
from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.splits.draw import class_half
from fewshot_bench.utils.errors import NotApplicableError

if TYPE_CHECKING:
    import numpy as np
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
    def of_fit(cls, card: DatasetCard, spec: RunSpec) -> LabelSpace:
        """The classes that a cell is fitted on; `card`: the card of its data set."""
        return cls.of(card, spec.prompts, "all" if spec.classes == "all" else "base")

    @classmethod
    def of_evaluation(cls, card: DatasetCard, spec: RunSpec) -> LabelSpace:
        """The classes that a cell is evaluated on; `card`: the card of its target."""
        return cls.of(card, spec.prompts, "all" if spec.target else spec.classes)

    def is_subset_of(self, other: LabelSpace) -> bool:
        """True if `other` contains all classes; False if identities are ambiguous."""
        distinct = all(len(set(q.identities)) == len(q.identities) for q in (self, other))
        return distinct and set(self.identities) <= set(other.identities)

    def is_answered_by(self, fitted: LabelSpace) -> bool:
        """True if a classifier of `fitted` answers: it has these classes and templates."""
        return self.is_subset_of(fitted) and self.templates == fitted.templates

    def name_as(self, fitted: LabelSpace) -> LabelSpace:
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

        columns = {identity: column for column, identity in enumerate(fitted.identities)}
        return classifier, torch.tensor([columns[identity] for identity in evaluated.identities])
    if not isinstance(classifier, Transferable):
        raise NotApplicableError(TIED)
    return classifier.for_classes(Vocabulary(evaluated.classnames, evaluated.templates)), None


@dataclass(frozen=True)
class ImageList:
    """Images that are read by number; `labels` are class indices, and empty for queries.

    handle: an opaque name of the list; equal lists share a handle within a process. mirrored: as in
    the data set's card. stamped: True if unchanged files are recognized without reading them.
    """

    handle: str
    dataset: str
    count: int
    mirrored: bool
    stamped: bool
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class CellLists:
    """Label spaces and images of one cell; `val` is empty where the validation policy is `none`.

    train, val: labeled, in the order in which they were drawn; picks: the digest of both, as in
    `fsbench splits show`; support: the digest of `train` alone. queries: without labels, and
    shuffled by a secret of the run, since an order that is known would reveal labels by position.
    """

    fitted: LabelSpace
    evaluated: LabelSpace
    train: ImageList
    val: ImageList
    queries: ImageList
    picks: str = ""
    support: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one cell: its record and, if it is done, its answers and the image ids.

    Answers and ids are in the order of the test list.
    """

    record: Record
    answers: Answers | None = None
    ids: Sequence[str] = ()

    @property
    def logits(self) -> Tensor | None:
        """Logits of shape (n, classes); None without answers."""
        import torch

        return None if self.answers is None else torch.from_numpy(self.answers.logits)


class Examination(Protocol):
    """Interface of the label side for the process that runs plug-in code; see `Examiner`."""

    def cell(self, spec: RunSpec) -> CellLists:
        """The label spaces and image lists of a cell."""
        ...

    def files(self, images: ImageList) -> EncodedFiles:
        """The encoded files of an image list."""
        ...

    def settle(self, record: Record, answers: np.ndarray | None) -> Outcome:
        """Complete a record; answers: (n, classes) float32 logits in the order of the queries."""
        ...
