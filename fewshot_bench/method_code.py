"""A digest of the source of a method's package, so that an edit of it is noticed.

`source_digest` is the entry point. It covers every Python file of the top-level package that
defines the class, or the one file where that is a module.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any


def source_digest(method: type) -> str:
    """SHA-256 over the paths and bytes of the Python files that `method` comes from.

    Empty where there are none (a class that was typed into a prompt).
    """
    module: Any = sys.modules.get(method.__module__.partition(".")[0])
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    file = getattr(module, "__file__", None)
    found = {
        path.relative_to(folder).as_posix(): path
        for folder in folders
        for path in folder.rglob("*.py")
    }
    if not folders and file is not None:
        found = {Path(file).name: Path(file)}
    lines = (f"{name}\0{_digest_of_file(path)}\n" for name, path in sorted(found.items()))
    text = "".join(lines)
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _digest_of_file(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "unreadable"
