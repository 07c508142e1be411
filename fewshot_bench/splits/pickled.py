"""CoOp's few-shot caches `split_fewshot/shot_16-seed_1.pkl`, read without executing them.

`read_pickled` is the entry. Operations that such a file does not need are refused before anything
is built. Then an unpickler resolves three names, all to stand-ins: nothing is ever imported.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Never

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.splits.model import SplitFile, items_of, unusable
from fewshot_bench.utils.text import shown

EXPECTED = "a dict with lists of Datum records under train and val, as CoOp writes it"
ATTRIBUTES = ("_impath", "_label", "_classname")
MAX_BYTES = 64 * 2**20
# Tuples only as arguments of a call: hashing nested ones, as keys, may take exponential time.
_TUPLES = {"EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE"}
_AFTER_TUPLES = {"REDUCE", "NEWOBJ", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_ALLOWED = (
    _TUPLES
    | _AFTER_TUPLES
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
    | {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"PROTO", "FRAME", "STOP", "MARK", "EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT"}
    | {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "GLOBAL", "STACK_GLOBAL", "OBJ", "BUILD"}
    | {"GET", "BINGET", "LONG_BINGET"}
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


def _reconstruct(*arguments: Any) -> Datum:
    """Stand-in for the function by which protocols 0 and 1 make objects."""
    if arguments != (Datum, _BASE, None):
        raise Refused("calls a function")
    return Datum()


_BASE = object()
# The second name of each is written by pickle protocols 0 to 2.
_NAMES = {
    "copyreg._reconstructor": _reconstruct,
    "copy_reg._reconstructor": _reconstruct,
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


def _load(content: bytes) -> Any:
    """The value of a pickle of lists, dicts, strings, numbers and `Datum` records, else Refused."""
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
    """Raise Refused for an operation that is not needed."""
    is_tuple = False
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name = operation.name
        if name not in _ALLOWED:
            raise Refused(f"uses the operation {name}, which such a file does not need")
        if is_tuple and name not in _AFTER_TUPLES:
            raise Refused("has a tuple that is not the arguments of a call")
        is_tuple = name in _TUPLES or (is_tuple and name not in ("REDUCE", "NEWOBJ"))
        # The memo is a list as long as its greatest index.
        if name.endswith("PUT") and argument is not None and argument > number:
            raise Refused(f"keeps a value as number {argument:,} after {number:,} operations")


def read_pickled(path: Path, content: bytes) -> SplitFile:
    """The draw in a cache file; without a val list if the file has none (ImageNet).

    DataMissingError names unexpected content.
    """
    try:
        value = _load(content)
    except Refused as error:
        raise unusable(path, str(error), EXPECTED) from None
    if not isinstance(value, dict) or "train" not in value or not set(value) <= set(ROLES):
        wrong = f"the keys {shown(list(value))}" if isinstance(value, dict) else shown(value)
        raise unusable(path, f"has {wrong}", EXPECTED)
    roles = [role for role in ROLES if role in value]
    lists = {role: items_of(path, role, _entries(path, role, value[role])) for role in roles}
    return SplitFile(path, "pickle", lists)


def _entries(path: Path, role: str, records: Any) -> Iterator[list[Any]]:
    """The attributes of each record."""
    for record in records if isinstance(records, list) else [records]:
        attributes = record.attributes if isinstance(record, Datum) else {}
        if not isinstance(records, list) or not set(ATTRIBUTES) <= set(attributes):
            raise unusable(path, f"has {shown(record)} under '{role}'", EXPECTED)
        yield [attributes[name] for name in ATTRIBUTES]
