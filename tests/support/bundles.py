"""Helpers for tests of bundles: change one, and write it again as its author could."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewshot_bench.api.metrics import rounded
from fewshot_bench.api.record import Record, seal
from fewshot_bench.store.answer_files import build_stored, parse
from fewshot_bench.store.record_files import parse_record

MANIFEST = "bundle.json"
Members = dict[str, bytes]


def members_of(path: Path) -> Members:
    """The contents of the members of a bundle, in their order."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def with_digests(members: Members, **changed: Any) -> Members:
    """Members with a manifest that states their digests, and changed values of it."""
    manifest = json.loads(members.get(MANIFEST, b"{}"))
    others = {name: content for name, content in members.items() if name != MANIFEST}
    manifest["members"] = {n: hashlib.sha256(c).hexdigest() for n, c in others.items()}
    return {**others, MANIFEST: json.dumps(manifest | changed).encode()}


def write(path: Path, members: Members) -> Path:
    """Write members into a zip, as they are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def names_of_records(members: Members) -> list[str]:
    """The names of the members that are records."""
    return [name for name in members if name.startswith("records/") and name.endswith(".json")]


def change_record(members: Members, change: Callable[[Record], Record], place: int = 0) -> Members:
    """Change a record of a bundle; its digests are right afterwards, and so are the bundle's."""
    name = names_of_records(members)[place]
    record = parse_record(name, members[name])
    digests = {key: value for key, value in record.digests.items() if key != "record"}
    changed = seal(change(record), digests)
    made = dict(members)
    del made[name]
    key = changed.spec.key()
    made[f"records/{key[:2]}/{key}.json"] = changed.to_json().encode()
    made[f"records/{key[:2]}/{key}.npz"] = made.pop(name.replace(".json", ".npz"))
    return with_digests(made)


def change_answers(members: Members, change: Callable[[bytes], bytes], place: int = 0) -> Members:
    """Change the answers of a cell; its record states their digest afterwards."""
    name = names_of_records(members)[place]
    answers = name.replace(".json", ".npz")
    content = change(members[answers])
    record = parse_record(name, members[name])
    digests = {key: value for key, value in record.digests.items() if key != "record"}
    digests["answers"] = hashlib.sha256(content).hexdigest()
    text = seal(record, digests).to_json().encode()
    return with_digests({**members, name: text, answers: content})


def restate_metrics(members: Members, place: int = 0) -> Members:
    """State the metrics that follow from the statistics of a cell's answers."""
    name = names_of_records(members)[place]
    arrays = parse(members[name.replace(".json", ".npz")])
    answers = build_stored(arrays, parse_record(name, members[name])).answers
    return change_record(
        members, lambda record: dataclasses.replace(record, metrics=rounded(answers)), place
    )


def with_metric(name: str, value: float) -> Callable[[Record], Record]:
    """A change that states another value of a metric."""
    return lambda record: dataclasses.replace(record, metrics={**record.metrics, name: value})
