"""One spelling per path in the names of data sets, whatever way it is written."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

from fewshot_bench.utils.errors import UsageError


def one_place(path: str) -> Path:
    """The canonical absolute path: links resolved, `~` expanded.

    A file that is a link is not resolved: paths listed in it are relative to the link's folder.
    """
    whole = os.path.abspath(os.path.expanduser(path))
    if os.path.isfile(whole):
        return Path(os.path.realpath(os.path.dirname(whole)), os.path.basename(whole))
    return Path(os.path.realpath(whole))


def one_spelling(path: str | Path) -> str:
    """The spelling of an absolute path in names: below the user's home it starts with `~`.

    UsageError for a path that is not UTF-8, since names are written into records.
    """
    whole, home = str(path), os.path.realpath(Path.home())
    below = home != os.sep and whole.startswith(f"{home}{os.sep}")
    spelled = f"~{whole[len(home) :]}" if below else whole
    if any(unicodedata.category(character) == "Cs" for character in spelled):
        encoding = sys.getfilesystemencoding()
        step = "rename the folder or file"
        if encoding != "utf-8":
            step = f"set PYTHONUTF8=1, as this Python reads names as {encoding}"
        raise UsageError(
            f"the path {spelled!a} is not UTF-8: expected names in UTF-8, as records state the "
            f"path ({step})"
        )
    return spelled


def spell_once(name: str) -> str:
    """`folder:./a/` with its path in canonical spelling if the path exists, else unchanged."""
    family, colon, path = name.partition(":")
    exists = colon and path and os.path.exists(os.path.expanduser(path))
    return f"{family}:{one_spelling(one_place(path))}" if exists else name
