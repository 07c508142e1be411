"""The digests of a data set's image files and what was seen in them, cached by file stamp."""

from __future__ import annotations

import hashlib
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fewshot_bench.api.dataset import Dataset, Stamp, Stamped
from fewshot_bench.api.items import Item
from fewshot_bench.images.fingerprints import SIDE, Bytes
from fewshot_bench.utils.cache_dir import DIGESTS
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.small_cache import change, recall

# Of the cached digests.
FORMAT = 4
# As in git: where the file system's clock is coarse, a file that changed this shortly before it was
# read may change again without another stamp.
RACY_SECONDS = 2.0
KEY, SHA = 16, 32
RECORD = KEY + SHA + 1
# A record of what was seen: format, mode, size, whether it can be compared, thumbnail.
SEEN = struct.Struct(f"<8s8s2I?{3 * SIDE * SIDE}s")


class Seen(NamedTuple):
    """What a decoded picture is like: format, mode, width and height as it stands upright.

    thumbnail: (32, 32, 3) colors, upright; None if too small or too flat to compare.
    """

    form: str
    mode: str
    size: tuple[int, int]
    thumbnail: Bytes | None

    def pack(self) -> bytes:
        """The record in the cache."""
        gray = b"" if self.thumbnail is None else self.thumbnail.tobytes()
        return SEEN.pack(self.form.encode(), self.mode.encode(), *self.size, bool(gray), gray)

    @classmethod
    def unpack(cls, record: bytes) -> Seen:
        """Read a record."""
        form, mode, width, height, comparable, gray = SEEN.unpack(record)
        pixels = np.frombuffer(gray, np.uint8).reshape(SIDE, SIDE, 3) if comparable else None
        form, mode = (part.rstrip(b"\0").decode() for part in (form, mode))
        return cls(form, mode, (width, height), pixels)


@dataclass(frozen=True, slots=True)
class Known:
    """The SHA-256 of an image file's bytes; decodes: True if they were decoded successfully.

    turned: True if the image has an EXIF orientation other than upright; seen: None where nobody
    looked closer.
    """

    sha: bytes
    decodes: bool
    turned: bool = False
    seen: Seen | None = None


class DatasetDigests:
    """Digests of one data set's image files; safe to use from several threads and processes."""

    def __init__(self, key: str, name: str, dataset: Dataset) -> None:
        """key: in the cache; name: of the data set."""
        self.problem = ""
        self._key = key
        self._name = name
        self._dataset = dataset if isinstance(dataset, Stamped) else None
        self._known = {} if self._dataset is None else _split(recall(DIGESTS, key))
        self._new: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of an item's file; None if the data set has no stamps or no such file."""
        return self._dataset.stamp(item) if self._dataset is not None else None

    def get(self, item: Item, stamp: Stamp | None) -> Known | None:
        """The cached facts of the file with this stamp."""
        if stamp is None:
            return None
        key = _key(item, stamp)
        packed = self._new.get(key) or self._known.get(key)
        if not packed:
            return None
        seen = Seen.unpack(packed[SHA + 1 :]) if len(packed) > SHA + 1 else None
        return Known(packed[:SHA], bool(packed[SHA] & 1), packed[SHA] > 1, seen)

    def put(self, item: Item, stamp: Stamp | None, facts: Known, taken: float) -> None:
        """Add the digest of bytes read at `taken` (seconds since 1970), after the stamp."""
        if stamp is not None and not is_racy(stamp, taken):
            with self._lock:
                flags = facts.decodes + 2 * facts.turned
                seen = facts.seen.pack() if facts.seen else b""
                self._new[_key(item, stamp)] = facts.sha + bytes([flags]) + seen

    def save(self) -> None:
        """Add new digests to the cache; on failure, `problem` holds the reason."""
        with self._lock:
            new, self._new = self._new, {}
            self._known.update(new)
        if not new:
            return

        def merge(before: bytes | None) -> bytes:
            """The content of the cache with new records; those that say more win."""
            records = _split(before)
            for key, packed in new.items():
                records[key] = max(packed, records.get(key, b""), key=lambda p: (len(p), p[SHA:]))
            plain = [key + packed for key, packed in records.items() if len(packed) == SHA + 1]
            rest = [key + packed for key, packed in records.items() if len(packed) > SHA + 1]
            return b"".join([len(plain).to_bytes(8, "big"), *plain, *rest])

        try:
            change(DIGESTS, self._key, merge, title=self._name, images=len(self._known))
        except (OSError, RuntimeError) as error:
            self.problem = f"digests of images are not kept: {error}"


def dataset_digests(dataset: Dataset) -> DatasetDigests:
    """The digests of a data set in the user's cache folder, for the decoders installed here.

    Whether a file decodes depends on them: on a plug-in for HEIC, for example.
    """
    card = dataset.card()
    key = "\0".join((f"{FORMAT}", card.name, card.folder, *decoder_versions()))
    return DatasetDigests(key, card.name, dataset)


def is_racy(stamp: Stamp, taken: float) -> bool:
    """True if a file may have changed after `taken` without a new stamp."""
    return stamp.changed > taken - RACY_SECONDS


def wait_until_reliable(stamps: Iterable[Stamp]) -> None:
    """Wait until no file of these stamps can change without another one."""
    latest = max(stamp.changed for stamp in stamps)
    time.sleep(min(RACY_SECONDS, max(0.0, latest + RACY_SECONDS - time.time() + 0.01)))


def _key(item: Item, stamp: Stamp) -> bytes:
    text = f"{stamp.token}\0{stamp.size}\0{item.id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY).digest()


def _split(content: bytes | None) -> dict[bytes, bytes]:
    """Packed records by key: after their number those of `RECORD` bytes, then the longer ones."""
    content = content or bytes(8)
    middle = 8 + RECORD * int.from_bytes(content[:8], "big")
    parts = ((8, middle, RECORD), (middle, len(content), RECORD + SEEN.size))
    return {
        content[start : start + KEY]: content[start + KEY : start + size]
        for begin, end, size in parts
        for start in range(begin, end, size)
    }
