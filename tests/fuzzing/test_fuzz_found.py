"""Findings of fuzzing in records, configs and plug-ins, each as a test of its own."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.answer_files import read
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from tests.answers import put_answers
from tests.compare_records import make
from tests.fuzzing.hostile import DEEP
from tests.helpers import fsbench


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shots", "1"),
        ("shots", True),
        ("split_seed", None),
        ("method", 3),
        ("limit", "5"),
        ("options", []),
        ("classes", "half"),
        ("target", {}),
        ("shots", -1),
        ("train_seed", 10**30),
        ("limit", 0),
        ("dataset", ""),
        ("overrides", {"": 1}),
        ("val", "x|y:z"),
        ("prompts", "other"),
        ("precision", "fp8"),
        ("protocol", "\ud800"),
        ("data", {"templates": "a {}"}),
        ("data", {"templates": [["a {}"]]}),
        ("data", {"holdout": "x|y"}),
        ("data", {"holdout": 1.5}),
    ],
)
def test_a_specification_of_other_kinds_is_refused(name: str, value: Any) -> None:
    values = make().spec.to_dict() | {name: value}
    with pytest.raises(StoreError, match=f"spec has {name}"):
        RunSpec.from_dict(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("error", "text"), ("notes", [1]), ("incidents", ["x"]), ("split", {"verified": []})],
)
def test_a_record_of_other_kinds_is_refused(key: str, value: Any) -> None:
    with pytest.raises(StoreError, match=f"record has {key}"):
        Record.from_dict(make().to_dict() | {key: value})


def test_errors_are_one_printable_line() -> None:
    text = str(FsbenchError("a\nb\x1b[2J\u202e\ud800" + "x" * 10_000))
    assert text.isprintable()
    assert text.startswith("a b\ufffd[2J\ufffd\ufffdxx")
    assert len(text) < 4000


@pytest.mark.parametrize("name", ["run.yaml", "run.toml"])
@pytest.mark.parametrize("text", [DEEP, "9" * 5000])
def test_configs_that_are_too_deep_or_too_large(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(f"shots{' =' if name.endswith('toml') else ':'} {text}\n")
    result = fsbench("run", "--config", tmp_path / name, "-m", "zero-shot", "-d", "digits")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: ")


@pytest.mark.parametrize("text", ["1-1000000000000", "1-" + "9" * 5000, "9" * 5000])
def test_ranges_that_nobody_means(text: str) -> None:
    result = fsbench("run", "-m", "zero-shot", "-d", "digits", "--seeds", text)
    assert result.code == 2
    assert "expected at most 100,000 numbers" in result.err or "at most 18 digits" in result.err


def test_a_deep_class_name_file(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(DEEP)
    options = ("--classnames", tmp_path / "names.yaml")
    result = fsbench("run", "-m", "zero-shot", "-d", "digits", *options)
    assert (result.code, "nested too deep" in result.err) == (2, True)


@pytest.mark.parametrize("name", ["entry_points.txt", "METADATA"])
@pytest.mark.parametrize("content", [b"\xff\xfe[fewshot_bench]\n", b"[fewshot_bench]\nx\n"])
def test_a_damaged_distribution_takes_no_other_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_bytes(b"[fewshot_bench]\nx = no_such_module_\n")
    (info / name).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    try:
        result = fsbench("list", "plugins")
        assert result.code == 0
        assert "builtin_methods" in result.out
        assert "FAILED" in result.out
        assert "Traceback" not in result.err
        assert "coop" in registry().methods.entries
    finally:
        registry.cache_clear()


def test_plugin_names_do_not_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\x1b[2J\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fewshot_bench]\n\x1b]0;x\x07 = no_such_module_\x1b\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    try:
        for kind in ("plugins", "methods", "datasets"):
            result = fsbench("list", kind)
            assert "\x1b" not in result.out + result.err
            assert "\x07" not in result.out + result.err
    finally:
        registry.cache_clear()


@pytest.mark.parametrize(
    "arrays",
    [
        {"statistics": np.float32(1.0)},
        {"statistics": np.zeros(2, np.float32)},
        {"names": np.array([["a", "b"]])},
        {"names": np.frombuffer(b"{", np.uint8)},
        {"classes": np.zeros(2, np.int32)},
        {"high": np.zeros((2, 2), np.uint16)},
        {"low": np.array([[None, 1], [2, 3]], dtype=object)},
    ],
)
def test_logits_of_other_shapes_are_damaged(tmp_path: Path, arrays: dict[str, Any]) -> None:
    store = Store(tmp_path)
    record = put_answers(store, make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    np.savez_compressed(path, **read(path)[0] | arrays)
    with pytest.raises(StoreError, match="are damaged"):
        store.answers(record.spec.key())


def test_a_header_that_claims_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put_answers(store, make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    huge = members["high.npy"].replace(b"(2, 2), }" + b" " * 10, b"(2000000000, 2), }" + b" ")
    assert len(huge) == len(members["high.npy"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"high.npy": huge}).items():
            archive.writestr(name, content)
    with pytest.raises(StoreError, match="says that it has"):
        store.answers(record.spec.key())
