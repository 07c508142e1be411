"""Files that cells state in a store: `files/DIGEST/NAME`, each content once, for workers.

Files of hyper-parameters, and texts that describe classes. `keep_files` puts those of cells there;
`copy_files` merges. All take the texts by which cells state files (`file_texts.list_files`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from fewshot_bench.api.class_texts import READ
from fewshot_bench.api.file_texts import LONG, split
from fewshot_bench.api.option_files import FILES, digest_file, find
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import list_entries, whole, write_whole


def keep_files(store: Path, stated: Iterable[str]) -> None:
    """Put the files that cells state into a store, or a model; may raise OSError.

    StoreError for a file that was changed since the cells were planned.
    """
    for text in dict.fromkeys(stated):
        name, digest = split(text)
        if digest not in READ:
            _copy(find(text), text, store)
        elif not any(_list_copies(store, text)):
            write_whole(store / FILES / digest / name, READ[digest].content)


def copy_files(source: Path, stated: Iterable[str], destination: Path) -> None:
    """Copy the files of a cell between stores; may raise OSError. One that is damaged is left."""
    for text in stated:
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


def list_lacking(store: Path, stated: Iterable[str]) -> list[str]:
    """The names of files that a cell states and a store lacks."""
    return [split(text)[0] for text in stated if not any(_list_copies(store, text))]


def list_unused_files(store: Store, seconds: float) -> Iterator[Path]:
    """Files older than `seconds` that no record states."""
    old = [path for path in _list_all(store.path) if time.time() - path.stat().st_mtime > seconds]
    if old:
        files = (text for record in store.records() for text in record.spec.files)
        stated = {split(text)[1] for text in files}
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
