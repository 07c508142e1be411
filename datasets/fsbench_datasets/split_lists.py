"""Helpers shared by the data sets: class names, counts, revisions and notes of image lists."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fewshot_bench import DatasetCard
from fewshot_bench.api.sources import Pools, lines_of_part, parts, plain_text

ROLES = ("train", "val", "test")
SHOWN = 5


def classnames_of(pools: Pools) -> tuple[str, ...]:
    """Class names by label; labels are 0 to n - 1."""
    names = {part.label: part.classname for role in ROLES for part in parts(pools[role])}
    return tuple(names[label] for label in sorted(names))


def class_ids_of(classnames: Sequence[str]) -> tuple[str, ...]:
    """Distinct ids by label if classes share a name (`bank`, `crane#1`, `crane#2`), else empty.

    A name with a number sign also gets its label appended, so that ids cannot collide.
    """
    count = Counter(classnames)
    if len(count) == len(classnames):
        return ()
    return tuple(
        name if count[name] == 1 and "#" not in name else f"{name}#{label}"
        for label, name in enumerate(classnames)
    )


def counts_of(pools: Pools) -> dict[str, int]:
    """Images per role."""
    return {role: len(pools[role]) for role in ROLES}


def copy_note(card: DatasetCard, classes: int, counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a note if a copy differs from the published set in classes or counts, where known.

    card: facts of the published set; classes, counts: those of the copy.
    """
    expected = card.expected_counts
    if expected and (counts, classes) != (expected, card.expected_classes):
        yield (
            f"this is not the published split: {classes} classes and {_figures(counts)} images "
            f"({'/'.join(counts)}), published are {card.expected_classes} and "
            f"{_figures(expected)}; its numbers cannot be compared with published ones"
        )


def _figures(counts: Mapping[str, int]) -> str:
    return "/".join(map(str, counts.values()))


def revision_of(pools: Pools, contents: Iterable[bytes] = ()) -> str:
    """SHA-256 over role, id, label and class name of every item, then over `contents`."""
    sha = hashlib.sha256()
    for role in ROLES:
        for part in parts(pools[role]):
            sha.update(lines_of_part(role, part, f"{part.label}\t{part.classname}"))
    for content in contents:
        sha.update(content)
    return sha.hexdigest()


def lines_of(values: Iterable[object]) -> tuple[bytes, ...]:
    """A line of bytes per value (such as a file size), for a revision."""
    return tuple(f"{value}\n".encode() for value in values)


def shortened(names: Sequence[str]) -> str:
    """The first names and the number of others; names that are not plain text are escaped."""
    shown = [name if plain_text(name) else ascii(name)[1:-1] for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*shown, *more])
