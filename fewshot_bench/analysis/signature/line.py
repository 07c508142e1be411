"""Conversion between a signature and its line: every matrix part is a text field.

`write` and `parse` are the entries. Conditions that `RunSpec` declares with a `short` name become
fields automatically.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from fewshot_bench.analysis.signature.parsed import (
    FORMAT,
    PREFIX,
    UNSIGNED,
    Choice,
    Matrix,
    Named,
    Signature,
    default_of,
    distinct,
    pairs_text,
    read_number,
    read_pairs,
    read_shots,
    shots_text,
)
from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.spec import (
    CLASSES,
    CONDITIONS,
    IMPORTED,
    KEPT_MODEL,
    YES_NO,
    Condition,
    RunSpec,
    canonical_json,
)
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import digest_of

_CHOICE = re.compile(r"([^@\[\]]+)(?:@([^\[\]]*))?(?:\[([^\[\]]*)\])?")
_DIGEST = re.compile(r"[0-9a-f]*")


DIGITS = 6


def short(text: str) -> str:
    """The first digits of the SHA-256 of a text."""
    return digest_of(text, DIGITS)


def revision_digest(revision: str) -> str:
    """Digest of a data set's revision; empty if unknown."""
    return short(revision) if revision else ""


def weights_digest(spec: RunSpec) -> str:
    """Digest of the backbone's weights: their first digits if hexadecimal, else a hash."""
    start = spec.weights[:DIGITS]
    return start if set(start) <= set("0123456789abcdef") else short(spec.weights)


def json_digest(value: Any) -> str:
    """Digest of the user's own class names, or of skipped damaged images; empty for None."""
    return "" if value is None else short(canonical_json(value))


class Notation(NamedTuple):
    """How values are written in a line; `read` raises ValueError with what it expects."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]


class Field(NamedTuple):
    """A part of a matrix in a line.

    name: in the line. part: name in `Matrix`. of: the fields of `RunSpec` that it covers. take:
    reads the part from a specification, words: options for `fsbench run`; only for parts that are
    equal in all cells, not for the axes of the matrix.
    """

    name: str
    part: str
    notation: Notation
    of: tuple[str, ...] = ()
    take: Callable[[RunSpec], Any] | None = None
    words: Callable[[Any], list[str]] = lambda _: []


def escape(text: str, safe: str = "") -> str:
    """Percent-encode all but letters, digits, `_ . - ~` and `safe`, as in a URL."""
    return quote(text, safe=safe, errors="surrogatepass")


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return unquote(text, errors="surrogatepass")


def _write_named(value: Named) -> str:
    return escape(value.name, "/:@") + (f"#{value.digest}" if value.digest else "")


def _read_named(text: str) -> Named:
    name, _, digest = text.partition("#")
    if not name or not _DIGEST.fullmatch(digest):
        raise ValueError("NAME#DIGEST, the digest in hexadecimal digits")
    return Named(unescape(name), digest)


def _write_choice(value: Choice) -> str:
    version = f"@{escape(value.version)}" if value.version else ""
    inner = ";".join(
        f"{escape(name)}={'/'.join(map(escape, values))}" for name, values in value.options
    )
    return escape(value.method, "/:") + version + (f"[{inner}]" if inner else "")


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


def _several(notation: Notation) -> Notation:
    """Values joined by commas, each once."""
    return Notation(
        lambda values: ",".join(map(notation.write, values)),
        lambda text: distinct([notation.read(part) for part in text.split(",")] if text else []),
    )


def _word(*allowed: str) -> Notation:
    """One of some words."""

    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return Notation(str, read)


def _read_has(text: str) -> tuple[int, int] | None:
    if text == "all":
        return None
    some, _, total = text.partition("/")
    return read_number(some), read_number(total)


def _read_share(text: str) -> str:
    if text and not 0 < float(text) < 1:
        raise ValueError("a share above 0 and below 1")
    return text


def _read_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError("hexadecimal digits")
    return text


_TEXT = Notation(escape, unescape)
_NAME = Notation(_write_named, _read_named)
_DIGITS_ONLY = Notation(str, _read_digest)
_NUMBER = Notation(
    lambda value: "none" if value is None else str(value),
    lambda text: None if text == "none" else read_number(text),
)


def _condition(about: Condition) -> Field:
    """The field of a condition, named alike in `Matrix`, `RunSpec` and `fsbench run`."""
    if about.kind is bool:
        notation = Notation(about.text, lambda text: _word(*YES_NO).read(text) == YES_NO[0])
    else:
        notation = _NUMBER if about.kind is int else Notation(escape, partial(_read_word, about))
    # Imported picks are determined by the store.
    of = (about.name, "picks") if about.name == "protocol" else (about.name,)
    take = attrgetter(about.name)
    return Field(about.short, about.name, notation, of, take, about.words_of_command)


def _read_word(about: Condition, text: str) -> str:
    """A text value; samplers and policies that are registered by now are accepted."""
    drawn = {"protocol": (*SAMPLERS, IMPORTED, KEPT_MODEL), "val": tuple(VALIDATION)}
    words = drawn.get(about.name, about.words)
    return str(_word(*words).read(text)) if words else unescape(text)


# Every field of `RunSpec` is in `of` of one of these (tests/test_architecture.py); a condition
# that declares a `short` name is included automatically.
FIELDS = (
    Field(
        "m",
        "methods",
        _several(Notation(_write_choice, _read_choice)),
        ("method", "method_version", "options", "overrides"),
    ),
    Field(
        "b",
        "backbone",
        _NAME,
        ("backbone", "weights"),
        lambda spec: Named(spec.backbone, weights_digest(spec)),
        lambda backbone: ["--backbone", backbone.name],
    ),
    Field("d", "datasets", _several(_NAME), ("dataset", "revision")),
    Field("k", "shots", Notation(shots_text, read_shots), ("shots",)),
    Field("s", "seeds", Notation(pairs_text, read_pairs), ("split_seed", "train_seed")),
    *(_condition(about) for about in CONDITIONS.values() if about.short),
    Field("c", "classes", _several(_word(*CLASSES)), ("classes",)),
    Field("to", "targets", _several(_NAME), ("target", "target_revision")),
    Field(
        "hold",
        "holdout",
        Notation(str, _read_share),
        ("data",),
        lambda spec: str(spec.data.get("holdout") or ""),
        lambda share: ["--holdout", share] if share else [],
    ),
    Field(
        "own",
        "templates",
        _several(Notation(lambda text: escape(text, "{}"), unescape)),
        ("data",),
        lambda spec: tuple(spec.data.get("templates") or ()),
        lambda templates: [word for text in templates for word in ("--templates", text)],
    ),
    # The names themselves are too long for a command.
    Field(
        "names",
        "classnames",
        _DIGITS_ONLY,
        ("data",),
        lambda spec: json_digest(spec.data.get("classnames")),
        lambda digest: ["--classnames", "FILE"] if digest else [],
    ),
    Field(
        "skip",
        "skipped",
        _DIGITS_ONLY,
        ("data",),
        lambda spec: json_digest(spec.data.get(SKIPPED) or None),
        lambda digest: ["--skip-damaged"] if digest else [],
    ),
    Field("x", "splits", _DIGITS_ONLY),
    Field(
        "has",
        "has",
        Notation(lambda value: "all" if value is None else f"{value[0]}/{value[1]}", _read_has),
    ),
)
# Parts that are equal in all cells of a matrix.
SHARED = tuple((field.part, field.take, field.words) for field in FIELDS if field.take)
REQUIRED = ("m", "b", "d", "k", "s")


LONGEST_LINE = 1_000_000
_START = f"{PREFIX}:{FORMAT}"
_BY_NAME = {field.name: field for field in FIELDS}
_ALWAYS = {*REQUIRED, *(about.short for about in CONDITIONS.values() if about.signed)}


def write(signature: Signature) -> str:
    """The line: fields shared by all matrices, then after each `||` the fields of one matrix."""
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
    """Fields as text; omits those at their default that need not always be written."""
    values = {field: matrix.part(field.part) for field in FIELDS}
    return {
        field.name: field.notation.write(value)
        for field, value in values.items()
        if field.name in _ALWAYS or value != default_of(field.part)
    }


def parse(text: str) -> Signature:
    """The matrices of a line; UsageError names the part that cannot be read.

    Blanks and line breaks are ignored: names with blanks are escaped.
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
    shared = _read_fields(head, {})
    return Signature(tuple(_matrix(_read_fields(block, shared)) for block in blocks or [""]))


def _read_fields(block: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a block's fields by name, and those that all blocks share."""
    values = dict(shared)
    for part in filter(None, block.split("|")):
        name, colon, text = part.partition(":")
        if name not in _BY_NAME or not colon:
            names = ", ".join(_BY_NAME)
            raise UsageError(f"signature: unknown field '{part:.40}': expected one of {names}")
        if name in values:
            what = "for all parts and for one of them" if name in shared else "twice in one part"
            raise UsageError(f"signature: field '{name}' stands {what}")
        try:
            values[name] = _BY_NAME[name].notation.read(text)
        except ValueError as error:
            raise UsageError(
                f"signature: field '{name}:{text:.80}': expected {error} (docs/audit.md)"
            ) from None
        if name in REQUIRED and not values[name]:
            raise UsageError(f"signature: field '{name}' is empty (docs/audit.md)")
    return values


def _matrix(values: Mapping[str, Any]) -> Matrix:
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise UsageError(f"signature: field '{missing[0]}' is missing (docs/audit.md)")
    parts = {_BY_NAME[name].part: value for name, value in values.items()}
    conditions = {name: parts.pop(name, default) for name, default in UNSIGNED.items()}
    return Matrix(**parts, conditions=conditions)
