"""Verifies one data set: its lists, every image, and what stands in two pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fewshot_bench.api.dataset import Dataset, DatasetCard, all_items
from fewshot_bench.plugins.data.checks import DIFFERS, FAILED, OK, Check, is_published, list_checks
from fewshot_bench.plugins.data.pairs import (
    Pair,
    same_check,
    same_pairs,
    similar_check,
    similar_pairs,
)
from fewshot_bench.plugins.data.scan import Scan, scan
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import shortened

Progress = Callable[[int], Callable[[int], None]]


@dataclass(frozen=True)
class Report:
    """All checks of one data set, and every pair of images in two pools.

    card is None where the data set could not be opened.
    """

    name: str
    card: DatasetCard | None
    checks: tuple[Check, ...]
    pairs: tuple[Pair, ...] = ()
    images: int = 0

    def named(self, state: str) -> tuple[str, ...]:
        """The names of the checks in this state."""
        return tuple(check.name for check in self.checks if check.state == state)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the checks that failed."""
        return self.named(FAILED)

    @property
    def differs(self) -> tuple[str, ...]:
        """The names of the checks that warned."""
        return self.named(DIFFERS)


def verify(name: str, open_it: Callable[[str], Dataset], jobs: int, progress: Progress) -> Report:
    """Run all checks on a data set; whatever it raises becomes a check that failed.

    Lists that cannot be used end the report, since nobody knows then which images there are.
    progress: called with the number of images; what it returns is told how many more are done.
    """
    try:
        dataset = open_it(name)
        card, pools = dataset.card(), dataset.items()
        listed = list(all_items(dataset))
    except FsbenchError as error:
        return Report(name, None, (Check("lists", FAILED, str(error)),))
    except (Exception, SystemExit) as error:
        text = f"the data set's plug-in failed: {type(error).__name__}: {error}"
        return Report(name, None, (Check("lists", FAILED, text),))
    checks = list(list_checks(card, pools))
    if checks[0].state == FAILED:
        return Report(name, card, (checks[0],), images=len(listed))
    if card.left_out:
        text = "files in the folder are not used" if card.folder else "files are not used"
        checks.append(Check("left out", DIFFERS, text, card.left_out))
    found = scan(dataset, listed, jobs, progress(len(listed)))
    published = is_published(card, pools)
    same = same_pairs(found)
    similar = similar_pairs(found, same)
    checks += image_checks(found)
    checks += [same_check(found, same, published), similar_check(found, similar, published)]
    return Report(name, card, tuple(checks), (*same, *similar), len(listed))


def image_checks(found: Scan) -> Iterator[Check]:
    """Whether every image opens; formats and sizes of those that do."""
    count = len(found.listed)
    if found.problems:
        lines = [f"{_at(found, index)}: {problem}" for index, problem in found.problems.items()]
        text = f"{len(lines):,} of {count:,} cannot be used: fetch or restore them"
        yield Check("images", FAILED, text, shortened(lines))
    else:
        yield Check("images", OK, f"all {count:,} open")
    if found.smallest is None or found.largest is None:
        return
    yield Check("formats", OK, _formats(found))
    sizes = _sizes(found.smallest, found.largest)
    if found.tiny:
        lines = [_at(found, index) for index in found.tiny]
        text = f"{sizes}; {len(lines):,} are a single pixel wide or high"
        yield Check("sizes", DIFFERS, text, shortened(lines))
    else:
        yield Check("sizes", OK, sizes)


def _formats(found: Scan) -> str:
    parts = [", ".join(f"{count:,} {form}" for form, count in found.formats.most_common())]
    modes = [f"{count:,} {mode}" for mode, count in found.modes.most_common() if mode != "RGB"]
    if modes:
        parts.append(f"not RGB: {', '.join(modes)}")
    for (extension, form), count in found.misnamed.most_common():
        parts.append(f"{count:,} named {extension} hold {form}")
    if found.turned:
        parts.append(f"{found.turned:,} with an EXIF rotation, which is not applied")
    return "; ".join(parts)


def _at(found: Scan, index: int) -> str:
    role, item = found.listed[index]
    return f"{role} {item.id}"


def _sizes(smallest: tuple[int, int], largest: tuple[int, int]) -> str:
    """The range of sizes, by area."""
    first, last = (f"{width} x {height}" for width, height in (smallest, largest))
    return f"all {first} pixels" if first == last else f"{first} to {last} pixels"
