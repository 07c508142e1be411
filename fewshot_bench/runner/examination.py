"""Messages between the process that holds query labels and the one that runs plug-in code.

`Examination` is the contract, `examiner.Examiner` keeps it. Queries are numbers in a shuffled
order: no label, id or path of a query is in a `TaskLists` or `QueryLists`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.runner.classes import Question

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ImageList:
    """Images that are read by number; `labels` are class indices, and empty for queries.

    handle: an opaque name of the list; equal lists have equal ones in one process. mirrored: as in
    the data set's card. stamped: whether unchanged files are known without reading them.
    """

    handle: str
    dataset: str
    count: int
    mirrored: bool
    stamped: bool
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class TaskLists:
    """All that a fit is given; `val` is empty where the validation policy is `none`."""

    question: Question
    train: ImageList
    val: ImageList


@dataclass(frozen=True)
class QueryLists:
    """Queries for a fitted method: the classes, and the images in a shuffled order."""

    question: Question
    images: ImageList


class Outcome:
    """The result of one cell: its record and, when it is done, the logits kept beside it.

    logits: (n, classes), in the order of the test list, as are `labels` and `ids`.
    """

    def __init__(
        self,
        record: Record,
        logits: Any = None,
        labels: list[int] | None = None,
        ids: list[str] | None = None,
    ) -> None:
        self.record = record
        self.logits = logits
        self.labels = labels
        self.ids = ids
        # Whether a plug-in left the process so that nothing else should be computed in it.
        self.tainted = False


class Examination(Protocol):
    """The requests of the process that runs plug-in code; see `Examiner`."""

    def questions(self, spec: RunSpec) -> tuple[Question, Question]:
        """The classes that a cell is fitted on, and those that it is asked for."""
        ...

    def task(self, spec: RunSpec) -> TaskLists:
        """The task of a cell."""
        ...

    def queries(self, spec: RunSpec) -> QueryLists:
        """The queries of a cell."""
        ...

    def files(self, images: ImageList) -> EncodedFiles:
        """The encoded files of a list."""
        ...

    def settle(self, record: Record, answers: np.ndarray | None) -> Outcome:
        """Complete a record; answers: (n, classes) float32 logits in the order of the queries."""
        ...
