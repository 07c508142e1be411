"""Images and class folders on the disk: which names count, and how large a file is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fewshot_bench.api.sources import image_endings

# What systems and programs leave beside photographs, in lower case; hidden names are left out too.
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information")
    + ("lost+found", "__pycache__")
)
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r"))


def is_image(name: str) -> bool:
    """True for the name of a visible image file that can be read here."""
    stem, _, extension = name.rpartition(".")
    return stem != "" and name[0] != "." and extension.lower() in image_endings()


def is_system_folder(name: str) -> bool:
    """True for a folder name under which a system or a program keeps its own things."""
    return name.casefold() in SYSTEM_FOLDERS


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, in case-sensitive order; none when it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and e.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def file_size(file: str | Path | os.DirEntry[str]) -> int:
    """The bytes of a regular file; -1 where there is none."""
    try:
        found = file.stat() if isinstance(file, os.DirEntry) else os.stat(file)
    except (OSError, ValueError):
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1
