"""Bundles: written without what is private, refused whole if hostile, judged by their logits."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import socket
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fewshot_bench.analysis.gathering import gather
from fewshot_bench.api.metrics import BUILT_IN, METRICS, Metric, rounded
from fewshot_bench.api.record import seal
from fewshot_bench.api.registry import Registry, registry
from fewshot_bench.splits.model import lists_digest
from fewshot_bench.splits.published import PublishedSplit, names_digest
from fewshot_bench.store.answer_files import pack as pack_arrays
from fewshot_bench.store.answer_files import parse
from fewshot_bench.store.bundle import BundleError, is_bundle, pack, read_manifest, unpack
from fewshot_bench.store.private import LEFT_OUT, REMOVED
from fewshot_bench.store.record_files import parse_record
from fewshot_bench.store.standing import RE_RUN, SUBMITTED, UNVERIFIED, VERIFIED, Standing, judge
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from fewshot_bench.utils.errors import StoreError, UsageError
from tests.support.answers import answers_of, fields
from tests.support.bundles import (
    MANIFEST,
    Members,
    change_answers,
    change_record,
    members_of,
    names_of_records,
    restate_metrics,
    with_digests,
    with_metric,
    write,
)
from tests.support.helpers import fsbench
from tests.support.store_records import make, put

RUN = (
    *("run", "-m", "zero-shot,tip-adapter", "-d", "digits", "--shots", 1, "--limit", 40),
    *("--seeds", 1, "--backbone", "tiny", "--device", "cpu", "--jobs", 1),
)
# Paths of a machine that no test runs on.
HOME, SCRATCH = ("/".join(("", folder, "jdoe")) for folder in ("home", "scratch"))
METHOD = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task


@dataclass(frozen=True)
class Fitted:
    weights: Tensor

    def logits(self, queries: Images) -> Tensor:
        return queries.features @ self.weights.T

    def tensors(self) -> Mapping[str, Tensor]:
        return {"weights": self.weights}


@dataclass(frozen=True)
class Still:
    name: ClassVar[str] = "still"
    trains: ClassVar[bool] = False

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Fitted:
        return Fitted(backbone.class_features(task))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of two finished cells."""
    folder = tmp_path_factory.mktemp("made") / "s"
    done = fsbench(*RUN, "--store", folder)
    assert done.code == 0, done.err
    return Store(folder)


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle of the store."""
    path = tmp_path_factory.mktemp("bundle") / "good.zip"
    pack(store, list(store.records()), path, submitter="Lab A")
    return path


@pytest.fixture
def members(bundle: Path) -> Members:
    return members_of(bundle)


def test_a_bundle_is_a_store_again_and_its_cells_are_verified(
    store: Store, bundle: Path, tmp_path: Path
) -> None:
    assert is_bundle(bundle)
    assert not is_bundle(tmp_path)
    found = unpack(bundle, tmp_path / "x")
    assert [r.to_dict() for r in found.records()] == [r.to_dict() for r in store.records()]
    assert not verify(found).findings
    manifest = read_manifest(tmp_path / "x")
    assert manifest is not None
    assert manifest.submitter == "Lab A"
    assert [standing.level for standing in judge(found).values()] == [VERIFIED, VERIFIED]


def test_equal_cells_give_equal_bytes(store: Store, bundle: Path, tmp_path: Path) -> None:
    os.utime(next(store.root.rglob("*.npz")), (1, 1))
    pack(store, list(store.records())[::-1], tmp_path / "again.zip", submitter="Lab A")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_bundle_written_again_by_other_hands_is_read(members: Members, tmp_path: Path) -> None:
    path = write(tmp_path / "b.zip", with_digests(members))
    assert len(judge(unpack(path, tmp_path / "x"))) == 2


# Hostile bundles: a change of the members, or of the finished zip.
def _renamed(name: str) -> Callable[[Members], Members]:
    return lambda members: with_digests({name: b"{}", **members})


def _with_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], Members]:
    def changed(members: Members) -> Members:
        manifest = json.loads(members[MANIFEST])
        change(manifest)
        return {**members, MANIFEST: json.dumps(manifest).encode()}

    return changed


def _pickled(content: bytes) -> bytes:
    arrays, file = parse(content), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            out = io.BytesIO()
            odd = np.array([print, None], dtype=object) if name == "names" else array
            np.lib.format.write_array(out, odd, allow_pickle=True)
            archive.writestr(f"{name}.npy", out.getvalue())
    return file.getvalue()


def _bomb(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in parse(content):
            with archive.open(f"{name}.npy", "w") as part:
                for _ in range(80):
                    part.write(bytes(2**20))
    return file.getvalue()


def _ids(change: Callable[[list[str]], list[str]]) -> Callable[[Members], Members]:
    def changed(content: bytes) -> bytes:
        arrays = parse(content)
        ids = change(json.loads(arrays["names"].tobytes()))
        return pack_arrays({**arrays, "names": np.frombuffer(json.dumps(ids).encode(), np.uint8)})

    return lambda members: change_answers(members, changed)


def _spec(**values: Any) -> Callable[[Members], Members]:
    def change(record: Any) -> Any:
        return dataclasses.replace(record, spec=dataclasses.replace(record.spec, **values))

    return lambda members: change_record(members, change)


def _of_record(**values: Any) -> Callable[[Members], Members]:
    return lambda members: change_record(members, lambda r: dataclasses.replace(r, **values))


def _text_of_record(old: bytes, new: bytes) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        name = names_of_records(members)[0]
        assert old in members[name]
        return with_digests({**members, name: members[name].replace(old, new, 1)})

    return change


DEEP = b"[" * 100_000 + b"]" * 100_000
HOSTILE: dict[str, Callable[[Members], Members]] = {
    "parent": _renamed("../evil.json"),
    "parent inside": _renamed("records/../../evil.json"),
    "absolute": _renamed("/evil.json"),
    "drive": _renamed("C:/evil.json"),
    "drive inside": _renamed("files/0123456789abcdef/C:evil"),
    "backslash": _renamed("files/0123456789abcdef/..\\evil"),
    "stream of Windows": _renamed("files/0123456789abcdef/a:b"),
    "device of Windows": _renamed("files/0123456789abcdef/nul.txt"),
    "port of Windows": _renamed("files/0123456789abcdef/COM¹.txt"),
    "picks of no cell": _renamed("splits/digits/shot_1-seed_1.json"),
    "hidden": _renamed("files/0123456789abcdef/.bashrc"),
    "blank at the end": _renamed("files/0123456789abcdef/a "),
    "control characters": _renamed("files/0123456789abcdef/a\x1b[2Jb"),
    "script in a path": _renamed("files/0123456789abcdef/<script>alert(1)<"),
    "another place": _renamed("cache/features/x.rows"),
    "another name": _renamed("readme.txt"),
    "an index": _renamed("index.sqlite"),
    "long": _renamed("methods/0123456789abcdef/" + "a/" * 300 + "b.py"),
    "many folders": _renamed("methods/0123456789abcdef/" + "a/" * 16 + "b.py"),
    "other form of Unicode": _renamed("files/0123456789abcdef/e\u0301"),
    "twins by case": lambda m: _renamed("files/0123456789abcdef/A")(
        _renamed("files/0123456789abcdef/a")(m)
    ),
    "twins by Unicode": lambda m: _renamed("files/0123456789abcdef/\ufb01")(
        _renamed("files/0123456789abcdef/fi")(m)
    ),
    "file and folder": lambda m: _renamed("methods/0123456789abcdef/a")(
        _renamed("methods/0123456789abcdef/a/b.py")(m)
    ),
    "no manifest": lambda m: {name: c for name, c in m.items() if name != MANIFEST},
    "manifest first": lambda m: {MANIFEST: m[MANIFEST], **m},
    "empty": lambda m: {},
    "no cell": lambda m: with_digests({n: c for n, c in m.items() if "records" not in n}),
    "not listed": lambda m: {f"code/{'0' * 64}.json": b"{}", **m},
    "listed, not there": lambda m: {n: c for n, c in m.items() if not n.endswith(".npz")},
    "wrong digest": _with_manifest(
        lambda v: v["members"].update(dict.fromkeys(v["members"], "0" * 64))
    ),
    "no digest": _with_manifest(lambda v: v["members"].update(dict.fromkeys(v["members"], ""))),
    "later format": _with_manifest(lambda v: v.update(format=2)),
    "no format": _with_manifest(lambda v: v.pop("format")),
    "more in the manifest": _with_manifest(lambda v: v.update(run="rm -rf /")),
    "deep manifest": lambda m: {**m, MANIFEST: DEEP},
    "manifest of NaN": lambda m: {**m, MANIFEST: b"NaN"},
    "script in the submitter": _with_manifest(
        lambda v: v.update(submitter="<script>alert(1)</script>")
    ),
    "terminal in the submitter": _with_manifest(lambda v: v.update(submitter="Lab \x1b[31mA")),
    "no submitter": _with_manifest(lambda v: v.update(submitter="")),
    "script in the signature": _with_manifest(lambda v: v.update(signature=["<img src=x>"])),
    "script in a method": _spec(method="<script>alert(1)</script>"),
    "terminal in a method": _spec(method="a\x1b]0;x\x07"),
    "script in a data set": _spec(dataset='"><svg onload=alert(1)>'),
    "script in a class name": lambda m: change_record(
        m, lambda r: dataclasses.replace(r, split={**r.split, "classnames": ["<b>x</b>"] * 10})
    ),
    "terminal in a note": _of_record(notes={"said": "\x1b[2J"}),
    "script in an id": _ids(lambda ids: ["<script>", *ids[1:]]),
    "terminal in an id": _ids(lambda ids: ["\x1b[2J", *ids[1:]]),
    "deep record": lambda m: with_digests({**m, names_of_records(m)[0]: DEEP}),
    "record of another key": lambda m: with_digests(
        {
            **{n: c for n, c in m.items() if "records" not in n},
            **{
                f"records/00/{'0' * 64}{n[-5:].lstrip('0123456789abcdef')}": c
                for n, c in m.items()
                if "records" in n
            },
        }
    ),
    "changed record": _text_of_record(b'"top1": ', b'"top1": 1'),
    "record of a later version": _text_of_record(b'"schema": ', b'"schema": 9'),
    "NaN": _text_of_record(b'"moved": 0.0', b'"moved": NaN'),
    "no answers": lambda m: with_digests({n: c for n, c in m.items() if not n.endswith(".npz")}),
    "answers of no record": lambda m: with_digests(
        {n: c for n, c in m.items() if not n.endswith(".json") or n == MANIFEST}
    ),
    "answers of another record": lambda m: with_digests(
        {
            n: m[names_of_records(m)[0].replace(".json", ".npz")] if n.endswith(".npz") else c
            for n, c in m.items()
        }
    ),
    "failed cell": _of_record(status="failed"),
    "pickled answers": lambda m: change_answers(m, _pickled),
    "bomb in answers": lambda m: change_answers(m, _bomb),
    "answers that are no zip": lambda m: change_answers(m, lambda content: content[:200]),
    "bomb": lambda m: with_digests({"files/0123456789abcdef/a": bytes(40 * 2**20), **m}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_is_refused_and_nothing_written(
    members: Members, tmp_path: Path, case: str
) -> None:
    path = write(tmp_path / "b.zip", HOSTILE[case](members))
    _assert_refused(path, tmp_path)


def _assert_refused(path: Path, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(BundleError) as refused:
        unpack(path, folder / "out" / "x")
    assert str(refused.value).isprintable()
    assert sorted(folder.rglob("*")) == before


def _infos(path: Path, change: Callable[[zipfile.ZipInfo], object], members: Members) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if name.endswith(".npz"):
                change(info)
            archive.writestr(info, content)


KINDS = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "device": stat.S_IFCHR, "folder": stat.S_IFDIR}
INFOS: dict[str, Callable[[zipfile.ZipInfo], object]] = {
    **{
        name: lambda info, kind=kind: setattr(info, "external_attr", (kind | 0o644) << 16)
        for name, kind in KINDS.items()
    },
    "comment": lambda info: setattr(info, "comment", b"x"),
    "extra": lambda info: setattr(info, "extra", struct.pack("<HH4s", 0x7075, 4, b"abcd")),
    "zip64": lambda info: setattr(info, "extra", struct.pack("<HHQQ", 1, 16, 5, 5)),
    "another packing": lambda info: setattr(info, "compress_type", zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("case", INFOS)
def test_members_that_are_no_plain_files_are_refused(
    members: Members, tmp_path: Path, case: str
) -> None:
    _infos(tmp_path / "b.zip", INFOS[case], members)
    _assert_refused(tmp_path / "b.zip", tmp_path)


def _encrypted(data: bytes) -> bytes:
    place = data.rindex(b"PK\x01\x02")
    return data[: place + 8] + b"\x01" + data[place + 9 :]


def _overlapping(data: bytes) -> bytes:
    """The last member starts where the first one does."""
    place = data.rindex(b"PK\x01\x02")
    return data[: place + 42] + bytes(4) + data[place + 46 :]


def _lying(data: bytes) -> bytes:
    """The list states a smaller size of the last member than it has itself."""
    place = data.rindex(b"PK\x01\x02")
    return data[: place + 24] + struct.pack("<I", 5) + data[place + 28 :]


def _twice(data: bytes) -> bytes:
    """The first member is there again, under the same name."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.infolist()[0]
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(first.filename, b"other")
    return file.getvalue()


ZIPS: dict[str, Callable[[bytes], bytes]] = {
    "not a zip": lambda data: b"hello",
    "nothing": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-1],
    "no list": lambda data: data[: data.rindex(b"PK\x01\x02")],
    "bytes before": lambda data: b"#!/bin/sh\n" + data,
    "bytes after": lambda data: data + b"x" * 30,
    "another zip after": lambda data: data + data,
    "comment": lambda data: data[:-2] + b"\x05\x00hello",
    "encrypted": _encrypted,
    "overlapping": _overlapping,
    "another size": _lying,
    "twice": _twice,
    "another name inside": lambda data: data.replace(b"records/", b"recordz/", 1),
    "flipped": lambda data: data[:5000] + bytes([data[5000] ^ 255]) + data[5001:],
}


@pytest.mark.parametrize("case", ZIPS)
def test_a_zip_that_hides_something_is_refused(bundle: Path, tmp_path: Path, case: str) -> None:
    (tmp_path / "b.zip").write_bytes(ZIPS[case](bundle.read_bytes()))
    _assert_refused(tmp_path / "b.zip", tmp_path)


# Numbers that do not follow: unverified and named, whatever digests say.
def _rows(change: Callable[[np.ndarray], dict[str, Any]]) -> Callable[[Members], Members]:
    def changed(content: bytes) -> bytes:
        arrays = parse(content)
        rows = arrays["statistics"]
        return pack_arrays({**arrays, "statistics": fields(rows, **change(rows))})

    return lambda members: restate_metrics(change_answers(members, changed))


def _arrays(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Members], Members]:
    """A change of writable copies of the arrays of a file, in place."""

    def changed(content: bytes) -> bytes:
        arrays = {name: array.copy() for name, array in parse(content).items()}
        change(arrays)
        return pack_arrays(arrays)

    return lambda members: restate_metrics(change_answers(members, changed))


def _tie(arrays: dict[str, np.ndarray]) -> None:
    """All classes have one logit, and every prediction is right."""
    rows, top = arrays["statistics"], arrays["top"]
    classes = int(arrays["classes"])
    arrays["high"][:], arrays["low"][:] = 0, 0
    rows["prediction"], rows["rank"] = rows["label"], 1
    rows["confidence"], rows["surprise"] = 1 / classes, np.log(classes)
    rows["brier_score"] = 1 - 1 / classes
    top["class"] = (rows["label"][:, None] + np.arange(top.shape[1])) % classes
    top["probability"] = 1 / classes


def _far(arrays: dict[str, np.ndarray]) -> None:
    """Wrong predictions are as far off as can be stored, and cost nothing."""
    rows = arrays["statistics"]
    wrong = np.flatnonzero(rows["prediction"] != rows["label"])
    arrays["high"][wrong], arrays["low"][wrong] = 0x7B, 0xFF
    for name in ("high", "low"):
        arrays[name][wrong, rows["prediction"][wrong]] = 0
    rows["surprise"][wrong] = 0


def _set_gaps(high: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        last = arrays["high"].argmax(axis=1)
        arrays["high"][np.arange(len(last)), last] = high
        arrays["statistics"]["confidence"] = 1.0

    return change


def _set_top(arrays: dict[str, np.ndarray]) -> None:
    arrays["top"]["probability"] = 0.5


WRONG: dict[str, tuple[Callable[[Members], Members], str]] = {
    "top1": (lambda m: change_record(m, with_metric("top1", 99.9)), "top1"),
    "ece": (lambda m: change_record(m, with_metric("ece", 0.1)), "ece"),
    "n": (lambda m: change_record(m, with_metric("n", 4000)), "n 4000"),
    "confidences": (_rows(lambda rows: {"confidence": rows["confidence"] * 0.9}), "confidences"),
    "Brier scores": (_rows(lambda rows: {"brier_score": rows["brier_score"] * 0.9}), "Brier"),
    "ranks": (_rows(lambda rows: {"rank": np.where(rows["rank"] > 1, 10, 1)}), "ranks"),
    "surprises": (_arrays(_far), "contradict"),
    "infinite gaps": (_arrays(_set_gaps(0x7C)), "contradict"),
    "gaps that are no numbers": (_arrays(_set_gaps(0x7E)), "contradict"),
    "gaps below 0": (_arrays(_set_gaps(0x80)), "contradict"),
    "top classes": (_arrays(_set_top), "top classes"),
    "number of picks": (
        lambda m: change_record(
            m, lambda r: dataclasses.replace(r, split={**r.split, "train": 160})
        ),
        "its split is not the one",
    ),
    "no ids": (_ids(lambda ids: []), "0 different ids"),
    "labels": (_rows(lambda rows: {"label": rows["prediction"], "rank": 1}), "contradict"),
    "ids": (_ids(lambda ids: [f"other/{name}" for name in ids]), "not the test images"),
    "class names": (
        lambda m: change_record(
            m, lambda r: dataclasses.replace(r, split={**r.split, "classnames": ["x"] * 10})
        ),
        "class names are not those of digits",
    ),
    "split": (
        lambda m: change_record(
            m, lambda r: dataclasses.replace(r, split={**r.split, "digest": "0" * 64})
        ),
        "its split is not the one",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_follow_is_unverified_and_named(
    members: Members, tmp_path: Path, case: str
) -> None:
    change, said = WRONG[case]
    path = write(tmp_path / "b.zip", change(members))
    standings = judge(unpack(path, tmp_path / "x"))
    wrong = [s.reasons for s in standings.values() if s.level == UNVERIFIED]
    assert len(wrong) == 1
    assert any(said in reason for reason in wrong[0])
    before = sorted(tmp_path.rglob("*"))
    merged = fsbench("store", "merge", path, "--store", tmp_path / "m")
    assert merged.code == 1
    assert "1 of 2 cells do not hold" in merged.err
    assert sorted(tmp_path.rglob("*")) == before


def test_predictions_that_logits_leave_open_are_submitted(members: Members, tmp_path: Path) -> None:
    path = write(tmp_path / "b.zip", _arrays(_tie)(members))
    reasons = [s.reasons for s in judge(unpack(path, tmp_path / "x")).values() if s.reasons]
    ((reason,),) = reasons
    assert "its logits leave open which class is first" in reason


def test_the_order_of_a_stream_is_that_of_its_seed(tmp_path: Path) -> None:
    run = ["tda" if word == "zero-shot,tip-adapter" else word for word in RUN]
    assert fsbench(*run, "--queries", "stream", "--store", tmp_path / "s").code == 0
    made = Store(tmp_path / "s")
    pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    (standing,) = judge(unpack(tmp_path / "b.zip", tmp_path / "x")).values()
    assert standing == Standing(VERIFIED)

    def reverse(arrays: dict[str, np.ndarray]) -> None:
        arrays["groups"] = arrays["groups"][::-1].copy()

    changed = _arrays(reverse)(members_of(tmp_path / "b.zip"))
    (standing,) = judge(unpack(write(tmp_path / "c.zip", changed), tmp_path / "y")).values()
    assert standing.level == UNVERIFIED
    assert "the order of its queries" in standing.reasons[0]


def test_a_metric_that_is_newer_than_a_bundle_takes_no_trust_from_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = judge(unpack(bundle, tmp_path / "x"))
    assert {standing.level for standing in before.values()} == {VERIFIED}
    new = Metric("later", "a later metric", lambda hits: 200 * float(hits.mean()))
    monkeypatch.setitem(cast(dict[str, Metric], METRICS), "later", new)
    monkeypatch.setitem(cast(dict[str, Metric], BUILT_IN), "later", new)
    assert judge(unpack(bundle, tmp_path / "y")) == before


def test_cells_that_cannot_be_recomputed_are_submitted(tmp_path: Path) -> None:
    made = Store(tmp_path / "s")
    put(made, make(dataset="nowhere"))
    (standing,) = judge(made).values()
    assert standing.level == SUBMITTED
    assert fsbench(*RUN, "--keep-logits", "top", "--store", tmp_path / "t").code == 0
    levels = {
        standing.level: standing.reasons for standing in judge(Store(tmp_path / "t")).values()
    }
    assert list(levels) == [SUBMITTED]
    assert "its logits were not kept" in levels[SUBMITTED][0]


def test_private_facts_are_removed_or_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USER", "jdoe")
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.cluster.example")
    made = Store(tmp_path / "s")
    record = next(iter(store.records()))
    secret = {
        "path": f"{SCRATCH}/run.py",
        "by": "jdoe",
        "at": "node17",
        "win": r"C:\Users\jdoe\x",
        "store": f"in {tmp_path / 's'}",
        "unc": r"\\server\share\x",
        "fine": "a/b and 3 images/s",
        f"of {HOME}/x": 1,
    }
    changed = dataclasses.replace(
        record,
        notes=secret,
        environment={**record.environment, "code_file": f"{HOME}/m.py"},
        incidents=({"kind": "retried", "text": f"see {Path.home()}/log"},),
    )
    answers = store.answers(record.spec.key())
    made.write(changed, answers.answers, answers.ids, log=f"printed in {HOME}")
    (packed,) = pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    removed = {*packed.environment[LEFT_OUT]}
    assert {"environment.code_file", "notes.path", "log"} < removed
    content = b"".join(members_of(tmp_path / "b.zip").values())
    words = ("jdoe", "node17", "/scratch", "server", "Users", str(tmp_path), str(Path.home()))
    assert not [word for word in words if word.encode() in content]
    (found,) = unpack(tmp_path / "b.zip", tmp_path / "x").records()
    assert found.notes["fine"] == secret["fine"]
    assert found.notes["by"] == REMOVED
    assert set(found.environment[LEFT_OUT]) == removed
    assert found.logits_digest == next(iter(made.records())).logits_digest
    assert not verify(Store(tmp_path / "x")).findings
    assert [standing.level for standing in judge(Store(tmp_path / "x")).values()] == [VERIFIED]
    named = dataclasses.replace(record, split={**record.split, "templates": [HOME + "/{}"]})
    made.write(named, answers.answers, answers.ids)
    before = (tmp_path / "b.zip").read_bytes()
    with pytest.raises(StoreError, match=rf"split.*'{HOME}/\{{"):
        pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    assert (tmp_path / "b.zip").read_bytes() == before


def put_whole(store: Store, dataset: str) -> None:
    """Store a cell with the metrics of its logits."""
    answers = answers_of(np.eye(4, 3), np.arange(4) % 3)
    record = dataclasses.replace(make(dataset=dataset), metrics=rounded(answers))
    store.write(record, answers, [f"q{number}" for number in range(4)])


def test_cells_of_own_images_need_a_word(tmp_path: Path) -> None:
    made = Store(tmp_path / "s")
    put_whole(made, "folder:photos")
    with pytest.raises(UsageError, match="--own-images"):
        pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A", own_images=True)
    put_whole(made, f"folder:{HOME}/photos")
    with pytest.raises(UsageError, match="two folders"):
        pack(made, list(made.records()), tmp_path / "c.zip", submitter="Lab A", own_images=True)
    made = Store(tmp_path / "t")
    put_whole(made, f"folder:{HOME}/photos")
    (packed,) = pack(
        made, list(made.records()), tmp_path / "c.zip", submitter="Lab A", own_images=True
    )
    assert packed.environment[LEFT_OUT] == ["spec.dataset"]
    assert HOME.encode() not in b"".join(members_of(tmp_path / "c.zip").values())
    found = unpack(tmp_path / "c.zip", tmp_path / "x").records()
    assert {record.spec.dataset for record in found} == {"folder:photos"}
    # Taken back by the one who sent it, they are there already, and count once in an average.
    done = fsbench("store", "merge", tmp_path / "c.zip", "--store", made.path)
    assert done.out.endswith(": 1 equal\n"), done
    assert len(list(made.records())) == 1


def test_a_full_disk_is_no_fault_of_the_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreError, match=r"cannot unpack .*No space left.*TMPDIR") as refused:
        unpack(bundle, tmp_path / "x")
    assert not isinstance(refused.value, BundleError)
    assert f"into '{tmp_path}'" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_of_a_new_bundle_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(archive: object, name: object, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fill)
    with pytest.raises(StoreError, match=r"or its parts in .*No space left.*make room"):
        pack(store, list(store.records()), tmp_path / "b.zip", submitter="Lab A")
    assert not list(tmp_path.iterdir())


def test_what_others_removed_stays_stated(members: Members, tmp_path: Path) -> None:
    for before, after in ((["model"], ["environment.host", "model"]), (5, ["environment.host"])):
        changed = change_record(
            members,
            lambda record, before=before: dataclasses.replace(
                record,
                environment={**record.environment, LEFT_OUT: before, "host": f"{HOME}/x"},
            ),
        )
        path = write(tmp_path / f"{after[-1]}.zip", changed)
        assert fsbench("store", "merge", path, "--store", tmp_path / path.stem).code == 0
        sent = fsbench("submit", tmp_path / path.stem, "-O", tmp_path / "b.zip")
        assert sent.code == 0, sent.err
        assert f"removed from records: {', '.join(after)}" in sent.out


def test_a_short_file_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"hi")
    with pytest.raises(BundleError, match="it is no zip"):
        unpack(tmp_path / "b.zip", tmp_path / "x")


def test_a_pipe_is_no_bundle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.zip")
    assert not is_bundle(tmp_path / "b.zip")
    _assert_refused(tmp_path / "b.zip", tmp_path)


@pytest.mark.parametrize(
    "name", ["", "<b>", "@all", "a@b", "a\x1b", "x" * 90, " a", "A  B", "Verified"]
)
def test_a_submitter_has_a_name(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="submitter"):
        pack(store, list(store.records()), tmp_path / "b.zip", submitter=name)
    assert not list(tmp_path.iterdir())


def test_code_of_methods_travels_and_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "still.py"
    file.write_text(METHOD + f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    words = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--backbone", "tiny")
    run = ("run", "-m", f"{file}:Still", *words, "--device", "cpu", "--store")
    assert fsbench(*run, tmp_path / "s").code == 0
    made = Store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"methods/.*still.py, line"):
        pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    file.write_text(METHOD)
    assert fsbench(*run, tmp_path / "t").code == 0
    made = Store(tmp_path / "t")
    pack(made, list(made.records()), tmp_path / "b.zip", submitter="Lab A")
    (standing,) = judge(unpack(tmp_path / "b.zip", tmp_path / "x")).values()
    assert standing.level == VERIFIED
    (kept,) = (tmp_path / "x" / "methods").glob("*/still.py")
    assert kept.read_text() == METHOD
    kept.unlink()
    (standing,) = judge(Store(tmp_path / "x")).values()
    assert standing.level == SUBMITTED
    assert "the code of" in standing.reasons[0]


def test_sources_agree_disagree_and_are_never_averaged(
    store: Store, bundle: Path, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    for place, record in enumerate(store.records()):
        stored = store.answers(record.spec.key())
        logits = stored.answers.logits.copy()
        if place:
            logits = -logits
        answers = type(stored.answers).of(logits, stored.answers.labels)
        changed = dataclasses.replace(
            record, metrics=rounded(answers), timings={**record.timings, "wall_seconds": 9.0}
        )
        other.write(changed, answers, stored.ids)
    pack(other, list(other.records()), tmp_path / "b.zip", submitter="Lab B")
    pack(store, list(store.records()), tmp_path / "c.zip", submitter="Lab C")
    found = gather([bundle, tmp_path / "b.zip", tmp_path / "c.zip"], tmp_path)
    assert found.sources == ("Lab A", "Lab B", "Lab C")
    assert len(found.entries) == 6
    rows = {(e.source, e.key): e for e in found.entries}
    first, second = (record.spec.key() for record in store.records())
    assert rows["Lab A", first].standing.level == RE_RUN
    # Lab C has the run of Lab A, not one of its own.
    assert rows["Lab A", first].agrees_with == ("Lab B",)
    assert rows["Lab A", second].disagrees_with == ("Lab B",)
    assert rows["Lab A", second].standing.level == VERIFIED
    assert rows["Lab B", second].record.metrics != rows["Lab A", second].record.metrics


@pytest.mark.parametrize("case", ["other digest", "one other time", "no times"])
def test_a_copy_is_no_run_of_its_own(
    bundle: Path, members: Members, tmp_path: Path, case: str
) -> None:
    copied = members
    for place, name in enumerate(names_of_records(members)):
        if case == "other digest":
            record = parse_record(name, copied[name])
            digests = {"answers": record.digests["answers"], "logits": "0" * 64}
            copied = {**copied, name: seal(record, digests).to_json().encode()}
        else:
            kept = {} if case == "no times" else record_times(copied[name])
            copied = change_record(
                copied, lambda record, kept=kept: dataclasses.replace(record, timings=kept), place
            )
    path = write(tmp_path / "b.zip", with_digests(copied, submitter="Lab B", signature=[]))
    found = gather([bundle, path], tmp_path)
    assert [e.standing.level for e in found.entries] == [VERIFIED] * 4
    assert not any(e.agrees_with for e in found.entries)
    assert [e.same_run for e in found.entries] == [("Lab B",)] * 2 + [("Lab A",)] * 2
    assert found.copies() == {frozenset(("Lab A", "Lab B")): 2}
    done = fsbench("verify", path, "--beside", bundle)
    assert done.code == 0
    assert done.out.endswith("\ncopy: 2 cells are the runs that Lab A has, not repeated\n")


def record_times(content: bytes) -> dict[str, Any]:
    """The times of a record, with another one for the whole cell."""
    return {**json.loads(content)["timings"], "wall_seconds": 9.0, "another": 1.5}


@pytest.mark.parametrize("name", ["Lab A", "lab a"])
def test_own_cells_that_differ_are_shown(
    store: Store, bundle: Path, tmp_path: Path, name: str
) -> None:
    other = Store(tmp_path / "other")
    for record in store.records():
        stored = store.answers(record.spec.key())
        answers = answers_of(-stored.answers.logits, stored.answers.labels)
        other.write(dataclasses.replace(record, metrics=rounded(answers)), answers, stored.ids)
    pack(other, list(other.records()), tmp_path / "b.zip", submitter=name)
    found = gather([bundle, tmp_path / "b.zip"], tmp_path)
    assert [e.disagrees_with for e in found.entries] == [(name,)] * 2 + [("Lab A",)] * 2
    assert {e.standing.level for e in found.entries} == {VERIFIED}
    done = fsbench("verify", tmp_path / "b.zip", "--beside", bundle)
    assert done.code == 1
    assert done.out.count("disagreement:") == 2
    assert f"% {name}, " in done.out
    assert "% another bundle of Lab A" in done.out


def test_a_source_is_a_store_or_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    for path in (tmp_path / "x.txt", tmp_path / "gone", tmp_path):
        with pytest.raises(UsageError, match="expected a store, or a bundle"):
            gather([path], tmp_path / "scratch")


def test_a_spec_of_a_bundle_opens_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Registry.dataset

    def dataset(self: Registry, name: str, *others: Any) -> Any:
        assert ":" not in name
        return real(self, name, *others)

    monkeypatch.setattr(Registry, "dataset", dataset)
    made = Store(tmp_path / "s")
    put(made, make(dataset="folder:photos"))
    put(made, make(dataset="digits", target="manifest:x.csv"))
    assert {standing.level for standing in judge(made).values()} <= {SUBMITTED, UNVERIFIED}


def test_published_lists_travel_so_that_queries_are_known_without_the_images(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = registry().dataset("digits").items()
    names = [name for _, name in sorted({(item.label, item.classname) for item in pools["test"]})]
    lists = lists_digest(pools)
    half = names_digest(names[:5]), names_digest(names[5:])
    about = PublishedSplit("x", "", lists, 10, dict(zip(("base", "new"), half, strict=True)), {})
    for module in ("splits.published", "store.bundle", "store.standing"):
        monkeypatch.setattr(f"fewshot_bench.{module}.published_splits", lambda: {"digits": about})
    pack(store, list(store.records()), tmp_path / "b.zip", submitter="Lab A")
    members = members_of(tmp_path / "b.zip")
    monkeypatch.setattr(Registry, "dataset", lambda *a, **k: pytest.fail("opened"))
    found = judge(unpack(tmp_path / "b.zip", tmp_path / "x"))
    assert {standing.level for standing in found.values()} == {VERIFIED}
    lists_file = json.loads(members["lists/digits.json"])
    lists_file["test"][0][0] += "x"
    changed = {**members, "lists/digits.json": json.dumps(lists_file).encode()}
    path = write(tmp_path / "c.zip", with_digests(changed))
    for standing in judge(unpack(path, tmp_path / "y")).values():
        assert standing == Standing(SUBMITTED, ("the lists of digits are not the published ones",))
    renamed = change_record(
        members, lambda r: dataclasses.replace(r, split={**r.split, "classnames": ["x"] * 10})
    )
    path = write(tmp_path / "d.zip", renamed)
    reasons = [s.reasons for s in judge(unpack(path, tmp_path / "z")).values() if s.reasons]
    assert reasons == [("its class names are not those of digits",)]
