"""`fsbench cache`: list, remove and measure cache files, without loading their content."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NAMES, store_option, yes_option
from fewshot_bench.cli.output import aligned, confirm, say
from fewshot_bench.cli.panels import list_option
from fewshot_bench.cli.working import working
from fewshot_bench.utils import small_cache
from fewshot_bench.utils.cache_dir import (
    DIGESTS,
    FEATURES,
    IMAGES,
    KINDS,
    LISTS,
    CacheFile,
    files,
    folder_of,
    limit_of,
    remove,
)
from fewshot_bench.utils.errors import FsbenchError, UsageError, unknown
from fewshot_bench.utils.files import is_stale
from fewshot_bench.utils.text import counted, size_text

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_STORE = store_option("Store whose features are meant.")


class Entry(NamedTuple):
    """A cache file, or the part of it for one data set; what the file does not state is empty."""

    file: CacheFile
    size: int
    dataset: str = ""
    images: int | None = None
    damaged: bool = False


def entries(files: Iterable[CacheFile]) -> Iterator[Entry]:
    """Entries of cache files, from the descriptions in the files."""
    for file in files:
        if file.temporary or file.kind not in (IMAGES, FEATURES, DIGESTS, LISTS):
            yield Entry(file, file.size)
            continue
        parts = list(_describe(file))
        yield from (Entry(file, size, name, images) for name, images, size in parts)
        if not parts:
            yield Entry(file, file.size, damaged=True)


def _describe(file: CacheFile) -> Iterator[tuple[str, int | None, int]]:
    """Data set, images and bytes of the parts of a file; none of a damaged one."""
    if file.kind in (DIGESTS, LISTS):
        yield from small_cache.describe(file.path)
    elif file.kind == IMAGES:
        from fewshot_bench.images.cache import read_description

        if read := read_description(file.path):
            yield str(read[0].get("dataset", "")), read[0]["shape"][0], file.size
    else:
        from fewshot_bench.images.feature_files import describe

        if described := describe(file.path):
            yield *described, file.size


@click.group("cache", cls=LazyGroup, short_help="Show or remove what is cached.")
def command() -> None:
    """Show or remove what is cached: all of it can be computed again."""


@command.command("ls", short_help="List what is cached.")
@_STORE
@working("cache ls", live=False)
def list_files(store: Path) -> None:
    """List decoded images, digests of image files and features, the latest used first."""
    rows = [("kind", "data set", "images", "size", "last used", "file")]
    for entry in sorted(entries(_files(KINDS, store)), key=lambda entry: -entry.file.used):
        name = entry.file.path.name
        name = name if len(name) < 24 else name[:12]
        rows.append(
            (
                entry.file.kind,
                entry.dataset or "-",
                "-" if entry.images is None else f"{entry.images:,}",
                size_text(entry.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.file.used)),
                "half-written" if entry.file.temporary else name + " (damaged)" * entry.damaged,
            )
        )
    for line in aligned(rows, right=(2, 3)) if rows[1:] else ["nothing is cached"]:
        say(line)


@command.command("size", short_help="Show how large the cache is, and its bound.")
@_STORE
def size(store: Path) -> None:
    """Show how much of each kind there is, where, and the bounds of images and features."""
    for kind in KINDS:
        folder = folder_of(kind, store)
        there = files(kind, folder)
        total = sum(file.size for file in there)
        bound = limit_of(kind, folder, total)
        most = f" of at most {size_text(bound[0])} ({bound[1]})" if bound else ""
        say(f"{kind:<10} {size_text(total):>9}{most} in {len(there)} files, {folder}")


@command.command("rm", short_help="Remove what is cached.")
@list_option("--kind", type=NAMES, help=f"Only {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
@click.option("--older", metavar="TIME", help="Only what was not used for so long: 30d, 12h, 90m.")
@_STORE
@yes_option
def remove_files(kind: tuple[str, ...] | None, older: str | None, store: Path, yes: bool) -> None:
    """Remove what is cached: it is computed again when it is needed."""
    before = float("inf") if older is None else time.time() - _seconds(older)
    for name in kind or ():
        if name not in KINDS:
            raise unknown("kind of cache", name, KINDS, "fsbench cache rm --help")
    chosen = [
        file
        for file in _files(kind or KINDS, store)
        if file.used <= before and (not file.temporary or is_stale(file.path))
    ]
    total = size_text(sum(file.size for file in chosen))
    confirm(f"remove {counted(len(chosen), 'file')}, {total}?", yes=yes)
    with working("cache rm", live=False):
        left = [file for file in chosen if not remove(file)]
    sizes = [file.size for file in chosen if file not in left]
    say(f"removed {len(sizes)} files, {size_text(sum(sizes))}")
    if left:
        raise FsbenchError(
            f"{len(left)} files could not be removed, the first is {left[0].path}: check who may "
            "write there"
        )


def _files(kinds: Iterable[str], store: Path) -> list[Any]:
    return [file for kind in kinds for file in files(kind, folder_of(kind, store))]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"--older '{text}': expected a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * UNITS[match[2]]
