"""`wds:PATTERN`: images in tar shards of the webdataset convention, read without unpacking.

Main entry point: `open_shards`. Members that share a key form a sample with an image and a label.
The order of shards and samples does not depend on the file system.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.sources import (
    SIMPLE_TEMPLATES,
    Stamp,
    file_stamp,
    image_endings,
    one_spelling,
)
from fsbench_datasets.disk import read_file
from fsbench_datasets.labels import NAME_KEYS, Row, check_text, label_rows, number_or_name
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT, check_holdout, complete
from fsbench_datasets.split_lists import lines_of, shortened
from fsbench_datasets.tar import Member, keep_index, members, read_member

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
WILD = re.compile(r"[*?\[]")
MAGIC = re.compile(r"[*?\[{]")
MOST_SHARDS = 100_000
LABELS = ("label", "cls")
# The key of a sample runs to the first dot of the file name (webdataset's convention).
MEMBER = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")
CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"


@dataclass(frozen=True, slots=True)
class Shard:
    """One archive: `name` is its path below the base folder, `role` its pool."""

    path: Path
    name: str
    role: str


def find_shards(name: str, argument: str) -> tuple[Path, tuple[Shard, ...]]:
    """The base folder and the shards, sorted by path.

    argument: patterns with ranges {000..003} and wildcards, or folders, separated by semicolons;
    `train=PATTERN` gives the role, else words in the shard's path do. DataMissingError if no shard
    is found or one of a range is missing, UsageError if roles are unclear.
    """
    parts = [_part(name, text.strip()) for text in argument.split(";") if text.strip()]
    if not parts:
        raise UsageError(f"{name}: expected a pattern such as wds:data/train-{{000..003}}.tar")
    files: dict[Path, str] = {}
    for role, pattern in parts:
        for path in _expand(name, pattern):
            other = files.setdefault(path, role)
            if other != role:
                both = " and as ".join(each or "no split in particular" for each in (other, role))
                raise UsageError(
                    f"{name}: shard {path} is given as {both}: expected every shard in one pattern"
                )
    _refuse_one_file_twice(name, files)
    base = Path(os.path.commonpath([_fix(pattern) for _, pattern in parts]))
    shards = tuple(
        Shard(path, (below := path.relative_to(base)).as_posix(), files[path] or _role(name, below))
        for path in sorted(files)
    )
    roles = {shard.role for shard in shards}
    if UNSPLIT in roles and len(roles) > 1:
        bare = next(shard for shard in shards if shard.role == UNSPLIT)
        raise UsageError(
            f"{name}: shard {bare.name} is of no split while others are: expected train, val or "
            "test in its name or folder, or role=PATTERN"
        )
    return base, shards


def _refuse_one_file_twice(name: str, shards: Iterable[Path]) -> None:
    """UsageError if two shards are one file by a link: of train and test, for example."""
    seen: dict[str, Path] = {}
    for path in shards:
        other = seen.setdefault(os.path.realpath(path), path)
        if other != path:
            raise UsageError(
                f"{name}: the shards {other} and {path} are one file, by a link: expected every "
                "image once (remove the link, or name one of them)"
            )


def title_of(argument: str) -> str:
    """A readable title: the name of the first pattern's folder."""
    return Path(_fix(_part("wds:", argument.partition(";")[0].strip())[1])).name


def canonical(argument: str) -> str:
    """The argument with its paths in their unique spelling."""
    parts = [_split(text.strip()) for text in argument.split(";") if text.strip()]
    return ";".join(f"{role}={_plain(path)}" if role else _plain(path) for role, path in parts)


def _plain(pattern: str) -> str:
    if _elsewhere(pattern):
        return pattern
    whole = os.path.abspath(os.path.expanduser(pattern))
    fixed = _fix(whole)
    return os.path.normpath(f"{one_spelling(os.path.realpath(fixed))}{whole[len(fixed) :]}")


def _elsewhere(pattern: str) -> bool:
    """True for a URL or a pipe, which is not a local path."""
    return "://" in pattern or pattern.startswith("pipe:")


def _split(text: str) -> tuple[str, str]:
    """Explicit role (`UNSPLIT` if there is none) and pattern."""
    head, equals, pattern = text.partition("=")
    role = ROLE_NAMES.get(head.casefold(), UNSPLIT) if equals else UNSPLIT
    return (role, pattern) if role else (UNSPLIT, text)


def _part(name: str, text: str) -> tuple[str, str]:
    """Explicit role and absolute pattern; UsageError for a URL or a pipe."""
    role, pattern = _split(text)
    if _elsewhere(pattern):
        raise UsageError(f"{name}: '{pattern}': expected files on this machine (download them)")
    return role, os.path.abspath(os.path.expanduser(pattern))


def _fix(pattern: str) -> str:
    """The folder above all shards of a pattern: its leading part without wildcards or ranges."""
    if os.path.isdir(pattern):
        return pattern
    parts = Path(pattern).parts[:-1]
    plain = next((i for i, part in enumerate(parts) if MAGIC.search(part)), len(parts))
    return os.path.join(*parts[:plain])


def _expand(name: str, pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        folder = glob.escape(pattern)
        patterns = [os.path.join(folder, "*.tar"), os.path.join(folder, "*", "*.tar")]
        paths = [path for each in patterns for path in glob.glob(each)]
        if others := [path for path in paths if not os.path.isfile(path)]:
            raise DataMissingError(
                f"{name}: {len(others)} of its .tar are links to nothing, folders, pipes or the "
                f"like: {shortened(others)}; expected archives (mend them, or take them out of the "
                "folder)"
            )
    elif not MAGIC.search(pattern) or os.path.isfile(pattern):
        paths = [pattern] if os.path.isfile(pattern) else []
    else:
        plain = _ranges(name, pattern)
        paths = [
            path for each in plain for path in (glob.glob(each) if WILD.search(each) else [each])
        ]
        if missing := [path for path in paths if not os.path.isfile(path)]:
            raise DataMissingError(
                f"{name}: {len(missing)} shards are not there: {shortened(missing)}; fetch them, "
                "or make the range shorter"
            )
    if not paths:
        raise DataMissingError(
            f"{name}: no shard matches {pattern}: expected .tar files, or a folder of them"
        )
    return [Path(path) for path in paths]


def _ranges(name: str, pattern: str) -> list[str]:
    """The pattern for every number of every {first..last}; leading zeros are preserved."""
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


def _role(name: str, relative: Path) -> str:
    """The role named in the file name, else in the nearest folder above; UsageError for several."""
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


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One labeled image of a shard; `label` is an integer or the class name itself."""

    key: str
    extension: str
    image: Member
    label: int | str
    classname: str | None = None

    @property
    def image_name(self) -> str:
        """The image's name within the shard."""
        return f"{self.key}.{self.extension}"


Samples = tuple[Sample, ...]


def shard_samples(name: str, shard: Path) -> Samples:
    """The samples in shard order; UsageError for a sample without one image and a valid label."""
    return keep_index(shard, tuple[Sample, ...], lambda: tuple(_read(name, shard)))


def _read(name: str, shard: Path) -> Iterator[Sample]:
    grouped: dict[str, dict[str, Member]] = {}
    for member in members(shard):
        match = MEMBER.match(member.name.removeprefix("./"))
        if match is None or match[1].rpartition("/")[2].startswith("__"):
            continue
        parts = grouped.setdefault(match[1], {})
        if parts.setdefault(match[2].lower(), member) is not member:
            raise UsageError(
                f"{name}: {shard} holds '{member.name}' twice: expected every key once per shard"
            )
    for key, parts in grouped.items():
        yield _sample(name, shard, key, parts)


def _sample(name: str, shard: Path, key: str, parts: Mapping[str, Member]) -> Sample:
    images = [extension for extension in image_endings() if extension in parts]
    if len(images) != 1:
        raise UsageError(
            f"{name}: sample '{key}' of {shard} has {len(images)} images among "
            f"{shortened(sorted(parts))}: expected one that can be read here (jpg, png, webp, "
            "...); a sample is all members whose names are equal up to the first dot"
        )
    label, classname = _label(name, shard, key, parts)
    return Sample(key, images[0], parts[images[0]], label, classname)


def _label(
    name: str, shard: Path, key: str, parts: Mapping[str, Member]
) -> tuple[int | str, str | None]:
    where = f"sample '{key}' of {shard}"
    described = _describe(name, where, shard, parts.get("json"))
    label = next((described[field] for field in LABELS if field in described), None)
    classname = next((described[field] for field in NAME_KEYS if field in described), None)
    if "cls" in parts:
        label = _text(name, where, shard, parts["cls"])
    elif label is None and classname is None and "txt" in parts:
        label = _text(name, where, shard, parts["txt"])
    if label is None:
        label, classname = classname, None
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        raise UsageError(
            f"{name}: {where} has no label: expected {key}.cls with a number, {key}.json with "
            f"label or class, or {key}.txt with a class name"
        )
    number = number_or_name(label)
    named = classname if isinstance(number, int) and isinstance(classname, str) else None
    return number, named


def _text(name: str, where: str, shard: Path, member: Member) -> str:
    try:
        return read_member(shard, member).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{name}: {where}: '{member.name}' is not UTF-8 text") from None
    except OSError as error:
        raise DataMissingError(f"{name}: {where} cannot be read: {error}") from None


def _describe(name: str, where: str, shard: Path, member: Member | None) -> Mapping[str, Any]:
    if member is None:
        return {}
    try:
        value = json.loads(_text(name, where, shard, member))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}: {where}: '{member.name}' is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(
            f"{name}: {where}: '{member.name}': expected an object with label or class"
        )
    return value


@dataclass(frozen=True)
class Shards:
    """The samples of tar shards; ids are `shard/key.extension`."""

    name: str
    argument: str

    def listing(self) -> Listing:
        """All samples, shard by shard; archives are scanned once (then cached), skipping images."""
        samples = self._samples
        rows = [
            Row(id, sample.label, sample.classname, shard.role, f"{shard.path}, {sample.key}")
            for id, (shard, sample) in samples.items()
        ]
        classnames = self._beside(CLASSNAMES)
        return Listing(
            label_rows(self.name, rows, classnames),
            lines_of(sample.image.size for _, sample in samples.values()),
            self._templates(),
            notes=(f"{len(self._shards)} shards",),
            folder=str(self._base),
        )

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        shard, sample = self._find(id)
        return read_member(shard.path, sample.image)

    def stamp(self, id: str) -> Stamp | None:
        """The image's stamp: the shard's stamp with offset and size; None without the shard."""
        shard, sample = self._find(id)
        whole = file_stamp(shard.path)
        if whole is None:
            return None
        image = sample.image
        return Stamp(image.size, whole.changed, f"{whole.token}:{image.offset}:{image.size}")

    @cached_property
    def _found(self) -> tuple[Path, tuple[Shard, ...]]:
        return find_shards(self.name, self.argument)

    @property
    def _base(self) -> Path:
        return self._found[0]

    @property
    def _shards(self) -> tuple[Shard, ...]:
        return self._found[1]

    @cached_property
    def _samples(self) -> dict[str, tuple[Shard, Sample]]:
        """Id to (shard, sample), in the order of the shards and of their members."""
        _refuse_other_kinds(self.name, self._beside(TYPE))
        return {
            f"{shard.name}/{sample.image_name}": (shard, sample)
            for shard in self._shards
            for sample in shard_samples(self.name, shard.path)
        }

    def _find(self, id: str) -> tuple[Shard, Sample]:
        sample = self._samples.get(id)
        if sample is None:
            raise FileNotFoundError(f"{self.name} has no image '{id}'")
        return sample

    def _templates(self) -> tuple[str, ...]:
        lines = self._beside(TEMPLATES)
        if lines is None:
            return SIMPLE_TEMPLATES
        # clip-benchmark marks the class name by {c}.
        templates = tuple(line.replace("{c}", "{}") for line in lines)
        for line, template in zip(lines, templates, strict=True):
            if template.count("{}") != 1:
                raise UsageError(
                    f"{self.name}: template '{line}' in {TEMPLATES}: expected {{}} or {{c}} once"
                )
        return templates

    def _beside(self, file_name: str) -> list[str] | None:
        """The lines of a text file beside the shards; None when there is none.

        If the base folder is named like a role, its parent is searched too.
        """
        folders = [self._base, *(shard.path.parent for shard in self._shards)]
        if self._base.name.casefold() in ROLE_NAMES:
            folders.append(self._base.parent)
        for folder in dict.fromkeys(folders):
            if (folder / file_name).is_file():
                return _lines(self.name, folder / file_name)
        return None


def open_shards(argument: str, holdout: float | None = None) -> OwnSet:
    """The data set for `wds:PATTERN`."""
    argument = canonical(argument)
    name = f"wds:{argument}"
    check_holdout(name, holdout)
    return OwnSet(
        name, title_of(argument), Shards(name, argument), partial(complete, name, holdout=holdout)
    )


def _lines(name: str, path: Path) -> list[str]:
    try:
        lines = read_file(path).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataMissingError(f"{name}: {path} cannot be read: {error}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return [
        check_text(name, line.strip(), "line", f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
    ]


def _refuse_other_kinds(name: str, kind: Sequence[str] | None) -> None:
    if kind and kind[0] in ("retrieval", "multilabel"):
        raise UsageError(f"{name} is a {kind[0]} set ({TYPE}): expected images with one class each")
