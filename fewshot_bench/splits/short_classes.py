"""Classes with fewer images than the requested shots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.api.items import label_counts, parts
from fewshot_bench.api.spec import ALL_SHOTS, IMPORTED, RunSpec
from fewshot_bench.api.split_file import Pools
from fewshot_bench.splits.sampling import VALIDATION

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.api.task import Split


def short_facts(spec: RunSpec, split: Split) -> dict[str, int]:
    """Facts for a record: classes with fewer images than requested, and the smallest class.

    An image drawn twice counts once. `short_val`: classes with fewer validation images than the
    policy asks for.
    """
    train, val = _count(split.train), _count(split.val)
    least = VALIDATION[spec.val](spec.shots) or 0
    return {
        "short_classes": _short(train.values(), spec.shots),
        "smallest_class": min(train.values(), default=0),
        "short_val": _short([val[label] for label in train], least),
    }


def _count(items: Iterable[Item]) -> Counter[int]:
    """Number of distinct images by label."""
    return Counter(label for label, _ in {(item.label, item.id) for item in items})


def _short(counts: Iterable[int], asked: int) -> int:
    """Number of counts below `asked`; 0 for ALL_SHOTS."""
    return 0 if asked == ALL_SHOTS else sum(count < asked for count in counts)


def short_lines(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Lines printed before a run, one per data set with too few images in some class.

    Cells with imported picks are ignored.
    """
    drawn = [cell for cell in cells if cell.protocol != IMPORTED]
    for name in dict.fromkeys(cell.dataset for cell in drawn):
        asked = sorted({cell.shots for cell in drawn if cell.dataset == name})
        policy = next(cell.val for cell in drawn if cell.dataset == name)
        parts = [*_too_few(datasets[name].items(), asked), *_no_val(datasets[name].items(), asked)]
        parts = parts[:1] if policy == "none" else parts
        said = "; ".join(part for part in parts if part)
        if said:
            yield f"{name}: {said} (docs/protocols.md)"


def _too_few(pools: Pools, asked: Sequence[int]) -> list[str]:
    most = max((shots for shots in asked if shots != ALL_SHOTS), default=0)
    counts: Counter[str] = Counter()
    for part in parts(pools["train"]):
        counts[part.classname] += part.count
    short = {name: count for name, count in counts.items() if count < most}
    if not short:
        return [""]
    name = min(short, key=lambda name: short[name])
    have, they = ("has", "it gives") if len(short) == 1 else ("have", "they give")
    return [
        f"{len(short)} of {len(counts)} classes {have} fewer than {most} train images (class "
        f"'{name}' {short[name]}): {they} all of them"
    ]


def _no_val(pools: Pools, asked: Sequence[int]) -> list[str]:
    """Text on shots that leave no validation images, if these are held out of train."""
    most = max(label_counts(pools["train"]).values(), default=0)
    without = [f"{shots}" for shots in asked if shots >= most]
    if "val" in pools or not without:
        return []
    return [f"no image is left for validation at --shots {','.join(without)}"]
