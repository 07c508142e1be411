"""Features on disk: never a wrong row, never more than the budget, whatever damages the files."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewshot_bench.images import feature_cache, feature_store
from fewshot_bench.images.feature_cache import FeatureCache, Origin
from fewshot_bench.images.feature_segment import Segment
from fewshot_bench.profiling.cost import count, counting
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import BUDGET_VARIABLE, FEATURES
from fewshot_bench.utils.files import TEMPORARY
from fewshot_bench.utils.processes import this_machine

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
            found = self._caches[who].rows(
                CONTEXT | {"kind": origin.role}, keys, compute, meter, origin
            )
        assert torch.equal(found, torch.stack([row(name, origin.role) for name in keys]))
        billed, distinct = meter.work()["billed"], len(set(numbers))
        assert (billed["images"], billed["flops"]) == (distinct, 7 * distinct)
        return found

    def files(self) -> list[Path]:
        """Paths of segments and of their remains."""
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


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(GET, GET, HARM), max_size=16), st.sampled_from([0, 3_000, 30_000, None]))
def test_no_interleaving_serves_a_wrong_row(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple], budget: int | None
) -> None:
    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BUDGET_VARIABLE, "" if budget is None else str(budget))
        caches = Caches(folder, several=2)
        for kind, numbers, origin, one, other in steps:
            if kind == "get":
                caches.get(numbers, origin, one)
            elif kind == "restart":
                caches = Caches(folder, several=2)
            else:
                harm(caches, kind, one, other)
            total = sum(file.size for file in cache_dir.files(FEATURES, folder))
            assert budget is None or total <= max(budget, 3)


def harm(caches: Caches, kind: str, one: int, other: int) -> None:
    """Damage one file, or leave a partial file of a killed process."""
    paths = [path for path in caches.files() if path.suffix != ".damaged"]
    if kind == "half-written":
        folder = caches.folder / ("0" * 16)
        folder.mkdir(exist_ok=True)
        (folder / f"{TEMPORARY}~{this_machine()}~{2**22 + 1}~1").write_bytes(b"abc")
    elif paths:
        path = paths[one % len(paths)]
        content = bytearray(path.read_bytes())
        if kind == "remove":
            path.unlink()
        elif content:
            at = other % len(content)
            content[at] ^= 1 << (other % 8)
            changed = {"cut": content[:at], "zero": bytes(len(content)), "flip": content}
            path.write_bytes(changed[kind])


def test_segments_are_merged_and_rows_found_in_few(tmp_path: Path) -> None:
    caches = Caches(tmp_path)
    for number in range(60):
        caches.get([number, number + 1])
    assert caches.computed == list(range(61))
    assert len(caches.files()) <= 10
    caches = Caches(tmp_path)
    caches.get(range(60, -1, -1))
    assert caches.computed == []


def test_a_reader_goes_on_while_others_merge_and_evict(tmp_path: Path) -> None:
    caches = Caches(tmp_path, several=2)
    caches.get(range(10))
    for number in range(10, 40):
        caches.get([number], who=1)
    caches.get(range(40))
    assert sorted(caches.computed) == list(range(40))
    for path in caches.files():
        path.unlink()
    caches.get(range(5))
    assert sorted(caches.computed) == sorted([*range(40), *range(5)])


def test_the_least_used_goes_first_and_views_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = Caches(tmp_path)
    caches.get(range(10))
    (lasting,) = caches.files()
    size = lasting.stat().st_size
    monkeypatch.setenv(BUDGET_VARIABLE, str(3 * size + 100))
    caches.get(range(10), VIEWS)
    caches.get(range(10, 20), VIEWS)
    # The budget is used up for views, which evict nothing.
    caches.get(range(20, 30), VIEWS)
    assert [path.suffix for path in caches.files()].count(".views") == 2
    caches.get(range(20, 30))
    caches.get(range(30, 40))
    assert [path.suffix for path in caches.files()] == [".rows"] * 3
    os.utime(lasting, (1, 1))
    caches.get(range(40, 50))
    assert lasting not in caches.files()


def test_features_that_fit_into_the_budget_stay_while_files_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [
        (range(start, start + 300), Origin(name, "encode_queries"))
        for start in range(0, 3000, 300)
        for name in ("one", "other", "third")
    ]
    for numbers, origin in blocks:
        Caches(tmp_path / "free").get(numbers, origin)
    size = sum(file.size for file in cache_dir.files(FEATURES, tmp_path / "free"))
    monkeypatch.setenv(BUDGET_VARIABLE, str(int(1.05 * size)))
    caches = Caches(tmp_path / "bounded")
    for numbers, origin in blocks * 2:
        caches.get(numbers, origin)
    assert len(caches.computed) == 300 * len(blocks)
    assert len(caches.files()) < len(blocks)


def test_views_that_nobody_has_used_for_an_hour_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = Caches(tmp_path)
    caches.get(range(10), VIEWS)
    (first,) = caches.files()
    monkeypatch.setenv(BUDGET_VARIABLE, str(first.stat().st_size + 100))
    os.utime(first, (1, 1))
    caches.get(range(10, 20), VIEWS)
    assert first not in caches.files()
    assert len(caches.files()) == 1


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


def test_many_rows_are_computed_and_kept_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "AT_ONCE", 8)
    caches = Caches(tmp_path)
    numbers = [*range(30), 3, 29]
    caches.get(numbers)
    assert caches.computed == list(range(30))
    assert len(caches.files()) <= 4
    caches.get(numbers[::-1])
    assert len(caches.computed) == 30


@pytest.mark.parametrize(
    ("kind", "kept"), [("bfloat16", 2), ("float16", 2), ("float32", 4), ("mixed", 4)]
)
def test_rows_are_kept_in_16_bits_where_no_bit_changes(
    tmp_path: Path, kind: str, kept: int
) -> None:
    values = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0))
    if kind != "float32":
        values = values.to(getattr(torch, kind, torch.bfloat16)).float()
        values[0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1.0])
    if kind == "mixed":
        values[1, 1] = 1 / 3
    for _ in range(2):
        meter = Meter(CPU)
        with meter.phase("fit"):
            found = FeatureCache(tmp_path).rows(
                CONTEXT, [key(n) for n in range(50)], lambda _: values, meter
            )
        assert torch.equal(found.view(torch.int32), values.view(torch.int32))
    (path,) = tmp_path.rglob("*.rows")
    assert Segment.open(path).form.row_bytes == kept * WIDTH
    per_row = feature_store.kept_row_bytes(WIDTH, "fp32" if kept == 4 else "bf16")
    assert path.stat().st_size == pytest.approx(50 * per_row, abs=500)


def test_files_of_versions_before_go(tmp_path: Path) -> None:
    old = tmp_path / ("0" * 16) / f"{'1' * 64}.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"old")
    Caches(tmp_path).get([1])
    assert not old.exists()


def test_rows_of_one_data_set_are_never_opened_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = Caches(tmp_path)
    rng = random.Random(0)
    for name in ("one", "other"):
        caches.get(rng.sample(range(100), 20), Origin(name, "encode_queries"))
    for path in caches.files():
        if Segment.open(path).label.dataset == "one":
            path.write_bytes(b"")
    Caches(tmp_path).get([1], Origin("other", "encode_queries"))
    assert capsys.readouterr().err == ""
    Caches(tmp_path).get([1], Origin("one", "encode_queries"))
    assert "features of one were damaged" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["beginning", "key", "place"])
def test_a_changed_byte_that_covers_no_row_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    caches = Caches(tmp_path)
    caches.get(range(300))
    (path,) = caches.files()
    content = bytearray(path.read_bytes())
    # A last bit, so that the order of the keys stays; a place beyond the rows.
    index = Segment.open(path).index_at
    at = {"beginning": 3, "key": index + 31, "place": index + 43}[field]
    content[at] ^= 1
    path.write_bytes(content)
    later = Caches(tmp_path)
    later.get(range(300))
    assert capsys.readouterr().err.count(path.name) == 1
    # Entries of an index have a checksum per bucket, of 64 keys or so.
    assert len(later.computed) == 300 if field == "beginning" else 0 < len(later.computed) < 100
    assert not path.exists()


def test_only_a_damaged_row_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = Caches(tmp_path)
    for start in range(0, 1200, 300):
        caches.get(range(start, start + 300))
    (path,) = caches.files()
    content = bytearray(path.read_bytes())
    content[16 + 700 * Segment.open(path).form.row_bytes] ^= 1
    path.write_bytes(content)
    later = Caches(tmp_path)
    later.get(range(1200))
    said = capsys.readouterr().err
    assert "1 rows are not as they were written; 1,199 sound rows are kept" in said
    assert later.computed == [700]
    assert not path.exists()
    again = Caches(tmp_path)
    again.get(range(1200))
    assert (again.computed, capsys.readouterr().err) == ([], "")


def test_a_damaged_index_is_named_before_it_is_merged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = Caches(tmp_path)
    for start in range(0, 900, 300):
        caches.get(range(start, start + 300))
    path = caches.files()[0]
    content = bytearray(path.read_bytes())
    content[Segment.open(path).index_at + 31] ^= 1
    path.write_bytes(content)
    caches.get(range(900, 1200))
    assert capsys.readouterr().err.count(path.name) == 1
    Caches(tmp_path).get(range(1200))
    assert capsys.readouterr().err == ""


def test_files_that_change_places_between_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches, other = Caches(tmp_path), Origin("set", "encode_queries", shared={"weights": "v"})
    caches.get(range(20))
    caches.get(range(20, 40), other)
    one, two = caches.files()
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    later = Caches(tmp_path)
    later.get(range(20))
    later.get(range(20, 40), other)
    said = capsys.readouterr().err
    assert (said.count(one.name), said.count(two.name)) == (1, 1)
    assert later.computed == list(range(40))
