"""The side of a run that holds query labels: serves tasks and images, and computes metrics.

`Examination` is the contract with the process that runs plug-in code, `Examiner` implements it.
Queries are numbered in a shuffled order: a `CellLists` holds no label, id or path of a query.
Metrics are computed here, from the array that is stored, and never where plug-in code runs.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fewshot_bench.api.class_texts import WAFFLE, find
from fewshot_bench.api.dataset import SKIPPED, Dataset, DatasetCard, data_of_target
from fewshot_bench.api.file_texts import LONG
from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.method import Classifier, Transferable
from fewshot_bench.api.metrics import Answers, rounded
from fewshot_bench.api.option_files import look_in
from fewshot_bench.api.record import Record, image_facts
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, BY_TEMPLATES, IMPORTED, POOLING, RunSpec, canonical_json
from fewshot_bench.api.task import Split, Vocabulary
from fewshot_bench.api.waffle import describe, draw_noise
from fewshot_bench.images.decode import EncodedFiles, ImageFiles
from fewshot_bench.runner.preflight import revision_of
from fewshot_bench.splits.draw import (
    class_half,
    draw_all_classes,
    find_bystanders,
    narrow,
    short_facts,
    split_key,
)
from fewshot_bench.splits.groups import Group, describe_groups, draw_groups, number_groups
from fewshot_bench.splits.imported import load_picks
from fewshot_bench.splits.published import verify_picks
from fewshot_bench.utils.errors import ContractError, DataMissingError, NotApplicableError
from fewshot_bench.utils.text import digest_of as digest_text

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_bench.runner.verdict import Answered

DATASETS_KEPT, CELLS_KEPT, LISTS_KEPT = 32, 64, 256
_NUMBERED = re.compile(r"image ([0-9a-f]{16})#(\d{1,18})")
TIED = "its classifier has no for_classes(): it answers for the classes that it was fitted on only"


@dataclass(frozen=True)
class LabelSpace(Vocabulary):
    """Class names and templates, and the identity of every class."""

    identities: tuple[str, ...]

    @classmethod
    def of(
        cls,
        card: DatasetCard,
        prompts: str,
        classes: str,
        texts: Sequence[tuple[str, ...]] = (),
        pooling: str = POOLING[0],
    ) -> LabelSpace:
        """All classes of a data set, or its base or new half; texts: of all its classes."""
        half = class_half(len(card.classnames), classes)
        part = slice(half.start, half.stop)
        return cls(
            card.classnames[part],
            card.templates(prompts),
            card.identities[part],
            texts=tuple(texts[part]),
            pooling=pooling,
        )

    @classmethod
    def of_fit(cls, card: DatasetCard, spec: RunSpec) -> LabelSpace:
        """The classes that a cell is fitted on; `card`: the card of its data set."""
        part = "all" if spec.classes == "all" else "base"
        return cls.of(card, spec.prompts, part, texts_in(spec, card, card), spec.pooling)

    @classmethod
    def of_evaluation(cls, card: DatasetCard, spec: RunSpec, source: DatasetCard) -> LabelSpace:
        """The classes that a cell is evaluated on; `card`: the card of its target."""
        part = "all" if spec.target else spec.classes
        return cls.of(card, spec.prompts, part, texts_in(spec, card, source), spec.pooling)

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that a method sees."""
        return Vocabulary(self.classnames, self.templates, texts=self.texts, pooling=self.pooling)

    def is_subset_of(self, other: LabelSpace) -> bool:
        """True if `other` contains all classes; False if identities are ambiguous."""
        distinct = all(len(set(q.identities)) == len(q.identities) for q in (self, other))
        return distinct and set(self.identities) <= set(other.identities)

    def is_answered_by(self, fitted: LabelSpace) -> bool:
        """True if a classifier of `fitted` answers: it has these classes, under these prompts."""
        if not self.is_subset_of(fitted) or self.templates != fitted.templates:
            return False
        known = dict(zip(fitted.identities, fitted.texts, strict=False))
        own = zip(self.identities, self.texts, strict=False)
        return all(known.get(identity) == texts for identity, texts in own)

    def name_as(self, fitted: LabelSpace) -> LabelSpace:
        """This space under the names of the prompts that answer for it.

        These are the names of `fitted` if it answers, which may be the user's own.
        """
        if not self.is_answered_by(fitted):
            return self
        names = dict(zip(fitted.identities, fitted.classnames, strict=True))
        return replace(self, classnames=tuple(names[identity] for identity in self.identities))


def texts_in(spec: RunSpec, card: DatasetCard, source: DatasetCard) -> Sequence[tuple[str, ...]]:
    """The texts of all classes of a data set in a cell; empty in a cell with prompts.

    source: the card of the data set that it is fitted on, whose names random texts are like.
    """
    if spec.texts == BY_TEMPLATES:
        return ()
    if spec.texts == WAFFLE:
        noise = draw_noise(source.classnames, spec.train_seed)
        return [describe(name, noise) for name in card.classnames]
    return find(spec.texts).describe(card.name, card.classnames)


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
    return classifier.for_classes(evaluated.vocabulary), None


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
    `fsbench splits show`. queries: without labels, and shuffled by a secret of the run, since an
    order that is known would reveal labels by position. groups: batches of numbers among the
    queries, or the order of a stream as one group; empty if each query is alone.
    """

    fitted: LabelSpace
    evaluated: LabelSpace
    train: ImageList
    val: ImageList
    queries: ImageList
    picks: str = ""
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one cell: its record and, if it is done, its answers and the image ids.

    Answers and ids are in the order of the test list. log: what its code printed.
    """

    record: Record
    answers: Answers | None = None
    ids: Sequence[str] = ()
    log: str = ""

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

    def settle(self, done: Answered, log: str = "") -> Outcome:
        """Complete a record, whose metrics and independence follow from logits.

        log: what the code of the cell printed.
        """
        ...


@dataclass(frozen=True)
class _Cell:
    """The data sets and the split of a cell.

    bystanders: queries beside the test list, which are not scored. order: the queries as positions
    in the test list and, after it, the bystanders.
    """

    dataset: Dataset
    target: Dataset
    drawn: Split
    split: Split
    bystanders: Sequence[Item]
    order: tuple[int, ...]

    @property
    def queries(self) -> tuple[Item, ...]:
        """The test list, then the bystanders."""
        return (*self.split.test, *self.bystanders)

    def draw_groups(self, spec: RunSpec) -> tuple[Group, ...]:
        """Groups of positions; empty if each query is alone."""
        if spec.queries == ALONE:
            return ()
        listed = digest_of((("test", self.split.test), ("bystanders", self.bystanders)))
        return draw_groups(spec.queries, [q.label for q in self.queries], spec.train_seed, listed)


class Examiner:
    """Opens data sets, draws splits and computes metrics, in the calling process.

    store: the results folder, with imported splits. anonymous: errors name images by number, since
    they reach code that must not see ids. as_planned: refuse a cell whose data set lists other
    images by now.
    """

    def __init__(
        self, store: Path | None = None, *, anonymous: bool = False, as_planned: bool = True
    ) -> None:
        self._store = store
        if store is not None:
            look_in(store)
        self._as_planned = as_planned
        self._anonymous = anonymous
        self._datasets: OrderedDict[tuple[str, str], Dataset] = OrderedDict()
        self._cells: OrderedDict[Any, _Cell] = OrderedDict()
        self._lists: OrderedDict[str, ImageFiles] = OrderedDict()
        self._handles: dict[Any, str] = {}
        self._revisions: dict[tuple[str, str], str] = {}
        # The order of queries follows from it. It never leaves this process.
        self._secret = secrets.token_bytes(32)

    def cell(self, spec: RunSpec) -> CellLists:
        """The label spaces and image lists of a cell."""
        cell, split = self._cell(spec), self._cell(spec).split
        numbers = {position: number for number, position in enumerate(cell.order)}
        return CellLists(
            *self._label_spaces(spec),
            train=self._list_labeled(cell, split.train),
            val=self._list_labeled(cell, split.val),
            queries=self.images(cell.target, tuple(map(cell.queries.__getitem__, cell.order)), ()),
            picks=digest_of((("train", split.train), ("val", split.val))),
            groups=tuple(tuple(numbers[at] for at in group) for group in cell.draw_groups(spec)),
        )

    def query_labels(self, spec: RunSpec) -> list[int]:
        """The labels of a cell's queries in their order: for a process that guards none.

        -1 for a bystander.
        """
        cell = self._cell(spec)
        labels = [*(item.label for item in cell.split.test), *(-1 for _ in cell.bystanders)]
        return [labels[index] for index in cell.order]

    def _label_spaces(self, spec: RunSpec) -> tuple[LabelSpace, LabelSpace]:
        source = self.dataset(spec).card()
        fitted = LabelSpace.of_fit(source, spec)
        evaluated = LabelSpace.of_evaluation(self.target(spec).card(), spec, source)
        return fitted, evaluated.name_as(fitted)

    def files(self, images: ImageList) -> ImageFiles:
        """The encoded files of an image list; ContractError if its handle is unknown."""
        if images.handle not in self._lists:
            raise ContractError(f"no list of images has the handle '{images.handle}'; run again")
        self._lists.move_to_end(images.handle)
        return self._lists[images.handle]

    def settle(self, done: Answered, log: str = "") -> Outcome:
        """The outcome of a cell, with its metrics, from logits in the order of the queries.

        Whether they depend on other queries follows from `compared`, whatever the record says.
        """
        record, answers = done.record, done.answers
        if answers is None:
            return Outcome(self._with_names(record), log=log)
        import numpy as np

        from fewshot_bench.runner.verdict import judge

        spec = record.spec
        cell, (fitted, evaluated) = self._cell(spec), self._label_spaces(spec)
        shape = (len(cell.order), len(evaluated.classnames))
        if answers.shape != shape or answers.dtype != np.float32:
            raise ContractError(
                f"{spec.describe()} has logits {answers.dtype} {answers.shape}, expected float32 "
                f"{shape}"
            )
        judged, stated = judge(done.compared, answers, spec.precision), record.footprint
        both = [*stated.get("violations", ()), *judged["violations"]]
        logits = np.empty_like(answers)
        logits[list(cell.order)] = answers
        labels = np.array([item.label for item in cell.split.test], dtype=np.int64)
        groups, drawn = None, cell.draw_groups(spec)
        if drawn:
            groups = np.array(number_groups(spec.queries, drawn, len(cell.order)), dtype=np.int32)
            groups = groups[: len(labels)]
        marked = Answers.of(logits[: len(labels)], labels, groups)
        record = replace(
            record,
            split=self._facts(spec, cell, fitted, evaluated, drawn),
            metrics=rounded(marked),
            footprint={**stated, **judged, "violations": [*dict.fromkeys(both)]},
        )
        return Outcome(record, marked, [item.id for item in cell.split.test], log)

    def dataset(self, spec: RunSpec) -> Dataset:
        """The data set that a cell is fitted on, opened once."""
        return self._open(spec.dataset, spec.data)

    def target(self, spec: RunSpec) -> Dataset:
        """The data set that a cell is evaluated on; custom templates apply to every target."""
        if not spec.target:
            return self.dataset(spec)
        data = {name: spec.data[name] for name in ("templates", SKIPPED) if name in spec.data}
        return self._open(spec.target, data)

    def _open(self, name: str, data: Mapping[str, Any]) -> Dataset:
        key = (name, canonical_json(dict(data)))
        if key not in self._datasets:
            self._revisions.pop(key, None)
            _keep(self._datasets, key, registry().dataset(name, data, self._store), DATASETS_KEPT)
        return self._datasets[key]

    def _cell(self, spec: RunSpec) -> _Cell:
        key = (*split_key(spec), canonical_json(dict(spec.data)))
        key = (*key, spec.revision, spec.target_revision, spec.bystanders)
        if key not in self._cells:
            _keep(self._cells, key, self._draw(spec), CELLS_KEPT)
        return self._cells[key]

    def _draw(self, spec: RunSpec) -> _Cell:
        dataset, target = self.dataset(spec), self.target(spec)
        self._check_lists(spec.dataset, spec.data, spec.revision)
        if spec.target:
            self._check_lists(spec.target, data_of_target(spec.data), spec.target_revision)
        picks = None
        if spec.protocol == IMPORTED and self._store is not None:
            picks = load_picks(self._store, spec, dataset.items())
        drawn = draw_all_classes(spec, dataset.items(), picks)
        other = target.items() if spec.target else None
        count = len(dataset.card().classnames)
        split = narrow(spec, drawn, count, other)
        beside = find_bystanders(spec, drawn, count)
        order = self._shuffle((*split.test, *beside))
        return _Cell(dataset, target, drawn, split, beside, order)

    def _shuffle(self, items: Iterable[Item]) -> tuple[int, ...]:
        """Places of items, in an order that nobody knows without this process's secret.

        Cells with the same test images have the same order, and share their images.
        """
        ids = [item.id.encode("utf-8", "surrogatepass") for item in items]
        ranks = [hashlib.blake2b(id, key=self._secret).digest() for id in ids]
        return tuple(sorted(range(len(ids)), key=ranks.__getitem__))

    def _check_lists(self, name: str, data: Mapping[str, Any], planned: str) -> None:
        """DataMissingError if a data set lists other images than when the cell was planned.

        planned: its revision then. Files with other contents are found by the digests of images.
        """
        if not planned or not self._as_planned:
            return
        key = (name, canonical_json(dict(data)))
        if key not in self._revisions:
            self._revisions[key] = revision_of(name, self._open(name, data))
        then, now = (text.rpartition(":")[2] for text in (planned, self._revisions[key]))
        if now != then:
            raise DataMissingError(
                f"{name} lists other images or classes than when this cell was planned (lists "
                f"{then}, now {now}): run the command again; a data set of a plug-in must list "
                "the same in every process"
            )

    def _list_labeled(self, cell: _Cell, items: Sequence[Item]) -> ImageList:
        return self.images(cell.dataset, tuple(items), tuple(item.label for item in items))

    def images(
        self, dataset: Dataset, items: tuple[Item, ...], labels: tuple[int, ...]
    ) -> ImageList:
        """An image list of a data set; `labels` is empty for queries."""
        key = (id(dataset), items)
        handle = self._handles.setdefault(key, secrets.token_hex(8))
        if handle in self._lists:
            self._lists.move_to_end(handle)
        else:
            files = ImageFiles(dataset, items, handle if self._anonymous else "")
            _keep(self._lists, handle, files, LISTS_KEPT)
            lists = self._lists
            self._handles = {key: name for key, name in self._handles.items() if name in lists}
        card: DatasetCard = dataset.card()
        stamped = self._lists[handle].stamped
        return ImageList(handle, card.name, len(items), card.mirrored, stamped, labels)

    def _facts(
        self,
        spec: RunSpec,
        cell: _Cell,
        fitted: LabelSpace,
        evaluated: LabelSpace,
        groups: Sequence[Group],
    ) -> dict[str, Any]:
        """Facts of the split for the record. groups: of positions."""
        card, split = cell.dataset.card(), cell.split
        facts = {
            "digest": split.digest,
            "protocol": split.protocol,
            "revision": split.revision,
            "classes": len(evaluated.classnames),
            "train": len(split.train),
            "val": len(split.val),
            "test": len(split.test),
            "verified": verify_picks(cell.drawn, card.name),
            "mirrored": card.mirrored,
            "templates": list(evaluated.templates),
            "classnames": list(evaluated.classnames),
            **self._describe_images(spec, cell),
            **short_facts(spec, split),
        }
        facts |= {"skipped": spec.skipped} if spec.skipped else {}
        if evaluated.texts:
            counts = [len(texts) for texts in evaluated.texts]
            digest = digest_text(canonical_json([*evaluated.texts]), LONG)
            sizes = {"count": sum(counts), "least": min(counts), "most": max(counts)}
            facts |= {"texts": {**sizes, "digest": digest}}
        if groups:
            facts |= describe_groups(spec.queries, groups, [item.label for item in cell.queries])
        facts |= {"bystanders": len(cell.bystanders)} if cell.bystanders else {}
        return facts | ({"fitted_classes": len(fitted.classnames)} if spec.fits_other else {})

    def _describe_images(self, spec: RunSpec, cell: _Cell) -> dict[str, Any]:
        lists = self.cell(spec)
        train, val = self.files(lists.train).digests, self.files(lists.val).digests
        shuffled = self.files(lists.queries).digests
        test = dict(zip(cell.order, shuffled, strict=True))
        # Bystanders are of no split: with them or not, it has the same images.
        return image_facts(train, val, [test[index] for index in range(len(cell.split.test))])

    def _with_names(self, record: Record) -> Record:
        """The record with image ids in its error, which the process that failed did not have."""
        if not record.error:
            return record
        error = {
            name: _NUMBERED.sub(self._title, value) if isinstance(value, str) else value
            for name, value in record.error.items()
        }
        return replace(record, error=error)

    def _title(self, match: re.Match[str]) -> str:
        handle, index = match[1], int(match[2])
        is_listed = handle in self._lists and index < len(self._lists[handle])
        return self._lists[handle].name_image(index) if is_listed else match[0]


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Add a value; drop the oldest entries above `most`."""
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)
