"""Names of methods that stand in a file of their own: `path/to/file.py:ClassName`.

In specifications the path is the absolute one, so that a file is one method however it was
written, two files with one class name are two, and every worker finds it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

_REFERENCE = re.compile(r"(?P<file>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)


def parts(name: str) -> tuple[str, str] | None:
    """Path and class of a reference to a file; None for any other name."""
    match = _REFERENCE.fullmatch(name)
    return (match["file"], match["name"]) if match else None


def is_meant(name: str) -> bool:
    """Whether a name was written as one of a file, be it complete or not."""
    return parts(name) is not None or name.endswith(".py") or ".py:" in name


def canonical(name: str) -> str:
    """A reference with its absolute path, links resolved; any other name as it is."""
    found = parts(name)
    if found is None:
        return name
    file, cls = found
    return f"{os.path.realpath(os.path.expanduser(file))}:{cls}"


def aliases(name: str) -> list[str]:
    """The shorter ways to write a reference, the shortest (`file.py:Class`) first.

    Empty for any other name.
    """
    found = parts(name)
    if found is None:
        return []
    pieces = PurePosixPath(found[0]).parts
    return [f"{'/'.join(pieces[-n:])}:{found[1]}" for n in range(1, len(pieces))]


def short(name: str) -> str:
    """The name as a sentence shows it: `file.py:Class` of a reference."""
    return next(iter(aliases(name)), name)


def short_names(names: Iterable[str]) -> Mapping[str, str]:
    """The shortest way to write each name that none of the others can be written in."""
    every = sorted(set(names))
    found = {}
    for name in every:
        others = {alias for other in every if other != name for alias in (other, *aliases(other))}
        found[name] = next((a for a in aliases(name) if a not in others), name)
    return found


def split(text: str) -> list[str]:
    """Names that commas separate, but for those in the path of a file that is there."""
    words, found = text.split(","), []
    while words:
        count = 1
        if ".py:" in text:
            ends = range(1, len(words) + 1)
            count = next((n for n in ends if _is_there(",".join(words[:n]).strip())), 1)
        found.append(",".join(words[:count]).strip())
        del words[:count]
    return [name for name in found if name]


def _is_there(name: str) -> bool:
    found = parts(name)
    return found is not None and Path(os.path.expanduser(found[0])).is_file()
