"""`SplitFile`: the lists of a split file of any format, and the checks of a single entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.spec import ALL_SHOTS, WORD
from fewshot_bench.api.split_file import Pools
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import plain_text, shown

TITLES: Mapping[str, str] = {
    "fsbench": "split of fsbench (JSON)",
    "coop": "split file of CoOp's schema (JSON)",
    "index": "per-shot index file (JSON)",
    "jsonl": "list with one image per line (JSON lines)",
    "pickle": "few-shot cache of CoOp (pickle, read without executing it)",
}
DRAWS_ONLY = ("index", "pickle")
SETTING = re.compile(r"shot_(\d{1,6}|all)-seed_(\d{1,9})")


@dataclass(frozen=True)
class SplitFile:
    """The lists of a split file, as written: ids may be paths on another machine.

    A draw (few-shot picks) has `shots` and `seed` if known; lists of a whole data set have neither.
    `stated` is the digest written in the file; `positions` are indices into the data set's lists,
    by role.
    """

    path: Path
    format: str
    lists: Pools
    dataset: str = ""
    revision: str = ""
    protocol: str = ""
    shots: int | None = None
    seed: int | None = None
    stated: str = ""
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def is_draw(self) -> bool:
        """True for few-shot picks, not the lists of a whole data set."""
        return self.shots is not None or self.format in DRAWS_ONLY

    @property
    def digest(self) -> str:
        """SHA-256 over role, id and label of the lists that the file holds (`items.digest_of`)."""
        return lists_digest(self.lists)


def lists_digest(lists: Pools, roles: Iterable[str] = ROLES) -> str:
    """SHA-256 over one line per image, in the order of the roles; absent lists count as empty."""
    return digest_of((role, lists.get(role, ())) for role in roles)


def with_setting(file: SplitFile, shots: int | None, seed: int | None) -> SplitFile:
    """The file with shots and seed: its own, else the given ones, else those of its name.

    UsageError when given values contradict the file.
    """
    if file.format == "coop" or (file.format == "fsbench" and file.shots is None):
        if shots is not None or seed is not None:
            raise UsageError(
                f"{file.path} holds the lists of a whole data set: leave --shots and --seed out"
            )
        return file
    for option, given, own in (("shots", shots, file.shots), ("seed", seed, file.seed)):
        if given is not None and own is not None and given != own:
            raise UsageError(
                f"--{option} {given}: {file.path} says {own}; leave --{option} out, or correct it"
            )
    named = SETTING.search(file.path.stem)
    if named:
        if shots is None:
            shots = ALL_SHOTS if named[1] == WORD else int(named[1])
        seed = int(named[2]) if seed is None else seed
    return replace(
        file,
        shots=shots if file.shots is None else file.shots,
        seed=seed if file.seed is None else file.seed,
    )


def unusable(path: Path, problem: str, expected: str) -> DataMissingError:
    """The error for a split file that cannot be used."""
    return DataMissingError(
        f"split file {path} {problem}: expected {expected} (docs/reference/formats.md)"
    )


def item_of(path: Path, where: str, id: Any, label: Any, classname: Any) -> Item:
    """A checked entry; DataMissingError names the file and the place in it."""
    texts = all(isinstance(text, str) and text and plain_text(text) for text in (id, classname))
    if texts and type(label) is int and label >= 0:
        return Item(id, label, classname)
    raise unusable(
        path,
        f"has {shown([id, label, classname])} {where}",
        "a path, a label from 0 and a class name, without control characters",
    )


def items_of(path: Path, role: str, entries: Iterable[Sequence[Any]]) -> tuple[Item, ...]:
    """The checked entries (path, label, class name) of a list."""
    return tuple(
        item_of(path, f"as entry {number} of '{role}'", *entry)
        for number, entry in enumerate(entries)
    )
