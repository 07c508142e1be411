"""`fsbench cache`: list, remove and measure cache files, without loading their content."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NAMES, PathName, store_option, yes_option
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
    bound_of,
    files,
    folder_of,
    remove,
)
from fewshot_bench.utils.errors import FsbenchError, UsageError, unknown
from fewshot_bench.utils.files import is_stale
from fewshot_bench.utils.text import counted, size_text


@dataclass(frozen=True, slots=True)
class Entry:
    """A cache file, or the part of it for one data set; what the file does not state is empty."""

    file: CacheFile
    size: int
    dataset: str = ""
    images: int | None = None
    damaged: bool = False


def entries(files: Iterable[CacheFile]) -> list[Entry]:
    """Entries of cache files, from the descriptions in the files."""
    return [entry for file in files for entry in _describe(file)]


def _describe(file: CacheFile) -> list[Entry]:
    if file.temporary or file.kind not in (IMAGES, FEATURES, DIGESTS, LISTS):
        return [Entry(file, file.size)]
    if file.kind in (DIGESTS, LISTS):
        titles = small_cache.describe(file.path)
        parts = [Entry(file, size, title, images) for title, images, size in titles]
        return parts or [Entry(file, file.size, damaged=True)]
    described = _of_images(file.path) if file.kind == IMAGES else _of_features(file.path)
    if described is None:
        return [Entry(file, file.size, damaged=True)]
    return [Entry(file, file.size, *described)]


def _of_images(path: Path) -> tuple[str, int] | None:
    from fewshot_bench.images.cache import read_description

    read = read_description(path)
    return (str(read[0].get("dataset", "")), read[0]["shape"][0]) if read else None


def _of_features(path: Path) -> tuple[str, int] | None:
    from fewshot_bench.images.feature_files import describe

    return describe(path)


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PATH: Any = PathName(path_type=Path)
_STORE = store_option("Store whose features are meant.")


@click.group("cache", cls=LazyGroup, short_help="Show or remove what is cached.")
def command() -> None:
    """Show or remove what is cached: all of it can be computed again."""


@command.command("ls", short_help="List what is cached.")
@_STORE
@working("cache ls", live=False)
def list_files(store: Path) -> None:
    """List decoded images, digests of image files and features, the latest used first."""

    listed = sorted(entries(_files(_kinds(None), store)), key=lambda entry: -entry.file.used)
    rows = [("kind", "data set", "images", "size", "last used", "file")]
    for entry in listed:
        rows.append(
            (
                entry.file.kind,
                entry.dataset or "-",
                "-" if entry.images is None else f"{entry.images:,}",
                size_text(entry.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.file.used)),
                _name(entry),
            )
        )
    for line in aligned(rows, right=(2, 3)) if listed else ["nothing is cached"]:
        say(line)


def _name(entry: Entry) -> str:
    """The beginning of a file's name, with its problem if it has one."""
    if entry.file.temporary:
        return "half-written"
    name = entry.file.path.name
    name = name if len(name) < 24 else name[:12]
    return f"{name} (damaged)" if entry.damaged else name


@command.command("size", short_help="Show how large the cache is, and its bound.")
@_STORE
def size(store: Path) -> None:
    """Show how much of each kind there is, where, and the bounds of images and features."""
    for kind in _kinds(None):
        folder = folder_of(kind, store)
        there = files(kind, folder)
        total = sum(file.size for file in there)
        bound = bound_of(kind, folder, total)
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
    chosen = [
        file
        for file in _files(_kinds(kind), store)
        if file.used <= before and (not file.temporary or is_stale(file.path))
    ]
    total = size_text(sum(file.size for file in chosen))
    confirm(f"remove {counted(len(chosen), 'file')}, {total}?", yes=yes)
    with working("cache rm", live=False):
        removed = [file for file in chosen if remove(file)]
    say(f"removed {len(removed)} files, {size_text(sum(file.size for file in removed))}")
    if len(removed) < len(chosen):
        raise FsbenchError(
            f"{len(chosen) - len(removed)} files could not be removed, the first is "
            f"{next(f.path for f in chosen if f not in removed)}: check who may write there"
        )


def _kinds(chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    for kind in chosen or ():
        if kind not in KINDS:
            raise unknown("kind of cache", kind, KINDS, "fsbench cache rm --help")
    return chosen or KINDS


def _files(kinds: tuple[str, ...], store: Path) -> list[Any]:
    return [file for kind in kinds for file in files(kind, folder_of(kind, store))]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(f"--older '{text}': expected a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * UNITS[match[2]]
