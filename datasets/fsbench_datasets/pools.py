"""Train, val and test pools from lists that lack some of them: what is missing is held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from fewshot_bench import Item, UsageError
from fewshot_bench.api.sources import Pools
from fsbench_datasets.split_lists import ROLES

UNSPLIT = ""
VAL_NAMES = ("val", "valid", "validation")
ROLE_NAMES = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(VAL_NAMES, "val"),
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_SEED = 1
VAL_SHARE, TEST_SHARE = 0.2, 0.3

Sizes = Callable[[str, int], tuple[int, int]]


def check_holdout(name: str, holdout: float | None) -> None:
    """UsageError for a share that leaves nothing for the test pool or nothing to train on."""
    if holdout is not None and not 0 < holdout < 1 - VAL_SHARE:
        raise UsageError(
            f"{name}: --holdout {holdout}: expected a share above 0 and below {1 - VAL_SHARE:g} "
            f"(another {VAL_SHARE:g} of each class is for validation), for example --holdout 0.3"
        )


def complete(name: str, given: Pools, holdout: float | None) -> tuple[Pools, str]:
    """All three pools, and a note on where they come from.

    given: pools by role; images that nobody assigned stand under `UNSPLIT`. What is held out is
    chosen per class, by a digest of the ids, so that it does not depend on the order of the lists.
    UsageError when a class has too few images, or --holdout was given and there are test images.
    """
    base = given.get("train") or given.get(UNSPLIT) or ()
    val, test = given.get("val", ()), given.get("test", ())
    if test and holdout is not None:
        raise UsageError(f"{name} comes with its own test images; leave --holdout out")
    if not base and not test:
        raise UsageError(f"{name} has validation images only: expected train or test images")
    if not base:
        return _pools((), val, test), "no train images: it can only be evaluated on (--transfer)"
    if test and val:
        return _pools(base, val, test), "split as it came"
    if test:
        rest, held, _ = divide(base, _val_only)
        note = "a fifth of the train images of each class is held out for validation"
        return _pools(rest, held, test), note
    share = TEST_SHARE if holdout is None else holdout
    if val:
        rest, _, test = divide(base, partial(_made, name, share, False))
        return _pools(rest, val, test), share_note(bool(val), holdout)
    rest, val, test = divide(base, partial(_made, name, share, True))
    return _pools(rest, val, test), share_note(False, holdout)


def share_note(validation: bool, holdout: float | None) -> str:
    """Note on how test images were held out, of lists with or without validation images."""
    share = TEST_SHARE if holdout is None else holdout
    if validation:
        return f"{100 * share:g} % of each train class is held out as test images"
    shares = "/".join(f"{100 * part:g}" for part in (1 - VAL_SHARE - share, VAL_SHARE, share))
    return f"split {shares} per class"


def divide(
    items: Sequence[Item], sizes: Sizes
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]]:
    """The rest, the val and the test images, each in the order of the list.

    sizes: class name and number of its images to the numbers of val and test images.
    """
    classes: dict[int, list[Item]] = {}
    for item in items:
        classes.setdefault(item.label, []).append(item)
    place: dict[str, int] = {}
    for members in classes.values():
        val, test = sizes(members[0].classname, len(members))
        for rank, item in enumerate(sorted(members, key=_rank)):
            place[item.id] = 1 if rank < val else 2 if rank < val + test else 0
    parts = [tuple(item for item in items if place[item.id] == part) for part in range(3)]
    return parts[0], parts[1], parts[2]


def check_classes(name: str, pools: Pools) -> None:
    """UsageError for fewer than two classes, or a class without train images where others have."""
    labels = {item.label for role in ROLES for item in pools[role]}
    if len(labels) < 2:
        raise UsageError(
            f"{name} has {len(labels)} class: expected 2 or more, a single class leaves nothing to "
            "tell apart"
        )
    trained = {item.label for item in pools["train"]}
    for role in ("val", "test") if trained else ():
        for item in pools[role]:
            if item.label not in trained:
                raise UsageError(
                    f"{name}: class '{item.classname}' of the {role} images has no "
                    "train images: expected the same classes (add train images, or take it out)"
                )


def _made(name: str, share: float, validation: bool, classname: str, count: int) -> tuple[int, int]:
    """At least one image to train on and one to test; of two, none is for validation."""
    if count < 2:
        raise UsageError(
            f"{name}: class '{classname}' has {count} image: expected 2 or more, one each for "
            "train and test (add images, or say which are train and test)"
        )
    val = _part(count, VAL_SHARE) if validation and count > 2 else 0
    return val, min(_part(count, share), count - val - 1)


def _val_only(_: str, count: int) -> tuple[int, int]:
    """A class with one image keeps it for training."""
    return (_part(count, VAL_SHARE) if count > 1 else 0), 0


def _part(count: int, share: float) -> int:
    return max(1, round(count * share))


def _rank(item: Item) -> bytes:
    return hashlib.sha256(f"{SPLIT_SEED}\t{item.id}".encode()).digest()


def _pools(train: Sequence[Item], val: Sequence[Item], test: Sequence[Item]) -> Pools:
    return {"train": tuple(train), "val": tuple(val), "test": tuple(test)}
