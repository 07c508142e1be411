"""`fsbench cache`: list, remove and measure cache files, without loading their content."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fewshot_bench.cli.groups import LazyGroup
from fewshot_bench.cli.options import NAMES, PathName, store_option
from fewshot_bench.cli.output import aligned, say
from fewshot_bench.cli.panels import list_option
from fewshot_bench.cli.working import working
from fewshot_bench.utils.cache_dir import (
    DIGESTS,
    FEATURES,
    IMAGES,
    KINDS,
    OLD,
    CacheFile,
    bound_of,
    files,
    folder_of,
    remove,
)
from fewshot_bench.utils.errors import FsbenchError, UsageError, unknown
from fewshot_bench.utils.files import is_stale
from fewshot_bench.utils.text import size_text

LONGEST_HEAD = 1 << 20
# Errors that reading a damaged file may raise.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One cache file, with its data set and number of images if the file states them."""

    file: CacheFile
    dataset: str = ""
    images: int | None = None


def entries(found: Iterable[CacheFile]) -> list[Entry]:
    """Entries of cache files, from the descriptions in the files."""
    return [_entry(file) for file in found]


def _entry(file: CacheFile) -> Entry:
    read = _READERS.get(file.kind)
    if read is None or file.temporary:
        return Entry(file)
    try:
        dataset, images = read(file.path)
        return Entry(file, str(dataset), int(images))
    except DAMAGE:
        return Entry(file)


def _of_images(path: Path) -> tuple[Any, Any]:
    from fewshot_bench.images.cache_file import read_description

    read = read_description(path)
    if read is None:
        raise ValueError(path)
    return read[0].get("dataset", ""), read[0]["shape"][0]


def _of_digests(path: Path) -> tuple[Any, Any]:
    with path.open("rb") as file:
        head = json.loads(file.readline(LONGEST_HEAD))
    return head["dataset"], head["images"]


def _of_features(path: Path) -> tuple[Any, Any]:
    from fewshot_bench.images.feature_segment import DamagedSegment, Segment

    try:
        segment = Segment.open(path)
    except DamagedSegment as error:
        raise ValueError(path) from error
    return segment.label.dataset, segment.keys


_READERS: Mapping[str, Callable[[Path], tuple[Any, Any]]] = {
    IMAGES: _of_images,
    DIGESTS: _of_digests,
    FEATURES: _of_features,
}


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

    found = sorted(entries(_files(_kinds(None), store)), key=lambda entry: -entry.file.used)
    rows = [("kind", "data set", "images", "size", "last used", "file")]
    for entry in found:
        rows.append(
            (
                entry.file.kind,
                entry.dataset or "-",
                "-" if entry.images is None else f"{entry.images:,}",
                size_text(entry.file.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.file.used)),
                _shown(entry),
            )
        )
    for line in aligned(rows, right=(2, 3)) if found else ["nothing is cached"]:
        say(line)


def _shown(entry: Entry) -> str:
    """The beginning of a file's name, with its problem if it has one."""
    if entry.file.temporary:
        return "half-written"
    name, known = entry.file.path.name[:12], entry.images is not None
    if known or entry.file.kind not in _READERS:
        return name
    return f"{name} ({'of an older version' if entry.file.path.suffix == OLD else 'damaged'})"


@command.command("size", short_help="Show how large the cache is, and its bound.")
@_STORE
def size(store: Path) -> None:
    """Show how much of each kind there is, where, and the bounds of images and features."""
    for kind in _kinds(None):
        folder = folder_of(kind, store)
        found = files(kind, folder)
        total = sum(file.size for file in found)
        bound = bound_of(kind, folder, total)
        most = f" of at most {size_text(bound[0])} ({bound[1]})" if bound else ""
        say(f"{kind:<10} {size_text(total):>9}{most} in {len(found)} files, {folder}")


@command.command("rm", short_help="Remove what is cached.")
@list_option("--kind", type=NAMES, help=f"Only {', '.join(KINDS[:-1])} or {KINDS[-1]}.")
@click.option("--older", metavar="TIME", help="Only what was not used for so long: 30d, 12h, 90m.")
@_STORE
@working("cache rm", live=False)
def remove_files(kind: tuple[str, ...] | None, older: str | None, store: Path) -> None:
    """Remove what is cached, without asking: it is computed again when it is needed."""
    before = float("inf") if older is None else time.time() - _seconds(older)
    chosen = [
        file
        for file in _files(_kinds(kind), store)
        if file.used <= before and (not file.temporary or is_stale(file.path))
    ]
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
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip(), re.ASCII)
    if found is None:
        raise UsageError(f"--older '{text}': expected a number and s, m, h, d or w, such as 30d")
    return float(found[1]) * UNITS[found[2]]
