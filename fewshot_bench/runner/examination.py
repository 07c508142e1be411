"""Contract between the process that holds query labels and the one that runs plug-in code.

`Examination` is the contract, `examiner.Examiner` implements it. Queries are numbered in a shuffled
order: a `CellLists` holds no label, id or path of a query.
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


class Outcome:
    """The result of one cell: its record and, if it is done, its answers and the image ids.

    Answers and ids are in the order of the test list.
    """

    def __init__(
        self, record: Record, answers: Answers | None = None, ids: Sequence[str] = ()
    ) -> None:
        self.record = record
        self.answers = answers
        self.ids = ids

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
