"""A reader of pickle files that executes nothing: it makes plain values, or refuses.

The standard library's `pickletools.genops` takes a pickle apart into operations without carrying
them out. The few operations that lists, dicts, strings, numbers and `Datum` records need are
carried out here on plain values; everything else is refused by name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from fewshot_bench.split_files.machine import MARK, Box, Machine, Name, Refused, store

MAX_BYTES = 64 * 2**20
MAX_OPERATIONS = 3_000_000
MAX_BITS = 64
PROTOCOLS = range(6)

RECORD = "Datum"
REBUILD = "copyreg._reconstructor"
BASE = "builtins.object"
# The second name of each is what protocols 0 to 2 write.
NAMES = {
    "copyreg._reconstructor": REBUILD,
    "copy_reg._reconstructor": REBUILD,
    "builtins.object": BASE,
    "__builtin__.object": BASE,
}


def plain(content: bytes) -> Any:
    """The value of a pickle made of lists, dicts, tuples, strings, numbers and `Datum` records.

    A record becomes the dict of its attributes. Raises Refused for everything else.
    """
    if len(content) > MAX_BYTES:
        raise Refused(f"has {len(content):,} bytes, more than {MAX_BYTES:,}")
    machine, end = Machine(), 0
    try:
        for number, (operation, argument, position) in enumerate(pickletools.genops(content)):
            if number >= MAX_OPERATIONS:
                raise Refused(f"has more than {MAX_OPERATIONS:,} operations")
            if operation.name not in _STEPS:
                raise Refused(
                    f"uses the operation {operation.name}, which such a file does not need"
                )
            _STEPS[operation.name](machine, argument)
            end = (position or 0) + 1
    except (ValueError, OverflowError) as error:
        raise Refused(f"is damaged or no pickle ({' '.join(str(error).split())[:160]})") from None
    if end != len(content):
        raise Refused(f"has {len(content) - end} bytes after its end")
    return machine.result()


def _fill_list(machine: Machine, values: list[Any]) -> None:
    box = machine.top(list)
    box.value.extend(store(box, value) for value in values)


def _fill_dict(machine: Machine, values: list[Any]) -> None:
    if len(values) % 2:
        raise Refused("has a key without a value")
    box = machine.top(dict)
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str):
            raise Refused("has a key that is no string")
        box.value[key] = store(box, value)


def _append(machine: Machine, _: Any) -> None:
    _fill_list(machine, [machine.pop()])


def _set_item(machine: Machine, _: Any) -> None:
    value = machine.pop()
    _fill_dict(machine, [machine.pop(), value])


def _list(machine: Machine, _: Any) -> None:
    values = machine.pop_to_mark()
    machine.push(Box([]))
    _fill_list(machine, values)


def _dict(machine: Machine, _: Any) -> None:
    values = machine.pop_to_mark()
    machine.push(Box({}))
    _fill_dict(machine, values)


def _tuple(machine: Machine, values: list[Any]) -> None:
    box = Box(())
    box.value = tuple(v if isinstance(v, Name) else store(box, v) for v in values)
    machine.push(box)


def _tuple_of(count: int) -> Callable[[Machine, Any], None]:
    def build(machine: Machine, _: Any) -> None:
        _tuple(machine, [machine.pop() for _ in range(count)][::-1])

    return build


def _name(machine: Machine, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise Refused("names a class by something else than text")
    full = f"{module}.{name}"
    if name != RECORD and full not in NAMES:
        raise Refused(f"names {full[:160]!r}, which is not {RECORD}")
    machine.push(Name(NAMES.get(full, RECORD)))


def _global(machine: Machine, argument: Any) -> None:
    module, _, name = str(argument).rpartition(" ")
    _name(machine, module, name)


def _stack_global(machine: Machine, _: Any) -> None:
    name = machine.pop()
    _name(machine, machine.pop(), name)


def _record(machine: Machine, cls: Any, arguments: Any) -> None:
    if cls != Name(RECORD) or arguments != ():
        raise Refused(f"builds something else than a {RECORD} without arguments")
    machine.push(Box({}, record=True))


def _new_object(machine: Machine, _: Any) -> None:
    arguments = machine.pop()
    _record(machine, machine.pop(), arguments.value if isinstance(arguments, Box) else None)


def _object(machine: Machine, _: Any) -> None:
    values = machine.pop_to_mark()
    _record(machine, values[0] if values else None, tuple(values[1:]))


def _call(machine: Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    expected = (Name(RECORD), Name(BASE), None)
    found = arguments.value if isinstance(arguments, Box) else None
    if function != Name(REBUILD) or found != expected:
        raise Refused("calls a function")
    machine.push(Box({}, record=True))


def _build(machine: Machine, _: Any) -> None:
    """The attributes become the record's value; copying them would let a small file grow."""
    state, record = machine.pop(), machine.pop()
    if not isinstance(record, Box) or not record.record or record.stored or record.value:
        raise Refused(f"gives attributes to something else than a new {RECORD}")
    if not isinstance(state, Box) or not isinstance(state.value, dict) or state.stored:
        raise Refused(f"gives a {RECORD} something else than a dict of its own")
    state.stored = True
    record.value, record.depth = state.value, state.depth
    machine.push(record)


def _get(machine: Machine, key: Any) -> None:
    if key not in machine.memo:
        raise Refused("takes back a value that was not kept")
    machine.push(machine.memo[key])


def _put(machine: Machine, key: Any) -> None:
    value = machine.pop()
    machine.memo[key] = value
    machine.push(value)


def _memoize(machine: Machine, _: Any) -> None:
    _put(machine, len(machine.memo))


def _number(machine: Machine, value: Any) -> None:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise Refused(f"has a number of more than {MAX_BITS} bits")
    machine.push(value)


def _protocol(machine: Machine, version: Any) -> None:
    if version not in PROTOCOLS:
        raise Refused(f"has pickle protocol {version}, expected 0 to {PROTOCOLS[-1]}")


def _ignore(machine: Machine, _: Any) -> None:
    """Framing and the end say nothing about the value."""


def _constant(value: Callable[[], Any]) -> Callable[[Machine, Any], None]:
    return lambda machine, _: machine.push(value())


_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_OLD_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING")
_STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys((*_INTEGERS, *_STRINGS, *_OLD_STRINGS, "FLOAT", "BINFLOAT"), _number),
    "PROTO": _protocol,
    "FRAME": _ignore,
    "STOP": _ignore,
    "MARK": _constant(lambda: MARK),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(lambda: Box([])),
    "EMPTY_DICT": _constant(lambda: Box({})),
    "EMPTY_TUPLE": _tuple_of(0),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "TUPLE": lambda machine, _: _tuple(machine, machine.pop_to_mark()),
    "LIST": _list,
    "DICT": _dict,
    "APPEND": _append,
    "APPENDS": lambda machine, _: _fill_list(machine, machine.pop_to_mark()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: _fill_dict(machine, machine.pop_to_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "NEWOBJ": _new_object,
    "OBJ": _object,
    "REDUCE": _call,
    "BUILD": _build,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
}
