"""Names and relative paths that others wrote: whether they are plain, and stay inside."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath, PureWindowsPath


def plain_text(text: str) -> bool:
    """Whether a name is free of control characters and of bytes that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def leaves(path: str) -> bool:
    """Whether a path leads out of the folder that it is relative to, on any system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    parts = (*posix.parts, *windows.parts)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in parts
