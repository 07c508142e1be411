"""`--feature-budget`: the limit of features' disk use; no result depends on it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import fewshot_bench
from fewshot_bench import UsageError
from fewshot_bench.engines.asking import ChosenEngine
from fewshot_bench.runner.request import Request
from fewshot_bench.store.store import Store
from fewshot_bench.utils.text import read_size
from tests.support.helpers import fsbench

RUN = ("run", "-m", "zero-shot,coop", "-d", "digits", "--shots", "1", "--seeds", "1")
FEW = ("--limit", "10", "-o", "coop.epochs=2", "--jobs", "1")


def test_the_same_numbers_come_out_whatever_the_budget(tmp_path: Path) -> None:
    digests, kept = [], []
    for budget in ("0", "300 kB", "1GiB"):
        store = tmp_path / budget
        result = fsbench(*RUN, *FEW, "--feature-budget", budget, "--store", store)
        assert result.code == 0, result
        records = sorted(Store(store).records(), key=lambda record: record.spec.key())
        work = [record.footprint["work"]["billed"] for record in records]
        digests.append([[record.digests["logits"] for record in records], work])
        files = [
            path for path in (store / "cache").rglob("*") if path.suffix in (".rows", ".views")
        ]
        kept.append(sum(path.stat().st_size for path in files))
    assert digests[0] == digests[1] == digests[2]
    assert kept[0] == 0 < kept[1] <= 300_000 < kept[2]


def test_a_lower_budget_removes_features_of_earlier_runs(tmp_path: Path) -> None:
    def kept() -> int:
        paths = (tmp_path / "cache" / "features").rglob("*")
        return sum(path.stat().st_size for path in paths if path.is_file())

    assert fsbench(*RUN, *FEW, "--store", tmp_path).code == 0
    before = kept()
    # A cell whose features are all there, so that nothing else is written.
    again = ("run", "-m", "zero-shot", *RUN[3:], *FEW[:2], "--force", "--store", tmp_path)
    assert "beyond the budget" not in fsbench(*again, "--feature-budget", "1GB").out
    assert kept() == before
    budget = before // 2
    said = fsbench(*again, "--feature-budget", budget).out
    assert "of earlier runs were beyond the budget and are removed" in said
    assert 0 < kept() <= budget


@pytest.mark.parametrize("what", ["link", "file", "nothing"])
def test_a_run_that_can_keep_no_features_says_so(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "store" / "cache" / "features"
    folder.parent.mkdir(parents=True)
    if what == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif what == "file":
        folder.touch()
    said = {
        "link": f"it is a link, which is not followed; make it a folder, or link '{folder.parent}'"
    }
    said["file"] = f"'{folder}' cannot be written (Not a directory)"
    done = fsbench("run", "-m", "zero-shot", *RUN[3:], *FEW[:2], "--store", tmp_path / "store")
    start = f"warning: features are not kept in '{folder}', every worker makes its own: "
    assert done.code == 0, done
    end = "; or set FSBENCH_FEATURES to a folder of each machine\n"
    assert done.err == (start + said[what] + end if what in said else "")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_run_on_a_disk_without_locks_says_so_once_and_keeps_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refused)
    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "home"))
    done = fsbench("run", "-m", "zero-shot", *RUN[3:], *FEW[:2], "--store", tmp_path / "store")
    features, others = done.err.splitlines()
    assert f"features are not kept in '{tmp_path / 'store'}" in features
    assert "cannot be locked; or set FSBENCH_FEATURES to a folder" in features
    assert f"images are not kept in '{tmp_path / 'home'}'" in others
    assert "cannot be locked; or set FSBENCH_CACHE to a folder" in others


def test_features_may_be_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "node"))
    monkeypatch.setenv("FSBENCH_FEATURES", "$PLACE/features")
    run = ("run", "-m", "zero-shot", *RUN[3:], *FEW[:2], "--store", tmp_path / "store")
    assert fsbench(*run).code == 0
    assert [*(tmp_path / "node" / "features").glob("*.rows")]
    assert not (tmp_path / "store" / "cache").exists()
    assert str(tmp_path / "node" / "features") in fsbench("env").out


def test_a_dry_run_states_the_budget_of_the_option(tmp_path: Path) -> None:
    options = ("--feature-budget", "8kB", "--jobs", "1", "--store", tmp_path, "--dry-run")
    said = fsbench(*RUN, *options).out
    assert "features: 8.0 kB may be kept (--feature-budget): views beyond that" in said


def test_workers_elsewhere_get_the_budget_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request((), (), backbone="tiny", feature_budget=5)
    settings = ChosenEngine(request).settings(cells=1)
    assert settings.environment()["FSBENCH_FEATURE_BUDGET"] == "5"
    monkeypatch.setenv("FSBENCH_FEATURE_BUDGET", "20GB")
    settings = ChosenEngine(Request((), (), backbone="tiny")).settings(cells=1)
    assert settings.environment()["FSBENCH_FEATURE_BUDGET"] == str(20 * 10**9)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("20GB", 20 * 10**9), ("1.5 tib", 3 * 2**39), ("7kB", 7000), ("12", 12)],
)
def test_sizes(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "lots", "20 G", "1e9", "GB", "1.2.3MB"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    result = fsbench(*RUN, "--feature-budget", text, "--store", tmp_path)
    assert (result.code, "expected a size such as 20GB" in result.err) == (2, True)
    with pytest.raises(UsageError, match=r"feature_budget=.*expected a size"):
        fewshot_bench.run("zero-shot", "digits", feature_budget=text, store=tmp_path)
