"""Files as cells state them: of hyper-parameters `NAME@sha256:DIGEST`, of texts `NAME@DIGEST`.

The digest of the content is a part of a cell's key, the name is for people alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Hex digits of a digest in cells, and in labels of tables.
LONG, SHORT = 16, 4
# Of the digest of texts that describe classes.
TEXTS_DIGITS = 12
_FORM = re.compile(rf"(?P<name>[^/\\\0]+)@sha256:(?P<digest>[0-9a-f]{{{LONG}}})", re.DOTALL)

_TEXTS = re.compile(rf"(?P<name>[^/\\\0]+)@(?P<digest>[0-9a-f]{{{TEXTS_DIGITS}}})", re.DOTALL)


def split_texts(value: str) -> tuple[str, str]:
    """Name and digest in a value of the condition `texts`; two empty texts for another one."""
    match = _TEXTS.fullmatch(value)
    return (match["name"], match["digest"]) if match else ("", "")


def split(value: Any) -> tuple[str, str]:
    """Name and digest in a value of an option; two empty texts for a value that is no file."""
    match = _FORM.fullmatch(value) if isinstance(value, str) and "@sha256:" in value else None
    return (match["name"], match["digest"]) if match else ("", "")


def name_and_digest(text: str) -> tuple[str, str]:
    """Name and digest of a file that a cell states, in either form."""
    return split_texts(text) if split_texts(text)[0] else split(text)


def list_files(options: Mapping[str, Any], texts: str = "") -> list[str]:
    """The texts of the files that a cell states by its options and its condition `texts`."""
    named = [value for value in options.values() if split(value)[0]]
    return [*named, texts] if split_texts(texts)[0] else named


def without_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they enter a key: files by their content alone."""
    return {name: split(value)[1] or value for name, value in options.items()}


def show(value: Any) -> Any:
    """A value for a label: a file as its name and the first digits of its digest."""
    name, digest = split(value)
    return f"{name}@{digest[:SHORT]}" if name else value


def show_names(every: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The names of the files among options, by text, without those of several files."""
    files = {text: split(text) for options in every for text in options.values() if split(text)[0]}
    digests: dict[str, set[str]] = {}
    for name, digest in files.values():
        digests.setdefault(name, set()).add(digest)
    return {text: name for text, (name, _) in files.items() if len(digests[name]) == 1}
