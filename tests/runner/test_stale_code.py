"""Results of since-edited code are recomputed, and never mixed with others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers, stored_arrays
from tests.support.helpers import Result
from tests.support.plugin_edited import PACKAGE, run_flags, write_package


def records(store: Path) -> list[Record]:
    """Records of the store, by seed."""
    return sorted(Store(store).records(), key=lambda record: record.spec.train_seed)


def test_an_edit_of_the_package_has_cells_computed_again(
    tmp_path: Path, fresh: Callable[..., Result]
) -> None:
    store = tmp_path / "store"
    write_package(tmp_path, scale=100.0)
    fresh("run", *run_flags(store, "1,2"))
    before = records(store)
    code = before[0].environment["code"]
    assert (code["distribution"], code["version"]) == (PACKAGE, "1.0")
    assert len(code["digest"]) == 64

    same = fresh("run", *run_flags(store, "1,2"))
    assert "2 done already" in same.out
    assert "stale" not in same.out

    helper = tmp_path / PACKAGE / "helper.py"
    helper.write_text(f"# How much to scale.\n{helper.read_text()}\n\ndef unused(): pass\n")
    assert "2 done already" in fresh("run", *run_flags(store, "1,2")).out

    write_package(tmp_path, scale=3.0)
    kept = fresh("run", *run_flags(store, "1,2"), "--keep-stale")
    changed = f"{PACKAGE}.helper.SCALE changed"
    assert f"2 cells of edited are stale: {changed}: kept" in kept.out
    assert "2 done already, 0 to run" in kept.out
    assert records(store) == before

    # Compute one of the two first, like a run that was killed half way.
    half = fresh("run", *run_flags(store, "2"))
    assert f"1 cell of edited is stale: {changed}: computed again" in half.out
    mixed = records(store)
    assert mixed[0] == before[0]
    assert mixed[1].code_digest not in (None, before[1].code_digest)
    assert mixed[1].metrics["nll"] != before[1].metrics["nll"]

    refused = fresh("compare", "--store", store)
    assert refused.code == 2
    assert "code of 'edited@1'" in refused.err
    assert "give fsbench run again" in refused.err
    assert fresh("compare", "--store", store, "--code", code["digest"][:8]).code == 0
    assert "code of 'edited@1'" in fresh("report", "--store", store, "-O", tmp_path / "r.html").err
    assert "different code of one method" in fresh("audit", "--store", store).out

    rest = fresh("run", *run_flags(store, "1,2"))
    assert f"1 cell of edited is stale: {changed}: computed again; --keep-stale" in rest.out
    assert "1 done already, 1 to run" in rest.out
    after = records(store)
    assert after[1] == mixed[1]
    assert after[0].code_digest == after[1].code_digest
    assert fresh("compare", "--store", store).code == 0


def test_a_failed_cell_of_edited_code_is_tried_again(
    tmp_path: Path, fresh: Callable[..., Result]
) -> None:
    store = tmp_path / "store"
    write_package(tmp_path)
    helper = tmp_path / PACKAGE / "method.py"
    good = helper.read_text(encoding="utf-8")
    helper.write_text(good.replace("return Scaled(", "return missing("), encoding="utf-8")
    assert fresh("run", *run_flags(store)).code == 1
    assert records(store)[0].code_digest is not None
    helper.write_text(good, encoding="utf-8")
    assert fresh("run", *run_flags(store)).code == 0
    assert [record.status for record in records(store)] == ["done"]


def test_a_record_that_does_not_name_its_code_is_stale(
    tmp_path: Path, fresh: Callable[..., Result]
) -> None:
    store = tmp_path / "store"
    write_package(tmp_path)
    fresh("run", *run_flags(store))
    (path,) = store.glob("records/*/*.json")
    values = json.loads(path.read_bytes())
    del values["environment"]["code"]
    record = Record.from_dict(values)
    arrays = stored_arrays(Store(store), record.spec.key())
    put_answers(Store(store), record, arrays["logits"], arrays["labels"], arrays["ids"])
    said = fresh("run", *run_flags(store), "--dry-run")
    assert "1 cell was computed with unknown code of edited" in said.out
    assert "0 done already, 1 to run" in said.out
