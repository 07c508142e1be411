"""The digests of a data set's image files and what was seen in them, cached by file stamp."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import NamedTuple

import msgspec

from fewshot_bench.api.dataset import Dataset, Stamp, Stamped
from fewshot_bench.api.items import Item
from fewshot_bench.utils.cache_dir import DIGESTS
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.small_cache import change, recall

# Of the cached digests.
FORMAT = 5
# As in git: where the file system's clock is coarse, a file that changed this shortly before it was
# read may change again without another stamp.
RACY_SECONDS = 2.0


class Seen(NamedTuple):
    """Facts of a decoded picture: format, mode, width and height as it stands upright.

    thumbnail: 32 x 32 x 3 bytes, colors of it upright; empty if too small or too flat to compare.
    """

    form: str
    mode: str
    size: tuple[int, int]
    thumbnail: bytes


class Known(NamedTuple):
    """The SHA-256 of an image file's bytes; decodes: True if they were decoded successfully.

    turned: True if the image has an EXIF orientation other than upright; seen: None where nobody
    looked closer.
    """

    sha: bytes
    decodes: bool
    turned: bool = False
    seen: Seen | None = None


_Records = dict[bytes, msgspec.Raw]
"""Encoded `Known` by a digest of stamp and id."""


class DatasetDigests:
    """Digests of one data set's image files, in the user's cache folder.

    They are safe to use from several threads and processes.
    """

    def __init__(self, dataset: Dataset) -> None:
        card = dataset.card()
        self.problem = ""
        # Whether a file decodes depends on the decoders: on a plug-in for HEIC, for example.
        self._key = "\0".join((f"{FORMAT}", card.name, card.folder, *decoder_versions()))
        self._name = card.name
        self._dataset = dataset if isinstance(dataset, Stamped) else None
        self._known = {} if self._dataset is None else _records(recall(DIGESTS, self._key))
        self._new: _Records = {}
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
        return msgspec.msgpack.decode(packed, type=Known) if packed else None

    def put(self, item: Item, stamp: Stamp | None, facts: Known, taken: float) -> None:
        """Add the digest of bytes read at `taken` (seconds since 1970), after the stamp."""
        if stamp is not None and stamp.changed <= taken - RACY_SECONDS:
            with self._lock:
                self._new[_key(item, stamp)] = msgspec.Raw(msgspec.msgpack.encode(facts))

    def save(self) -> None:
        """Add new digests to the cache; on failure, `problem` holds the reason."""
        with self._lock:
            new, self._new = self._new, {}
            self._known.update(new)
        if not new:
            return

        def merge(before: bytes | None) -> bytes:
            """The content of the cache with new records; those that say more win."""
            records = _records(before)
            for key, facts in new.items():
                both = map(bytes, (facts, records.get(key, facts)))
                records[key] = msgspec.Raw(max(both, key=lambda one: (len(one), one)))
            return msgspec.msgpack.encode(records)

        try:
            change(DIGESTS, self._key, merge, title=self._name, images=len(self._known))
        except (OSError, RuntimeError) as error:
            self.problem = f"digests of images are not kept: {error}"


def wait_until_reliable(stamp: Stamp) -> None:
    """Wait until a file that was just changed cannot change again without another stamp."""
    wait = stamp.changed + RACY_SECONDS - time.time()
    # The clock of a file system may be ahead.
    if 0 <= wait <= 2 * RACY_SECONDS:
        time.sleep(wait + 0.01)


def _key(item: Item, stamp: Stamp) -> bytes:
    text = f"{stamp.token}\0{stamp.size}\0{item.id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _records(content: bytes | None) -> _Records:
    return msgspec.msgpack.decode(content, type=_Records) if content else {}
