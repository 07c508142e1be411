"""Preflight estimates of a run's needs are never below what real runs use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner import preflight as counted
from fewshot_bench.runner import preflight as room
from fewshot_bench.runner.preflight import Needs, compute_needs
from fewshot_bench.store.store import Store
from tests.support.helpers import cells, fsbench, image_folder, save_image

METHODS = ("zero-shot", "tip-adapter-f", "coop", "clip-lora")
OPTIONS = ("coop.epochs=20", "tip-adapter-f.epochs=3", "clip-lora.iterations=2")
OPTIONS += ("clip-lora.encoder=text",)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))


def stated(specs: list[RunSpec]) -> Needs:
    return compute_needs(specs, {spec.dataset: registry().dataset(spec.dataset) for spec in specs})


def taken(folder: Path, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def specs_of(store: Path) -> list[RunSpec]:
    return [record.spec for record in Store(store).records()]


def test_real_runs_stay_within_what_is_stated_and_use_a_part_of_it(tmp_path: Path) -> None:
    data, store = f"folder:{image_folder(tmp_path / 'pets', train=8, test=40)}", tmp_path / "s"
    options = [part for option in OPTIONS for part in ("-o", option)]
    run = ("run", "-m", ",".join(METHODS), "-d", data, "--shots", "1,4", "--seeds", "1")
    done = fsbench(*run, *options, "--backbone", "tiny", "--jobs", "1", "--store", store)
    assert done.code == 0, done
    specs = specs_of(store)
    found = stated(specs)
    assert len(specs) == 8
    assert found.silent == ()
    sizes = {
        "features": (taken(store / "cache/features"), found.features, 3),
        "images": (taken(tmp_path / "cache/images"), found.images, 3),
        "results": (taken(store / "records"), found.results, 4),
    }
    for kind, (actual, most, part) in sizes.items():
        assert most / part <= actual <= most, (kind, actual, most)


def test_a_worker_stays_below_the_stated_memory(tmp_path: Path) -> None:
    root, store = tmp_path / "many", tmp_path / "s"
    for number in range(250):
        for role in ("train", "test"):
            save_image(root / role / f"class {number}" / f"{role}.jpg", number)
    run = ("run", "-m", "coop", "-o", "coop.epochs=2", "-d", f"folder:{root}", "--shots", "1")
    run += ("--val", "none")
    assert fsbench(*run, "--seeds", "1", "--backbone", "tiny", "--store", store).code == 0
    (record,) = Store(store).records()
    found = stated([record.spec])
    assert found.rows["prompts"] == 250
    assert found.least <= 2**20 * record.footprint["peak_memory_mb"] <= found.worker < 3 * 2**29


def test_views_of_a_plan_are_counted_once_per_fit() -> None:
    specs = cells("coop", "zero-shot", datasets=("digits",), shots=(1, 16), seeds=(1, 2))
    # Ten classes; 50 views per image at 1 shot, 200 at 16; 40 queries in all.
    assert stated(specs).rows["views"] == 2 * 10 * (1 * 50 + 16 * 200)
    assert stated(specs).rows["test images"] == 40
    fewer = cells(
        "coop", options=("class_views=16",), datasets=("digits",), shots=(16,), seeds=(1,)
    )
    assert stated(fewer).rows["views"] == 160


def test_a_run_with_nothing_to_do_needs_nothing(tmp_path: Path) -> None:
    run = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1")
    run += ("--backbone", "tiny", "--store", str(tmp_path / "s"))
    assert fsbench(*run).code == 0
    assert fsbench(*run, "--dry-run").out.endswith("1 cell: 1 done already, 0 to run\n")


def test_what_will_be_tight_is_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_FEATURE_BUDGET", "50kB")
    run = ("run", "-m", "coop", "-d", "digits", "--shots", "1", "-o", "coop.epochs=20", "--limit")
    run += ("50", "--store", str(tmp_path / "s"), "--seeds", "1")
    said = "features: 50.0 kB may be kept (--feature-budget): views beyond that stream through"
    assert said in fsbench(*run, "--dry-run").out
    monkeypatch.setattr(room, "free_host_memory", lambda: 2 * counted.WORKER_BYTES)
    done = fsbench(*run)
    assert done.code == 0
    assert f"note: {said}" in done.out
    assert room.tight_memory(2, counted.WORKER_BYTES) == ""
    assert room.tight_memory(3, counted.WORKER_BYTES).endswith("--jobs 2 is safe")
    assert re.search(
        r"note: 1 worker may take up to [\d.]+ [MG]B of memory and 671.1 MB is free", done.out
    )
    assert taken(tmp_path / "s/cache/features") <= 50_000


OWN = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"

    def {declared}(self, *sizes):
        {body}

    def fit(self, task, backbone, ctx):
        return None
"""


@pytest.mark.parametrize("declared", ["views_per_image", "fit_bytes"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 1 / 0", "raised ZeroDivisionError: division by zero; mend it, or leave it out"),
        ("return 2.5", "returned 2.5, expected an int of at least 0"),
        ("return -1", "returned -1, expected an int of at least 0"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(
    tmp_path: Path, declared: str, body: str, reason: str
) -> None:
    (tmp_path / "own.py").write_text(OWN.format(declared=declared, body=body), encoding="utf-8")
    run = ("run", "-m", f"{tmp_path}/own.py:Own", "-d", "digits", "--shots", "1", "--store")
    for more in ((), ("--dry-run",)):
        done = fsbench(*run, tmp_path / "s", *more)
        assert done.code == 1
        assert re.search(rf"{declared}\([\d, ]+\) {re.escape(reason)}", done.err), done
    assert not (tmp_path / "s").exists()


def test_what_is_kept_of_logits_counts_and_built_in_methods_state_their_views(
    tmp_path: Path,
) -> None:
    asked = ("run", "-m", "all", "-d", "digits", "--shots", 1, "--seeds", 1, "--dry-run")
    lines = [
        fsbench(*asked, "--store", tmp_path, "--keep-logits", kept).out for kept in ("all", "none")
    ]
    assert not any("not counted" in text for text in lines)
    results = [line for text in lines for line in text.splitlines() if line.endswith("for results")]
    assert len(set(results)) == 2
