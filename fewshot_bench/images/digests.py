"""Cache of image digests by file stamp, so that unchanged files are not read again."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.api.dataset import Dataset, Stamp, Stamped
from fewshot_bench.api.items import Item
from fewshot_bench.utils import cache_dir as cache_folder
from fewshot_bench.utils.cache_dir import DIGESTS, CacheFile
from fewshot_bench.utils.image_formats import decoder_versions

FORMAT = 2
# As in git: where the file system's clock is coarse, a file that changed this shortly before it was
# read may change again without another stamp.
RACY_SECONDS = 2.0
SEGMENTS = 8
LIMIT = 256 * 10**6
KEY, SHA = 16, 32
RECORD = KEY + SHA + 1


@dataclass(frozen=True, slots=True)
class Known:
    """The SHA-256 of an image file's bytes; decodes: True if they were decoded successfully.

    turned: True if the image has an EXIF orientation other than upright.
    """

    sha: bytes
    decodes: bool
    turned: bool = False

    def packed(self) -> bytes:
        """The bytes of a record that follow its key."""
        return self.sha + bytes([self.decodes + 2 * self.turned])


class DatasetDigests:
    """Digests of one data set's image files; safe to use from several threads and processes."""

    def __init__(self, folder: Path, name: str, dataset: Dataset) -> None:
        self.problem = ""
        self._folder = folder
        self._name = name
        self._dataset = dataset if isinstance(dataset, Stamped) else None
        self._new: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def _known(self) -> dict[bytes, bytes]:
        return _merged(self._files()) if self._dataset is not None else {}

    def _files(self) -> list[CacheFile]:
        found = cache_folder.files(DIGESTS, self._folder.parent)
        return [f for f in found if f.path.parent == self._folder and not f.temporary]

    def load(self) -> None:
        """Read the digests that earlier runs wrote."""
        _ = self._known

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of an item's file; None if the data set has no stamps or no such file."""
        return self._dataset.stamp(item) if self._dataset is not None else None

    def get(self, item: Item, stamp: Stamp | None) -> Known | None:
        """The cached facts of the file with this stamp."""
        if stamp is None:
            return None
        key = _key(item, stamp)
        packed = self._new.get(key) or self._known.get(key)
        return Known(packed[:SHA], bool(packed[SHA] & 1), packed[SHA] > 1) if packed else None

    def put(self, item: Item, stamp: Stamp | None, known: Known, taken: float) -> None:
        """Add the digest of bytes read at `taken` (seconds since 1970), after the stamp."""
        if stamp is not None and not is_racy(stamp, taken):
            with self._lock:
                self._new[_key(item, stamp)] = known.packed()

    def save(self) -> None:
        """Write new digests to a file of their own; on failure, `problem` holds the reason."""
        with self._lock:
            new, self._new = self._new, {}
            self._known.update(new)
        if not new:
            return
        try:
            cache_folder.make_room(DIGESTS, RECORD * len(new), LIMIT)
            self._write(new)
            found = self._files()
            if len(found) > SEGMENTS:
                written = self._write(_merged(found))
                for file in found:
                    if file.path != written:
                        cache_folder.remove(file)
        except OSError as error:
            self.problem = f"digests of images are not kept: {error}"

    def _write(self, records: dict[bytes, bytes]) -> Path:
        head = json.dumps({"format": FORMAT, "dataset": self._name, "images": len(records)})
        rows = b"".join(key + packed for key, packed in records.items())
        body = head.encode() + b"\n" + rows
        digest = hashlib.sha256(body)
        path = self._folder / f"{digest.hexdigest()}.digests"
        cache_folder.write(path, body + digest.digest())
        return path


def dataset_digests(dataset: Dataset) -> DatasetDigests:
    """The digests of a data set in the user's cache folder, for the decoders installed here.

    Whether a file decodes depends on them: on a plug-in for HEIC, for example.
    """
    card = dataset.card()
    made_of = "\0".join((card.name, card.folder, *decoder_versions()))
    place = hashlib.sha256(made_of.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return DatasetDigests(cache_folder.cache_root() / DIGESTS / place, card.name, dataset)


def is_racy(stamp: Stamp, taken: float) -> bool:
    """True if a file may have changed after `taken` without a new stamp."""
    return stamp.changed > taken - RACY_SECONDS


def now() -> float:
    """Seconds since 1970, as file systems count them."""
    return time.time()


def _key(item: Item, stamp: Stamp) -> bytes:
    text = f"{stamp.token}\0{stamp.size}\0{item.id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY).digest()


def _merged(files: Iterable[CacheFile]) -> dict[bytes, bytes]:
    """The records of all undamaged files; records of decoded images take precedence."""
    found: dict[bytes, bytes] = {}
    for file in files:
        data = b""
        with suppress(OSError):
            data = file.path.read_bytes()
        for key, packed in _records(data).items():
            if key not in found or packed[SHA]:
                found[key] = packed
        cache_folder.touch(file.path)
    return found


def _records(data: bytes) -> dict[bytes, bytes]:
    """Packed records by key; empty for a damaged file or another format."""
    body, digest = data[:-SHA], data[-SHA:]
    head, newline, rows = body.partition(b"\n")
    if not newline or hashlib.sha256(body).digest() != digest or len(rows) % RECORD:
        return {}
    try:
        if json.loads(head)["format"] != FORMAT:
            return {}
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return {
        rows[start : start + KEY]: rows[start + KEY : start + RECORD]
        for start in range(0, len(rows), RECORD)
    }
