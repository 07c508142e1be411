"""Hyper-parameters that are files: `descriptions: Path = hyper(Path("texts.json"), "...")`.

A method sees a `Path` that can be read. Cells state `NAME@sha256:DIGEST`: the digest of the content
is a part of a cell's key, the name is for people alone. `describe` makes such a text of a file,
`find` a path of a text: of the file itself as long as it is unchanged, else of the copy in a store
that `look_in` was given (`store/kept_files.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api import own_methods
from fewshot_bench.api.code_closure import ROOT_OF_DESCRIBED, Root
from fewshot_bench.api.file_texts import LONG, split
from fewshot_bench.api.method import (
    Hyperparameter,
    configuration,
    hyperparameters,
    list_changed_options,
)
from fewshot_bench.utils.errors import StoreError, UsageError, suggestion

# Folder of a store with the files that its cells state.
FILES = "files"
# Bytes that are read at once.
_BLOCK = 1 << 20
# By digest: where a file with this content was.
_KNOWN: dict[str, Path] = {}
# By path: the stamp of a file, and its digest.
_DIGESTS: dict[Path, tuple[tuple[int, ...], str]] = {}
_STORES: list[Path] = []


def is_of_files(parameter: Hyperparameter) -> bool:
    """True if the values of a hyper-parameter are files."""
    return Path in (parameter.type, *typing.get_args(parameter.type))


def digest_file(path: Path) -> str:
    """The SHA-256 of a file, which is read again only if it changed; may raise OSError."""
    status = path.stat()
    stamp = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
    if path in _DIGESTS and _DIGESTS[path][0] == stamp:
        return _DIGESTS[path][1]
    made = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    _DIGESTS[path] = stamp, made.hexdigest()
    return made.hexdigest()


def describe(path: Path) -> str:
    """The text that cells state of a file; may raise OSError."""
    digest = digest_file(path)[:LONG]
    _KNOWN[digest] = path
    return f"{path.name}@sha256:{digest}"


def look_in(store: Path) -> None:
    """Find files in a store, too."""
    if store not in _STORES:
        _STORES.append(store)


def find(text: str) -> Path | None:
    """The path of a file with the content that a text of `describe` states; None if there is none.

    A copy in a store, which has the name of its digest, is not read for it.
    """
    name, digest = split(text)
    known = _KNOWN.get(digest)
    try:
        if known is not None and digest_file(known)[:LONG] == digest:
            return known
    except OSError:
        pass
    return min(list_copies(digest), key=lambda path: path.name != name, default=None)


def list_copies(digest: str) -> list[Path]:
    """The files with this digest in the stores that were given to `look_in`."""
    return [path for store in _STORES for path in (store / FILES / digest).glob("*")]


def open_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a cell as its method takes them; StoreError for a file that is nowhere."""
    return {n: _open(n, value) if split(value)[0] else value for n, value in options.items()}


def _open(option: str, text: str) -> Path:
    path = find(text)
    if path is None:
        name, digest = split(text)
        raise StoreError(
            f"the file of {option}, {name} (sha256 {digest}), is in no store that was looked in: "
            f"merge the store that has it (fsbench store merge), or give -o {option}=FILE"
        )
    return path


def state_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `open_files`; may raise OSError."""
    return {n: describe(v) if isinstance(v, Path) else v for n, v in options.items()}


def list_overrides(method: Any) -> dict[str, Any]:
    """As the overrides of a cell of a method's object: what differs from defaults, and all files.

    UsageError for what is no file.
    """
    name, values = str(getattr(method, "name", "")), configuration(method)
    files = state_files(find_files(name, type(method), values))
    return {**list_changed_options(method), **files}


def find_files(method: str, kind: type, chosen: Mapping[str, Any]) -> dict[str, Path]:
    """The readable, absolute paths of a method's files by hyper-parameter.

    A relative default is looked up beside the file of the class, then in the current folder.
    UsageError for what is no file.
    """
    paths = {}
    for parameter in filter(is_of_files, hyperparameters(kind)):
        value = chosen.get(parameter.name, parameter.default)
        if value is None or (not isinstance(value, Path) and Path is not parameter.type):
            continue
        if split(str(value))[0]:
            paths[parameter.name] = _open(parameter.name, str(value))
        else:
            paths[parameter.name] = _locate(method, kind, parameter, Path(value))
    return paths


def is_default(method: str, kind: type, option: str, text: str) -> bool:
    """True if a file, as cells state it, has the content of the default of its option."""
    parameters = {each.name: each.default for each in hyperparameters(kind)}
    if not text or parameters[option] is dataclasses.MISSING:
        return False
    try:
        # Of this option alone: defaults of others need not be there.
        files = find_files(method, kind, {**dict.fromkeys(parameters), option: parameters[option]})
        return split(describe(files[option]))[1] == split(text)[1]
    except (KeyError, UsageError, OSError):
        return False


def _locate(method: str, kind: type, parameter: Hyperparameter, value: Path) -> Path:
    places = [Path()]
    if value == parameter.default:
        own = own_methods.find(method)
        author = [Path(own.facts.path)] if own and own.facts.path else []
        places = [_folder_of(kind), *author, *places]
    every = [Path(os.path.abspath(place / value)) for place in places]
    path = next((path for path in every if path.exists()), every[0])
    problem = _find_problem(path)
    if problem:
        default = " (the default)" if value == parameter.default else ""
        raise UsageError(
            f"{method}: {parameter.name}={str(value)!r}{default}: {problem}; expected a file, such "
            f"as -o {parameter.name}=FILE"
        )
    return path


def _find_problem(path: Path) -> str:
    """The reason why a file cannot be read; empty if it can be."""
    if path.is_dir():
        return f"'{path}' is a folder"
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        return f"there is no file '{path}'{suggestion(path.name, beside)}"
    if not path.is_file():
        return f"'{path}' is no regular file"
    try:
        describe(path)
    except OSError as error:
        return f"'{path}' cannot be read ({error.strerror})"
    return ""


def _folder_of(kind: type) -> Path:
    """The folder of the file that defines a class; the current folder for one without a file."""
    root: Root | None = vars(kind).get(ROOT_OF_DESCRIBED)
    if root is None:
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        return Path(file).parent if file else Path()
    if not root.folders:
        return Path(root.file).parent
    inside = kind.__module__.split(".")[root.name.count(".") + 1 :]
    place = Path(root.folders[0], *inside)
    return place if place.is_dir() else place.parent
