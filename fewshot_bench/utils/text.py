"""Text for users: printable, shortened, joined, colored; checks of foreign names and paths.

Nothing here prints; control characters of foreign texts never reach a terminal.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal

BLANK = "\\ "
# Paths with more commas than this need backslashes before them.
_MOST_PARTS = 16


def plain_text(text: str) -> bool:
    """True if a name has no control characters and no bytes that are not UTF-8."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def in_prompts(name: str) -> str:
    """A class name without what no prompt shows: two names with equal results have one prompt.

    Underscores become blanks there (`Vocabulary.prompts`), and tokenizers ignore case, further
    blanks and the Unicode form.
    """
    plain = unicodedata.normalize("NFC", name).replace("_", " ")
    return " ".join(plain.split()).casefold()


def leaves(path: str) -> bool:
    """True if a relative path can leave its folder on any operating system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    parts = (*posix.parts, *windows.parts)
    return posix.is_absolute() or bool(windows.drive or windows.root) or ".." in parts


def split_names(text: str) -> tuple[str, ...]:
    r"""The names of a comma-separated list, without blanks around them.

    `\,` is a comma inside a name, `\\` a backslash, `\ ` a blank at its end. A comma in the path of
    an existing file or folder, as in `folder:/photos/a,b` or `a,b.py:Class`, needs no backslash;
    neither does one in brackets, as in `clip-lora[rank=4,alpha=1]`.
    """
    parts = re.findall(r"(?:\\.|\[(?:[^\[\]]|\[[^\[\]]*\])*\]|[^,])+", text)
    names = []
    while parts:
        count = 1 if _is_place(parts[0]) else _length_of_place(parts)
        names.append(_unescape(",".join(parts[:count])))
        del parts[:count]
    return tuple(name for name in names if name)


def _length_of_place(parts: Sequence[str]) -> int:
    """The number of leading parts that together name an existing path; 1 if none do."""
    counts = range(min(len(parts), _MOST_PARTS), 1, -1)
    return next((n for n in counts if _is_place(",".join(parts[:n]))), 1)


def join_names(names: Iterable[str]) -> str:
    """The inverse of `split_names`: a comma-separated list with escapes."""
    return ",".join(_escape(name) for name in names)


def _escape(name: str) -> str:
    text = name.replace("\\", "\\\\").replace(",", "\\,")
    inner = text.strip(" ")
    before, _, after = text.partition(inner) if inner else ("", "", text)
    return f"{before.replace(' ', BLANK)}{inner}{after.replace(' ', BLANK)}"


def _unescape(part: str) -> str:
    bare = re.sub(r"(?<!\\)\s+$", "", part.lstrip())
    return re.sub(r"\\([\\, ])", r"\1", bare)


def _is_place(part: str) -> bool:
    text = _unescape(part)
    file, _, owner = text.rpartition(":")
    if file.endswith(".py") and "," not in owner and os.path.isfile(os.path.expanduser(file)):
        return True
    family, colon, path = text.partition(":")
    return bool(colon and path and "," not in family) and os.path.exists(os.path.expanduser(path))


LONGEST = 240
LONGEST_MESSAGE = 2000
FEW, MANY = 3, 20

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 160
_brief.maxlevel = 2


def printable(text: str, longest: int = 0) -> str:
    """Text on one line without terminal control characters; long texts lose their middle.

    longest: approximate number of kept characters; 0 keeps all.
    """
    if not text.isprintable():
        text = "".join(_escape_character(character) for character in text)
    if longest and len(text) > longest:
        half = longest // 2
        return f"{text[:half]} ... {text[-half:]}"
    return text


def message(text: str) -> str:
    """A message of any text: one printable line that fits on a terminal."""
    return printable(" ".join(text.split()), LONGEST_MESSAGE)


def printable_lines(text: str) -> str:
    """Text without terminal control characters except line breaks."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(text: str) -> str:
    """Foreign text without control characters, with single blanks for line breaks and the like."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _escape_character(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\ufffd"


def shown(value: Any) -> str:
    """The shortened repr of a value."""
    text = _brief.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shortened(lines: Sequence[str], most: int = MANY) -> tuple[str, ...]:
    """The first `most` lines, and a line with the number of the others."""
    more = len(lines) - most
    return (*lines[:most], f"and {more:,} more") if more > 0 else tuple(lines)


def few(names: Iterable[str]) -> str:
    """The first names on one line, quoted, and the number of the others."""
    return limited([f"'{name}'" for name in names], FEW)


def limited(names: Sequence[str], most: int, comma: str = ", ") -> str:
    """`a, b and 3 more`: the first `most` names, and the number of the others."""
    more = len(names) - most
    return comma.join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def counted(count: int, singular: str, many: str = "") -> str:
    """`1 seed`, `3 seeds`, `1,980 records`."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def percent(mean: float, low: float, high: float, digits: int = 0) -> str:
    """`83 % (71 to 91)`, of shares."""
    return f"{100 * mean:.{digits}f} % ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def joined(parts: Sequence[str], comma: str = ", ") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([comma.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def encodable(text: str) -> str:
    """Text as valid UTF-8, with escapes for the other bytes that names of files may hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def digest_of(text: str, digits: int) -> str:
    """The first digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def size_text(count: float) -> str:
    """Bytes in readable form, in powers of 1,000: 512 B, 1.5 MB, 37.0 GB."""
    if count < 1000:
        return f"{max(count, 0):.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


SIZES = "a size such as 20GB or 500MB, or 0"
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?(?:([KMGT]?)(I?)B)?", re.ASCII)


def read_size(text: str | int) -> int:
    """Parse a size to bytes, in powers of 1,000 or (20GiB) of 1,024; ValueError if malformed."""
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise TypeError(text)
    match = _SIZE.fullmatch(str(text).strip().upper())
    if match is None:
        raise ValueError(text)
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " "))


def fixed(value: float, digits: int) -> str:
    """A number with this many decimals; zero has no sign."""
    text = f"{value:.{digits}f}"
    return text if float(text) else text.removeprefix("-")


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; none if it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def beside_level(p: float, digits: int, level: float = 0.05) -> str:
    """A p-value with `digits` decimals, or with more if it would round to the level."""
    while p != level and float(f"{p:.{digits}f}") == level:
        digits += 1
    return f"{p:.{digits}f}"


def color_system() -> Literal["auto"] | None:
    """`color_system` of a rich console; None if NO_COLOR is set, which also disables bold text."""
    return None if os.environ.get("NO_COLOR") else "auto"


def option_name(name: str) -> str:
    """The command-line option of a parameter: `--keep-split` for `keep_split`."""
    return f"--{name.replace('_', '-')}"
