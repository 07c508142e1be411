"""The parts of the code of methods: `code/DIGEST.json` in a store, for each digest of records.

`keep_code` writes one, once; `read_code` reads it, to say which function of a method was edited.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from fewshot_bench.api.code_closure import Parts, digest_parts
from fewshot_bench.api.record import Record, code_digest
from fewshot_bench.store.store import Store
from fewshot_bench.utils.files import Damaged, list_entries, read_regular, write_whole

CODE = "code"


class KeptCode(msgspec.Struct, frozen=True):
    """The content of a file. digest: of the parts; parts: as of `code_closure.describe_parts`."""

    digest: str
    parts: Mapping[str, str]


def keep_code(store: Path, digests: Mapping[str, str], parts: Mapping[str, Parts]) -> None:
    """Write the parts of methods into a store, by the digests of their code; may raise OSError."""
    for name, digest in digests.items():
        path = store / CODE / f"{digest}.json"
        if digest and parts.get(name) and not path.is_file():
            kept = KeptCode(digest_parts(parts[name]), dict(sorted(parts[name].items())))
            write_whole(path, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def read_code(store: Path, digest: str) -> Parts | None:
    """The parts of code with a digest; None if the store has none that can be read."""
    try:
        kept = msgspec.json.decode(read_regular(store / CODE / f"{digest}.json"), type=KeptCode)
    except (OSError, ValueError, Damaged):
        return None
    return kept.parts if digest_parts(kept.parts) == kept.digest else None


def copy_code(source: Path, record: Record, destination: Path) -> None:
    """Copy the parts of a record's code between stores; may raise OSError."""
    digest = record.code_digest
    if digest and (parts := read_code(source, digest)):
        keep_code(destination, {"": digest}, {"": parts})


def list_unused_code(store: Store, seconds: float) -> Iterator[Path]:
    """Files older than `seconds` of code that no record states."""
    files = [path for path in list_entries(store.path / CODE) if path.suffix == ".json"]
    old = [path for path in files if time.time() - path.stat().st_mtime > seconds]
    if old:
        every = list(store.records())
        stated = {code_digest(code) for (code,) in Record.entries(every, "environment", "code")}
        yield from (path for path in old if path.stem not in stated)


def list_damaged_code(store: Path) -> Iterator[tuple[Path, str]]:
    """Files that cannot be read, or are not what was written, with the reasons."""
    for path in list_entries(store / CODE):
        if path.suffix == ".json" and read_code(store, path.stem) is None:
            yield path, "it is not what was written"
