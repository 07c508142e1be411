"""What code consists of lies in the store once, by digest, and goes where its records go."""

from __future__ import annotations

import os
from pathlib import Path

from fewshot_bench.store.kept_code import CODE, read_code
from fewshot_bench.store.store import Store
from tests.support.helpers import fsbench

RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20)


def test_parts_of_code_are_kept_merged_checked_and_removed(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert fsbench(*RUN, "--backbone", "tiny", "--store", first).code == 0
    (record,) = Store(first).records()
    digest = str(record.code_digest)
    parts = read_code(first, digest)
    assert parts is not None
    assert "fsbench_methods.zero_shot.ZeroShot.fit" in parts
    assert not any("papers" in name for name in parts)

    assert fsbench("store", "merge", first, "--store", second).code == 0
    assert read_code(second, digest) == parts
    assert fsbench("store", "verify", "--store", second).code == 0
    unused = second / CODE / f"{'0' * 64}.json"
    unused.write_bytes((second / CODE / f"{digest}.json").read_bytes())
    os.utime(unused, (0, 0))
    os.utime(second / CODE / f"{digest}.json", (0, 0))
    fsbench("store", "gc", "--yes", "--store", second)
    assert [path.stem for path in (second / CODE).iterdir()] == [digest]
    path = second / CODE / f"{digest}.json"
    path.write_text(path.read_text().replace(parts[min(parts)], "0" * 32))
    assert read_code(second, digest) is None
    assert path.name in fsbench("store", "verify", "--store", second).out
