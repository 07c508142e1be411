"""Features on disk: never a wrong row, never more than the budget, whatever damages the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.images import feature_cache, feature_files
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.feature_files import Origin
from fewshot_bench.profiling.cost import count, counting
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import BUDGET_VARIABLE, FEATURES

WIDTH = 8
CPU = torch.device("cpu")
CONTEXT = {"weights": "w"}
LASTING, VIEWS = Origin("set", "encode_queries"), Origin("set", "views of seed 1", passing=True)


def key(number: int) -> bytes:
    """The key of an image."""
    return hashlib.sha256(str(number).encode()).digest()


def row(name: bytes, role: str) -> Tensor:
    """Features derived from an image's key; some of them fit into 16 bits."""
    values = hashlib.shake_256(name + role.encode()).digest(4 * WIDTH)
    return torch.tensor([(byte + 1) / 7 for byte in values[:WIDTH]])


class Caches:
    """Simulated processes that share a folder, and the numbers of the rows they computed."""

    def __init__(self, folder: Path, several: int = 1) -> None:
        self.folder = folder
        self._caches = [FeatureCache(folder) for _ in range(several)]
        self.computed: list[int] = []

    def get(self, numbers: Sequence[int], origin: Origin = LASTING, who: int = 0) -> Tensor:
        """Get rows through one of the caches; each image is billed once, cached or not."""
        keys = [key(number) for number in numbers]

        def compute(places: list[int]) -> Tensor:
            self.computed += [numbers[place] for place in places]
            count(images=len(places), flops=7 * len(places))
            return torch.stack([row(keys[place], origin.role) for place in places])

        meter = Meter(CPU)
        with counting(meter.computed), meter.phase("encode_queries"):
            features = self._caches[who].rows(
                CONTEXT | {"kind": origin.role}, keys, compute, meter, origin
            )
        assert torch.equal(features, torch.stack([row(name, origin.role) for name in keys]))
        billed, distinct = meter.work()["billed"], len(set(numbers))
        assert (billed["images"], billed["flops"]) == (distinct, 7 * distinct)
        return features

    def files(self) -> list[Path]:
        """Paths of files, without journals."""
        return [file.path for file in cache_dir.files(FEATURES, self.folder)]


NUMBERS = st.lists(st.integers(0, 60), min_size=1, max_size=30)
GET = st.tuples(
    st.just("get"), NUMBERS, st.sampled_from([LASTING, VIEWS]), st.integers(0, 1), st.just(0)
)
HARM = st.tuples(
    st.sampled_from(["cut", "flip", "remove", "zero", "half-written", "restart"]),
    *(st.just(None), st.just(None)),
    *(st.integers(0, 10**6), st.integers(0, 10**6)),
)


BUDGETS = [0, 300_000, 600_000, None]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.one_of(GET, GET, HARM), max_size=16), st.sampled_from(BUDGETS))
def test_no_interleaving_serves_a_wrong_row(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple], budget: int | None
) -> None:
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BUDGET_VARIABLE, "" if budget is None else str(budget))
        caches = Caches(folder, several=2)
        for kind, numbers, origin, which, where in steps:
            if kind == "get":
                caches.get(numbers, origin, which)
            elif kind == "restart":
                caches = Caches(folder, several=2)
            else:
                harm(caches, kind, which, where)
            total = sum(file.size for file in cache_dir.files(FEATURES, folder))
            assert budget is None or total <= budget


def harm(caches: Caches, kind: str, which: int, where: int) -> None:
    """Damage one file, or leave the journal of a killed process."""
    # Of a removed file, a journal may be left.
    paths = [path for path in caches.files() if path.exists()]
    if paths:
        path = paths[which % len(paths)]
        content = bytearray(path.read_bytes())
        if kind == "half-written":
            path.with_name(f"{path.name}-journal").write_bytes(content[: where % 2000])
        elif kind == "remove":
            path.unlink()
        elif any(content):
            # Most of a file is empty pages.
            at = where % len(content) if kind == "cut" else _place(content, where)
            content[at] ^= 1 << (where % 8)
            changed = {"cut": content[:at], "zero": bytes(len(content)), "flip": content}
            path.write_bytes(changed[kind])


def _place(content: bytes, number: int) -> int:
    """The place of a byte that is not 0."""
    places = np.flatnonzero(np.frombuffer(content, np.uint8))
    return int(places[number % len(places)])


def test_rows_are_found_by_other_processes_in_one_file(tmp_path: Path) -> None:
    caches = Caches(tmp_path, several=2)
    for number in range(60):
        caches.get([number, number + 1], who=number % 2)
    assert caches.computed == list(range(61))
    assert len(caches.files()) == 1
    caches = Caches(tmp_path)
    caches.get(range(60, -1, -1))
    assert caches.computed == []
    for path in caches.files():
        path.unlink()
    caches.get(range(5))
    assert caches.computed == list(range(5))


def test_the_least_used_goes_first_and_views_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(names: str, *, passing: bool = False) -> None:
        for name in names:
            first = 10 * ord(name)
            caches.get(range(first, first + 10), Origin(name, "encode_queries", passing=passing))

    def suffixes() -> list[str]:
        return sorted(path.suffix for path in caches.files())

    caches = Caches(tmp_path)
    get("a")
    (first,) = caches.files()
    monkeypatch.setenv(BUDGET_VARIABLE, str(int(6.5 * first.stat().st_size)))
    get("bcd", passing=True)
    get("ef")
    # The budget is used up for views, which evict nothing.
    get("gh", passing=True)
    assert suffixes() == 3 * [".rows"] + 3 * [".views"]
    get("hijk")
    assert suffixes() == 6 * [".rows"]
    assert first in caches.files()
    os.utime(first, (1, 1))
    get("lm")
    assert first not in caches.files()


def test_without_a_budget_memory_holds_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "0")
    monkeypatch.setattr(feature_cache, "MEMORY", 25 * (4 * WIDTH + feature_cache.ROW_OVERHEAD))
    caches = Caches(tmp_path)
    caches.get(range(10))
    caches.get(range(10))
    assert caches.computed == list(range(10))
    caches.get(range(10), VIEWS)
    caches.get(range(20, 30), VIEWS)
    caches.get(range(10))
    assert len(caches.computed) == 30
    caches.get(range(100, 120))
    caches.get(range(10))
    assert len(caches.computed) == 60
    assert caches.files() == []


@pytest.mark.parametrize(
    ("kind", "kept"), [("bfloat16", 2), ("float16", 2), ("float32", 4), ("mixed", 4)]
)
def test_rows_are_kept_in_16_bits_where_no_bit_changes(
    tmp_path: Path, kind: str, kept: int
) -> None:
    count, width = 2000, 512
    values = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    if kind != "float32":
        values = values.to(getattr(torch, kind, torch.bfloat16)).float()
        values[0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1.0])
    if kind == "mixed":
        values[1, 1] = 1 / 3
    for _ in range(2):
        meter = Meter(CPU)
        with meter.phase("fit"):
            features = FeatureCache(tmp_path).rows(
                CONTEXT, [key(n) for n in range(count)], lambda _: values, meter
            )
        assert torch.equal(features.view(torch.int32), values.view(torch.int32))
    (path,) = tmp_path.rglob("*.rows")
    per_row = feature_files.kept_row_bytes(width, "fp32" if kept == 4 else "bf16")
    size = path.stat().st_size
    assert 0.85 * count * per_row < size <= count * per_row + 4 * feature_files.PAGE


def test_only_a_damaged_row_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = Caches(tmp_path)
    for start in range(0, 1200, 300):
        caches.get(range(start, start + 300))
    (path,) = caches.files()
    content = bytearray(path.read_bytes())
    content[content.index(row(key(700), LASTING.role).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    later = Caches(tmp_path)
    later.get(range(1200))
    said = capsys.readouterr().err
    assert "features of set were damaged on the disk" in said
    assert "1 rows are not as they were written" in said
    assert later.computed == [700]
    again = Caches(tmp_path)
    again.get(range(1200))
    assert (again.computed, capsys.readouterr().err) == ([], "")


def test_a_damaged_file_is_named_and_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = Caches(tmp_path)
    caches.get(range(20))
    (path,) = caches.files()
    path.write_bytes(b"no database" * 1000)
    later = Caches(tmp_path)
    # Files of other data sets are not opened.
    later.get([1], Origin("other", "encode_queries"))
    assert capsys.readouterr().err == ""
    later.get(range(20))
    assert capsys.readouterr().err.count(path.name) == 1
    assert later.computed == [1, *range(20)]
    later.get(range(20))
    assert capsys.readouterr().err == ""


def test_files_that_change_places_serve_no_wrong_row(tmp_path: Path) -> None:
    caches, other = Caches(tmp_path), Origin("set", "encode_queries", shared={"weights": "v"})
    caches.get(range(20))
    caches.get(range(20, 40), other)
    first, second = caches.files()
    before = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(before)
    later = Caches(tmp_path)
    later.get(range(20))
    later.get(range(20, 40), other)
    assert later.computed == list(range(40))


def test_a_process_that_runs_foreign_code_reads_and_never_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Caches(tmp_path).get(range(5))
    monkeypatch.setattr(cache_dir, "_reads_only", True)
    foreign = Caches(tmp_path)
    before = foreign.files()[0].read_bytes()
    foreign.get(range(10))
    foreign.get(range(10), VIEWS)
    assert foreign.computed == [*range(5, 10), *range(10)]
    assert [path.read_bytes() for path in foreign.files()] == [before]
    foreign.files()[0].write_bytes(b"x")
    foreign.get(range(5))
    assert foreign.files()[0].read_bytes() == b"x"
