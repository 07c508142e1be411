"""Conformance kit results by method code, cached for the records of a method's cells.

`keep` writes a result, `of_record` reads it. A result belongs to one method and one digest of its
source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.code_closure import CHANGED
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.cache_dir import KIT, cache_root, write


class KitResult(msgspec.Struct, frozen=True):
    """Version of the kit, how many rules passed, and the names of those that are broken.

    expected: the reasons of rules that the author declared to be broken, by name.
    """

    version: int
    passed: int
    failed: Sequence[str]
    expected: Mapping[str, str]


def keep(method: str, digest: str, result: KitResult) -> None:
    """Write a result to the cache; OSError if that fails."""
    write(_file(method, digest), msgspec.json.encode(result))


def of_record(method: str, digest: str | None = None) -> dict[str, Any] | None:
    """The value of `environment["kit"]` in a record; None if the code has no kit result.

    digest: of the code; by default that of the method's class in this process.
    """
    code = str(registry().code(method)["digest"] if digest is None else digest)
    if code in ("", CHANGED):
        return None
    try:
        result = msgspec.json.decode(_file(method, code).read_bytes(), type=KitResult)
    except (OSError, msgspec.MsgspecError):
        return None
    values: dict[str, Any] = msgspec.to_builtins(result)
    return values


def _file(method: str, digest: str) -> Path:
    name = hashlib.sha256(f"{method}\0{digest}".encode()).hexdigest()
    return cache_root() / KIT / f"{name}.json"
