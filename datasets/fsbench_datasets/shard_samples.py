"""Samples of a tar shard: members that share a key, one of them an image, one its label."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError, UsageError, image_endings
from fsbench_datasets.kept_index import check_places, kept
from fsbench_datasets.labels import NAME_KEYS, number_or_name
from fsbench_datasets.tar_files import Member, members, read_member

LABELS = ("label", "cls")
# The key of a sample runs to the first dot of the file name (webdataset's convention).
MEMBER = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]+)$")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labeled image of a shard; `label` is a whole number or the class name itself."""

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
    """The samples of a shard in its order; UsageError names a sample that is not whole."""
    return kept(shard, "samples", lambda: tuple(_read(name, shard)), _encoded, _decoded)


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
        found = ", ".join(sorted(parts))
        raise UsageError(
            f"{name}: sample '{key}' of {shard} has {len(images)} images among {found}: expected "
            "one that can be read here (jpg, png, webp, ...)"
        )
    label, classname = _label(name, shard, key, parts)
    return Sample(key, images[0], parts[images[0]], label, classname)


def _label(
    name: str, shard: Path, key: str, parts: Mapping[str, Member]
) -> tuple[int | str, str | None]:
    where = f"sample '{key}' of {shard}"
    described = _described(name, where, shard, parts.get("json"))
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


def _described(name: str, where: str, shard: Path, member: Member | None) -> Mapping[str, Any]:
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


def _encoded(samples: Samples) -> Any:
    return [
        [s.key, s.extension, s.image.name, s.image.offset, s.image.size, s.label, s.classname]
        for s in samples
    ]


def _decoded(content: Any, end: int) -> Samples:
    for row in content:
        if [type(value) for value in row[:5]] != [str, str, str, int, int]:
            raise ValueError("a value of another kind")
        if type(row[5]) not in (int, str) or not isinstance(row[6], str | None):
            raise ValueError("a label of another kind")
    check_places([row[3] for row in content], [row[4] for row in content], end)
    return tuple(
        Sample(key, extension, Member(name, offset, size), label, classname)
        for key, extension, name, offset, size, label, classname in content
    )
