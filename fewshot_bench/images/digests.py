"""Cache of image digests by file stamp, so that unchanged files are not read again."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from dataclasses import dataclass

from fewshot_bench.api.dataset import Dataset, Stamp, Stamped
from fewshot_bench.api.items import Item
from fewshot_bench.utils.cache_dir import DIGESTS
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.small_cache import change, recall

FORMAT = 2
# As in git: where the file system's clock is coarse, a file that changed this shortly before it was
# read may change again without another stamp.
RACY_SECONDS = 2.0
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

    def __init__(self, key: str, name: str, dataset: Dataset) -> None:
        """key: in the cache; name: of the data set."""
        self.problem = ""
        self._key = key
        self._name = name
        self._dataset = dataset if isinstance(dataset, Stamped) else None
        self._new: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def _known(self) -> dict[bytes, bytes]:
        return _split(recall(DIGESTS, self._key)) if self._dataset is not None else {}

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

    def put(self, item: Item, stamp: Stamp | None, facts: Known, taken: float) -> None:
        """Add the digest of bytes read at `taken` (seconds since 1970), after the stamp."""
        if stamp is not None and not is_racy(stamp, taken):
            with self._lock:
                self._new[_key(item, stamp)] = facts.packed()

    def save(self) -> None:
        """Add new digests to the cache; on failure, `problem` holds the reason."""
        with self._lock:
            new, self._new = self._new, {}
            self._known.update(new)
        if not new:
            return
        try:
            change(
                *(DIGESTS, self._key, lambda before: _merge(before, new)),
                title=self._name,
                images=len(self._known),
            )
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


def now() -> float:
    """Seconds since 1970, as file systems count them."""
    return time.time()


def _key(item: Item, stamp: Stamp) -> bytes:
    text = f"{stamp.token}\0{stamp.size}\0{item.id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=KEY).digest()


def _merge(before: bytes | None, new: dict[bytes, bytes]) -> bytes:
    """The content of the cache with new records; those of decoded images take precedence."""
    records = _split(before)
    for key, packed in new.items():
        if key not in records or packed[SHA]:
            records[key] = packed
    return b"".join(key + packed for key, packed in records.items())


def _split(content: bytes | None) -> dict[bytes, bytes]:
    """Packed records by key."""
    content = content or b""
    return {
        content[start : start + KEY]: content[start + KEY : start + RECORD]
        for start in range(0, len(content), RECORD)
    }
