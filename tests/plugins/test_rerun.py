"""`fsbench rerun` and `fsbench env`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_bench.api import own_methods
from fewshot_bench.api.record import Record
from fewshot_bench.cli.env import variables
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.answer_files import read
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers, stored_arrays
from tests.support.helpers import cells, fsbench, image_folder, quick, record_files
from tests.support.store_cases import fit_digests


def stored(store: Path, method: str, *options: str, **request: Any) -> Record:
    """Compute a cell in this process and store it."""
    (spec,) = cells(method, options=options or quick((method,)), **request)
    outcome = run_one(spec, Session())
    return Store(store).write(outcome.record, outcome.answers, outcome.ids)


def changed(store: Path, record: Record, **values: Any) -> Path:
    """Copy a record to another name with changed values and recomputed digests."""
    path = store / "copy.json"
    copy = record.to_dict() | values
    fit_digests(copy)
    path.write_text(json.dumps(copy), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A store with one finished cell."""
    store = tmp_path_factory.mktemp("store")
    return store, stored(store, "tip-adapter-f")


def test_a_cell_repeats_bit_for_bit_and_nothing_is_stored(kept: tuple[Path, Record]) -> None:
    store, record = kept
    before = record_files(store)
    result = fsbench("rerun", record.spec.key()[:8], "--store", store)
    assert (result.code, result.out.splitlines()[-1]) == (0, "same result, bit for bit"), result
    assert record_files(store) == before
    path = store / "records" / record.spec.key()[:2] / f"{record.spec.key()}.json"
    assert fsbench("rerun", path).out.splitlines()[-1] == "same result, bit for bit"


def test_a_cell_of_own_images_from_a_worker_repeats_here(tmp_path: Path) -> None:
    name, store = f"folder:{image_folder(tmp_path / 'photos')}", tmp_path / "store"
    options = ("-o", "clip-lora.iterations=2")
    run = fsbench(
        *("run", "-m", "clip-lora", "-d", name, "--shots", 1, "--seeds", 1, "--backbone", "tiny"),
        *(*options, "--store", store),
    )
    assert run.code == 0, run
    (path,) = (store / "records").rglob("*.json")
    result = fsbench("rerun", path, "--store", store)
    assert (result.code, result.out.splitlines()[-1]) == (0, "same result, bit for bit"), result


@pytest.mark.parametrize(
    ("change", "code", "end"),
    [
        (lambda v: v * 1.001, 0, "same predictions, log-probabilities of labels differ by up to 0"),
        (lambda v: -v, 1, "predictions changed"),
    ],
)
def test_other_logits_are_told(
    kept: tuple[Path, Record], tmp_path: Path, change: Any, code: int, end: str
) -> None:
    store, record = kept
    arrays = stored_arrays(Store(store), record.spec.key())
    put_answers(Store(tmp_path), record, change(arrays["logits"]), arrays["labels"], arrays["ids"])
    result = fsbench("rerun", record.spec.key(), "--store", tmp_path)
    assert result.code == code
    assert end in result.out.splitlines()[-1]


def test_what_differs_is_listed(kept: tuple[Path, Record], tmp_path: Path) -> None:
    _, record = kept
    environment = dict(record.environment) | {"python": "2.7"}
    path = changed(tmp_path, record, environment=environment, metrics={"top1": 1.0})
    result = fsbench("rerun", path)
    assert result.code == 1
    assert "environment python" in result.out
    assert "'2.7'" in result.out
    assert "metrics top1" in result.out
    assert result.out.splitlines()[-1] == "different metrics; no answers to compare"


def test_what_changed_is_told_before_anything_runs(
    kept: tuple[Path, Record], tmp_path: Path
) -> None:
    _, record = kept
    spec = record.spec.to_dict()
    for name in ("method_version", "revision", "weights"):
        path = changed(tmp_path, record, spec=spec | {name: "older"})
        result = fsbench("rerun", path)
        assert result.code == 2
        assert "was older, is" in result.err
        assert "nothing was run; use --anyway" in result.err
    assert fsbench("rerun", path, "--anyway").code == 0
    path = changed(tmp_path, record, spec=spec | {"options": {"old_name": 1, **spec["options"]}})
    result = fsbench("rerun", path)
    assert result.code == 2
    assert "warning: list of hyper-parameters was " in result.err
    assert "old_name" in result.err


def test_a_method_whose_code_the_store_lacks_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from fsbench_methods.zero_shot import ZeroShot as Mine\n".replace(
            "import ZeroShot as Mine",
            "import ZeroShot\n\n\nclass Mine(ZeroShot):\n    name = 'mine'",
        )
    )
    record = stored(tmp_path / "s", f"{file}:Mine")
    own_methods.forget()
    call = ("rerun", record.spec.key()[:8], "--store", tmp_path / "s")
    lacking = fsbench(*call)
    said = f"no code of mine in version {record.spec.method_version}: merge the store that ran it"
    assert (lacking.code, said in lacking.err) == (2, True), lacking.err


def test_a_failed_cell_fails_the_same_way(methods: Any, tmp_path: Path) -> None:
    record = stored(tmp_path, "bad-fit", "how=raise")
    result = fsbench("rerun", record.spec.key(), "--store", tmp_path)
    assert (result.code, result.out.splitlines()[-1]) == (0, "same error")
    path = changed(tmp_path, record, error=dict(record.error or {}) | {"message": "something"})
    result = fsbench("rerun", path)
    assert (result.code, result.out.splitlines()[-1]) == (1, "different error")


def test_a_record_that_was_changed_is_refused(kept: tuple[Path, Record], tmp_path: Path) -> None:
    _, record = kept
    path = tmp_path / "copy.json"
    path.write_text(json.dumps(record.to_dict() | {"metrics": {"top1": 99.0}}), encoding="utf-8")
    result = fsbench("rerun", path)
    assert (result.code, result.out) == (1, "")
    assert f"'{path}' cannot be used: the record states the digest" in result.err


def test_logits_that_were_changed_are_named(kept: tuple[Path, Record], tmp_path: Path) -> None:
    store, record = kept
    shutil.copytree(store, tmp_path / "s")
    path = Store(tmp_path / "s").file(record.spec.key()).with_suffix(".npz")
    arrays = read(path)[0]
    np.savez(path, **arrays | {"statistics": arrays["statistics"][::-1]})
    result = fsbench("rerun", record.spec.key(), "--store", tmp_path / "s")
    assert f"not used: {path}: they are not those of the record" in result.err
    assert result.out.splitlines()[-1] == "same result, bit for bit"


def test_an_unknown_record_is_an_error(tmp_path: Path) -> None:
    result = fsbench("rerun", "0123", "--store", tmp_path)
    assert (result.code, "no record begins with '0123'" in result.err) == (2, True)
    assert fsbench("rerun", "nowhere.json").code == 2


def test_env_shows_what_a_bug_report_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    monkeypatch.setenv("FSBENCH_DETERMINISTIC", "0")
    result = fsbench("env", "--format", "json")
    found = json.loads(result.out)
    assert found["variables"]["HF_TOKEN"] == "(hidden)"
    assert found["variables"]["FSBENCH_DETERMINISTIC"] == "0"
    assert found["determinism"] == "free"
    assert found["packages"]["numpy"] == np.__version__
    assert {"python", "cpu_name", "memory_gb", "blas", "plugins", "cache", "dirty"} <= set(found)
    text = fsbench("env").out
    assert "hf_abc" not in text + result.out
    assert "packages.torch" in text


def test_logins_in_addresses_are_hidden() -> None:
    found = variables({"HF_ENDPOINT": "https://me:word@host/x", "PATH": "/bin"})
    assert found == {"HF_ENDPOINT": "https://(hidden)@host/x"}
