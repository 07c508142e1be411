"""Files of hyper-parameters in a store: `files/DIGEST/NAME`, each content once, for workers.

`keep_files` copies those of cells there; `copy_files` merges.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.file_texts import LONG, split
from fewshot_bench.api.option_files import FILES, digest_file, find
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import list_entries, whole

Options = Mapping[str, Any]


def list_stated(every: Iterable[Options]) -> list[str]:
    """The texts of the files that options of cells state, each once."""
    texts = (text for options in every for text in options.values())
    return list(dict.fromkeys(text for text in texts if split(text)[0]))


def keep_files(store: Path, every: Iterable[Options]) -> None:
    """Copy the files that options of cells state into a store, or a model; may raise OSError.

    StoreError for a file that was changed since the cells were planned.
    """
    for text in list_stated(every):
        _copy(find(text), text, store)


def copy_files(source: Path, options: Options, destination: Path) -> None:
    """Copy the files of a cell between stores; may raise OSError. One that is damaged is left."""
    for text in list_stated([options]):
        for path in _list_copies(source, text):
            if _is_whole(path):
                _copy(path, text, destination)
                break


def _copy(path: Path | None, text: str, store: Path) -> None:
    name, digest = split(text)
    if any(_list_copies(store, text)):
        return
    if path is None:
        raise StoreError(f"{name} was changed or removed since its cells were planned; run again")
    folder = store / FILES / digest
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / name) as temporary:
        shutil.copyfile(path, temporary)
        if digest_file(temporary)[:LONG] != digest:
            raise StoreError(f"'{path}' was changed while it was copied; run again")


def list_lacking(store: Path, options: Options) -> list[str]:
    """The names of files that a cell states and a store lacks."""
    return [split(text)[0] for text in list_stated([options]) if not any(_list_copies(store, text))]


def list_unused_files(store: Store, seconds: float) -> Iterator[Path]:
    """Files older than `seconds` that no record states."""
    old = [path for path in _list_all(store.path) if time.time() - path.stat().st_mtime > seconds]
    if old:
        stated = {split(text)[1] for text in list_stated(r.spec.options for r in store.records())}
        yield from (path for path in old if path.parent.name not in stated)


def list_damaged_files(store: Path) -> Iterator[tuple[Path, str]]:
    """Files that have not the content that their folder states, with the reasons."""
    for path in _list_all(store):
        if not _is_whole(path):
            yield path, "it is not the file that was copied: remove it, and run the cells again"


def _list_all(store: Path) -> list[Path]:
    return [path for folder in list_entries(store / FILES) for path in list_entries(folder)]


def _list_copies(store: Path, text: str) -> list[Path]:
    return list_entries(store / FILES / split(text)[1])


def _is_whole(path: Path) -> bool:
    try:
        return digest_file(path)[:LONG] == path.parent.name
    except OSError:
        return False
