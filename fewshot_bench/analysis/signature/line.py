"""A signature as one line, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewshot_bench.analysis.signature.fields import FIELDS, REQUIRED, read_field
from fewshot_bench.analysis.signature.model import (
    FORMAT,
    PREFIX,
    UNSIGNED,
    Matrix,
    Signature,
    default_of,
)
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.utils.errors import UsageError

LONGEST_LINE = 1_000_000
_START = f"{PREFIX}:{FORMAT}"
_BY_NAME = {field.name: field for field in FIELDS}
_DEFAULTS = {field.name: default_of(field.part) for field in FIELDS}
_SIGNED = {about.short for about in CONDITIONS.values() if about.signed}


def write(signature: Signature) -> str:
    """The line: what all matrices share first, then each one's own after `||`."""
    texts = [_texts(matrix) for matrix in signature.matrices]
    shared = {
        name: text
        for name, text in (texts[0] if texts else {}).items()
        if all(other.get(name) == text for other in texts)
    }
    blocks = [shared, *({k: v for k, v in text.items() if k not in shared} for text in texts)]
    parts = ["|".join(f"{name}:{text}" for name, text in block.items()) for block in blocks]
    head = "|".join(filter(None, [_START, parts[0]]))
    return head if len(texts) < 2 else "||".join([head, *parts[1:]])


def _texts(matrix: Matrix) -> dict[str, str]:
    """Fields as text, without those that hold their default and no example of which is usual."""
    found = {}
    for field in FIELDS:
        value = matrix.part(field.part)
        usual = field.name in _SIGNED or field.name in REQUIRED
        if usual or value != _DEFAULTS[field.name]:
            found[field.name] = field.write(value)
    return found


def parse(text: str) -> Signature:
    """The matrices of a line; UsageError names the part that cannot be read.

    Blanks and line breaks do not count: names with blanks are escaped.
    """
    if len(text) > LONGEST_LINE:
        raise UsageError(f"signature of {len(text):,} characters: expected one line")
    line = "".join(text.split())
    first, *blocks = line.split("||")
    start, _, head = first.partition("|")
    if start != _START:
        raise UsageError(
            f"'{start:.40}' begins no signature: expected {_START}|m:METHOD|... "
            "(a larger number is written by a newer fewshot_bench)"
        )
    shared = _fields(head)
    own = [_fields(block) for block in blocks] or [{}]
    return Signature(tuple(_matrix(shared, values) for values in own))


def _fields(block: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, block.split("|")):
        name, colon, text = part.partition(":")
        if name not in _BY_NAME or not colon:
            known = ", ".join(_BY_NAME)
            raise UsageError(f"signature: unknown field '{part:.40}': expected one of {known}")
        if name in found:
            raise UsageError(f"signature: field '{name}' stands twice in one part")
        found[name] = read_field(_BY_NAME[name], text)
    return found


def _matrix(shared: Mapping[str, Any], own: Mapping[str, Any]) -> Matrix:
    values = {**shared, **own}
    twice = [name for name in own if name in shared]
    if twice:
        raise UsageError(f"signature: field '{twice[0]}' stands for all parts and for one of them")
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise UsageError(f"signature: field '{missing[0]}' is missing (docs/audit.md)")
    parts = {_BY_NAME[name].part: value for name, value in values.items()}
    conditions = {name: parts.pop(name, default) for name, default in UNSIGNED.items()}
    return Matrix(**parts, conditions=conditions)
