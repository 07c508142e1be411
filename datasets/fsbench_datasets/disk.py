"""File system helpers: image and system folder names, subfolders, file sizes and inodes,
and the content of image files.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from fewshot_bench.api.sources import image_endings

# Files and folders that systems and programs create beside photographs, in lower case; hidden names
# are skipped as well.
SYSTEM_FOLDERS = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information")
    + ("lost+found", "__pycache__")
)
SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r"))


def is_image(name: str) -> bool:
    """True for the name of a visible (not dotted) file with an image extension readable here."""
    stem, _, extension = name.rpartition(".")
    return stem != "" and name[0] != "." and extension.lower() in image_endings()


def is_system_folder(name: str) -> bool:
    """True for the name of a folder that an operating system or a program creates for itself."""
    return name.casefold() in SYSTEM_FOLDERS


def is_folder(entry: os.DirEntry[str]) -> bool:
    """True for a folder or a link to one; a link to itself is none. OSError as for `os.stat`."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def subfolders(folder: Path) -> list[Path]:
    """The visible subfolders in case-sensitive order; empty when the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and is_folder(e)]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def file_size(file: str | Path | os.DirEntry[str]) -> int:
    """Size of a regular file in bytes; -1 if there is none."""
    return size_and_inode(file)[0]


def size_and_inode(file: str | Path | os.DirEntry[str]) -> tuple[int, int]:
    """Size in bytes and inode of a regular file; -1 and 0 if there is none."""
    try:
        status = file.stat() if isinstance(file, os.DirEntry) else os.stat(file)
    except (OSError, ValueError):
        return -1, 0
    return (status.st_size, status.st_ino) if stat.S_ISREG(status.st_mode) else (-1, 0)


def read_file(path: Path) -> bytes:
    """The content of a file; OSError for a link to a pipe or a device, which is not opened.

    A pipe would make the reader wait forever, and some devices never end. Lists hold no special
    files but those behind links, so only links cost a look at what they lead to.
    """
    with open(path, "rb", buffering=0, opener=_open_regular) as file:
        return file.read()


def _open_regular(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        # What O_NOFOLLOW says of a link, in Linux and macOS or in FreeBSD.
        if error.errno not in (errno.ELOOP, errno.EMLINK):
            raise
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a link to a pipe, a device or the like: expected an image file")
    return os.open(path, flags)
