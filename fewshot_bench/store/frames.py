"""Values of JSON without their numbers, each kept once, so that many of them are small texts.

`Frames` is the entry point: `pack` shortens the text of a value, `unpack` and `reader` read the
shorter one. It means the same value for as long as frames are only added.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fewshot_bench.api.record import entry

Filler = Callable[[Sequence[float]], Any]
Maker = Callable[[Sequence[str]], Any]
Reader = Callable[[str], tuple[Any, ...]]
# A number in indented JSON ends its line, a string never does: a quotation mark follows it.
_NUMBER = re.compile(rb" (-?\d[\d.eE+-]*)(?=,?\n)")
_BREAK = re.compile(rb"\n *")


class Frames:
    """Values without their numbers, each kept once: many parts of records differ in numbers alone.

    A part is stored as the index of its frame and its numbers. In a frame, 0 is the placeholder of
    a number, and n > 0 refers to the value at index n - 1, which contains no numbers.
    """

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.values = list(values)
        self._places = {repr(value): place for place, value in enumerate(self.values)}
        # The frame of a text without its numbers.
        self._shapes: dict[bytes, int] = {}
        self._seen: set[int] = set()
        self._fillers: dict[int, Filler] = {}
        self._readers: dict[tuple[tuple[str, ...], Any], Reader] = {}

    def pack(self, text: bytes) -> str:
        """Pack a value as JSON: the value itself, or a list of its frame's index and numbers.

        text: JSON of an object or null as `json.dumps` writes it with an indent, in ASCII.
        """
        if text == b"null":
            return "null"
        pieces = _NUMBER.split(text)
        shape, numbers = b"\0".join(pieces[::2]), pieces[1::2]
        place = self._shapes.get(shape)
        if place is None:
            # A value that occurs only once needs no frame.
            if hash(shape) not in self._seen:
                self._seen.add(hash(shape))
                return _BREAK.sub(b"", text).decode("ascii")
            holes: list[float] = []
            frame = self._frame(json.loads(text), holes)
            assert len(holes) == len(numbers), "numbers of an indented text stand at ends of lines"
            place = self._shapes[shape] = self._place(frame)
        return f"[{','.join([str(place), *map(bytes.decode, numbers)])}]"

    def unpack(self, text: str) -> Any:
        """The inverse of `pack`; a frame without numbers is the same object each time."""
        found, _ = _read(text)
        if type(found) is not list:
            return found
        place = found[0]
        if len(found) == 1:
            return self.values[place]
        if place not in self._fillers:
            self._fillers[place] = self._filler(self.values[place], itertools.count(1))
        return self._fillers[place](found)

    def reader(self, names: tuple[str, ...], absent: Any = None) -> Reader:
        """Make a function that reads the named values of packed objects, without building others.

        names: `work.billed.images` is a value of nested objects. absent: returned for missing ones.
        """
        if (names, absent) not in self._readers:
            self._readers[names, absent] = self._reader(names, absent)
        return self._readers[names, absent]

    def _reader(self, names: tuple[str, ...], absent: Any) -> Reader:
        # By the index of a frame: the values if none has numbers, else the makers of all values.
        plain: dict[str, tuple[Any, ...]] = {}
        makers: dict[str, list[Maker]] = {}

        def read(text: str) -> tuple[Any, ...]:
            if not text.startswith("["):
                found, _ = _read(text)
                return tuple(entry(found, name, absent) for name in names)
            pieces = text[1:-1].split(",")
            place = pieces[0]
            if place in plain:
                return plain[place]
            if place not in makers:
                made = [self._maker(self.values[int(place)], name, 1, absent) for name in names]
                if all(is_plain for is_plain, _ in made):
                    plain[place] = tuple(make(pieces) for _, make in made)
                    return plain[place]
                makers[place] = [make for _, make in made]
            return tuple([make(pieces) for make in makers[place]])

        return read

    def _maker(self, frame: Any, name: str, first: int, absent: Any) -> tuple[bool, Maker]:
        """True if a value of a frame needs no numbers, and its maker from the pieces of a text.

        first: index of the frame's first number.
        """
        own, _, inner = (name, "", "") if name in frame else name.partition(".")
        if own not in frame:
            return True, lambda _: absent
        item = frame[own]
        first += sum(_count(frame[other]) for other in itertools.takewhile(own.__ne__, frame))
        if type(item) is int and item:
            known = self.values[item - 1]
            return True, lambda _: entry(known, inner, absent) if inner else known
        if inner and type(item) is dict:
            return self._maker(item, inner, first, absent)
        if inner or type(item) not in (int, dict, list):
            plain = absent if inner else item
            return True, lambda _: plain
        if item == 0:
            return False, lambda pieces: _number(pieces[first])
        fill = self._filler(item, itertools.count(first))
        return False, lambda pieces: fill([_number(piece) for piece in pieces])

    def _frame(self, value: Any, numbers: list[float]) -> Any:
        """The frame of a dictionary or list; its numbers are appended to `numbers`."""
        before, made = len(numbers), value.copy()
        bare = []
        for name, item in value.items() if type(value) is dict else enumerate(value):
            kind = type(item)
            if kind is int or kind is float:
                numbers.append(item)
                made[name] = 0
            elif kind is dict or kind is list:
                count = len(numbers)
                made[name] = self._frame(item, numbers)
                if len(numbers) == count:
                    bare.append(name)
        if len(numbers) > before:
            for name in bare:
                made[name] = 1 + self._place(made[name])
        return made

    def adopted(self, others: Frames, place: int) -> int:
        """Add a frame of other frames to these, if missing; returns its index here."""

        def translated(frame: Any) -> Any:
            if type(frame) is dict:
                return {name: translated(item) for name, item in frame.items()}
            if type(frame) is list:
                return [translated(item) for item in frame]
            return 1 + self.adopted(others, frame - 1) if type(frame) is int and frame else frame

        return self._place(translated(others.values[place]))

    def _place(self, frame: Any) -> int:
        place = self._places.setdefault(repr(frame), len(self.values))
        if place == len(self.values):
            self.values.append(frame)
        return place

    def _filler(self, frame: Any, places: Iterator[int]) -> Filler:
        """Make a function that fills a frame from a list; places: the list's indices, in order."""
        filled = frame.copy()
        holes: list[tuple[Any, int]] = []
        inner: list[tuple[Any, Filler]] = []
        for name, item in frame.items() if type(frame) is dict else enumerate(frame):
            if type(item) is dict or type(item) is list:
                inner.append((name, self._filler(item, places)))
            elif type(item) is int:
                if item:
                    filled[name] = self.values[item - 1]
                else:
                    holes.append((name, next(places)))

        def fill(numbers: Sequence[float]) -> Any:
            made = filled.copy()
            for name, place in holes:
                made[name] = numbers[place]
            for name, make in inner:
                made[name] = make(numbers)
            return made

        return fill


def _number(text: str) -> float:
    return float(text) if "." in text or "e" in text else int(text)


def _count(item: Any) -> int:
    if type(item) is dict or type(item) is list:
        return sum(map(_count, item.values() if type(item) is dict else item))
    return int(type(item) is int and not item)


compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_read = json.JSONDecoder().raw_decode
