"""Code of methods in a store: a folder `methods/DIGEST/` for each state, for workers to import.

`keep` writes one, `adopt_methods` makes those of cells known in a process, `copy_method` merges.
The files of a folder are written once, whole; only their comments may follow those of the author.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from fewshot_bench.api import option_files, own_methods
from fewshot_bench.api.own_methods import FACTS, LONG, Facts, OwnMethod, digest_in, is_version
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import METHODS, Store
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import list_entries, read_regular, write_whole


def keep(store: Path, method: OwnMethod) -> None:
    """Write the code of a method into a store, with the time of this run; may raise OSError.

    Modules come before the file that imports them, and the facts last.
    """
    folder = store / METHODS / method.facts.digest[:LONG]
    files = method.files or _read(Path(method.reference.rpartition(":")[0]).parent, method.facts)
    for name in sorted(files, key=lambda name: name == method.facts.file):
        path = folder / name
        if not path.is_file() or path.read_bytes() != files[name]:
            write_whole(path, files[name])
    facts = msgspec.structs.replace(method.facts, run=time.time())
    write_whole(folder / FACTS, msgspec.json.format(msgspec.json.encode(facts)) + b"\n")


def keep_methods(store: Path, names: Iterable[str]) -> None:
    """Write the code of methods that this process knows by these names; may raise OSError."""
    for name in sorted(set(names)):
        method = own_methods.find(name)
        if method is not None and name not in registry().methods.entries:
            keep(store, method)


def list_methods(store: Path) -> Iterator[tuple[Path, Facts]]:
    """The folders of methods, with their facts; without those that cannot be read."""
    for folder in list_entries(store / METHODS) if (store / METHODS).is_dir() else ():
        with suppress(StoreError):
            if facts := own_methods.read_facts(folder):
                yield folder, facts


def find_method(store: Path, name: str, version: str) -> OwnMethod | None:
    """The method of this name and version whose code a store has; None if it has none.

    StoreError if the code is not what was written.
    """
    digest = digest_in(version)
    for folder in sorted((store / METHODS).glob(f"{digest}*")) if digest else ():
        facts = own_methods.read_facts(folder)
        if facts is not None and (facts.name, facts.version) == (name, version):
            if problem := own_methods.find_problem(folder, facts):
                raise StoreError(
                    f"the code of {name} in '{folder}' is damaged ({problem}): run the method "
                    f"again with --store {store}, or merge the store that had it"
                )
            return own_methods.in_folder(folder, facts)
    return None


def find_named(store: Path, name: str) -> OwnMethod | None:
    """The method of a store for a name, or for `NAME@VERSION` or `NAME@DIGEST`, cut short or not.

    The one that was run last, if several match; None if the store has none.
    """
    method, _, asked = name.partition("@")
    matching = [
        facts
        for _, facts in list_methods(store)
        if facts.name == method and is_version(asked, facts.version)
    ]
    if not matching:
        return None
    latest = max(matching, key=lambda facts: facts.run)
    return find_method(store, latest.name, latest.version)


def adopt_methods(store: Path, cells: Iterable[RunSpec]) -> None:
    """Make the methods of cells known whose code the store has, where they are not known yet.

    Files of hyper-parameters are found in the store, too.
    """
    option_files.look_in(store)
    for name, version in _used_by(cells):
        known = own_methods.find(name)
        if name in registry().methods.entries or (known and known.version == version):
            continue
        if method := find_method(store, name, version):
            own_methods.adopt(method)


def _used_by(cells: Iterable[RunSpec]) -> dict[tuple[str, str], None]:
    """Names and versions of the methods of cells, each once, also of those that start others."""
    every = (part for cell in cells for part in (cell, cell.inner_cell()) if part is not None)
    return dict.fromkeys((part.method, part.method_version) for part in every)


def copy_method(source: Path, spec: RunSpec, destination: Path) -> None:
    """Copy the code of a cell's method between stores; may raise OSError.

    What holds on one machine alone is left behind.
    """
    digests = filter(None, (digest_in(version) for _, version in _used_by([spec])))
    for folder in (f for digest in digests for f in sorted((source / METHODS).glob(f"{digest}*"))):
        facts = _facts_of_whole(folder)
        if facts is None:
            continue
        target = destination / METHODS / folder.name
        there = _facts_of_whole(target)
        if there is None:
            for name, content in _read(folder, facts).items():
                write_whole(target / name, content)
        mine = there or msgspec.structs.replace(facts, path="")
        latest = msgspec.structs.replace(mine, run=max(mine.run, facts.run))
        if latest != there:
            write_whole(target / FACTS, msgspec.json.format(msgspec.json.encode(latest)) + b"\n")


def _facts_of_whole(folder: Path) -> Facts | None:
    """The facts of a folder; None if it is absent or not what was written."""
    with suppress(StoreError):
        facts = own_methods.read_facts(folder)
        return None if facts is None or own_methods.find_problem(folder, facts) else facts
    return None


def list_unused(store: Store, seconds: float) -> Iterator[Path]:
    """Files of methods that no record is of and that were not run for `seconds`; facts last."""
    old = [each for each in list_methods(store.path) if time.time() - each[1].run > seconds]
    used = _used_by(r.spec for r in store.records()) if old else {}
    for folder, facts in old:
        if (facts.name, facts.version) not in used:
            yield from sorted(folder / name for name in facts.files)
            yield folder / FACTS


def list_damaged(store: Path) -> Iterator[tuple[Path, str]]:
    """The folders of methods that are not what was written, with the reasons."""
    for folder in list_entries(store / METHODS):
        try:
            facts = own_methods.read_facts(folder)
            problem = own_methods.find_problem(folder, facts) if facts else "it has no facts"
        except StoreError as error:
            problem = str(error)
        if problem:
            yield folder, problem


def _read(folder: Path, facts: Facts) -> dict[str, bytes]:
    return {name: read_regular(folder / name) for name in facts.files}
