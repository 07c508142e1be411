"""The store: one JSON file per cell, its answers beside it, and nothing half-written.

`Store` is the entry; `find` reads one record by its file or by a prefix of its key.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.metrics import Answers
from fewshot_bench.api.record import Record, seal
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.answer_files import (
    ASKED,
    FILE,
    WHOLE,
    Stored,
    arrays_of,
    check,
    choose_kept,
    load,
    pack,
    whole_digest,
)
from fewshot_bench.store.flat_table import columns_of
from fewshot_bench.store.index import Index
from fewshot_bench.store.log_files import ENDING, LOG, digest_log
from fewshot_bench.store.record_files import (
    RECORDS,
    Stamp,
    parse_record,
    path_of,
    read_content,
    read_record,
    record_files,
    stamp_of,
)
from fewshot_bench.utils.environment import hide_secrets
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import (
    FULL,
    LARGEST,
    TEMPORARY,
    Damaged,
    free_bytes,
    is_stale,
    make_folder,
    publish,
    temporary_name,
    write_synced,
    write_whole,
)
from fewshot_bench.utils.text import LONGEST_MESSAGE, printable, size_text

if TYPE_CHECKING:
    import numpy as np


# Folders in a store that several rooms write to; others are declared where they are written.
JOBS, METHODS = "jobs", "methods"
# Fields of a record with texts from plug-ins and the machine, which are masked.
MASKED = ("environment", "notes", "error", "incidents")
_KEY = re.compile(r"[0-9a-f]{64}")
# How often a cell is read that a writer replaces meanwhile.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that cannot be used: its current path, and the reason."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.reason}", LONGEST_MESSAGE)


@dataclass
class Store:
    """Records of cells under one folder; safe for several writers at once.

    `<path>/records/<key[:2]>/<key>.json` holds a record, `<key>.npz` the answers to its queries and
    `<key>.log` what its code printed.
    Files appear under these names by rename alone, the answers before the record. `damaged` lists
    files found unusable since the store was opened.
    """

    path: Path
    damaged: list[Damage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    @property
    def root(self) -> Path:
        """The folder that holds the records."""
        return self.path / RECORDS

    def create(self) -> list[Path]:
        """Make the folders, prove that they can be written, and remove stale temporary files.

        Returns the folders that did not exist before, each before the one that it is in.
        """
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / temporary_name()
            probe.touch()
            probe.unlink()
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"store '{self.path}' is not a folder; choose another store") from None
        except OSError as error:
            raise self.cannot_write(self.root, error) from error
        for temporary in self.root.rglob(f"{TEMPORARY}*"):
            if is_stale(temporary):
                # Of another user who shares the store, it cannot always be removed.
                with suppress(OSError):
                    temporary.unlink()
        return made

    def check_writable(self, cells: Iterable[RunSpec], folders: Iterable[Path] = ()) -> None:
        """StoreError if the results of cells could not be stored, for example in another's folders.

        folders: others that must be writable, if they exist.
        """
        # Folders are named by the first digits of keys: few among many cells.
        keys = {key[:2]: key for key in map(RunSpec.key, cells)}.values()
        for folder in (*sorted(path_of(self.path, key).parent for key in keys), *folders):
            if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
                number = errno.EACCES if folder.is_dir() else errno.ENOTDIR
                raise self.cannot_write(folder, OSError(number, os.strerror(number)))

    def write(
        self,
        record: Record,
        answers: Answers | None = None,
        ids: Sequence[str] = (),
        keep: str = "",
        log: str = "",
    ) -> Record:
        """Store a record, with the answers to its queries and their ids if given.

        keep: how much of the logits to keep beside the statistics; empty for the default. log: what
        the code of the cell printed.
        Returns the record as it is stored, with its digests.
        """
        if answers is None:
            return self.put(dataclasses.replace(record, digests={}), {}, log)
        kept = choose_kept(keep, len(answers.labels), answers.classes)
        arrays = arrays_of(answers, ids, kept)
        digests = {WHOLE: whole_digest(answers, ids)}
        environment = {**record.environment, ASKED: kept}
        record = dataclasses.replace(record, environment=environment, digests=digests)
        return self.put(record, arrays, log)

    def put(self, record: Record, arrays: Mapping[str, np.ndarray], log: str = "") -> Record:
        """Store a record with the arrays of a file beside it (`answer_files`) and its log.

        A kill at any moment leaves the cell unchanged, complete, or absent (only if its logits were
        being replaced by different ones); never half-written. Of the log alone, the new one may
        stand beside the earlier record.
        """
        target = self.file(record.spec.key())
        texts = {name: hide_secrets(getattr(record, name)) for name in MASKED}
        record = dataclasses.replace(record, **texts)
        digests = {WHOLE: record.logits_digest} if record.logits_digest else {}
        temporary = [target.with_name(temporary_name()) for _ in range(2 if arrays else 1)]
        try:
            make_folder(target.parent)
            if arrays:
                content = pack(arrays)
                write_synced(temporary[1], content)
                digests[FILE] = hashlib.sha256(content).hexdigest()
            said = hide_secrets(log).encode("utf-8", "replace")
            if said:
                digests[LOG] = digest_log(said)
                write_whole(target.with_suffix(ENDING), said)
            record = seal(record, digests)
            text = record.to_json().encode()
            if len(text) > LARGEST:
                raise StoreError(
                    f"record of {record.spec.describe()} would have {size_text(len(text))}, "
                    f"expected at most {size_text(LARGEST)}: its method should note less"
                )
            write_synced(temporary[0], text)
            publish(target, temporary)
            if not said:
                target.with_suffix(ENDING).unlink(missing_ok=True)
        except (TypeError, ValueError) as error:
            raise StoreError(f"record of {record.spec.describe()} is not JSON: {error}") from error
        except OSError as error:
            raise self.cannot_write(target, error) from error
        finally:
            for path in temporary:
                path.unlink(missing_ok=True)
        return record

    def get(self, key: str) -> Record | None:
        """The record of a key; None if there is no usable one.

        A damaged or modified record, and logits that cannot be read or do not match the record, are
        renamed to `*.damaged-<n>`. A record of status done without its logits counts as absent.
        Both are reported in `damaged`. A cell that a writer replaces meanwhile is read again.
        """
        return self._read_cell(key)

    def read_cells(self, cells: Collection[RunSpec]) -> Iterator[tuple[RunSpec, Record | None]]:
        """Each cell with its usable record, as `get` returns it.

        Records and logits whose files still have the stamps under which they were checked are not
        read again.
        """
        index = Index(self.path)
        for cell in cells:
            yield cell, self._read_cell(cell.key(), index, cell)
        index.save()

    def _read_cell(
        self, key: str, index: Index | None = None, spec: RunSpec | None = None
    ) -> Record | None:
        for _ in range(_ATTEMPTS):
            stamp, logits = self.stamp(key), self.stamp(key, ".npz")
            row = None if index is None else index.find(key, stamp)
            record = self._read(key) if row is None else row.record(spec)
            if record is None:
                return None
            if row is None and index is not None:
                row = index.add(key, stamp, record)
                # Records of an index share what they have in common.
                record = row.record(spec)
            if record.status != "done" or (row is not None and row.is_verified(logits)):
                return record
            if self._logits_usable(record, stamp):
                if row is not None and index is not None:
                    index.mark_verified(row, logits)
                return record
            if self.stamp(key) == stamp:
                return None
        return None

    def _read(self, key: str) -> Record | None:
        """Read a valid record; None if it is missing, or damaged and thus renamed."""
        path = self.file(key)
        try:
            return read_record(path)
        except FileNotFoundError:
            return None
        except Damaged as error:
            self.set_aside(path, str(error))
            return None

    def stamp(self, key: str, ending: str = ".json") -> Stamp | None:
        """File stamp of a record, which changes whenever the record is replaced; None without one.

        ending: suffix of the file; `.npz` for the logits.
        """
        try:
            return stamp_of(os.stat(f"{self.path}/{RECORDS}/{key[:2]}/{key}{ending}"))
        except OSError:
            return None

    def complete(self, key: str) -> bool:
        """True if nothing is left to compute: done and its logits present, or inapplicable."""
        record = self.get(key)
        return record is not None and record.status != "failed"

    def answers(self, key: str) -> Stored:
        """Load a cell's answers and the kept part of its logits; StoreError if unusable.

        Damaged files are renamed to `*.damaged-<n>`.
        """
        path = self.file(key).with_suffix(".npz")
        stamp = self.stamp(key)
        try:
            return load(path, read_record(self.file(key)), kept=True)
        except FileNotFoundError:
            problem = f"no answers of cell {key[:12]} in '{self.path}'; run the cell again"
        except Damaged as error:
            if self.stamp(key) == stamp:
                moved = self.set_aside(path, str(error))
                problem = (
                    f"answers of cell {key[:12]} are damaged ({error}); kept as '{moved}', run the "
                    "cell again to replace them"
                )
            else:
                problem = f"cell {key[:12]} was replaced while it was read; read it again"
        raise StoreError(problem)

    def records(self) -> Iterator[Record]:
        """Every readable record, sorted by key; the others are reported in `damaged`, untouched."""
        index = Index(self.path)
        for file in record_files(self.root):
            row = index.find(file.key, file.stamp)
            if row is None:
                try:
                    row = index.add(file.key, file.stamp, read_record(file.location))
                except FileNotFoundError:
                    continue
                except (Damaged, StoreError) as error:
                    self._report(file.path, str(error))
                    continue
            yield row.record()
        index.save(complete=True)

    def columns(self, names: Iterable[str] | None = None) -> dict[str, list[Any]]:
        """The flat table of the readable records, sorted by key; see `flat_table.columns_of`.

        >>> Store("results").columns(("dataset", "top1"))
        {'dataset': ['dtd', 'pets'], 'top1': [71.2, 88.0]}
        """
        return columns_of(list(self.records()), names)

    def file(self, key: str) -> Path:
        """Path of the record of a key, which may not exist; StoreError for a malformed key."""
        if not _KEY.fullmatch(key):
            raise StoreError(f"'{key}' is not a cell's key: expected 64 hexadecimal digits")
        return path_of(self.path, key)

    def _logits_usable(self, record: Record, stamp: Stamp | None) -> bool:
        """True for usable logits; others are reported if the record still has this stamp.

        Otherwise a writer is replacing the cell, and the logits may be those of its next record.
        """
        key = record.spec.key()
        path = self.file(key).with_suffix(".npz")
        try:
            check(path, record)
        except FileNotFoundError:
            if self.stamp(key) == stamp:
                self._report(path, "logits of a finished cell are missing; it counts as not done")
            return False
        except Damaged as error:
            if self.stamp(key) == stamp:
                self.set_aside(path, str(error))
            return False
        return True

    def set_aside(self, path: Path, reason: str) -> Path:
        """Rename an unusable file to `*.damaged-<n>`; returns its path afterwards."""
        names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
        moved = next(name for name in names if not name.exists())
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

    def cannot_write(self, path: Path, error: OSError) -> StoreError:
        """The error for a file of the store that could not be written, with the next step."""
        if error.errno in FULL:
            return StoreError(
                f"no space to write '{path}' ({size_text(free_bytes(self.path))} left); make room, "
                "then run the same command again: it continues with the cells that are missing"
            )
        return StoreError(
            f"cannot write '{path}': {error.strerror or error}; make it writable or choose "
            "another folder for the store"
        )


@dataclass(frozen=True)
class Kept:
    """A record, the answers beside it (None if missing or unusable), and its store's folder.

    problem: why existing answers cannot be used. path: the record's file.
    """

    record: Record
    answers: Answers | None
    store: Path | None
    problem: str = ""
    path: Path = Path()


def find(name: str, store: Path) -> Kept:
    """Find a record by its file, or in a store by its key or a prefix of it."""
    path, folder = Path(name), None
    if path.suffix == ".json":
        if not path.is_file():
            raise UsageError(f"no record '{name}'; expected a record's file or a cell's key")
        above = path.absolute().parents
        folder = above[2] if len(above) > 2 else None
    else:
        paths = sorted(Store(store).root.glob(f"*/{name}*.json")) if name.isalnum() else []
        if len(paths) != 1:
            count = f"{len(paths)} records begin" if paths else "no record begins"
            raise UsageError(
                f"{count} with '{name}' in store '{store}'; give more of the key, or another "
                "--store"
            )
        path, folder = paths[0], store
    try:
        record = parse_record(path, read_content(path))
    except (OSError, StoreError, Damaged) as error:
        raise StoreError(f"'{path}' cannot be used: {error}") from None
    file = path.with_suffix(".npz")
    try:
        return Kept(record, load(file, record).answers, folder, path=path)
    except FileNotFoundError:
        return Kept(record, None, folder, path=path)
    except (Damaged, StoreError) as error:
        return Kept(record, None, folder, str(Damage(file, str(error))), path)
