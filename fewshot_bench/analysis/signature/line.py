"""Conversion between a signature and its line: every matrix part is a text field.

`write` and `parse` are the entries. Conditions that `RunSpec` declares with a `short` name become
fields automatically.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from fewshot_bench.analysis.signature.model import (
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
from fewshot_bench.api.condition import YES_NO, Condition
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.spec import (
    CLASSES,
    CONDITIONS,
    IMPORTED,
    KEPT_MODEL,
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
    known = spec.weights[:DIGITS]
    return known if set(known) <= set("0123456789abcdef") else short(spec.weights)


def names_digest(spec: RunSpec) -> str:
    """Digest of the user's own class names; empty without any."""
    names = spec.data.get("classnames")
    return "" if names is None else short(canonical_json(names))


def skipped_digest(spec: RunSpec) -> str:
    """Digest of the skipped damaged images; empty without any."""
    skipped = spec.data.get(SKIPPED)
    return short(canonical_json(skipped)) if skipped else ""


class Field(NamedTuple):
    """The notation of a part of a matrix.

    name: in the line. part: name in `Matrix`. of: the fields of `RunSpec` that it covers. take:
    reads the part from a specification, words: options for `fsbench run`; only for parts that are
    equal in all cells, not for the axes of the matrix.
    """

    name: str
    part: str
    write: Callable[[Any], str]
    read: Callable[[str], Any]
    of: tuple[str, ...] = ()
    take: Callable[[RunSpec], Any] | None = None
    words: Callable[[Any], list[str]] = lambda _: []


def escape(text: str, safe: str = "") -> str:
    """Percent-encode all but letters, digits, `_ . - ~` and `safe`, as in a URL."""
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


def _list(write: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda values: ",".join(map(write, values))


def _read_list(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: distinct([read(part) for part in text.split(",")] if text else [])


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _read_number(text: str) -> int | None:
    return None if text == "none" else read_number(text)


def _has(text: str) -> tuple[int, int] | None:
    if text == "all":
        return None
    some, _, total = text.partition("/")
    return read_number(some), read_number(total)


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


def _written_number(value: int | None) -> str:
    return "none" if value is None else str(value)


def _option(name: str) -> Callable[[Any], list[str]]:
    """Function from a value to the option with it; no words for an empty value or None."""
    return lambda value: [] if value in ("", None) else [name, str(value)]


def _backbone(spec: RunSpec) -> Named:
    return Named(spec.backbone, weights_digest(spec))


def _holdout(spec: RunSpec) -> str:
    share = spec.data.get("holdout")
    return "" if share is None else str(share)


def _templates(spec: RunSpec) -> tuple[str, ...]:
    return tuple(spec.data.get("templates") or ())


def _template_words(templates: Sequence[str]) -> list[str]:
    return [word for template in templates for word in ("--templates", template)]


def _names_words(digest: str) -> list[str]:
    """Option with the placeholder FILE: the names themselves are too long for a command."""
    return ["--classnames", "FILE"] if digest else []


def _condition(about: Condition) -> Field:
    """The field of a condition, named alike in `Matrix`, `RunSpec` and `fsbench run`."""
    number, flag = about.kind is int, about.kind is bool
    write, read = (_written_number, _read_number) if number else (escape, _reader(about))
    if flag:
        write, read = about.text, lambda text: _one_of(*YES_NO)(text) == YES_NO[0]
    # Imported picks are determined by the store.
    of = (about.name, "picks") if about.name == "protocol" else (about.name,)
    take = attrgetter(about.name)
    return Field(about.short, about.name, write, read, of, take, about.words_of_command)


def _reader(about: Condition) -> Callable[[str], str]:
    """The reader of a text value; it accepts samplers and policies registered at call time."""

    def read(text: str) -> str:
        drawn = {"protocol": (*SAMPLERS, IMPORTED, KEPT_MODEL), "val": tuple(VALIDATION)}
        words = drawn.get(about.name, about.words)
        return _one_of(*words)(text) if words else unescape(text)

    return read


# Every field of `RunSpec` is in `of` of one of these (tests/test_architecture.py); a condition
# that declares a `short` name is included automatically.
FIELDS = (
    Field(
        "m",
        "methods",
        _list(_choice),
        _read_list(_read_choice),
        ("method", "method_version", "options", "overrides"),
    ),
    Field(
        "b",
        "backbone",
        _named,
        _read_named,
        ("backbone", "weights"),
        _backbone,
        lambda backbone: ["--backbone", backbone.name],
    ),
    Field("d", "datasets", _list(_named), _read_list(_read_named), ("dataset", "revision")),
    Field("k", "shots", shots_text, read_shots, ("shots",)),
    Field("s", "seeds", pairs_text, read_pairs, ("split_seed", "train_seed")),
    *(_condition(about) for about in CONDITIONS.values() if about.short),
    Field("c", "classes", _list(str), _read_list(_one_of(*CLASSES)), ("classes",)),
    Field("to", "targets", _list(_named), _read_list(_read_named), ("target", "target_revision")),
    Field("hold", "holdout", str, _share, ("data",), _holdout, _option("--holdout")),
    Field(
        "own",
        "templates",
        _list(lambda t: escape(t, "{}")),
        _read_list(unescape),
        ("data",),
        _templates,
        _template_words,
    ),
    Field("names", "classnames", str, _digest, ("data",), names_digest, _names_words),
    Field(
        "skip",
        "skipped",
        str,
        _digest,
        ("data",),
        skipped_digest,
        lambda digest: ["--skip-damaged"] if digest else [],
    ),
    Field("x", "splits", str, _digest),
    Field("has", "has", _written_has, _has),
)
# Parts that are equal in all cells of a matrix.
SHARED = tuple((field.part, field.take, field.words) for field in FIELDS if field.take)
REQUIRED = ("m", "b", "d", "k", "s")


def read_field(field: Field, text: str) -> Any:
    """The value of a field; UsageError names the expected form."""
    try:
        value = field.read(text)
    except ValueError as error:
        raise UsageError(
            f"signature: field '{field.name}:{text:.80}': expected {error} (docs/audit.md)"
        ) from None
    if field.name in REQUIRED and not value:
        raise UsageError(f"signature: field '{field.name}' is empty (docs/audit.md)")
    return value


LONGEST_LINE = 1_000_000
_START = f"{PREFIX}:{FORMAT}"
_BY_NAME = {field.name: field for field in FIELDS}
_DEFAULTS = {field.name: default_of(field.part) for field in FIELDS}
_SIGNED = {about.short for about in CONDITIONS.values() if about.signed}


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
    found = {}
    for field in FIELDS:
        value = matrix.part(field.part)
        usual = field.name in _SIGNED or field.name in REQUIRED
        if usual or value != _DEFAULTS[field.name]:
            found[field.name] = field.write(value)
    return found


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
