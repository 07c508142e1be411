"""The store: one JSON file per cell, its logits beside it, and nothing half-written."""

from __future__ import annotations

import errno
import filecmp
import json
import os
import re
import secrets
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.errors import StoreError, UsageError
from fewshot_bench.record import SCHEMA, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

ARRAYS = ("logits", "labels", "ids")
TEMPORARY = ".fsbench-tmp"
STALE_SECONDS = 24 * 3600
# Above this size, asking whether a cell is complete reads the archive's directory, not all of it.
FULL_CHECK_BYTES = 4 * 2**20
_KEY = re.compile(r"[0-9a-f]{64}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that was found and not used: where it lies now, and what is wrong with it."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass
class Store:
    """Records of cells under one folder; safe for several writers at once.

    `<path>/records/<key[:2]>/<key>.json` holds a record and `<key>.npz` the logits of its queries.
    Files appear under these names by rename alone, the logits before the record. `damaged` lists
    what was found unusable since the store was opened.
    """

    path: Path
    damaged: list[Damage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    @property
    def root(self) -> Path:
        """The folder that holds the records."""
        return self.path / "records"

    def create(self) -> None:
        """Make the folders, prove that they can be written, and remove stale temporary files."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / _temporary_name()
            probe.touch()
            probe.unlink()
        except (FileExistsError, NotADirectoryError):
            raise UsageError(
                f"store '{self.path}' is not a folder; choose another one with --store DIR"
            ) from None
        except OSError as error:
            raise self._cannot_write(self.root, error) from error
        for temporary in self.root.rglob(f"{TEMPORARY}*"):
            if _is_stale(temporary):
                temporary.unlink(missing_ok=True)

    def write(
        self, record: Record, logits: Any = None, labels: Any = None, ids: Any = None
    ) -> None:
        """Store a record, with the (n, classes) logits, labels and ids of its queries if given.

        A kill at any moment leaves the cell as it was, complete, or absent (only where other logits
        of it were being replaced); never half of it.
        """
        target = self._file(record.spec.key())
        arrays = None if logits is None else _arrays(logits, labels, ids)
        try:
            text = record.to_json().encode()
        except (TypeError, ValueError) as error:
            raise StoreError(f"record of {record.spec.describe()} is not JSON: {error}") from error
        temporary: list[Path] = []
        try:
            _make_folder(target.parent)
            temporary.append(_write_synced(target.parent, text))
            if arrays is not None:
                temporary.append(_write_synced(target.parent, arrays))
            _publish(target, temporary)
        except OSError as error:
            raise self._cannot_write(target, error) from error
        finally:
            for path in temporary:
                path.unlink(missing_ok=True)

    def exists(self, key: str) -> bool:
        """Whether a record file of this key is there, without reading it."""
        return self._file(key).is_file()

    def get(self, key: str) -> Record | None:
        """The record of a key; None when there is none that can be relied on.

        A damaged record, and logits that cannot be read, are renamed to `*.damaged-<n>`. A record
        of status done without its logits counts as absent. Both are reported in `damaged`.
        """
        path = self._file(key)
        try:
            record = _read(path)
        except FileNotFoundError:
            return None
        except _Damaged as error:
            self._set_aside(path, str(error))
            return None
        if record.status == "done" and not self._logits_usable(path.with_suffix(".npz")):
            return None
        return record

    def complete(self, key: str) -> bool:
        """Whether the cell is done and its logits are there: nothing is left to compute."""
        record = self.get(key)
        return record is not None and record.status == "done"

    def logits(self, key: str) -> dict[str, np.ndarray]:
        """The arrays `logits` (n, classes), `labels` (n,) and `ids` (n,) of a cell."""
        path = self._file(key).with_suffix(".npz")
        try:
            return _load_arrays(path)
        except FileNotFoundError:
            raise StoreError(
                f"no logits of cell {key[:12]} in '{self.path}'; run the cell again to have them"
            ) from None
        except _Damaged as error:
            moved = self._set_aside(path, str(error))
            raise StoreError(
                f"logits of cell {key[:12]} are damaged ({error}); kept as '{moved}', "
                "run the cell again to replace them"
            ) from None

    def records(self) -> Iterator[Record]:
        """Every readable record, sorted by key; the others are reported in `damaged`, untouched."""
        for folder in _sorted_entries(self.root):
            if not folder.is_dir():
                continue
            for path in _sorted_entries(folder):
                if path.suffix == ".json" and not path.name.startswith(TEMPORARY):
                    record = self._read_or_report(path)
                    if record is not None:
                        yield record

    def _read_or_report(self, path: Path) -> Record | None:
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except (_Damaged, StoreError) as error:
            self._report(path, str(error))
            return None

    def _file(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise StoreError(f"'{key}' is not a cell's key: expected 64 hexadecimal digits")
        return self.root / key[:2] / f"{key}.json"

    def _logits_usable(self, path: Path) -> bool:
        try:
            _check_archive(path)
        except FileNotFoundError:
            self._report(path, "logits of a finished cell are missing; it counts as not done")
            return False
        except _Damaged as error:
            self._set_aside(path, str(error))
            return False
        return True

    def _set_aside(self, path: Path, reason: str) -> Path:
        moved = path
        for number in range(1, 1000):
            moved = path.with_name(f"{path.name}.damaged-{number}")
            if not moved.exists():
                break
        try:
            path.rename(moved)
        except OSError as error:
            self._report(path, f"{reason}; cannot be renamed: {error.strerror}")
            return path
        self._report(moved, reason)
        return moved

    def _report(self, path: Path, reason: str) -> None:
        damage = Damage(path, reason)
        if damage not in self.damaged:
            self.damaged.append(damage)

    def _cannot_write(self, path: Path, error: OSError) -> StoreError:
        if error.errno in _FULL:
            return StoreError(
                f"no space to write '{path}' ({_free_space(self.path)} left); make room, then run "
                "the same command again: it continues with the cells that are missing"
            )
        return StoreError(
            f"cannot write '{path}': {error.strerror or error}; make it writable or choose "
            "another folder with --store DIR"
        )


class _Damaged(Exception):
    """A file of the store that must not be used; the text says why."""


def _read(path: Path) -> Record:
    """Parse a record file; StoreError when a newer version wrote it, _Damaged when it is broken."""
    try:
        values = json.loads(path.read_bytes(), parse_constant=_not_a_number)
        schema = values.get("schema") if isinstance(values, dict) else None
        newer = isinstance(schema, int) and schema > SCHEMA
        if not newer:
            record = Record.from_dict(values)
            key = record.spec.key()
    except FileNotFoundError:
        raise
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        raise _Damaged(str(error)) from None
    except OSError as error:
        raise StoreError(
            f"cannot read '{path}': {error.strerror}; check its permissions"
        ) from error
    if newer:
        raise StoreError(
            f"'{path}' has schema {schema}, this version reads {SCHEMA}; upgrade fewshot_bench"
        )
    if path.stem != key or path.parent.name != key[:2]:
        raise _Damaged(f"its specification has the key {key[:12]}..., so the file was changed")
    return record


def _not_a_number(name: str) -> None:
    raise _Damaged(f"record holds {name}")


def _arrays(logits: Any, labels: Any, ids: Sequence[str] | Any) -> Mapping[str, np.ndarray]:
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


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in ARRAYS}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from None


def _check_archive(path: Path) -> None:
    """Raise _Damaged unless `path` is a whole archive of the three arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            small = path.stat().st_size <= FULL_CHECK_BYTES
            broken = archive.testzip() if small else None
    except FileNotFoundError:
        raise
    except Exception as error:
        raise _Damaged(f"{type(error).__name__}: {error}") from None
    if broken is not None or members != {f"{name}.npy" for name in ARRAYS}:
        raise _Damaged(f"array {broken} is corrupt" if broken else f"it holds {sorted(members)}")


def _temporary_name() -> str:
    return f"{TEMPORARY}~{_machine()}~{os.getpid()}~{secrets.token_hex(6)}"


def _machine() -> str:
    """Where process ids have a meaning: the host and, on Linux, the namespace of its processes."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return re.sub(r"[^A-Za-z0-9.-]", "", f"{socket.gethostname()[:60]}-{namespace}")


def _is_stale(path: Path) -> bool:
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


def _write_synced(folder: Path, content: bytes | Mapping[str, np.ndarray]) -> Path:
    """Write a temporary file that is on the disk when this returns; nothing is left on failure."""
    path = folder / _temporary_name()
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


def _publish(target: Path, temporary: Sequence[Path]) -> None:
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


def _make_folder(folder: Path) -> None:
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


def _sorted_entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def _free_space(path: Path) -> str:
    while not path.exists() and path != path.parent:
        path = path.parent
    return f"{shutil.disk_usage(path).free / 2**20:,.0f} MB"
