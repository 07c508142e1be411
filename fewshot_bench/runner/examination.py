"""Contract between the process that holds query labels and the one that runs plug-in code.

`Examination` is the contract, `examiner.Examiner` keeps it. Queries are numbers in a shuffled
order: no label, id or path of a query is in a `CellLists`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.runner.classes import LabelSpace

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


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
class CellLists:
    """Label spaces and images of one cell; `val` is empty where the validation policy is `none`.

    train, val: labeled, in the order in which they were drawn; picks: the digest of both, as
    `fsbench splits show` has it. queries: without labels, shuffled, since a list grouped by class
    would give labels away by position; their order follows from the digest of the whole split,
    which is therefore not here.
    """

    fitted: LabelSpace
    evaluated: LabelSpace
    train: ImageList
    val: ImageList
    queries: ImageList
    picks: str = ""


class Outcome:
    """The result of one cell: its record and, when it is done, its answers with the images' ids.

    Both are in the order of the test list.
    """

    def __init__(
        self, record: Record, answers: Answers | None = None, ids: Sequence[str] = ()
    ) -> None:
        self.record = record
        self.answers = answers
        self.ids = ids
        # True when a plug-in left the process so that nothing else should be computed in it.
        self.tainted = False

    @property
    def logits(self) -> Tensor | None:
        """(n, classes); None where there is no answer."""
        import torch

        return None if self.answers is None else torch.from_numpy(self.answers.logits)


class Examination(Protocol):
    """The label side, as the process that runs plug-in code sees it; see `Examiner`."""

    def cell(self, spec: RunSpec) -> CellLists:
        """The label spaces and lists of images of a cell."""
        ...

    def files(self, images: ImageList) -> EncodedFiles:
        """The encoded files of a list."""
        ...

    def settle(self, record: Record, answers: np.ndarray | None) -> Outcome:
        """Complete a record; answers: (n, classes) float32 logits in the order of the queries."""
        ...
