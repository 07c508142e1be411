"""Classes that have fewer images than the shots that were asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fewshot_bench.api.items import label_counts, parts
from fewshot_bench.api.shots import ALL_SHOTS
from fewshot_bench.api.spec import IMPORTED, RunSpec
from fewshot_bench.api.split_file import Pools
from fewshot_bench.splits.sampling import VALIDATION

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.api.task import Split


def short_facts(spec: RunSpec, split: Split) -> dict[str, int]:
    """For a record: how many classes gave fewer images than asked for, and the least that one gave.

    An image that was drawn twice counts once. `short_val`: the same of the validation images.
    """
    train, val = _counted(split.train), _counted(split.val)
    least = VALIDATION[spec.val](spec.shots) or 0
    return {
        "short_classes": _short(train.values(), spec.shots),
        "smallest_class": min(train.values(), default=0),
        "short_val": _short([val[label] for label in train], least),
    }


def _counted(items: Iterable[Item]) -> Counter[int]:
    """Images by label."""
    return Counter(label for label, _ in {(item.label, item.id) for item in items})


def _short(counts: Iterable[int], asked: int) -> int:
    """All shots are never too many."""
    return 0 if asked == ALL_SHOTS else sum(count < asked for count in counts)


def short_lines(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Before a run, for a person: a line per data set that has too few images somewhere.

    Imported picks hold what they hold.
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
    """Shots that leave no validation images, where these are held out of train."""
    most = max(label_counts(pools["train"]).values(), default=0)
    without = [f"{shots}" for shots in asked if shots >= most]
    if "val" in pools or not without:
        return []
    return [f"no image is left for validation at --shots {','.join(without)}"]
