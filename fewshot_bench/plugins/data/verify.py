"""Verifies one data set: its lists, every image, and images that are in two pools.

`verify` runs all checks. Exceptions of a data set become failed checks.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.api.dataset import ROLES, Dataset, DatasetCard, Relisting, all_items
from fewshot_bench.api.items import Item
from fewshot_bench.plugins.data.checks import (
    DIFFERS,
    FAILED,
    OK,
    Check,
    State,
    is_published,
    list_checks,
)
from fewshot_bench.plugins.data.fingerprints import BITS, WINDOWS, Indices
from fewshot_bench.plugins.data.lookalikes import Nearest, nearest, share_alike
from fewshot_bench.plugins.data.scan import Scan, same_bytes, scan
from fewshot_bench.utils.errors import FsbenchError, explain_denial
from fewshot_bench.utils.text import shortened

SAME, SIMILAR = "same file", "similar"
# Share of the test images; more duplicates than this are not attributed to a published split.
PUBLISHED_SHARE = 0.02
# More pairs than MOST_PAIRS are only searched if at most this share of a sample looks alike. Of
# photographs of different things, fewer than one pair in 10,000 does (docs/data-verify.md).
MOST_PAIRS, MOST_ALIKE = 4_000_000, 0.02
COLUMNS = (
    *("dataset", "kind", "distance", "change"),
    *("first_pool", "first_id", "first_label", "first_class"),
    *("second_pool", "second_id", "second_label", "second_class"),
)
Progress = Callable[[int], Callable[[int], None]]


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
    usable = np.flatnonzero(images.decoded)
    pairs = []
    for group in sorted(same_bytes(images.digests[usable]), key=lambda group: int(group[0])):
        members = [images.listed[usable[index]] for index in group]
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
    tests = [i for i, t in _comparable(images) if t[0] == "test" and t[1].id not in duplicates]
    others = [i for i, t in _comparable(images) if t[0] != "test"]
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
    pairs = [
        Pair(
            *(SIMILAR, images.listed[close.index[index]], images.listed[tests[index]]),
            *(
                int(close.distance[index]),
                _change(close, index, images.listed[close.index[index]][0]),
            ),
        )
        for index in np.flatnonzero(close.index >= 0).tolist()
    ]
    return sorted(pairs, key=lambda pair: pair.distance)


def _change(close: Nearest, index: int, role: str) -> str:
    """Describe how the test image at `place` and its closest image, of pool `role`, differ."""
    window = str(WINDOWS[close.window[index]])
    # If a crop of one matches the whole of the other, then the other is the crop.
    cropped = f"{role if not close.base_cropped[index] else 'test'} is a {window}" if window else ""
    return ", ".join(part for part in (cropped, "mirrored" * bool(close.mirrored[index])) if part)


def _comparable(images: Scan) -> Iterator[tuple[int, tuple[str, Item]]]:
    return ((index, entry) for index, entry in enumerate(images.listed) if images.compared[index])


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
    left_out = int((images.decoded & ~images.compared).sum())
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
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, pair in rows:
        sides = [(role, i.id, i.label, i.classname) for role, i in (pair.first, pair.second)]
        row = (name, pair.kind, pair.distance, pair.change, *sides[0], *sides[1])
        writer.writerow(map(field, row))
    return buffer.getvalue()


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


def verify(name: str, open_it: Callable[[str], Dataset], jobs: int, progress: Progress) -> Report:
    """Run all checks on a data set; whatever it raises becomes a failed check.

    Unusable lists end the report, since it is then unknown which images there are.
    progress: called with the number of images; returns a callback for finished image counts.
    """
    try:
        dataset = open_it(name)
        replaced = dataset.look_again() if isinstance(dataset, Relisting) else ()
        card, pools = dataset.card(), dataset.items()
        listed = list(all_items(dataset))
    except FsbenchError as error:
        return Report(name, None, (Check("lists", FAILED, str(error)),))
    except PermissionError as error:
        return Report(name, None, (Check("lists", FAILED, explain_denial(error)),))
    except (Exception, SystemExit) as error:
        text = f"the data set's plug-in failed: {type(error).__name__}: {error}"
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
    images = scan(dataset, listed, jobs, progress(len(listed)))
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
    if images.smallest is None or images.largest is None:
        return
    yield Check("formats", OK, _formats(images))
    sizes = _sizes(images.smallest, images.largest)
    if images.tiny:
        lines = [_at(images, index) for index in images.tiny]
        text = f"{sizes}; {len(lines):,} are a single pixel wide or high"
        yield Check("sizes", DIFFERS, text, shortened(lines))
    else:
        yield Check("sizes", OK, sizes)


def _formats(images: Scan) -> str:
    parts = [", ".join(f"{count:,} {form}" for form, count in images.formats.most_common())]
    modes = [f"{count:,} {mode}" for mode, count in images.modes.most_common() if mode != "RGB"]
    if modes:
        parts.append(f"not RGB: {', '.join(modes)}")
    for (extension, form), count in images.misnamed.most_common():
        parts.append(f"{count:,} named {extension} hold {form}")
    if images.turned:
        parts.append(f"{images.turned:,} with an EXIF rotation, which is not applied")
    return "; ".join(parts)


def _at(images: Scan, index: int) -> str:
    role, item = images.listed[index]
    return f"{role} {item.id}"


def _sizes(smallest: tuple[int, int], largest: tuple[int, int]) -> str:
    """The range of sizes, by area."""
    first, last = (f"{width} x {height}" for width, height in (smallest, largest))
    return f"all {first} pixels" if first == last else f"{first} to {last} pixels"
