"""Files as cells state them, hyper-parameters and texts of classes: `NAME@sha256:DIGEST`.

The digest of the content is a part of a cell's key, the name is for people alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# Hex digits of a digest in cells, and in labels of tables.
LONG, SHORT = 16, 4
_FORM = re.compile(rf"(?P<name>[^/\\\0]+)@sha256:(?P<digest>[0-9a-f]{{{LONG}}})", re.DOTALL)


def split(value: Any) -> tuple[str, str]:
    """Name and digest in a value of an option; two empty texts for a value that is no file."""
    match = _FORM.fullmatch(value) if isinstance(value, str) and "@sha256:" in value else None
    return (match["name"], match["digest"]) if match else ("", "")


def list_files(*values: Any) -> list[str]:
    """The texts of the files among values that a cell states."""
    return [value for value in values if split(value)[0]]


def without_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they enter a key: files by their content alone."""
    return {name: split(value)[1] or value for name, value in options.items()}


def with_files(overrides: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides and all files of the options: no version of a method fixes their content."""
    return {name: value for name, value in options.items() if split(value)[0]} | dict(overrides)


def without_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are no files."""
    return {name: value for name, value in options.items() if not split(value)[0]}


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
