"""JSON texts by msgspec, and by the standard library where msgspec refuses.

msgspec refuses halves of surrogate pairs, which stand for the bytes of file names that are no text.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def parse_json(text: bytes) -> Any:
    """The values of a JSON text; ValueError for anything else, NaN and infinity included."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return _decoder.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def encode_json(value: Any) -> bytes:
    """A value as compact JSON."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def compact_json(text: bytes) -> bytes:
    """A JSON text without blanks between its tokens; ValueError for anything else."""
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return json.dumps(parse_json(text), separators=(",", ":")).encode()


def _refuse_number(name: str) -> None:
    raise ValueError(f"record holds {name}")


_decoder = json.JSONDecoder(parse_constant=_refuse_number)
