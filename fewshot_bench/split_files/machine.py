"""The stack of a pickle that is read without executing it: plain values and how they nest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_STACK = 10_000
MAX_DEPTH = 8
MARK = object()


class Refused(Exception):
    """A pickle that holds, or does, something else than the files that are meant here."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names; it is never looked up."""

    text: str


@dataclass(slots=True, eq=False)
class Box:
    """A container while it is built.

    `stored`: it stands in another one and may not change any more, so that nothing can hold
    itself and `depth` is exact. `record`: its attributes are given once, as a whole.
    """

    value: Any
    depth: int = 1
    stored: bool = False
    record: bool = False


class Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The one value that is left."""
        if len(self.stack) != 1:
            raise Refused(f"leaves {len(self.stack)} values, expected one")
        return content_of(self.pop())

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)
        if len(self.stack) > MAX_STACK:
            raise Refused(f"keeps more than {MAX_STACK:,} values open")

    def pop(self) -> Any:
        """Take the value on top."""
        if not self.stack or self.stack[-1] is MARK:
            raise Refused("takes a value where there is none")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take the values above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise Refused("takes values to a mark that is not there")

    def top(self, kind: type) -> Box:
        """The list or dict on top, which is still being filled."""
        box = self.stack[-1] if self.stack else None
        if not isinstance(box, Box) or box.record or not isinstance(box.value, kind):
            raise Refused(f"fills a {kind.__name__} where there is none")
        if box.stored:
            raise Refused("changes a container after it was stored in another one")
        return box


def content_of(value: Any) -> Any:
    """The plain value of what lies on the stack; a class, or a tuple of classes, is none."""
    if isinstance(value, Box):
        if isinstance(value.value, tuple) and any(isinstance(v, Name) for v in value.value):
            raise Refused("holds a class as a value")
        return value.value
    if isinstance(value, Name):
        raise Refused(f"holds {value.text} as a value")
    return value


def store(box: Box, value: Any) -> Any:
    """The plain value of `value`, which from now on stands in `box`."""
    content = content_of(value)
    if value is box:
        raise Refused("stores a container in itself")
    if isinstance(value, Box):
        value.stored = True
        box.depth = max(box.depth, value.depth + 1)
        if box.depth > MAX_DEPTH:
            raise Refused(f"is nested more than {MAX_DEPTH} deep")
    return content
