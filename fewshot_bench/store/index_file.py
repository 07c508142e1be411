"""The SQLite file of what is derived from a store, in this machine's cache folder.

It holds the contents of records (`index`) and the predictions of cells (`predictions`), and may
be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from fewshot_bench.api.record import SCHEMA
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.cache_dir import STORES, cache_root, is_shared
from fewshot_bench.utils.database import Database
from fewshot_bench.utils.version import __version__

# Texts that several records share, by their digest; a row per record; its predictions.
# `sum` is a checksum, since SQLite does not notice changed bytes.
TABLES = """
create table texts (digest blob primary key, text blob);
create table records (
    key text primary key, stamp blob, numbers blob, facts blob, split blob, sum integer,
    verified blob, own blob
);
create table outcomes (key text primary key, stamp blob, queries blob, content blob, sum integer)
"""
# What the validity and the meaning of a row depend on.
_MEANING = [__version__, SCHEMA, [field.name for field in dataclasses.fields(RunSpec)]]
VERSION = int(hashlib.sha256(json.dumps(_MEANING).encode()).hexdigest()[:7], 16)


def index_file(store: Path) -> Path:
    """The file of a store, which may not exist."""
    location = os.fsencode(os.path.realpath(store))
    return cache_root() / STORES / f"{hashlib.sha256(location).hexdigest()[:32]}.sqlite"


def open_index_file(store: Path, *, create: bool = False) -> Database:
    """Open the file of a store; memory if it cannot be used, or is absent and not to be created."""
    path = index_file(store)
    used = path if create or path.exists() else None
    return Database(used, TABLES, VERSION, timeout=10.0, writes=is_shared())


def digest_of_text(text: bytes) -> bytes:
    """The key of a shared text."""
    return hashlib.blake2b(text, digest_size=16).digest()


def index_files(store: Path) -> list[Path]:
    """The files of a store's index that exist, in the order in which they may be removed."""
    path = index_file(store)
    every = (path.with_name(f"{path.name}{ending}") for ending in ("-wal", "-shm", "-journal", ""))
    return [file for file in every if file.is_file()]
