"""Conditions that may share a table, and labels that distinguish rows."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.analysis.filters import select
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.matching import mixture
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import cell, make, read_csv, save, written
from tests.support.helpers import fsbench


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "nested"),
        ("val", "full"),
        ("prompts", "simple"),
        ("backbone", "ViT-B-16"),
        ("precision", "bf16"),
        ("device", "cuda"),
        ("limit", 10),
        ("weights", "abc"),
    ],
)
def test_mixed_conditions_are_refused(name: str, value: Any) -> None:
    records = [make(), make("zero-shot", **{name: value})]
    with pytest.raises(UsageError, match=rf"{name}.*'{value}' in 1.*--{name}.*--allow-mixed"):
        build(records)
    table = build(records, Options(allow_mixed=True))
    labels = [row.label for row in table.rows]
    assert f"zero-shot {name}={value}" in labels
    assert all(cell(table, "dtd", label, 1).status == "done" for label in labels)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"digest": "other"}, "split digest"),
        ({"revision": "2"}, "revision"),
        ({"options": {"rank": 4}}, "options"),
    ],
)
def test_local_differences_are_refused(change: dict[str, Any], word: str) -> None:
    records = [make(options={"rank": 2}), make("coop", **{"options": {"rank": 2}, **change})]
    if word == "split digest":
        records[1] = make("zero-shot", **change)
    with pytest.raises(UsageError, match=word):
        build(records)
    assert len(build(records, Options(allow_mixed=True)).rows) == 2


def test_other_templates_under_one_prompt_name_are_refused() -> None:
    def record(method: str, *templates: str) -> Record:
        made = make(method)
        return dataclasses.replace(made, split={**made.split, "templates": list(templates)})

    silent = make("gda")
    alike = [record("coop", "a {}."), record("zero-shot", "a {}."), silent]
    assert len(build(alike).rows) == 3
    mixed = [alike[0], record("zero-shot", "my {}.")]
    with pytest.raises(UsageError, match="templates of 'dtd', prompts custom"):
        build(mixed)
    labels = [row.label for row in build(mixed, Options(allow_mixed=True)).rows]
    assert all(" templates=" in label for label in labels)
    assert "templates" in mixture(mixed)


def test_marks_stand_in_every_table() -> None:
    table = build([make(val="full", limit=10)])
    for text in (written("terminal", table), written("markdown", table), written("latex", table)):
        assert "unfair validation" in text
        assert "limited to 10" in text
    assert read_csv(written("csv", table))[0]["marks"] == "unfair validation;limited to 10"


def test_overrides_label_their_row() -> None:
    table = build([make(), make(overrides={"rank": 4}, options={"rank": 4})])
    assert [row.label for row in table.rows] == ["coop", "coop[rank=4]"]


def test_versions_of_two_methods_are_no_difference() -> None:
    records = [make(method_version="3"), make("zero-shot", method_version="1")]
    assert [row.label for row in build(records).rows] == ["coop", "zero-shot"]


@pytest.mark.parametrize("field", ["revision", "target_revision", "weights"])
def test_values_with_a_long_common_start_are_rows_of_their_own(field: str) -> None:
    """Such as two lists of one version: their labels were equal, and one row held both."""
    starts = [f"a-long-common-start:{end}" for end in ("a1b2", "a1c3")]
    target = "pets" if field == "target_revision" else ""
    records = [
        make(seed=seed + 3 * place, top1=50.0 + 30 * place, target=target, **{field: value})
        for place, value in enumerate(starts)
        for seed in (1, 2, 3)
    ]
    table = build(records, Options(allow_mixed=True))
    name = field.replace("_", " ")
    labels = [f"coop {name}=a-long-common-start:a1{end}" for end in ("b", "c")]
    assert [row.label for row in table.rows] == labels
    group = records[0].spec.evaluated
    assert [cell(table, group, label, 1).estimates["top1"].mean for label in labels] == [50, 80]


def loaded(digest: str, record: Record) -> Record:
    """The record with the digest of the weights that were loaded."""
    return dataclasses.replace(record, environment={"weights_digest": digest})


def test_cells_without_a_result_stay_in_a_table_of_some_weights() -> None:
    """They have loaded none, and a table hides no missing cells."""
    done, other = loaded("a" * 64, make()), loaded("b" * 64, make(seed=2))
    failed, elsewhere = make(seed=3, top1=None), make(seed=4, top1=None, backbone="another")
    assert failed.status == "failed"
    records = [done, other, failed, elsewhere]
    assert select(records, {"weights": "aaa"}) == [done, failed]
    named = [make(weights="aab"), make(seed=2, weights="c", top1=None)]
    assert select(named, {"weights": "aab"}) == named[:1]


def test_loaded_weights_of_one_name_are_not_mixed() -> None:
    """Specifications have no digest of weights from a hub, whose owner may replace them."""
    old, new = "a" * 64, "b" * 64
    records = [loaded(old, make()), loaded(new, make(seed=2)), loaded(new, make(seed=3))]
    with pytest.raises(UsageError, match=f"weights of 'test' in fp32.*--weights {new[:12]}"):
        build(records)
    mixed = build(records, Options(allow_mixed=True))
    assert [row.label for row in mixed.rows] == [f"coop weights={d[:12]}" for d in (old, new)]
    assert select(records, {"weights": "aaa"}) == records[:1]
    assert select(records, {"weights": ""}) == records
    assert mixture(records) == ["weights"]
    build([records[0], make(seed=2), make(seed=3, top1=None)])
    named = [loaded(digest, make(seed=seed, weights="c")) for seed, digest in ((1, old), (2, new))]
    assert len(build(named).rows) == 1


def test_a_condition_to_choose_is_quoted_for_a_shell() -> None:
    name = "ViT-B-32@/it's mine/weights $1.pt"
    records = [make(backbone=name), make(seed=2, backbone=name), make("zero-shot")]
    with pytest.raises(UsageError) as error:
        build(records)
    words = shlex.split(str(error.value).partition("choose one with ")[2].partition(", or ")[0])
    assert words == ["--backbone", name]
    assert len(select(records, {"backbone": words[1]})) == 2


def test_records_of_older_defaults_are_to_be_removed(tmp_path: Path) -> None:
    old, new = make(options={"lr": 0.1}), make(seed=2, options={"lr": 0.2})
    store = save(tmp_path, [old, new])
    told = fsbench("compare", "--store", store).err
    # No run would replace them, as their keys are others.
    assert "(fsbench store rm)" in told
    assert "--force" not in told
    assert fsbench("store", "rm", "--store", store, old.spec.key(), "--yes").code == 0
    assert fsbench("compare", "--store", store).code == 0


def test_records_of_earlier_imported_picks_are_to_be_removed() -> None:
    records = [
        make(method, protocol="imported", picks=picks, digest=picks)
        for method, picks in (("coop", "a" * 64), ("maple", "b" * 64))
    ]
    with pytest.raises(UsageError, match="imported picks of 'dtd', 1-shot") as error:
        build(records)
    assert "(fsbench store rm)" in str(error.value)
    assert "--force" not in str(error.value)
