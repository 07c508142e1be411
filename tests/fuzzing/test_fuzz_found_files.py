"""Findings of fuzzing in archives, notes and lists of data sets, each as a test of its own."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.dataset import RemoteFile
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.data.download import Download, source_of
from fewshot_bench.plugins.data.extract import DamagedError, unpack
from tests.fuzzing.hostile import DEEP
from tests.helpers import fsbench
from tests.preparing import zipped


def test_a_zip_that_points_before_its_start(tmp_path: Path) -> None:
    content = bytearray(zipped({"a/b.jpg": b"x" * 50}))
    end = content.rindex(b"PK\x05\x06")
    (size,) = struct.unpack_from("<I", content, end + 12)
    struct.pack_into("<I", content, end + 12, size)
    struct.pack_into("<I", content, end + 16, 2**31)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DamagedError):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_notes_that_are_nested_deep(tmp_path: Path) -> None:
    download = Download(RemoteFile("x.zip", "x"), tmp_path / "x.zip", print)
    for path in (download.note, tmp_path / "x.zip.source.json"):
        path.write_text(DEEP)
    assert download.origin() is None
    assert source_of(tmp_path / "x.zip") == ""


def test_a_parquet_file_with_names_that_are_no_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": f"{n}.png", "class": "catcatcat"} for n in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", compression="none")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data.replace(b"catcatcat", b"cat\xffatcat"))
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        registry().dataset(f"manifest:{tmp_path / 'm.parquet'}").items()


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)])
def test_paths_that_are_too_long(tmp_path: Path, name: str) -> None:
    for family in ("manifest", "coop", "folder", "wds", "hf"):
        result = fsbench("show", f"{family}:{name}")
        assert result.code in (0, 2, 3), result
        assert "Traceback" not in result.err
    (tmp_path / "images").mkdir()
    split = {role: [[f"{name}{role}.jpg", 0, "cat"]] for role in ("train", "val", "test")}
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataMissingError):
        registry().dataset(f"coop:{tmp_path}").items()
