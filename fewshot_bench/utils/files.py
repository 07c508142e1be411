"""Files that are written whole or not at all; those of the store are checked before use."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import io
import math
import os
import secrets
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.processes import is_running, this_machine
from fewshot_bench.utils.text import size_text

if TYPE_CHECKING:
    import numpy as np

ARRAYS = ("logits", "labels", "ids")
TEMPORARY = ".fsbench-tmp"
STALE_SECONDS = 24 * 3600
# Error numbers of a disk or quota without room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Above this size, asking whether a cell is complete reads the archive's directory, not all of it.
FULL_CHECK_BYTES = 4 * 2**20
# An array is compressed where its beginning shrinks at least to this share.
SAMPLE_BYTES, WORTH_COMPRESSING = 2**16, 0.8


class Damaged(Exception):
    """A file of the store that must not be used; the text says why."""


def as_arrays(logits: Any, labels: Any, ids: Sequence[str] | Any) -> Mapping[str, np.ndarray]:
    import numpy as np

    arrays: dict[str, np.ndarray] = {
        "logits": np.asarray(logits, dtype=np.float32),
        "labels": np.asarray(labels if labels is not None else [], dtype=np.int64),
        "ids": np.asarray(ids if ids is not None else [], dtype=np.str_),
    }
    shapes = {name: array.shape for name, array in arrays.items()}
    count = arrays["logits"].shape[:1]
    if arrays["logits"].ndim != 2 or {shapes["labels"], shapes["ids"]} != {count}:
        raise StoreError(f"arrays have shapes {shapes}, expected (n, classes), (n,) and (n,)")
    return arrays


def digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and values, however they are compressed."""
    sha = hashlib.sha256()
    for name in ARRAYS:
        array = arrays[name]
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive.read(f"{name}.npy")) for name in ARRAYS}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    count = arrays["logits"].shape[:1]
    kinds = "".join(arrays[name].dtype.kind for name in ARRAYS)
    shapes = {arrays[name].shape for name in ("labels", "ids")}
    if arrays["logits"].ndim != 2 or shapes != {count} or kinds != "fiU":
        found = ", ".join(f"{name} {arrays[name].dtype} {arrays[name].shape}" for name in ARRAYS)
        raise Damaged(f"it holds {found}, expected (n, classes), (n,) and (n,)")
    return arrays


def _array(content: bytes) -> np.ndarray:
    """The array of an `.npy` file in memory; numpy reads from memory in small parts, much slower.

    ValueError when it says that it has more or fewer values, or values of another kind, than there
    are bytes for.
    """
    import numpy as np

    # Format 1 tells the length of its header in two bytes, later ones in four.
    wide = 2 if content[6:7] == b"\x01" else 4
    start = 8 + wide + int.from_bytes(content[8 : 8 + wide], "little")
    shape, by_column, dtype = _header(content[:start])
    if dtype.hasobject or math.prod(shape) * dtype.itemsize + start != len(content):
        raise ValueError(
            f"an array says that it has {shape} values of {dtype}, and has another size"
        )
    values = np.frombuffer(content, dtype, offset=start).copy()
    return values.reshape(shape, order="F" if by_column else "C")


@lru_cache(maxsize=64)
def _header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The header of an `.npy` file; cached, since the files of a store share few of them."""
    from numpy.lib import format as npy

    file = io.BytesIO(content)
    read = npy.read_array_header_1_0
    if npy.read_magic(file) != (1, 0):
        read = npy.read_array_header_2_0
    return read(file)


def check_digest(arrays: Mapping[str, np.ndarray], stated: str) -> None:
    """Raise Damaged where arrays have another digest than the one that a record states, if any."""
    if stated and stated != digest_of_arrays(arrays):
        raise Damaged("they are not those of the record: their digest is another one")


def check_archive(path: Path, stated: str = "") -> None:
    """Raise Damaged unless `path` is a whole archive of the three arrays.

    stated: the digest that they must have, where one is known; compared in small archives.
    """
    try:
        if stated and path.stat().st_size <= FULL_CHECK_BYTES:
            check_digest(load_arrays(path), stated)
            return
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            small = path.stat().st_size <= FULL_CHECK_BYTES
            broken = archive.testzip() if small else None
    except (FileNotFoundError, Damaged):
        raise
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    if broken is not None or members != {f"{name}.npy" for name in ARRAYS}:
        raise Damaged(f"array {broken} is corrupt" if broken else f"it holds {sorted(members)}")


def temporary_name() -> str:
    return f"{TEMPORARY}~{this_machine()}~{os.getpid()}~{secrets.token_hex(6)}"


def is_stale(path: Path) -> bool:
    _, machine, pid, _ = (path.name.split("~") + ["", "", ""])[:4]
    try:
        old = time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False
    return old or (machine == this_machine() and pid.isdigit() and not is_running(int(pid)))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it at the end; nothing is left on failure.

    What a process that was killed left in the folder is removed first.
    """
    for entry in path.parent.glob(f"{TEMPORARY}~*"):
        if is_stale(entry):
            with suppress(OSError):
                entry.unlink()
    temporary = path.with_name(temporary_name())
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file that is there whole or not at all, in a folder that is made; may raise OSError.

    content: the bytes, or pieces of them. The file is on the disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        _write_synced(temporary, content)


def write_synced(folder: Path, content: bytes | Mapping[str, np.ndarray]) -> Path:
    """Write a temporary file that is on the disk when this returns; nothing is left on failure."""
    path = folder / temporary_name()
    try:
        _write_synced(path, content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _write_synced(path: Path, content: bytes | Iterable[bytes] | Mapping[str, np.ndarray]) -> None:
    with path.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        elif isinstance(content, Mapping):
            _write_archive(file, content)
        else:
            file.writelines(content)
        file.flush()
        os.fsync(file.fileno())


def _write_archive(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """As `np.savez_compressed`, without the time it takes on what does not get smaller."""
    from numpy.lib import format as npy

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = _compression(array)
            with archive.open(member, "w", force_zip64=True) as part:
                npy.write_array(part, array, allow_pickle=False)


def _compression(array: np.ndarray) -> int:
    """Float32 logits of a float32 run hardly get smaller, those of a half-precision run do."""
    sample = array.reshape(-1)[: SAMPLE_BYTES // max(array.itemsize, 1)].tobytes()
    smaller = len(zlib.compress(sample, 1)) < WORTH_COMPRESSING * len(sample)
    return zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED


def publish(target: Path, temporary: Sequence[Path]) -> None:
    """Rename the logits, then the record; a record never stands beside another result's logits.

    Only when new logits differ from those of an old record is the old record removed first: a
    kill just then leaves the cell to be computed again.
    """
    archive = target.with_suffix(".npz")
    if len(temporary) == 2:
        if not _same_bytes(temporary[1], archive):
            target.unlink(missing_ok=True)
        os.replace(temporary[1], archive)
    os.replace(temporary[0], target)
    if len(temporary) == 1:
        archive.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _same_bytes(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except FileNotFoundError:
        return False


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sorted_entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def free_space(path: Path) -> str:
    return size_text(free_bytes(path))


def free_bytes(path: Path) -> int:
    """Free bytes on the disk where `path` is, or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
