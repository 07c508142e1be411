"""Texts that name a machine or its user: paths, the home folder, names of user and host.

`find_private` knows this machine's; `remove` takes it out of a record where no number depends on
it, and `refuse` names the place of any other text that holds it.
"""

from __future__ import annotations

import base64
import builtins
import dataclasses
import getpass
import keyword
import os
import pickletools
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.record import Record, seal
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.answer_files import FILE, WHOLE
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.text import printable

REMOVED = "[removed]"
# Key of a record's environment: the parts that were left out of it.
LEFT_OUT = "left_out"
# Parts of a record that no number depends on.
_FREE = ("environment", "notes", "incidents", "footprint")
# Words of code and accounts of many machines: as a word they name nobody, in a path they do.
_ORDINARY = {*dir(builtins), *keyword.kwlist, "root", "user", "users", "admin", "runner", "ubuntu"}
_ORDINARY |= {"test", "home", "docker", "vagrant", "nobody", "localhost", "host", "guest", "data"}
_ORDINARY |= {"linux", "debian", "server", "cpu", "gpu", "cuda", "clip", "torch", "python", "conda"}
_SHORTEST = 3
# Lines of a class that a session packed.
_PACKED = re.compile(r'^ {8}b"([^"]+)"$', re.MULTILINE)
# Folders of a system, which every machine has under the same name.
_SYSTEM = r"(?!(?:usr/(?:local/)?bin|bin|sbin|dev|proc|sys|etc)/)"
_PATHS = (
    rf"(?<![\w./~<*\])}}\\-])/{_SYSTEM}[\w.@+~-]+/[^\s\"'<>|;,)\]}}]*",
    r"file://[^\s\"']+",
    r"(?<![A-Za-z])(?:[A-Z]:(?:\\+|/(?!/))|[a-z]:(?:\\+|/)[\w. -]+[\\/])[^\s\"'<>|]+",
    r"(?<![^\s\"'=(])\\\\[\w.-]{2,}\\[\w$.-]{2,}[^\s\"']*",
)


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a JSON-able value, the keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def name_folders(spec: RunSpec) -> RunSpec:
    """A cell of own images with the names of their folders in place of absolute paths."""

    def short(dataset: str) -> str:
        family, _, place = dataset.partition(":")
        return f"{family}:{PurePath(place).name}" if PurePath(place).is_absolute() else dataset

    data = dict(spec.data)
    if SKIPPED in data:
        data[SKIPPED] = {short(name): ids for name, ids in data[SKIPPED].items()}
    return dataclasses.replace(
        spec, dataset=short(spec.dataset), target=short(spec.target), data=data
    )


def find_private(store: Path) -> re.Pattern[str]:
    """A pattern that finds paths, and the names of this machine, its user and a store's place."""
    folders = {os.path.abspath(store), str(Path.cwd()), os.path.expanduser("~")}
    names = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    host = socket.gethostname()
    names |= {host, host.partition(".")[0]}
    words = [re.escape(n) for n in names if len(n) >= _SHORTEST and n.lower() not in _ORDINARY]
    places = [re.escape(folder) for folder in folders if len(folder) > 1]
    parts = [rf"(?<![\w./])(?:{place})(?![\w])[^\s\"']*" for place in places]
    parts += [*_PATHS, *(rf"(?<!\w){word}(?!\w)" for word in words)]
    return re.compile("|".join(sorted(parts, key=len, reverse=True)))


def texts_of_file(content: bytes) -> Iterator[str]:
    """The text of a file, and what is packed in one of a session's class (nothing is unpickled)."""
    text = content.decode("utf-8", "replace")
    yield text
    if packed := "".join(_PACKED.findall(text)):
        with suppress(ValueError):
            steps = pickletools.genops(base64.b85decode(packed))
            yield from (argument for _, argument, _ in steps if isinstance(argument, str))


def refuse(private: re.Pattern[str], where: str, texts: Iterable[str]) -> None:
    """StoreError for a text that holds something private. where: its place in a bundle."""
    for text in texts:
        if found := private.search(text):
            line = text.count("\n", 0, found.start()) + 1
            raise StoreError(
                f"{where}, line {line}: holds '{printable(found[0], 80)}', which names this "
                "machine, its user or a folder of it; change it there, or leave out these cells"
            )


def remove(private: re.Pattern[str], record: Record, content: bytes) -> tuple[Record, bytes]:
    """A record without what is private, and its file.

    content: the file as it is, which is returned if nothing has to go. A changed record states
    the parts that were changed (`environment.left_out`) and has a digest of its own; its logits
    keep theirs. Own images lose the folder that theirs is in, so that their cells have another
    key. StoreError if something private is in what it is the result of.
    """
    parts: list[str] = []
    free = {name: _clean(private, getattr(record, name), name, parts) for name in _FREE}
    digests = {name: record.digests[name] for name in (WHOLE, FILE) if name in record.digests}
    parts += [name for name in record.digests if name not in {*digests, "record"}]
    spec = name_folders(record.spec)
    if spec != record.spec:
        parts.append("spec.dataset")
    if free["footprint"].pop("model", None) is not None:
        parts.append("model")
    if parts:
        before = texts_of(free["environment"].get(LEFT_OUT))
        free["environment"][LEFT_OUT] = sorted({*parts, *before})
        record = seal(dataclasses.replace(record, spec=spec, **free), digests)
        content = record.to_json().encode()
    where = f"record {record.spec.key()[:12]} ({record.spec.describe()})"
    for name, value in record.to_dict().items():
        refuse(private, f"{where}, {name}", texts_of(value))
    return record, content


def _clean(private: re.Pattern[str], value: Any, place: str, parts: list[str]) -> Any:
    if isinstance(value, str):
        clean = private.sub(REMOVED, value)
        if clean != value:
            parts.append(place)
        return clean
    if isinstance(value, Mapping):
        names = [str(_clean(private, name, place, parts)) for name in value]
        items = zip(names, value.values(), strict=True)
        return {name: _clean(private, item, f"{place}.{name}", parts) for name, item in items}
    if isinstance(value, list | tuple):
        return [_clean(private, item, place, parts) for item in value]
    return value
