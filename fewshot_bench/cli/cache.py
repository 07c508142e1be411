"""What is cached: its sizes, and its removal. All of it can be computed again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fewshot_bench.cli.output import say
from fewshot_bench.utils.cache_dir import KINDS, files, folder_of, limit_of, remove
from fewshot_bench.utils.errors import FsbenchError, unknown
from fewshot_bench.utils.files import is_stale
from fewshot_bench.utils.text import size_text

ALL = "all"


def sizes(store: Path) -> dict[str, str]:
    """How much of each kind is cached, its bound, and where; features are those of a store."""
    found = {}
    for kind in KINDS:
        folder = folder_of(kind, store)
        there = files(kind, folder)
        total = sum(file.size for file in there)
        bound = limit_of(kind, folder, total)
        most = f" of at most {size_text(bound[0])} ({bound[1]})" if bound else ""
        found[kind] = f"{size_text(total)}{most} in {len(there)} files, {folder}"
    return found


def clear(kinds: Iterable[str], store: Path) -> None:
    """Remove what is cached of these kinds, or of all; FsbenchError if a file cannot be removed."""
    for kind in kinds:
        if kind not in (*KINDS, ALL):
            raise unknown("kind of cache", kind, (*KINDS, ALL), "fsbench env --help")
    chosen = [
        file
        for kind in (KINDS if ALL in kinds else kinds)
        for file in files(kind, folder_of(kind, store))
        if not file.temporary or is_stale(file.path)
    ]
    left = [file for file in chosen if not remove(file)]
    removed = [file.size for file in chosen if file not in left]
    say(f"removed {len(removed)} files, {size_text(sum(removed))}")
    if left:
        raise FsbenchError(
            f"{len(left)} files could not be removed, the first is {left[0].path}: check who may "
            "write there"
        )
