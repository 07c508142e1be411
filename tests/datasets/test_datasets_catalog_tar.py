"""Members of tar archives, read by offset."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from fsbench_datasets.tar import Member, members, read_member

from fewshot_bench import DataMissingError
from tests.support.dataset_trees import put, tar_of

FILES = [("b.jpg", b"beta" * 300), ("x/" + "long" * 40 + ".jpg", b""), ("ä.jpg", b"alpha")]


def test_only_regular_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo(f"kind{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert members(put(tmp_path / "a.tar", buffer.getvalue())) == ()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = tar_of(FILES)
    last = members(put(tmp_path / "a.tar", whole))[-1]
    end = last.offset + 512
    for length in {*range(0, end + 512, 100), *range(0, end + 512, 512), end, end + 511}:
        path = put(tmp_path / "a.tar", whole[:length])
        with pytest.raises(DataMissingError, match=r"a\.tar cannot be read as an uncompressed tar"):
            members(path)
    assert len(members(put(tmp_path / "a.tar", whole[: end + 512]))) == 3


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(tar_of([("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")]))
    second = members(put(tmp_path / "a.tar", bytes(whole)))[1]
    whole[second.offset - 512 + 130] ^= 0xFF
    with pytest.raises(DataMissingError, match="cannot be read as an uncompressed tar"):
        members(put(tmp_path / "a.tar", bytes(whole)))


def test_missing_files_and_short_reads(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="No such file"):
        members(tmp_path / "none.tar")
    path = put(tmp_path / "a.tar", tar_of(FILES))
    with pytest.raises(OSError, match=r"ends inside its member 'b\.jpg'"):
        read_member(path, Member("b.jpg", path.stat().st_size - 5, 6))


def test_headers_that_never_end(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    content = (header.tobuf() + b"x".ljust(512, b"\0")) * 3000
    with pytest.raises(DataMissingError, match="cannot be read as an uncompressed tar"):
        members(put(tmp_path / "a.tar", content + bytes(1024)))
