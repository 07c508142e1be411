"""Conformance kit results by method code, cached for the records of a method's cells.

`keep` writes a result, `load` reads it. A result belongs to one method and one digest of its
source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.method_code import CHANGED
from fewshot_bench.api.registry import registry
from fewshot_bench.utils.cache_dir import KIT, cache_root, write


@dataclass(frozen=True)
class KitResult:
    """Version of the kit, how many rules passed, and the names of those that are broken.

    expected: the reasons of rules that the author declared to be broken, by name.
    """

    version: int
    passed: int
    failed: Sequence[str]
    expected: Mapping[str, str]


@dataclass(frozen=True)
class _Kept(KitResult):
    method: str
    digest: str


def keep(method: str, digest: str, result: KitResult) -> None:
    """Write a result to the cache; OSError if that fails."""
    kept = _Kept(**asdict(result), method=method, digest=digest)
    write(_file(method, digest), msgspec.json.encode(kept))


def load(method: str, digest: str) -> KitResult | None:
    """The result for a method and the digest of its code; None if there is none."""
    if digest in ("", CHANGED):
        return None
    try:
        kept = msgspec.json.decode(_file(method, digest).read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError):
        return None
    result = KitResult(kept.version, kept.passed, kept.failed, kept.expected)
    return result if kept.digest == digest else None


def of_record(method: str, digest: str | None = None) -> dict[str, Any] | None:
    """The value of `environment["kit"]` in a record; None if the code has no kit result.

    digest: of the code; by default that of the method's class in this process.
    """
    code = registry().code(method)["digest"] if digest is None else digest
    result = load(method, str(code))
    return None if result is None else asdict(result)


def _file(method: str, digest: str) -> Path:
    name = hashlib.sha256(f"{method}\0{digest}".encode()).hexdigest()
    return cache_root() / KIT / f"{name}.json"
