"""State of a data set by its lists and file sizes, and its last verification; decodes no image.

`status_of` is the entry point; exceptions of a data set become a state and a step. Verifications
are stored as one small JSON file per data set in the cache folder.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.dataset import (
    ROLES,
    Dataset,
    DatasetCard,
    Preparable,
    Stamped,
    all_items,
    data_roots,
)
from fewshot_bench.api.items import Item
from fewshot_bench.plugins.data.prepare import locate
from fewshot_bench.splits.published import published_splits
from fewshot_bench.utils.cache_dir import VERIFIED, cache_root, touch, write
from fewshot_bench.utils.errors import DataMissingError, FsbenchError, PluginError, explain_denial
from fewshot_bench.utils.text import digest_of

READY = "ready"
NO_SPLIT = "split file missing"
NO_IMAGES = "images missing"
SOME_IMAGES = "some images missing"
ABSENT = "not there"
UNUSABLE = "cannot be used"
BROKEN = "broken plug-in"
# Bound on the images read to find missing ones, if the data set has no stamps for them.
MOST_READ = 50

Listed = list[tuple[str, Item]]


class Verified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verification without failed checks.

    when: ISO 8601 date and time, UTC; differs: names of the checks that warned.
    """

    name: str
    folder: str
    revision: str
    when: str
    images: int
    differs: tuple[str, ...] = ()

    @property
    def day(self) -> str:
        """The date alone."""
        return self.when[:10]


def keep_outcome(
    name: str, card: DatasetCard, images: int, differs: tuple[str, ...], *, passed: bool
) -> None:
    """Store a verification that passed just now, or remove an earlier one; OSError on failure."""
    path = _file_of(name, card)
    if not passed:
        path.unlink(missing_ok=True)
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    verified = Verified(name, _folder_of(card), card.revision, now, images, differs)
    # Not by msgspec, which writes no paths that are not UTF-8.
    write(path, json.dumps(msgspec.structs.asdict(verified)).encode())


def recall(name: str, card: DatasetCard) -> Verified | None:
    """The last verification of a data set in its folder, for any revision.

    None if there is none or its file is damaged: the data set must be verified again.
    """
    try:
        path = _file_of(name, card)
        verified = msgspec.convert(json.loads(path.read_bytes()), Verified)
        touch(path)
    except (OSError, ValueError, RecursionError):
        return None
    return verified


def _folder_of(card: DatasetCard) -> str:
    return str(Path(card.folder).resolve()) if card.folder else ""


def _file_of(name: str, card: DatasetCard) -> Path:
    digest = digest_of("\n".join((name, _folder_of(card))), 32)
    return cache_root() / VERIFIED / f"{digest}.json"


@dataclass(frozen=True)
class Status:
    """State of one data set and known facts about it.

    counts: images per role, empty if the lists are missing; bytes: size of all image files, None
    if not known; verified: the last verification that passed; current: whether it was of this
    revision; step: the next action, empty when ready; plain: the set can be fetched, is absent,
    and its step adds nothing to that.
    """

    name: str
    state: str
    step: str = ""
    classes: int | None = None
    expected_classes: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    expected_counts: dict[str, int] = field(default_factory=dict)
    bytes: int | None = None
    folder: str = ""
    verified: Verified | None = None
    current: bool = False
    plain: bool = False


def expected_classes(card: DatasetCard) -> int | None:
    """Number of classes of the published set; None if unknown."""
    split = published_splits().get(card.name)
    return card.expected_classes or (split.classes if split else None)


def join_counts(counts: Mapping[str, int]) -> str:
    """Images in train, val and test as they are shown: 2,820/1,128/1,692; 0 for absent roles."""
    return "/".join(f"{counts.get(role, 0):,}" for role in ROLES)


def status_of(name: str, open_it: Callable[[str], Dataset]) -> Status:
    """The status of one data set; whatever it raises becomes a state and a step."""
    status = Status(name, BROKEN)
    try:
        dataset = open_it(name)
        status = replace(status, state=UNUSABLE)
        card = dataset.card()
        status = Status(
            name,
            ABSENT,
            classes=len(card.classnames) if card.counts else None,
            expected_classes=expected_classes(card),
            counts=dict(card.counts),
            expected_counts=dict(card.expected_counts),
            folder=card.folder,
        )
        try:
            listed = list(all_items(dataset))
        except DataMissingError as error:
            state, step = _missing_state(dataset, card), _step(name, error)
            plain = state == ABSENT and isinstance(dataset, Preparable) and not _names_entry(step)
            return replace(status, state=state, step=step, plain=plain)
        return _ready(status, dataset, card, listed)
    except DataMissingError as error:
        # The path in a name such as `folder:PATH`.
        _, colon, path = name.partition(":")
        opened = status.state == UNUSABLE or (colon and Path(path).expanduser().exists())
        state = UNUSABLE if opened else ABSENT
        return replace(status, state=state, step=_step(name, error))
    except PermissionError as error:
        return replace(status, state=UNUSABLE, step=explain_denial(error))
    except (Exception, SystemExit) as error:
        if isinstance(error, FsbenchError) and not isinstance(error, PluginError):
            return replace(status, state=UNUSABLE, step=_step(status.name, error))
        text = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        return replace(status, state=BROKEN, step=f"{text} (its author has to mend it)")


def _step(name: str, error: FsbenchError) -> str:
    """The text of an error without the name of the data set in front."""
    return str(error).removeprefix(f"data set '{name}': ").removeprefix(f"{name}: ")


def _names_entry(step: str) -> bool:
    """True if a step names an existing entry of a data root (one to rename, for example)."""
    roots = [root for root in data_roots() if root.is_dir()]
    return any(str(path) in step for root in roots for path in root.iterdir())


def _ready(status: Status, dataset: Dataset, card: DatasetCard, listed: Listed) -> Status:
    """Status of a data set whose lists load, with sizes from the file stamps of its images."""
    counts = dict(Counter(role for role, _ in listed))
    status = replace(status, state=READY, counts=counts, classes=len(card.classnames))
    status = _add_sizes(status, dataset, listed)
    verified = recall(status.name, card)
    current = verified is not None and bool(card.revision) and verified.revision == card.revision
    return replace(status, verified=verified, current=current)


def _add_sizes(status: Status, dataset: Dataset, listed: Listed) -> Status:
    if not isinstance(dataset, Stamped):
        return status
    stamps = [(item, dataset.stamp(item)) for _, item in listed]
    unknown = [item for item, stamp in stamps if stamp is None]
    missing = _missing(dataset, unknown)
    sizes = sum(stamp.size for _, stamp in stamps if stamp is not None)
    total = sizes if len(missing) == len(unknown) else None
    if not missing:
        return replace(status, bytes=total)
    state = SOME_IMAGES if len(missing) < len(listed) else NO_IMAGES
    step = (
        f"{len(missing):,} of {len(listed):,} images are missing, the first is '{missing[0]}': "
        f"put them back (fsbench data verify {status.name} lists them)"
    )
    return replace(status, state=state, step=step, bytes=total)


def _missing(dataset: Dataset, unknown: Sequence[Item]) -> list[str]:
    """Ids of missing images among those without a file stamp, found by reading them.

    Stops after MOST_READ images that exist: the others are assumed to exist.
    """
    missing, read = [], 0
    for item in unknown:
        if read == MOST_READ:
            break
        try:
            dataset.read(item)
            read += 1
        except FileNotFoundError:
            missing.append(item.id)
        except Exception:
            # Other problems are reported by fsbench data verify.
            read += 1
    return missing


def _missing_state(dataset: Any, card: DatasetCard) -> str:
    """State of a data set whose pools do not load, by the missing part."""
    if card.counts:
        return SOME_IMAGES if card.folder else NO_IMAGES
    files = dataset.recipe().files if isinstance(dataset, Preparable) else ()
    images = any(locate(file, data_roots()) for file in files if not file.split)
    if not (images or card.folder):
        return ABSENT
    # A set whose recipe has no split file (ImageNet) lacks images or archives.
    return NO_SPLIT if not files or any(file.split for file in files) else SOME_IMAGES
