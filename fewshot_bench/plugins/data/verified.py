"""Remembers which data sets were verified: one small JSON file per data set in the cache folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fewshot_bench.api.dataset import DatasetCard
from fewshot_bench.utils.cache_dir import VERIFIED, cache_root, touch, write


@dataclass(frozen=True)
class Verified:
    """A verification that nothing failed in.

    when: ISO 8601 date and time, UTC; differs: names of the checks that warned.
    """

    name: str
    folder: str
    revision: str
    when: str
    images: int
    differs: tuple[str, ...] = ()

    @property
    def day(self) -> str:
        """The date alone."""
        return self.when[:10]


def passed(name: str, card: DatasetCard, images: int, differs: tuple[str, ...]) -> Verified:
    """A verification that ended just now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Verified(name, _resolved(card), card.revision, now, images, differs)


def remember(verified: Verified) -> None:
    """Write the file of a data set; OSError when that cannot be done."""
    text = json.dumps(asdict(verified), indent=1, ensure_ascii=False)
    write(_file(verified.name, verified.folder), f"{text}\n".encode())


def forget(name: str, card: DatasetCard) -> None:
    """A data set is not verified any more; OSError when its file cannot be removed."""
    _file(name, _resolved(card)).unlink(missing_ok=True)


def recall(name: str, card: DatasetCard) -> Verified | None:
    """The last verification of a data set in its folder, of whatever revision.

    None when there was none, or its file is damaged: then it has to be verified again.
    """
    try:
        path = _file(name, _resolved(card))
        found = json.loads(path.read_text("utf-8"))
        touch(path)
        verified = Verified(**(found | {"differs": tuple(found["differs"])}))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    kinds = [type(value) for value in asdict(verified).values()]
    texts = all(isinstance(name, str) for name in verified.differs)
    return verified if texts and kinds == [str, str, str, str, int, tuple] else None


def _resolved(card: DatasetCard) -> str:
    return str(Path(card.folder).resolve()) if card.folder else ""


def _file(name: str, folder: str) -> Path:
    key = hashlib.sha256(f"{name}\n{folder}".encode(errors="surrogatepass")).hexdigest()[:32]
    return cache_root() / VERIFIED / f"{key}.json"
