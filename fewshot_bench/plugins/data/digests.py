"""Digests of files that were fetched or given, and what they are compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from fewshot_bench.api.recipe import RemoteFile

CHUNK = 2**20
TITLES = {"sha256": "SHA-256", "md5": "MD5"}


def _ignore(count: int) -> None:
    """Tell nobody."""


def digests_of(
    path: Path, algorithms: Mapping[str, str], advance: Callable[[int], None] = _ignore
) -> dict[str, str]:
    """Digests of a file by the name of their algorithm; `advance` hears the bytes read."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for value in hashes.values():
                value.update(chunk)
            advance(len(chunk))
    return {name: value.hexdigest() for name, value in hashes.items()}


def difference(
    file: RemoteFile, path: Path, advance: Callable[[int], None] = _ignore
) -> str | None:
    """How a file differs in size or digest from what is known of it; None when it does not."""
    size = path.stat().st_size
    if file.size and size != file.size:
        return f"it has {size:,} bytes, expected {file.size:,}"
    found = digests_of(path, file.digests, advance)
    for name, expected in file.digests.items():
        if found[name] != expected:
            return f"its {TITLES[name]} is {found[name]}, expected {expected}"
    return None


def verified_as(file: RemoteFile) -> str:
    """What a file that shows no `difference` was compared with."""
    return f"{known_digests(file)} as expected" if file.digests else known_digests(file)


def known_digests(file: RemoteFile) -> str:
    """Which digests are known, in words."""
    titles = [TITLES[name] for name in file.digests]
    return " and ".join(titles) or "not verified: no digest is known"
