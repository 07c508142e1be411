"""Files of the store: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

import filecmp
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

ARRAYS = ("logits", "labels", "ids")
TEMPORARY = ".fsbench-tmp"
STALE_SECONDS = 24 * 3600
# Above this size, asking whether a cell is complete reads the archive's directory, not all of it.
FULL_CHECK_BYTES = 4 * 2**20


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


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ARRAYS}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None


def check_archive(path: Path) -> None:
    """Raise Damaged unless `path` is a whole archive of the three arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            small = path.stat().st_size <= FULL_CHECK_BYTES
            broken = archive.testzip() if small else None
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    if broken is not None or members != {f"{name}.npy" for name in ARRAYS}:
        raise Damaged(f"array {broken} is corrupt" if broken else f"it holds {sorted(members)}")


def temporary_name() -> str:
    return f"{TEMPORARY}~{_machine()}~{os.getpid()}~{secrets.token_hex(6)}"


def _machine() -> str:
    """Where process ids have a meaning: the host and, on Linux, the namespace of its processes."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return re.sub(r"[^A-Za-z0-9.-]", "", f"{socket.gethostname()[:60]}-{namespace}")


def is_stale(path: Path) -> bool:
    _, machine, pid, _ = (path.name.split("~") + ["", "", ""])[:4]
    try:
        old = time.time() - path.stat().st_mtime > STALE_SECONDS
    except OSError:
        return False
    return old or (machine == _machine() and pid.isdigit() and not _is_alive(int(pid)))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_synced(folder: Path, content: bytes | Mapping[str, np.ndarray]) -> Path:
    """Write a temporary file that is on the disk when this returns; nothing is left on failure."""
    path = folder / temporary_name()
    try:
        with path.open("xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                import numpy as np

                np.savez_compressed(file, **content)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


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
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 2**20:,.0f} MB"
