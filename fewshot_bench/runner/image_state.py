"""Current digests of the images of a plan's data sets; files with a known stamp are not read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.dataset import Stamped
from fewshot_bench.api.image_facts import Overlap, image_facts, images
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import IMPORTED, RunSpec
from fewshot_bench.splits.draw import split_key, split_of

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.api.task import Split

SplitKey = tuple[Any, ...]


class ImageState:
    """Image facts that records of a plan's cells would hold if they were computed now.

    Files with a known stamp are not read. Data sets that cannot detect changed files (not
    `Stamped`) are left out: only their revision identifies them. `problems`: by data set, the
    reason why its images could not be read.
    """

    def __init__(self, datasets: Mapping[str, Dataset], store: Path) -> None:
        """datasets: open data sets by name; store: the results folder, with imported splits."""
        self.problems: dict[str, str] = {}
        self._datasets = datasets
        self._store = store
        self._splits: dict[SplitKey, Split] = {}
        self._digests: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self._facts: dict[SplitKey, Mapping[str, Any]] = {}

    def list_changed(self, records: Sequence[Record]) -> set[str]:
        """The keys of records whose images differ from the current ones."""
        stating = [record for record in records if images(record.split)]
        self._learn([record.spec for record in stating])
        return {record.spec.key() for record in stating if self._differs(record)}

    def overlaps(self, cells: Sequence[RunSpec]) -> list[Overlap]:
        """The number of test images among the training images of each cell, where known."""
        self._learn(cells)
        shares = []
        for cell in cells:
            facts = self._facts.get(split_key(cell))
            if facts is not None:
                shares.append(Overlap(cell.evaluated, facts["overlap"], facts["test"]))
        return shares

    def _differs(self, record: Record) -> bool:
        facts = self._facts.get(split_key(record.spec))
        return facts is not None and facts["images"] != images(record.split)

    def _learn(self, cells: Sequence[RunSpec]) -> None:
        """Compute the facts of all splits of the cells, reading every data set once."""
        new = {split_key(cell): cell for cell in cells if split_key(cell) not in self._facts}
        new = {key: cell for key, cell in new.items() if self._has_stamps(cell)}
        wanted: defaultdict[str, dict[str, Item]] = defaultdict(dict)
        for key, cell in new.items():
            split = self._splits[key] = self._split(cell)
            wanted[cell.dataset] |= {item.id: item for item in (*split.train, *split.val)}
            wanted[cell.target or cell.dataset] |= {item.id: item for item in split.test}
        for name, items in wanted.items():
            self._read(name, items)
        for key, cell in new.items():
            if not {cell.dataset, cell.target} & set(self.problems):
                self._facts[key] = self._of(cell, self._splits[key])

    def _has_stamps(self, cell: RunSpec) -> bool:
        used = [self._datasets[name] for name in (cell.dataset, cell.target) if name]
        return all(isinstance(dataset, Stamped) for dataset in used)

    def _split(self, cell: RunSpec) -> Split:
        if cell.protocol != IMPORTED:
            return split_of(cell, self._datasets)
        from fewshot_bench.splits.imported import load_imported

        pools = self._datasets[cell.dataset].items()
        picks = load_imported(self._store, cell.dataset, cell.shots, cell.split_seed, pools)
        lists = picks.train, () if cell.val == "none" else picks.val
        return split_of(cell, self._datasets, lists)

    def _read(self, name: str, items: Mapping[str, Item]) -> None:
        from fewshot_bench.images.decode import ImageFiles, in_a_line

        digests = self._digests[name]
        absent = [item for key, item in items.items() if key not in digests]
        try:
            read = ImageFiles(self._datasets[name], absent).digests
        except Exception as error:
            # A plug-in may raise anything: without its images there is nothing to compare.
            self.problems[name] = in_a_line(error)
            return
        digests.update(zip((item.id for item in absent), read, strict=True))

    def _of(self, cell: RunSpec, split: Split) -> Mapping[str, Any]:
        fitted, asked = self._digests[cell.dataset], self._digests[cell.target or cell.dataset]
        parts = ([fitted[item.id] for item in part] for part in (split.train, split.val))
        train, val = parts
        facts = image_facts(train, val, [asked[item.id] for item in split.test])
        return facts | {"test": len(split.test)}
