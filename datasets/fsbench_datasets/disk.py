"""Images and class folders on the disk: which names count, and how large a file is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")


def is_image(name: str) -> bool:
    """Whether a file name is that of a visible image."""
    stem, _, extension = name.rpartition(".")
    return stem != "" and name[0] != "." and extension.lower() in EXTENSIONS


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in case-sensitive order; none when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and e.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def file_size(path: str | Path) -> int:
    """The bytes of a regular file; -1 where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1
