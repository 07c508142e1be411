"""Names and paths that others wrote: whether they are plain, stay inside, and mean one place."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

BLANK = "\\ "


def plain_text(text: str) -> bool:
    """Whether a name is free of control characters and of bytes that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def leaves(path: str) -> bool:
    """Whether a path leads out of the folder that it is relative to, on any system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    parts = (*posix.parts, *windows.parts)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in parts


def one_place(path: str) -> Path:
    """A place without links and home sign, however it is written.

    A file that is a link stays one: what it lists is relative to the folder that it is found in.
    """
    whole = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(whole):
        return Path(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    return Path(os.path.realpath(whole))


def one_spelling(place: str | Path) -> str:
    """A place as a name holds it: the same from every folder, and short below the user's home."""
    whole, home = str(place), os.path.realpath(Path.home())
    below = home != os.sep and whole.startswith(f"{home}{os.sep}")
    return f"~{whole[len(home) :]}" if below else whole


def spelled_once(name: str) -> str:
    """`folder:./a/` as the data set calls itself, where what follows the colon is a place here."""
    family, colon, path = name.partition(":")
    known = colon and path and os.path.exists(os.path.expanduser(path))
    return f"{family}:{one_spelling(one_place(path))}" if known else name


def split_names(text: str) -> tuple[str, ...]:
    r"""The names of a comma list, without blanks around them.

    `\,` is a comma inside a name, `\\` a backslash, `\ ` a blank at its end. A comma in the path of
    something that is here, as in `folder:/photos/a,b` or `a,b.py:Class`, needs no backslash.
    """
    parts = re.findall(r"(?:\\.|[^,])+", text)
    names = []
    while parts:
        count = 1 if _is_place(parts[0]) else _length_of_place(parts)
        names.append(_unescaped(",".join(parts[:count])))
        del parts[:count]
    return tuple(name for name in names if name)


def _length_of_place(parts: Sequence[str]) -> int:
    """How many parts together are the path of something that is here; 1 where none are."""
    counts = range(len(parts), 1, -1)
    return next((n for n in counts if _is_place(",".join(parts[:n]))), 1)


def join_names(names: Iterable[str]) -> str:
    """The comma list that `split_names` takes apart again."""
    return ",".join(_escaped(name) for name in names)


def _escaped(name: str) -> str:
    text = name.replace("\\", "\\\\").replace(",", "\\,")
    inner = text.strip(" ")
    before, _, after = text.partition(inner) if inner else ("", "", text)
    return f"{before.replace(' ', BLANK)}{inner}{after.replace(' ', BLANK)}"


def _unescaped(part: str) -> str:
    bare = re.sub(r"(?<!\\)\s+$", "", part.lstrip())
    return re.sub(r"\\([\\, ])", r"\1", bare)


def _is_place(part: str) -> bool:
    text = _unescaped(part)
    file = text.rpartition(":")[0]
    if file.endswith(".py") and os.path.isfile(os.path.expanduser(file)):
        return True
    family, colon, path = text.partition(":")
    return bool(colon and path and "," not in family) and os.path.exists(os.path.expanduser(path))
