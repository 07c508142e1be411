"""Room on the disk that a download needs, and that it leaves alone."""

from __future__ import annotations

import shutil

from fewshot_bench.api.recipe import RemoteFile
from fewshot_bench.plugins.data.partial import Part, size_of
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import size_text

# So much of a disk is never taken by a download; looked at after every ROOM_STEP bytes.
KEPT_FREE, ROOM_STEP = 10**9, 64 * 2**20


class StopError(DataMissingError):
    """No other source can help: the disk is full, or a person has to agree first."""


def refuse_full(file: RemoteFile, part: Part, size: int, have: int) -> None:
    """StopError when the rest of the file, or what it unpacks to, has no room on the disk.

    Archives of images unpack to about their own size.
    """
    folder = part.bytes.parent
    folder.mkdir(parents=True, exist_ok=True)
    needed = size - have + (size if file.unpack else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StopError(
            f"{file.name} needs {size_text(needed)} in {folder} and {size_text(free)} are free: "
            "make room, or choose another disk with --root"
        )


def refuse_no_room(file: RemoteFile, part: Part) -> None:
    """StopError before a download takes what others on the disk need; what is there is kept."""
    folder = part.bytes.parent
    free = shutil.disk_usage(folder).free
    if free < KEPT_FREE:
        raise StopError(
            f"{file.name}: {size_text(free)} are free in {folder}, and {size_text(KEPT_FREE)} are "
            f"left alone: {size_of(part.bytes):,} bytes are kept; make room, then run the same "
            "command again"
        )
