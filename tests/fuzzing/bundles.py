"""Bundles: changed zips, and changed members whose digests their author has stated again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fewshot_bench.api.record import Record, seal
from fewshot_bench.store.bundle import pack, unpack
from fewshot_bench.store.standing import LEVELS, UNVERIFIED, judge
from fewshot_bench.utils.errors import StoreError
from tests.fuzzing.subject import Seed, Subject
from tests.support.bundles import change_answers, members_of, names_of_records, with_digests, write
from tests.support.store_cases import filled


def _build(folder: Path) -> list[Seed]:
    store = filled(folder / "s", (1, 2))
    pack(store, list(store.records()), folder / "good.zip", submitter="Lab A")
    members = members_of(folder / "good.zip")
    record = names_of_records(members)[0]
    return [
        Seed("a.zip", (folder / "good.zip").read_bytes(), "zip"),
        Seed("record.json", members[record], "json"),
        Seed("sealed.json", members[record], "json"),
        Seed("answers.npz", members[record.replace(".json", ".npz")], "zip"),
        Seed("bundle.json", members["bundle.json"], "json"),
    ]


def _around(good: Path, file: Path) -> Path:
    """A bundle with a changed member whose digest it states."""
    members, content = members_of(good), file.read_bytes()
    record = names_of_records(members)[0]
    if file.name == "answers.npz":
        members = change_answers(members, lambda _: content)
    elif file.name == "bundle.json":
        members["bundle.json"] = content
    else:
        name = record
        if file.name == "sealed.json":
            try:
                values = Record.from_dict(json.loads(content))
                digests = {n: d for n, d in values.digests.items() if n != "record"}
                sealed = seal(values, digests)
                content, key = sealed.to_json().encode(), sealed.spec.key()
                name = f"records/{key[:2]}/{key}.json"
            except (ValueError, TypeError, StoreError, RecursionError):
                pass
        answers = members.pop(record.replace(".json", ".npz"))
        del members[record]
        members |= {name: content, name.replace(".json", ".npz"): answers}
        members = with_digests(members)
    return write(file.with_name("around.zip"), members)


def _unpack(folder: Path, file: Path) -> bool:
    """A bundle is unpacked whole and judged, or refused with nothing written."""
    out = folder / "out"
    path = file if file.suffix == ".zip" else _around(folder / "good.zip", file)
    try:
        store = unpack(path, out)
    except StoreError:
        assert not out.exists()
        raise
    levels = {standing.level for standing in judge(store).values()}
    assert levels <= {UNVERIFIED, *LEVELS}
    shutil.rmtree(out)
    return True


SUBJECTS = (Subject("bundles", 6, _build, _unpack),)
