"""Which tar archives a `wds:` argument means, in an order that the file system has no part in."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import DataMissingError, UsageError, one_spelling
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT
from fsbench_datasets.split_file import shortened

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
WILD = re.compile(r"[*?\[]")
MAGIC = re.compile(r"[*?\[{]")
MOST_SHARDS = 100_000


@dataclass(frozen=True, slots=True)
class Shard:
    """One archive: `name` is its path below the base folder, `role` its pool."""

    path: Path
    name: str
    role: str


def find_shards(name: str, argument: str) -> tuple[Path, tuple[Shard, ...]]:
    """The base folder and the shards, sorted by name.

    argument: patterns with ranges {000..003} and wildcards, or folders, separated by semicolons;
    `train=PATTERN` gives the role, else words in the shard's path do. DataMissingError where no
    shard is found, UsageError where roles are unclear.
    """
    parts = [_part(name, text.strip()) for text in argument.split(";") if text.strip()]
    if not parts:
        raise UsageError(f"{name}: expected a pattern such as wds:data/train-{{000..003}}.tar")
    found: dict[Path, str] = {}
    for role, pattern in parts:
        for path in _expand(name, pattern):
            other = found.setdefault(path, role)
            if other != role:
                both = " and as ".join(each or "no split in particular" for each in (other, role))
                raise UsageError(
                    f"{name}: shard {path} is given as {both}: expected every shard in one pattern"
                )
    base = Path(os.path.commonpath([_fixed(pattern) for _, pattern in parts]))
    shards = tuple(_shard(name, path, base, found[path]) for path in sorted(found))
    roles = {shard.role for shard in shards}
    if UNSPLIT in roles and len(roles) > 1:
        bare = next(shard for shard in shards if shard.role == UNSPLIT)
        raise UsageError(
            f"{name}: shard {bare.name} is of no split while others are: expected train, val or "
            "test in its name or folder, or role=PATTERN"
        )
    return base, shards


def title_of(argument: str) -> str:
    """The folder of the first pattern, for people."""
    return Path(_fixed(_part("wds:", argument.partition(";")[0].strip())[1])).name


def canonical(argument: str) -> str:
    """One text for the argument, however its paths are written."""
    parts = [_split(text.strip()) for text in argument.split(";") if text.strip()]
    return ";".join(f"{role}={_plain(path)}" if role else _plain(path) for role, path in parts)


def _plain(pattern: str) -> str:
    if _elsewhere(pattern):
        return pattern
    whole = os.path.abspath(os.path.expanduser(pattern))
    fixed = _fixed(whole)
    return os.path.normpath(f"{one_spelling(os.path.realpath(fixed))}{whole[len(fixed) :]}")


def _elsewhere(pattern: str) -> bool:
    """A stream or a program's output, which is no place on this machine."""
    return "://" in pattern or pattern.startswith("pipe:")


def _split(text: str) -> tuple[str, str]:
    """Explicit role and pattern."""
    head, equals, pattern = text.partition("=")
    role = ROLE_NAMES.get(head.casefold(), UNSPLIT) if equals else UNSPLIT
    return (role, pattern) if role else (UNSPLIT, text)


def _part(name: str, text: str) -> tuple[str, str]:
    """Explicit role and absolute pattern."""
    role, pattern = _split(text)
    if _elsewhere(pattern):
        raise UsageError(f"{name}: '{pattern}': expected files on this machine (download them)")
    return role, os.path.abspath(os.path.expanduser(pattern))


def _fixed(pattern: str) -> str:
    """The folder that all shards of a pattern lie below."""
    if os.path.isdir(pattern):
        return pattern
    parts = Path(pattern).parts[:-1]
    plain = next((i for i, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return os.path.join(*parts[:plain])


def _expand(name: str, pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        folder = glob.escape(pattern)
        patterns = [os.path.join(folder, "*.tar"), os.path.join(folder, "*", "*.tar")]
        found = [path for each in patterns for path in glob.glob(each)]
    elif not MAGIC.search(pattern) or os.path.isfile(pattern):
        found = [pattern] if os.path.isfile(pattern) else []
    else:
        plain = _ranges(name, pattern)
        found = [
            path for each in plain for path in (glob.glob(each) if WILD.search(each) else [each])
        ]
        _check_there(name, [path for path in found if not os.path.isfile(path)])
    if not found:
        raise DataMissingError(
            f"{name}: no shard matches {pattern}: expected .tar files, or a folder of them"
        )
    return [Path(path) for path in found]


def _ranges(name: str, pattern: str) -> list[str]:
    """The pattern for every number of every {first..last}; zeros in front are kept."""
    match = RANGE.search(pattern)
    if match is None:
        if "{" in pattern:
            raise UsageError(
                f"{name}: braces in {pattern}: expected a range of numbers such as {{000..003}}"
            )
        return [pattern]
    first, last = match.groups()
    if int(last) < int(first) or int(last) - int(first) >= MOST_SHARDS:
        raise UsageError(
            f"{name}: range {match[0]}: expected the lower number first, {MOST_SHARDS} at most"
        )
    head, tail = pattern[: match.start()], pattern[match.end() :]
    tails = _ranges(name, tail)
    numbers = range(int(first), int(last) + 1)
    return [f"{head}{number:0{len(first)}d}{rest}" for number in numbers for rest in tails]


def _check_there(name: str, missing: Sequence[str]) -> None:
    if missing:
        raise DataMissingError(
            f"{name}: {len(missing)} shards are not there: {shortened(missing)}; fetch them, or "
            "make the range shorter"
        )


def _shard(name: str, path: Path, base: Path, role: str) -> Shard:
    relative = path.relative_to(base)
    return Shard(path, relative.as_posix(), role or _role(name, relative))


def _role(name: str, relative: Path) -> str:
    """The role that the file's name says, else the folders above it."""
    for part in (relative.stem, *reversed(relative.parts[:-1])):
        words = re.split(r"[-_.]", part.casefold())
        roles = {ROLE_NAMES[word] for word in words if word in ROLE_NAMES}
        if len(roles) > 1:
            raise UsageError(
                f"{name}: '{part}' names several splits ({', '.join(sorted(roles))}): give the "
                "split as role=PATTERN, for example wds:train=a-*.tar;test=b-*.tar"
            )
        if roles:
            return roles.pop()
    return UNSPLIT
