"""CoOp's few-shot caches `split_fewshot/shot_16-seed_1.pkl`, read without executing them.

`read_pickled` is the entry; `plain` opens any pickle. `_check` first walks over the operations with
`pickletools.genops`, without building anything, and refuses those that such a file does not need.
Then an unpickler resolves three names, all to stand-ins: nothing is ever imported.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item
from fewshot_bench.splits.model import SplitFile, item_of, unusable
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import shown

EXPECTED = "a dict with lists of Datum records under train and val, as CoOp writes it"
ATTRIBUTES = ("_impath", "_label", "_classname")

MAX_BYTES = 64 * 2**20
MAX_OPERATIONS = 3_000_000
MAX_BITS = 64
PROTOCOLS = range(6)
_INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_TUPLES = frozenset({"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"})
_CALLS = frozenset({"REDUCE", "NEWOBJ"})
_ALLOWED = (
    _INTEGERS
    | _PUTS
    | _TUPLES
    | _CALLS
    | frozenset({"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"})
    | frozenset({"STRING", "BINSTRING", "SHORT_BINSTRING", "FLOAT", "BINFLOAT"})
    | frozenset({"PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"})
    | frozenset({"EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT"})
    | frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS"})
    | frozenset({"GLOBAL", "STACK_GLOBAL", "OBJ", "BUILD"})
    | frozenset({"GET", "BINGET", "LONG_BINGET", "MEMOIZE"})
)


class Refused(Exception):
    """Raised for a pickle with content or operations that CoOp's caches do not have."""


class Datum:
    """Stand-in for a record; keeps its attributes in the unpickled dict."""

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls, *arguments: Any) -> Datum:
        """A record without attributes."""
        if arguments:
            raise Refused("builds something else than a Datum without arguments")
        record = super().__new__(cls)
        record.attributes = {}
        return record

    def __repr__(self) -> str:
        return "Datum()"

    def __setstate__(self, attributes: Any) -> None:
        """Keep the dict itself: a copy per reference would let a small file use much memory."""
        if not isinstance(attributes, dict) or self.attributes:
            raise Refused("gives a Datum something else than one dict of attributes")
        self.attributes = attributes


class _Reconstructor:
    """Stand-in for the function by which protocols 0 and 1 make objects."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Datum:
        if arguments != (Datum, _BASE, None):
            raise Refused("calls a function")
        return Datum()


_BASE = object()
_RECONSTRUCTOR = _Reconstructor()
# The second name of each is written by pickle protocols 0 to 2.
_NAMES = {
    "copyreg._reconstructor": _RECONSTRUCTOR,
    "copy_reg._reconstructor": _RECONSTRUCTOR,
    "builtins.object": _BASE,
    "__builtin__.object": _BASE,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for an allowed name; Refused for every other name."""
        full = f"{module}.{name}"
        if name != "Datum" and full not in _NAMES:
            raise Refused(f"names {full[:160]!r}, which is not Datum")
        return _NAMES.get(full, Datum)

    def persistent_load(self, identifier: Any) -> Never:
        """Raise Refused: references to objects outside the file are not allowed."""
        raise Refused("names an object outside the file")


def plain(content: bytes) -> Any:
    """The value of a pickle made of lists, dicts, strings, numbers and `Datum` records.

    Raises Refused for everything else.
    """
    if len(content) > MAX_BYTES:
        raise Refused(f"has {len(content):,} bytes, more than {MAX_BYTES:,}")
    try:
        _check(content)
        return _Unpickler(io.BytesIO(content), encoding="latin-1").load()
    except (
        *(AttributeError, EOFError, IndexError, KeyError, OverflowError, TypeError, ValueError),
        pickle.UnpicklingError,
    ) as error:
        raise Refused(f"is damaged or no pickle ({' '.join(str(error).split())[:160]})") from None


def _check(content: bytes) -> None:
    """Raise Refused for an unneeded operation, or an argument that costs much memory or time."""
    end, open_tuple = 0, False
    for number, (operation, argument, position) in enumerate(pickletools.genops(content)):
        name = operation.name
        if number >= MAX_OPERATIONS:
            raise Refused(f"has more than {MAX_OPERATIONS:,} operations")
        if name not in _ALLOWED:
            raise Refused(f"uses the operation {name}, which such a file does not need")
        # Nested tuples with shared parts take exponential time to hash as dict keys.
        if open_tuple and name not in _CALLS and name not in _PUTS and name != "MEMOIZE":
            raise Refused("has a tuple that is not the arguments of a call")
        open_tuple = name in _TUPLES or (open_tuple and name not in _CALLS)
        _check_argument(name, argument, number, len(content))
        end = (position or 0) + 1
    if end != len(content):
        raise Refused(f"has {len(content) - end} bytes after its end")


def _check_argument(name: str, argument: Any, number: int, size: int) -> None:
    if name == "PROTO" and argument not in PROTOCOLS:
        raise Refused(f"has pickle protocol {argument}, expected 0 to {PROTOCOLS[-1]}")
    if name in _INTEGERS and argument.bit_length() > MAX_BITS:
        raise Refused(f"has a number of more than {MAX_BITS} bits")
    # The memo is a list as long as its greatest index, and a frame is allocated at once.
    if name in _PUTS and argument > number:
        raise Refused(f"keeps a value as number {argument:,} after {number:,} operations")
    if name == "FRAME" and argument > size:
        raise Refused(f"has a frame of {argument:,} bytes in {size:,}")


def read_pickled(path: Path, content: bytes) -> SplitFile:
    """The draw in a cache file; without a val list if the file has none (ImageNet).

    DataMissingError names unexpected content.
    """
    try:
        value = plain(content)
    except Refused as error:
        raise unusable(path, str(error), EXPECTED) from None
    if not isinstance(value, dict) or "train" not in value or not set(value) <= set(ROLES):
        wrong = f"the keys {shown(list(value))}" if isinstance(value, dict) else shown(value)
        raise unusable(path, f"has {wrong}", EXPECTED)
    lists = {role: tuple(_items(path, role, value[role])) for role in ROLES if role in value}
    return SplitFile(path, "pickle", lists)


def _items(path: Path, role: str, entries: Any) -> Iterator[Item]:
    if not isinstance(entries, list):
        raise _is_misplaced(path, role, entries)
    for number, entry in enumerate(entries):
        attributes = entry.attributes if isinstance(entry, Datum) else {}
        if not set(ATTRIBUTES) <= set(attributes):
            raise _is_misplaced(path, role, entry)
        values = [attributes[attribute] for attribute in ATTRIBUTES]
        yield item_of(path, f"as entry {number} of '{role}'", *values)


def _is_misplaced(path: Path, role: str, value: object) -> DataMissingError:
    return unusable(path, f"has {shown(value)} under '{role}'", EXPECTED)
