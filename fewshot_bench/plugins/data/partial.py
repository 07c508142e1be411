"""Partial downloads: bytes beside a note of which version of which file they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fewshot_bench.utils.files import write_whole


@dataclass(frozen=True, slots=True)
class Origin:
    """Which version of a file a partial download belongs to."""

    url: str
    etag: str
    modified: str
    size: int

    @property
    def validator(self) -> str:
        """What `If-Range` may carry: a strong entity tag, or the time of the last change."""
        strong = self.etag if self.etag.startswith('"') else ""
        return strong or self.modified


@dataclass(frozen=True, slots=True)
class Part:
    """A partial download: `NAME.part` with its bytes and `NAME.part.json` with its origin."""

    bytes: Path
    about: Path

    @classmethod
    def of(cls, target: Path) -> Part:
        """The part that becomes `target`."""
        return cls(
            target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")
        )

    def origin(self) -> Origin | None:
        """Where the bytes came from; None when there are none, or when that is not known."""
        try:
            content = json.loads(self.about.read_text("utf-8"))
            origin = Origin(**content)
            kinds = [type(value) for value in asdict(origin).values()]
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        known = kinds == [str, str, str, int]
        there = self.bytes.is_file() and not self.bytes.is_symlink()
        return origin if known and there else None

    def start(self, origin: Origin) -> None:
        """Forget what is there, and note where the new bytes come from."""
        self.drop()
        write_whole(self.about, json.dumps(asdict(origin)).encode())
        self.bytes.touch()

    def finish(self, target: Path) -> None:
        """Make the whole file `target`, with a note of its source beside it."""
        self.about.replace(note_of(target))
        self.bytes.replace(target)

    def drop(self) -> None:
        """Remove both files."""
        self.bytes.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def note_of(target: Path) -> Path:
    """Where the source of a finished download is noted; files put there by hand have no note."""
    return target.with_name(f"{target.name}.source.json")


def source_of(target: Path) -> str:
    """The source that a finished download came from; empty when it was put there by hand."""
    try:
        return str(json.loads(note_of(target).read_text("utf-8"))["url"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
