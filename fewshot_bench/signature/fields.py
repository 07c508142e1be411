"""The fields of a signature line: each part of a matrix as text, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from fewshot_bench.errors import UsageError
from fewshot_bench.shots import ALL_SHOTS, LONGEST_NUMBER, WORD
from fewshot_bench.signature.model import Choice, Named, Pair
from fewshot_bench.spec import (
    CLASSES,
    IMPORTED,
    MOST_NUMBERS,
    PRECISIONS,
    PROTOCOLS,
    TEMPLATE_SETS,
    VALIDATION,
)

_CHOICE = re.compile(r"([^@\[\]]+)(?:@([^\[\]]*))?(?:\[([^\[\]]*)\])?")
_DIGEST = re.compile(r"[0-9a-f]*")


class Field(NamedTuple):
    """How a part of a matrix is written. name: in the line; part: of `Matrix`."""

    name: str
    part: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def escape(text: str, safe: str = "") -> str:
    """All but letters, digits, `_ . - ~` and `safe` as %XX of UTF-8, as in an address."""
    return quote(text, safe=safe, errors="surrogatepass")


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return unquote(text, errors="surrogatepass")


def _named(value: Named) -> str:
    digest = f"#{value.digest}" if value.digest else ""
    return escape(value.name, "/:@") + digest


def _read_named(text: str) -> Named:
    name, _, digest = text.partition("#")
    if not name or not _DIGEST.fullmatch(digest):
        raise ValueError("NAME#DIGEST, the digest in hexadecimal digits")
    return Named(unescape(name), digest)


def _choice(value: Choice) -> str:
    version = f"@{escape(value.version)}" if value.version else ""
    inner = ";".join(
        f"{escape(name)}={'/'.join(map(escape, values))}" for name, values in value.options
    )
    return escape(value.method) + version + (f"[{inner}]" if inner else "")


def _read_choice(text: str) -> Choice:
    match = _CHOICE.fullmatch(text)
    if match is None:
        raise ValueError("METHOD@VERSION[OPTION=VALUE/VALUE;OPTION=VALUE]")
    method, version, inner = match.groups()
    options = []
    for part in inner.split(";") if inner else []:
        name, equals, values = part.partition("=")
        if not name or not equals:
            raise ValueError("options as NAME=VALUE/VALUE")
        options.append((unescape(name), tuple(map(unescape, values.split("/")))))
    if len({name for name, _ in options}) < len(options):
        raise ValueError("each option once")
    return Choice(unescape(method), unescape(version or ""), tuple(options))


def numbers(values: Iterable[int]) -> str:
    """`1,2,4` and `1-3`: ranges from three numbers on."""
    runs = []
    for _, run in groupby(enumerate(sorted(values)), key=lambda pair: pair[1] - pair[0]):
        found = [value for _, value in run]
        long = len(found) > 2
        runs += [f"{found[0]}-{found[-1]}"] if long else list(map(str, found))
    return ",".join(runs)


def _read_numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        ends = [first, last] if dash else [first]
        if not all(end.isascii() and end.isdigit() and len(end) <= LONGEST_NUMBER for end in ends):
            raise ValueError("whole numbers such as 1,2,4 or 1-3")
        start, stop = int(ends[0]), int(ends[-1])
        if not start <= stop < start + MOST_NUMBERS - len(found):
            raise ValueError(f"ranges of at most {MOST_NUMBERS:,} numbers in all")
        found += range(start, stop + 1)
    return _distinct(found)


def shots(values: Iterable[int]) -> str:
    """Numbers, and `all` last."""
    values = list(values)
    every = [WORD] if ALL_SHOTS in values else []
    return ",".join([*filter(None, [numbers(set(values) - {ALL_SHOTS})]), *every])


def _read_shots(text: str) -> tuple[int, ...]:
    counted, comma, last = text.rpartition(",")
    if last != WORD:
        return _read_numbers(text)
    return (*(_read_numbers(counted) if comma else ()), ALL_SHOTS)


def _read_number(text: str) -> int:
    found = _read_numbers(text)
    if len(found) > 1:
        raise ValueError("one whole number")
    return found[0]


def _pairs(pairs: Sequence[Pair]) -> str:
    """Equal seeds as numbers; else `SPLIT/TRAIN`, the training seeds joined by `+`."""
    by_split = {split: sorted(p.train for p in run) for split, run in _by_split(pairs)}
    equal = [split for split, trains in by_split.items() if trains == [split]]
    parts = [numbers(equal)] if equal else []
    parts += [
        f"{split}/{numbers(trains).replace(',', '+')}"
        for split, trains in by_split.items()
        if trains != [split]
    ]
    return ",".join(parts)


def _by_split(pairs: Iterable[Pair]) -> Iterator[tuple[int, Iterable[Pair]]]:
    return groupby(sorted(pairs), key=lambda pair: pair.split)


def _read_pairs(text: str) -> tuple[Pair, ...]:
    found = []
    for part in text.split(","):
        split, slash, trains = part.partition("/")
        if not slash:
            found += [Pair(seed, seed) for seed in _read_numbers(split)]
            continue
        number = _read_number(split)
        found += [Pair(number, seed) for seed in _read_numbers(trains.replace("+", ","))]
    return _distinct(sorted(found))


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return tuple(values)


def _list(write: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda values: ",".join(map(write, values))


def _read_list(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: _distinct([read(part) for part in text.split(",")] if text else [])


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _limit(text: str) -> int | None:
    return None if text == "none" else _read_number(text)


def _has(text: str) -> tuple[int, int] | None:
    if text == "all":
        return None
    some, _, total = text.partition("/")
    return _read_number(some), _read_number(total)


def _share(text: str) -> str:
    if text and not 0 < float(text) < 1:
        raise ValueError("a share above 0 and below 1")
    return text


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError("hexadecimal digits")
    return text


def _written_has(value: tuple[int, int] | None) -> str:
    return "all" if value is None else f"{value[0]}/{value[1]}"


def _written_limit(value: int | None) -> str:
    return "none" if value is None else str(value)


FIELDS = (
    Field("m", "methods", _list(_choice), _read_list(_read_choice)),
    Field("b", "backbone", _named, _read_named),
    Field("d", "datasets", _list(_named), _read_list(_read_named)),
    Field("k", "shots", shots, _read_shots),
    Field("s", "seeds", _pairs, _read_pairs),
    Field("val", "val", str, _one_of(*VALIDATION)),
    Field("tpl", "prompts", escape, _one_of(*TEMPLATE_SETS)),
    Field("p", "precision", str, _one_of(*PRECISIONS)),
    Field("dev", "device", escape, unescape),
    Field("proto", "protocol", escape, _one_of(*PROTOCOLS, IMPORTED)),
    Field("lim", "limit", _written_limit, _limit),
    Field("c", "classes", _list(str), _read_list(_one_of(*CLASSES))),
    Field("to", "targets", _list(_named), _read_list(_read_named)),
    Field("hold", "holdout", str, _share),
    Field("own", "templates", _list(lambda t: escape(t, "{}")), _read_list(unescape)),
    Field("names", "classnames", str, _digest),
    Field("x", "splits", str, _digest),
    Field("has", "has", _written_has, _has),
)
REQUIRED = ("m", "b", "d", "k", "s")


def read_field(field: Field, text: str) -> Any:
    """The value of a field; UsageError says what was expected."""
    try:
        value = field.read(text)
    except ValueError as error:
        raise UsageError(
            f"signature: field '{field.name}:{text:.80}': expected {error} (docs/audit.md)"
        ) from None
    if field.name in REQUIRED and not value:
        raise UsageError(f"signature: field '{field.name}' is empty (docs/audit.md)")
    return value
