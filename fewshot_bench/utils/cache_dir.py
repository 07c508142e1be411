"""The cache of recomputable files: location, size limits and contents."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from fewshot_bench.utils.database import JOURNALS, lacks_locks, remove_database
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.files import TEMPORARY, free_bytes, is_stale, whole
from fewshot_bench.utils.plugin_code import reset_umask
from fewshot_bench.utils.text import SIZES, read_size, size_text

FOLDER_VARIABLE = "FSBENCH_CACHE"
LIMIT_VARIABLE = "FSBENCH_CACHE_GB"
BUDGET_VARIABLE = "FSBENCH_FEATURE_BUDGET"
FEATURES_VARIABLE = "FSBENCH_FEATURES"
DEFAULT_GB = 20.0
# Features may use this share of the space that is free without them, unless a budget is set.
FREE_SHARE = 0.5
GB = 10**9
# The smaller of the two stays free on the disk.
RESERVED_SHARE, RESERVED_BYTES = 0.05, 2 * GB
# Folder in a store for features.
CACHE = "cache"
IMAGES, DIGESTS, FEATURES = "images", "digests", "features"
VERIFIED, KIT, LISTS, STORES = "verified", "kit", "lists", "stores"
# Feature files: rows that other cells will use, and views of one fit.
LASTING, PASSING = ".rows", ".views"
# The file of `utils/small_cache.py`.
VALUES = "values.sqlite"
# Names of files; SQLite's journals are added to them.
NAMES = {
    IMAGES: re.compile(r"[0-9a-f]{16}/[0-9a-f]{64}\.pixels"),
    DIGESTS: re.compile(re.escape(VALUES)),
    FEATURES: re.compile(r"[0-9a-f]{16}\.(rows|views)"),
    VERIFIED: re.compile(r"[0-9a-f]{32}\.json"),
    KIT: re.compile(r"[0-9a-f]{64}\.json"),
    LISTS: re.compile(re.escape(VALUES)),
    STORES: re.compile(r"[0-9a-f]{32}\.sqlite"),
}
DATABASES = (DIGESTS, FEATURES, LISTS, STORES)
KINDS = tuple(NAMES)


@dataclass(frozen=True, slots=True)
class CacheFile:
    """One cache file: kind, size in bytes, and time of last use in seconds since 1970."""

    path: Path
    kind: str
    size: int
    used: float
    temporary: bool = False


_reads_only = False


def only_read() -> None:
    """From now on, this process adds nothing to what others read from caches: it runs foreign code.

    What it computes is kept in its own memory.
    """
    global _reads_only
    _reads_only = True


@contextmanager
def restore_sharing() -> Iterator[None]:
    """Undo an `only_read` of the context when it ends."""
    global _reads_only
    before = _reads_only
    try:
        yield
    finally:
        _reads_only = before


def is_shared() -> bool:
    """False once this process only reads caches."""
    return not _reads_only


def cache_root() -> Path:
    """FSBENCH_CACHE, else fsbench/ in XDG_CACHE_HOME, else ~/.cache/fsbench."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(os.path.abspath(Path(chosen).expanduser()))
    base = os.environ.get("XDG_CACHE_HOME", "")
    parent = Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()
    return parent / "fsbench"


def limit_bytes() -> int:
    """Upper bound of cached decoded images in bytes; UsageError for an invalid FSBENCH_CACHE_GB."""
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_GB)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UsageError(
            f"{LIMIT_VARIABLE}='{text}': expected gigabytes such as {DEFAULT_GB:g}, "
            "or 0 to keep no decoded images"
        )
    return int(value * GB)


def feature_budget() -> int | None:
    """Upper bound of cached features of a store in bytes; None for `FREE_SHARE` of the free space.

    UsageError for an invalid FSBENCH_FEATURE_BUDGET.
    """
    text = os.environ.get(BUDGET_VARIABLE)
    try:
        return read_size(text) if text else None
    except ValueError:
        raise UsageError(f"{BUDGET_VARIABLE}='{text:.40}': expected {SIZES}") from None


def limit_of(kind: str, folder: Path | None, used: int) -> tuple[int, str] | None:
    """Upper bound in bytes of a kind and the setting behind it; None if the kind has no bound.

    used: bytes that the kind already uses.
    """
    if kind == IMAGES:
        return limit_bytes(), LIMIT_VARIABLE
    if kind != FEATURES or folder is None:
        return None
    budget = feature_budget()
    if budget is not None:
        return budget, BUDGET_VARIABLE
    return share_of_disk(used, free_bytes(folder)), f"{FREE_SHARE:.0%} of what is free without them"


def share_of_disk(used: int, free: int) -> int:
    """Bytes that features may use in total if they use `used` bytes and `free` bytes are free."""
    return int(FREE_SHARE * (used + free))


def folder_of(kind: str, store: Path | None = None) -> Path | None:
    """The folder of a kind; None for features without a store, in which they are.

    FSBENCH_FEATURES is another folder for them. Variables in it are those of the process, so that
    `$TMPDIR` is a folder of each node.
    """
    if kind == FEATURES:
        if chosen := os.environ.get(FEATURES_VARIABLE):
            return Path(os.path.realpath(os.path.expanduser(os.path.expandvars(chosen))))
        return store / CACHE / FEATURES if store else None
    return cache_root() / kind


def files(kind: str, folder: Path | None) -> list[CacheFile]:
    """Cache files of one kind, least recently used first, including temporary files.

    Only files with names of the harness, in the folder and one level below; follows no links. The
    size of a database includes its journals.
    """
    entries: dict[Path, CacheFile] = {}
    if folder is None or folder.is_symlink():
        return []
    for parent, folders, names in os.walk(folder):
        if parent != str(folder):
            folders.clear()
        for path in (Path(parent, name) for name in names):
            temporary = path.name.startswith(f"{TEMPORARY}~")
            main = path.with_name(re.sub(f"({'|'.join(JOURNALS)})$", "", path.name))
            if temporary or NAMES[kind].fullmatch(main.relative_to(folder).as_posix()):
                with suppress(OSError):
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    before = entries.get(main, CacheFile(main, kind, 0, 0.0, temporary=temporary))
                    size, used = before.size + status.st_size, max(before.used, status.st_mtime)
                    entries[main] = replace(before, size=size, used=used)
    return sorted(entries.values(), key=lambda file: (file.used, file.path))


def remove(file: CacheFile) -> bool:
    """Remove a file, and its subfolder if that becomes empty; False if it cannot be removed."""
    try:
        if file.kind in DATABASES and not file.temporary:
            remove_database(file.path)
        elif stat.S_ISREG(file.path.lstat().st_mode):
            file.path.unlink()
        else:
            return False
    except OSError:
        return False
    if file.path.parent.name != file.kind:
        with suppress(OSError):
            file.path.parent.rmdir()
    return True


def touch(path: Path) -> None:
    """Mark a file as just used, by its modification time."""
    with suppress(OSError):
        os.utime(path)


def obstacle(folder: Path) -> str:
    """The reason why nothing can be kept in a folder; empty if files can."""
    if folder.is_symlink():
        return f"it is a link, which is not followed; make it a folder, or link '{folder.parent}'"
    there = next(part for part in (folder, *folder.parents) if part.exists())
    try:
        with TemporaryFile(dir=there) as file:
            return f"files in '{there}' cannot be locked" if lacks_locks(file) else ""
    except OSError as error:
        return f"'{there}' cannot be written ({error.strerror})"


def make_folder(folder: Path) -> None:
    """Create a cache folder; OSError if that fails, or if it or its parent is a link."""
    for part in (folder, folder.parent):
        if part.is_symlink():
            raise OSError(f"{part} is a link; set {FOLDER_VARIABLE} to the folder it leads to")
    reset_umask()
    folder.mkdir(parents=True, exist_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file atomically (temporary file and rename); an OSError leaves nothing behind."""
    make_folder(path.parent)
    with whole(path) as temporary:
        temporary.write_bytes(content)


def make_room(
    kind: str,
    need: int,
    limit: int | None,
    folder: Path | None = None,
    spare: Callable[[CacheFile], bool] = lambda _: True,
) -> None:
    """Remove least recently used files until `need` more bytes fit; OSError if they cannot fit.

    Bytes fit if the kind stays within `limit` and the disk keeps its reserve. Views of one fit are
    removed before files that others use. limit: None for `FREE_SHARE` of the free space. spare:
    True for files that may be removed.
    """
    folder = folder or cache_root() / kind
    folder.mkdir(parents=True, exist_ok=True)
    entries = files(kind, folder)
    for file in [file for file in entries if file.temporary and is_stale(file.path)]:
        remove(file)
        entries.remove(file)
    disk = shutil.disk_usage(folder)
    reserve = min(RESERVED_BYTES, int(RESERVED_SHARE * disk.total))
    total = sum(file.size for file in entries)
    limit = share_of_disk(total, disk.free) if limit is None else limit
    excess = max(total + need - limit, need + reserve - disk.free)
    candidates = [file for file in entries if not file.temporary and spare(file)]
    if need > limit:
        bound = f"{LIMIT_VARIABLE}={limit / GB:g}" if kind == IMAGES else size_text(limit)
        raise OSError(f"{size_text(need)} of {kind} do not fit into {bound}")
    if excess > sum(file.size for file in candidates):
        raise OSError(f"no room for {size_text(need)}: {size_text(disk.free)} are free")
    for file in sorted(candidates, key=lambda file: file.path.suffix != PASSING):
        if excess <= 0:
            return
        if remove(file):
            excess -= file.size
