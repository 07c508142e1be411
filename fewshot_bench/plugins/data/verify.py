"""Verifies one data set: its lists, every image, and images that are in two pools.

`verify` runs all checks. Exceptions of a data set become failed checks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import numpy as np
from PIL import Image

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.api.dataset import ROLES, Dataset, DatasetCard, Relisting, all_items
from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.split_file import Pools
from fewshot_bench.images.decode import SAME_FORMAT
from fewshot_bench.images.digests import Known
from fewshot_bench.images.fingerprints import BITS, WINDOWS, Indices
from fewshot_bench.images.lookalikes import nearest, share_alike
from fewshot_bench.images.looking import Scan, scan
from fewshot_bench.plugins.data.status import expected_classes, join_counts
from fewshot_bench.runner.preflight import check_lists
from fewshot_bench.splits.published import (
    Lists,
    compare_lists,
    published_splits,
    read_published_draws,
    verify_file,
)
from fewshot_bench.utils.errors import FsbenchError, explain_denial
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import shortened

OK: Final = "ok"
DIFFERS: Final = "differs"
FAILED: Final = "FAILED"
State = Literal["ok", "differs", "FAILED"]

INCOMPARABLE = "not the published split: numbers cannot be compared with published ones"
SAME, SIMILAR = "same file", "similar"
# Share of the test images; more duplicates than this are not attributed to a published split.
PUBLISHED_SHARE = 0.02
# More pairs than MOST_PAIRS are only searched if at most this share of a sample looks alike. Of
# photographs of different things, fewer than one pair in 10,000 does.
MOST_PAIRS, MOST_ALIKE = 4_000_000, 0.02
COLUMNS = (
    *("dataset", "kind", "distance", "change"),
    *("first_pool", "first_id", "first_label", "first_class"),
    *("second_pool", "second_id", "second_label", "second_class"),
)


@dataclass(frozen=True)
class Check:
    """The outcome of one check: one line, and details that are shown below it."""

    name: str
    state: State
    text: str
    details: tuple[str, ...] = ()


def list_checks(card: DatasetCard, pools: Pools) -> Iterator[Check]:
    """Check the pools and their counts and, if lists are published, split, its file and draws."""
    yield _labels(card, pools)
    yield _counts(card, pools)
    name = match_published(card.name, pools)
    if name is not None:
        yield from _check_published(name, card, pools)


def match_published(name: str, pools: Pools) -> str | None:
    """Name of the published split to compare a data set with, by its name or by its lists."""
    splits = published_splits()
    if name in splits:
        return name
    digest = digest_of((role, pools.get(role, ())) for role in ROLES)
    return next((other for other, split in splits.items() if split.lists_sha256 == digest), None)


def is_published(card: DatasetCard, pools: Pools) -> bool:
    """True when the lists of a data set are published ones, under whatever class names."""
    name = match_published(card.name, pools)
    return name is not None and compare_lists(pools, name) in (Lists.EQUAL, Lists.RENAMED)


def _labels(card: DatasetCard, pools: Pools) -> Check:
    if not any(pools.get(role) for role in ROLES):
        return Check("lists", FAILED, "no images are listed in train, val or test")
    wrong = [
        f"{role} {item.id}: label {item.label}, class name '{item.classname}'"
        for role in ROLES
        for item in pools.get(role, ())
        if item.label < 0 or card.classnames[item.label : item.label + 1] != (item.classname,)
    ]
    if wrong:
        text = f"{len(wrong):,} images have a label or class name that is not in the class list"
        return Check("lists", FAILED, text, shortened(wrong))
    try:
        check_lists(card, pools)
    except FsbenchError as error:
        return Check("lists", FAILED, str(error))
    loaded = [role for role in ROLES if pools.get(role)]
    return Check("lists", OK, f"{', '.join(loaded)} loaded; every label is in the class list")


def _counts(card: DatasetCard, pools: Pools) -> Check:
    classes = len(card.classnames)
    counts = join_counts({role: len(items) for role, items in pools.items()})
    text = f"{classes:,} classes, {counts} images (train/val/test)"
    if not card.expected_counts:
        return Check("counts", OK, f"{text}; no published counts to compare with")
    published, expected = join_counts(card.expected_counts), expected_classes(card)
    if counts == published and expected in (None, classes):
        return Check("counts", OK, f"{text}, as published")
    if expected is not None:
        published = f"{expected:,} classes, {published}"
    return Check("counts", DIFFERS, f"{text}; published: {published}; {INCOMPARABLE}")


def _check_published(name: str, card: DatasetCard, pools: Pools) -> Iterator[Check]:
    split = published_splits()[name]
    verdict = compare_lists(pools, name)
    if verdict is Lists.EQUAL:
        yield Check("split", OK, f"equals the published lists of {name}")
        # In the folder of the images, or up to two levels above.
        folder = Path(card.folder)
        folders = [folder, *folder.resolve().parents[:2]] if card.folder else []
        path = next((f / split.file for f in folders if (f / split.file).is_file()), None)
        if path is not None and verify_file(path.read_bytes(), name):
            yield Check("split file", OK, f"{split.file} is the published file, byte for byte")
        elif path is not None:
            text = (
                f"{path} has the published paths, labels and class names, but is not the "
                "published file: its formatting differs"
            )
            yield Check("split file", DIFFERS, text)
    elif verdict is Lists.RENAMED:
        yield Check("split", DIFFERS, f"{split.file}: {verdict.value}")
    else:
        yield Check("split", DIFFERS, f"the lists differ from {split.file}: {INCOMPARABLE}")
    draws = read_published_draws(name, "", pools)
    wrong = [f"{draw.shots}/{draw.seed}" for draw in draws if not draw.equal]
    total = len(split.picks)
    if not wrong:
        yield Check("draws", OK, f"all {total} published few-shot draws are reproduced")
        return
    text = f"{total - len(wrong)} of {total} published few-shot draws are reproduced"
    if len(wrong) < total:
        text += f"; not those of shots/seed {', '.join(wrong)}"
    yield Check("draws", DIFFERS, text)


@dataclass(frozen=True)
class Pair:
    """Two images of different pools, and the number of differing bits of their 64-bit codes.

    change: how one is derived from the other (crop, mirroring); empty if they show the same part.
    """

    kind: str
    first: tuple[str, Item]
    second: tuple[str, Item]
    distance: int = 0
    change: str = ""

    def __str__(self) -> str:
        """Text of the listing: pools, ids, class names and, for similar images, the distance."""
        first, second = (f"{role} {i.id} ({i.classname})" for role, i in (self.first, self.second))
        if self.kind == SAME:
            return f"{first} = {second}"
        change = f" ({self.change})" if self.change else ""
        return f"{first} ~ {second}, distance {self.distance} of {BITS}{change}"


def same_pairs(images: Scan) -> list[Pair]:
    """Pair every image with the first byte-identical image of each earlier pool."""
    groups: dict[bytes, list[tuple[str, Item]]] = {}
    for entry, facts in zip(images.listed, images.facts, strict=True):
        if isinstance(facts, Known):
            groups.setdefault(facts.sha, []).append(entry)
    pairs = []
    for members in groups.values():
        firsts = {role: (role, item) for role, item in reversed(members)}
        for role, item in members:
            for earlier in ROLES[: ROLES.index(role)]:
                if earlier in firsts:
                    pairs.append(Pair(SAME, firsts[earlier], (role, item)))
    return pairs


def sides(images: Scan, same: Iterable[Pair]) -> tuple[Indices, Indices]:
    """The images to compare, of the test pool and of the others, as indices into the scan.

    Test images that are byte-identical to a train or val image are skipped.
    """
    duplicates = {pair.second[1].id for pair in same if pair.second[0] == "test"}
    tests, others = [], []
    for index in np.flatnonzero(images.compared).tolist():
        role, item = images.listed[index]
        if role != "test":
            others.append(index)
        elif item.id not in duplicates:
            tests.append(index)
    return np.array(tests, int), np.array(others, int)


def alike_throughout(images: Scan, tests: Indices, others: Indices) -> float:
    """The share of pairs of these `sides` that look alike if most of many images do; else 0.

    Such a set (photographs of eyes, X-rays) has no near-duplicates to tell from others, and finding
    them would take hours.
    """
    if len(tests) * len(others) <= MOST_PAIRS:
        return 0.0
    share = share_alike(images.prints, others, tests)
    return share if share > MOST_ALIKE else 0.0


def similar_pairs(images: Scan, tests: Indices, others: Indices, jobs: int) -> list[Pair]:
    """Pair every test image of these `sides` with its closest other image, if one looks alike."""
    close = nearest(images.prints, others, tests, jobs)
    pairs = []
    for index in np.flatnonzero(close.index >= 0).tolist():
        other, test = images.listed[close.index[index]], images.listed[tests[index]]
        window = str(WINDOWS[close.window[index]])
        # If a crop of one matches the whole of the other, then the other is the crop.
        role = "test" if close.base_cropped[index] else other[0]
        changes = [
            f"{role} is a {window}" if window else "",
            "mirrored" * bool(close.mirrored[index]),
        ]
        distance, change = int(close.distance[index]), ", ".join(filter(None, changes))
        pairs.append(Pair(SIMILAR, other, test, distance, change))
    return sorted(pairs, key=lambda pair: pair.distance)


def same_check(images: Scan, pairs: Sequence[Pair], published: bool) -> Check:
    """Check for byte-identical images in two pools; published splits may have some."""
    if not pairs:
        return Check("duplicates", OK, "no image is in two pools")
    counts = Counter((pair.first[0], pair.second[0]) for pair in pairs)
    parts = [
        f"{counts[both]:,} in {' and '.join(both)}"
        for both in combinations(ROLES, 2)
        if counts[both]
    ]
    tests = max(1, sum(role == "test" for role, _ in images.listed))
    own = published and len(pairs) <= PUBLISHED_SHARE * tests
    text = f"images in two pools, byte for byte: {', '.join(parts)}{_relabel_note(pairs)}"
    return Check("duplicates", *_judge(own, text), shortened([str(pair) for pair in pairs]))


def similar_check(
    images: Scan, pairs: Sequence[Pair], published: bool, alike: float = 0.0
) -> Check:
    """Check for test images that look like a train or val image.

    alike: share of pairs that look alike, if they were not searched for that (`alike_throughout`).
    """
    left_out = len(images.seen) - int(images.compared.sum())
    rest = f"; {left_out:,} too small or too flat to compare" if left_out else ""
    tests = sum(role == "test" for role, _ in images.listed)
    if tests in (0, len(images.listed)):
        return Check(
            "near-duplicates", OK, "nothing to compare: there are test images only, or none"
        )
    if alike:
        text = (
            f"pictures look alike throughout, {alike:.0%} of sampled pairs of a test image and "
            "another one do: near-duplicates cannot be told from others, and were not searched"
        )
        return Check("near-duplicates", DIFFERS, f"{text}{rest}")
    if not pairs:
        text = f"no test image looks like a train or val image{rest}"
        return Check("near-duplicates", OK, text)
    text = (
        f"{len(pairs):,} of {tests:,} test images look like a train or val image"
        f"{_relabel_note(pairs)}{rest}"
    )
    state, text = _judge(published, text)
    return Check("near-duplicates", state, text, shortened([str(pair) for pair in pairs]))


def as_csv(rows: Iterable[tuple[str, Pair]]) -> str:
    """(data set name, pair) rows as CSV with a header, one pair per line; names are no formulas."""
    lines = []
    for name, pair in rows:
        sides = [(role, i.id, i.label, i.classname) for role, i in (pair.first, pair.second)]
        row = (name, pair.kind, pair.distance, pair.change, *sides[0], *sides[1])
        lines.append(dict(zip(COLUMNS, row, strict=True)))
    return write_csv(lines, COLUMNS)


def _judge(own: bool, text: str) -> tuple[State, str]:
    return (OK, f"{text}; the published split has them") if own else (DIFFERS, text)


def _relabel_note(pairs: Sequence[Pair]) -> str:
    count = sum(pair.first[1].label != pair.second[1].label for pair in pairs)
    return f" ({count:,} under another label)" if count else ""


@dataclass(frozen=True)
class Report:
    """All checks of one data set, and all pairs of same or similar images in two pools.

    card is None if the data set could not be opened.
    """

    name: str
    card: DatasetCard | None
    checks: tuple[Check, ...]
    pairs: tuple[Pair, ...] = ()
    images: int = 0

    def checks_in(self, state: State) -> tuple[str, ...]:
        """The names of the checks in this state."""
        return tuple(check.name for check in self.checks if check.state == state)


def verify(name: str, open_it: Callable[[str], Dataset], jobs: int) -> Report:
    """Run all checks on a data set; whatever it raises becomes a failed check.

    Unusable lists end the report, since it is then unknown which images there are.
    """
    try:
        dataset = open_it(name)
        replaced = dataset.look_again() if isinstance(dataset, Relisting) else ()
        card, pools = dataset.card(), dataset.items()
        listed = list(all_items(dataset))
    except (Exception, SystemExit) as error:
        text = f"the data set's plug-in failed: {type(error).__name__}: {error}"
        if isinstance(error, FsbenchError):
            text = str(error)
        elif isinstance(error, PermissionError):
            text = explain_denial(error)
        return Report(name, None, (Check("lists", FAILED, text),))
    checks = list(list_checks(card, pools))
    if checks[0].state == FAILED:
        return Report(name, card, (checks[0],), images=len(listed))
    if replaced:
        text = f"files were replaced in {len(replaced):,} folders since they were listed"
        checks.append(Check("kept list", DIFFERS, f"{text}; made anew", shortened(replaced)))
    if card.left_out:
        text = "files in the folder are not used" if card.folder else "files are not used"
        checks.append(Check("left out", DIFFERS, text, card.left_out))
    current().step(f"images of {name}", len(listed))
    images = scan(dataset, listed, jobs)
    published = is_published(card, pools)
    same = same_pairs(images)
    tests, others = sides(images, same)
    alike = alike_throughout(images, tests, others)
    similar = [] if alike else similar_pairs(images, tests, others, jobs)
    checks += image_checks(images)
    checks += [
        same_check(images, same, published),
        similar_check(images, similar, published, alike),
    ]
    return Report(name, card, tuple(checks), (*same, *similar), len(listed))


def image_checks(images: Scan) -> Iterator[Check]:
    """Check that every image opens, and the formats and sizes of those that do."""
    count = len(images.listed)
    if images.problems:
        lines = [f"{_at(images, index)}: {problem}" for index, problem in images.problems.items()]
        text = f"{len(lines):,} of {count:,} cannot be used: fetch or restore them"
        yield Check("images", FAILED, text, shortened(lines))
    else:
        yield Check("images", OK, f"all {count:,} open")
    if not images.seen:
        return
    yield Check("formats", OK, _formats(images))
    ends = (f((seen.size for seen in images.seen.values()), key=math.prod) for f in (min, max))
    first, last = (f"{w} x {h}" for w, h in ends)
    sizes = f"all {first} pixels" if first == last else f"{first} to {last} pixels"
    lines = [_at(images, index) for index, seen in images.seen.items() if min(seen.size) <= 1]
    if lines:
        text = f"{sizes}; {len(lines):,} are a single pixel wide or high"
        yield Check("sizes", DIFFERS, text, shortened(lines))
    else:
        yield Check("sizes", OK, sizes)


def _formats(images: Scan) -> str:
    seen = images.seen
    forms = Counter(one.form for one in seen.values()).most_common()
    modes = Counter(one.mode for one in seen.values() if one.mode != "RGB").most_common()
    parts = [", ".join(f"{count:,} {form}" for form, count in forms)]
    if modes:
        parts.append(f"not RGB: {', '.join(f'{count:,} {mode}' for mode, count in modes)}")
    Image.init()
    named = [(PurePosixPath(images.items[at].id).suffix.lower(), s.form) for at, s in seen.items()]
    for (extension, form), count in Counter(named).most_common():
        expected = Image.registered_extensions().get(extension, form)
        if SAME_FORMAT.get(expected, expected) != form:
            parts.append(f"{count:,} named {extension} hold {form}")
    if images.turned:
        parts.append(f"{images.turned:,} with an EXIF rotation, which is not applied")
    return "; ".join(parts)


def _at(images: Scan, index: int) -> str:
    role, item = images.listed[index]
    return f"{role} {item.id}"
