"""Results of several sources side by side: `gather` reads stores and bundles, and averages nothing.

A source is a submitter's bundle, or a store under the name of its folder. Its cells stay its own:
the same cell of another source is named as agreeing or disagreeing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.store.bundle import is_bundle, read_manifest, unpack
from fewshot_bench.store.predictions import Queries
from fewshot_bench.store.standing import RE_RUN, UNVERIFIED, VERIFIED, Standing, judge
from fewshot_bench.store.store import Damage, Store
from fewshot_bench.utils.errors import UsageError

# Quantile of the normal distribution for 95 % of repetitions.
NOISE = 1.96
# Seconds from which a time, which has six decimals, is of one run.
_LONG = 0.01


@dataclass(frozen=True)
class Entry:
    """A finished cell of one source.

    agrees_with, disagrees_with: sources that ran the same cell; same_run: those with this very run.
    """

    record: Record
    source: str
    store: Store
    standing: Standing
    agrees_with: tuple[str, ...] = ()
    disagrees_with: tuple[str, ...] = ()
    same_run: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The key of the cell."""
        return self.record.spec.key()


@dataclass(frozen=True)
class Gathered:
    """The cells of all sources, in the order of the sources and of their keys.

    sources: their names. damaged: files of records that cannot be read.

    >>> gather([Path("a.zip"), Path("results")], scratch).entries[0].standing.level
    """

    entries: tuple[Entry, ...]
    sources: tuple[str, ...]
    damaged: tuple[Damage, ...] = ()

    def disagreements(self) -> Mapping[str, list[Entry]]:
        """The entries that another source disagrees with, by the key of their cell."""
        same = defaultdict[str, list[Entry]](list)
        for entry in self.entries:
            if entry.disagrees_with:
                same[entry.key].append(entry)
        return same

    def copies(self) -> Mapping[frozenset[str], int]:
        """By the names of two sources, how many cells of both are the same runs."""
        pairs = {(e.key, frozenset((e.source, n))) for e in self.entries for n in e.same_run}
        return Counter(names for _, names in pairs)


@dataclass(frozen=True)
class Pair:
    """The same cell of two sources, query by query.

    discordant: ids that only the first got right, and only the second; None if their queries
    differ. copy: whether both are the same run: equal answers, and a time that both measured to
    the microsecond or that one does not state.
    """

    discordant: tuple[list[str], list[str]] | None
    copy: bool = False

    @property
    def agrees(self) -> bool:
        """True if the discordant queries differ by no more than two runs of one cell may."""
        first, second = map(len, self.discordant or ((), ()))
        near: bool = abs(first - second) <= NOISE * (first + second) ** 0.5
        return near and self.discordant is not None


def gather(sources: Sequence[Path], folder: Path) -> Gathered:
    """Read stores and bundles side by side; bundles are unpacked below `folder`, which must exist.

    BundleError for a bundle that is refused, UsageError for a source that is neither.
    """
    names, entries, damaged = list[str](), list[Entry](), list[Damage]()
    for number, path in enumerate(sources):
        store = _open(path, folder / f"{number}")
        manifest, standings = read_manifest(store.path), judge(store)
        names.append(manifest.submitter if manifest else path.resolve().name)
        entries += (
            Entry(record, names[-1], store, standings[record.spec.key()])
            for record in store.records()
            if record.status == "done" and record.spec.key() in standings
        )
        damaged += store.damaged
    return Gathered(tuple(_compare(entries)), tuple(dict.fromkeys(names)), tuple(damaged))


def _open(path: Path, folder: Path) -> Store:
    if path.is_dir() and (path / "records").is_dir():
        return Store(path)
    if is_bundle(path):
        return unpack(path, folder)
    what = "is neither" if path.exists() else "does not exist"
    raise UsageError(
        f"source '{path}' {what}: expected a store, or a bundle as fsbench submit writes it"
    )


def _compare(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries with the sources that agree with each or not, and those that were re-run."""
    same = defaultdict[str, list[int]](list)
    for place, entry in enumerate(entries):
        if entry.standing.level != UNVERIFIED:
            same[entry.key].append(place)
    # Of each entry the other sources of its cell, by the field that names them.
    others, ran_again = [defaultdict[str, set[str]](set) for _ in entries], set[int]()
    for a, b in chain.from_iterable(combinations(places, 2) for places in same.values()):
        first, second = entries[a], entries[b]
        pair = compare_pair(first, second)
        # Own cells that differ are shown; that they agree says nothing.
        own = first.source.casefold() == second.source.casefold()
        if own and (pair.copy or pair.agrees):
            continue
        kind = "agrees_with" if pair.agrees else "disagrees_with"
        if pair.copy:
            kind = "same_run"
        elif pair.agrees and first.standing.level == second.standing.level == VERIFIED:
            ran_again |= {a, b}
        others[a][kind].add(second.source)
        others[b][kind].add(first.source)
    for number, (entry, by_kind) in enumerate(zip(entries, others, strict=True)):
        standing = Standing(RE_RUN) if number in ran_again else entry.standing
        named: dict[str, Any] = {kind: tuple(sorted(names)) for kind, names in by_kind.items()}
        yield dataclasses.replace(entry, standing=standing, **named)


def compare_pair(one: Entry, other: Entry) -> Pair:
    """Compare the same cell of two sources, query by query."""
    mine, theirs = (entry.store.answers(entry.key) for entry in (one, other))
    if Queries.of(mine).digest != Queries.of(theirs).digest:
        return Pair(None)
    times = _times(one.record.timings), _times(other.record.timings)
    copy = not all(times) or not times[0].isdisjoint(times[1])
    copy = copy and mine.answers.surprises.tobytes() == theirs.answers.surprises.tobytes()
    right, others = mine.answers.hits, theirs.answers.hits
    alone = (right & ~others).nonzero()[0], (others & ~right).nonzero()[0]
    first, second = ([mine.ids[place] for place in places] for places in alone)
    return Pair((first, second), copy)


def _times(value: Any) -> set[float]:
    """The measured times that are long enough for no other run to have one of them by chance."""
    if isinstance(value, Mapping):
        return set[float]().union(*map(_times, value.values()))
    return {value} if isinstance(value, float) and value >= _LONG else set()
