"""What fuzzing found in archives, notes and lists of data sets, each as a test of its own."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsbench_datasets.mat_file import read_records

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.data.extract import unpack
from fewshot_bench.data.lock import _read
from fewshot_bench.data.members import DamagedError
from fewshot_bench.data.partial import Part, source_of
from fewshot_bench.registry import registry
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
    part = Part.of(tmp_path / "x.zip")
    for path in (part.about, tmp_path / "x.zip.source.json", tmp_path / ".lock"):
        path.write_text(DEEP)
    assert part.origin() is None
    assert source_of(tmp_path / "x.zip") == ""
    assert _read(tmp_path / ".lock") is None


def matlab(**options: Any) -> bytes:
    """A file as scipy writes it."""
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", object), ("words", object)]
    rows = [(number, f"n{number:08d}", "ä word") for number in range(1, 8)]
    out = io.BytesIO()
    savemat(out, {"other": 1, "synsets": np.array(rows, dtype=kinds).reshape(-1, 1)}, **options)
    return out.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files(compressed: bool) -> None:
    """The same as scipy's reader, which ends the process on some damaged files."""
    content = matlab(do_compression=compressed)
    found = read_records(content, "synsets", ("ILSVRC2012_ID", "WNID"), 10**6)
    assert found == [(number, f"n{number:08d}") for number in range(1, 8)]
    with pytest.raises(ValueError, match="no 'nothing'"):
        read_records(content, "nothing", (), 10**6)
    with pytest.raises(ValueError, match="have the fields"):
        read_records(content, "synsets", ("no",), 10**6)
    if compressed:
        with pytest.raises(ValueError, match="expands to more"):
            read_records(content, "synsets", ("WNID",), 100)
    for end in range(0, len(content), 7):
        try:
            read_records(content[:end], "synsets", ("WNID",), 10**6)
        except ValueError:
            continue
        pytest.fail(f"cut at {end}")


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
