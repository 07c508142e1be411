"""The images that a model is adapted to: all of a data set that may be trained on, with labels.

`gather` loads them; test images of the data set are not in a `Material`. `repeat_folds` divides
them: every picture of a class with two or more is held out once per repeat, with its copies, and no
class is ever held out as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api.dataset import Dataset, OfClasses, Without
from fewshot_bench.api.items import Item, digest_of, packed
from fewshot_bench.api.registry import registry
from fewshot_bench.images.copies import Copies
from fewshot_bench.images.decode import ImageFiles, find_unreadable
from fewshot_bench.images.looking import Looks, look_at
from fewshot_bench.plugins.models.suspects import Rows, correct
from fewshot_bench.runner.own_data import open_whole
from fewshot_bench.runner.preflight import UNREADABLE_SHOWN, check_items
from fewshot_bench.splits.draw import draw
from fewshot_bench.splits.sampling import VALIDATION
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.text import counted, few, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

FOLDS = 5


@dataclass(frozen=True)
class Material:
    """Labeled images of a data set.

    notes: which of its images these are, and which were left out.
    keep_contradictions: whether pictures under two labels are held out, too. given: the class of
    each image before corrections, by its id; empty without any.
    """

    dataset: Dataset
    items: tuple[Item, ...]
    revision: str
    data: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    keep_contradictions: bool = False
    given: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(n,) class indices."""
        return np.array([item.label for item in self.items], dtype=np.int64)

    @cached_property
    def looks(self) -> Looks:
        """Facts of the images, and their copies."""
        return look_at(self.dataset, self.items)

    @property
    def copies(self) -> Copies:
        """The groups of copies among the images."""
        return self.looks.copies

    @property
    def lines(self) -> list[str]:
        """At most four lines on the images, before they are used."""
        first, *others = self.looks.lines()
        return ["; ".join((first, *self.notes)), *others][:4]

    @property
    def classnames(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.dataset.card().classnames

    @property
    def digest(self) -> str:
        """Digest of the list of images."""
        return digest_of([("train", self.items)])

    @cached_property
    def files(self) -> tuple[bytes, ...]:
        """The SHA-256 of every image file; files that did not change since are not read."""
        return ImageFiles(self.dataset, self.items).digests


def gather(
    name: str,
    data: Mapping[str, Any],
    shots: int | None = None,
    seed: int = 1,
    skip_damaged: bool = False,
    keep_contradictions: bool = False,
    relabel: Rows | None = None,
) -> Material:
    """Load the images of a data set that may be trained on; at most `shots` of each class.

    data: own class names and templates, as in `RunSpec.data`. relabel: corrections of labels, see
    `suspects.correct`. skip_damaged: leave out unreadable images, and classes that then have no
    train images. UsageError for fewer than two classes; DataMissingError for unreadable images.
    """
    dataset = open_whole(name, data, lenient=skip_damaged)
    notes, given = list[str](), dict[str, int]()
    with registry().blaming(name):
        if skip_damaged:
            bad = find_unreadable(dataset, trainable(dataset.items())).bad
            dataset, notes = _without_unusable(dataset, bad)
        pools, card = dataset.items(), dataset.card()
        check_items(card, pools)
    trained = trainable(pools)
    if len(card.classnames) < 2 or not trained:
        lack = "no images to train on" if not trained else "one class"
        raise UsageError(
            f"{name} has {lack}: expected images of two classes or more, "
            "such as one folder of images per class"
        )
    val, test = len(pools.get("val", ())), len(pools.get("test", ()))
    notes += [f"{val:,} validation images are trained on, too"] if val else []
    notes += [f"{test:,} test images are left alone"] if test else []
    if relabel is not None:
        own = {item.id: item.label for item in trained}
        trained, corrected = correct(trained, card.classnames, relabel)
        given = own if any(own[item.id] != item.label for item in trained) else {}
        notes += corrected
    if shots is not None:
        lists = {"train": packed(trained)}
        split = draw(name, "", lists, protocol="nested", shots=shots, seed=seed, val="none")
        trained = list(split.train)
        notes.append(f"at most {shots} of each class (--shots)")
    if bad := {} if skip_damaged else find_unreadable(dataset, trained).bad:
        said = shortened([f"{id}: {reason}" for id, reason in bad.items()], UNREADABLE_SHOWN)
        raise DataMissingError(
            f"{name}: {len(bad)} of its images cannot be used: {'; '.join(said)}; "
            "mend or remove them (--skip-damaged goes on without them)"
        )
    facts = card.revision, data, tuple(notes), keep_contradictions, given
    return Material(dataset, tuple(trained), *facts)


def _without_unusable(dataset: Dataset, bad: Mapping[str, str]) -> tuple[Dataset, list[str]]:
    """The data set without damaged images and classes without train images, and notes on them."""
    notes = [*dataset.card().left_out]
    if bad:
        dataset = Without(dataset, tuple(bad))
        notes.append(f"{counted(len(bad), 'damaged image')} left out: {few(bad)}")
    names = dataset.card().classnames
    kept = {item.label for item in dataset.items().get("train", ())}
    if gone := [name for label, name in enumerate(names) if kept and label not in kept]:
        dataset, count = OfClasses(dataset, kept), counted(len(gone), "class", "classes")
        notes.append(f"{count} without train images left out: {few(gone)}")
    return dataset, notes


def trainable(pools: Mapping[str, Sequence[Item]]) -> list[Item]:
    """The images of a data set that a model may be made from."""
    return [*pools.get("train", ()), *pools.get("val", ())]


@dataclass(frozen=True, eq=False)
class Fold:
    """Indices of the images to fit on and of the held-out images."""

    repeat: int
    number: int
    train: Places
    held_out: Places


def repeat_folds(copies: Copies, repeats: int, seed: int, keep: bool = False) -> Iterator[Fold]:
    """The folds of all repeats, one after the other; none where no class has two pictures.

    Copies are in one fold. keep: whether contradictions are held out, too. A class of fewer
    pictures than folds is held out in as many folds as it has pictures.
    """
    for repeat in range(repeats):
        part = _parts(copies, derive(seed, "folds", repeat), keep)
        for number in range(FOLDS):
            held_out = np.flatnonzero(part == number)
            if len(held_out):
                yield Fold(repeat, number, np.flatnonzero(part != number), held_out)


def _parts(copies: Copies, seed: int, keep: bool) -> Places:
    """(n,) the fold that each image is held out in; -1 for what is always trained on.

    Classes are dealt out one after the other, so that folds differ by one picture at most.
    """
    rng, groups, labels = np.random.default_rng(seed), copies.groups, copies.labels
    usable, part, dealt = keep | _is_plain(copies), np.full(len(labels), -1), 0
    turns = rng.permutation(FOLDS)
    for label in rng.permutation(np.unique(labels)):
        firsts = np.unique(groups[(labels == label) & usable & (part[groups] < 0)])
        if len(firsts) > 1:
            turn = turns[(dealt + np.arange(len(firsts))) % FOLDS]
            part[rng.permutation(firsts)] = turn
            dealt += len(firsts)
    for label in np.unique(labels) if keep else ():
        inside = groups[labels == label]
        if (part[inside] == part[inside[0]]).all():
            part[inside[0]] = -1
    return part[groups]


def _is_plain(copies: Copies) -> NDArray[np.bool_]:
    """(n,) False for images of a group with more than one label."""
    other = copies.labels != copies.labels[copies.groups]
    return ~np.isin(copies.groups, copies.groups[other])


def with_validation(copies: Copies, train: Places, seed: int) -> tuple[Places, Places]:
    """Split a training part into images to train on and validation images.

    As in a run with the policy `min4`, by groups of copies: half of the pictures of a class but at
    most four, none of a single one, and no contradiction.
    """
    rng, held = np.random.default_rng(derive(seed, "validation")), []
    groups, labels = copies.groups[train], copies.labels[train]
    plain = _is_plain(copies)[train]
    for label in np.unique(labels):
        firsts = np.unique(groups[(labels == label) & plain])
        held.append(rng.permutation(firsts)[: VALIDATION["min4"](len(firsts) // 2)])
    val = np.isin(groups, np.concatenate(held))
    return train[~val], train[val]
