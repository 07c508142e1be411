"""`fsbench audit`: cells that some methods lack, and facts missing in records."""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.audit.audit import audit, document
from fewshot_bench.analysis.audit.facts import facts
from fewshot_bench.api.record import Record
from tests.analysis.test_audit import changed, complete, coop, fair, respec, said
from tests.compare_records import make, matrix


def shotless(datasets: tuple[str, ...] = ("dtd", "pets")) -> list[Record]:
    """Zero-shot with no shots and one seed."""
    return [complete(make("zero-shot", dataset, 0)) for dataset in datasets]


def test_zero_shot_without_shots_stands_beside_the_others() -> None:
    """Zero-shot draws nothing, so neither its shots nor its single seed are a finding."""
    records = [complete(r) for r in matrix(("coop", "clip-lora"), ("dtd", "pets"), (1, 4, 16))]
    found = audit([*records, *shotless()])
    assert found.sound, found.findings
    assert found.hazards[5].text == "3 seeds"
    assert any(
        "clip-lora lacks pets, 16-shot, seed 3" in t for t in said([*records[:-1], *shotless()])
    )


def test_zero_shot_with_one_seed_stands_beside_the_others() -> None:
    """This is how `fsbench reproduce` runs it."""
    once = [r for r in fair(("zero-shot",)) if r.spec.train_seed == 1]
    assert audit([*fair(("coop", "clip-lora")), *once]).sound


def test_images_are_counted_whether_they_are_pixels_or_features() -> None:
    """CoOp trains on features and reads no pixels, which does not make its budget smaller."""
    work = {"work": {"billed": {"images": 140}}, "images_seen": 0}
    found = audit(changed(coop, footprint=work))
    assert "140 images billed" in found.hazards[7].text
    assert [line["images billed"] for line in found.methods] == ["140", ""]
    assert {facts(record)["images_billed"] for record in found.records} == {140, None}


def test_data_sets_that_only_some_have_are_a_finding_without_shots_too() -> None:
    lacking = "not the same cells for all methods: zero-shot lacks pets"
    assert lacking in said([*fair(("coop",)), *shotless(("dtd",))])
    lacking = "not the same cells for all methods: coop lacks eurosat and 1 more"
    assert lacking in said([*fair(("coop",)), *shotless(("dtd", "pets", "eurosat", "ucf101"))])


def test_seeds_of_both_kinds_are_named() -> None:
    crossed = [
        complete(make(method, split_seed=1, train_seed=t)) for method in "ab" for t in (1, 2)
    ]
    assert any("a lacks dtd, 1-shot, seed 1/2" in text for text in said(crossed[:1] + crossed[2:]))


def test_what_is_not_in_the_records_is_not_claimed() -> None:
    """Without a digest, support sets cannot be claimed to be equal."""
    records = [dataclasses.replace(r, split={"train": 47, "val": 188}) for r in fair()]
    found = audit(records)
    assert found.hazards[4].state == "open"
    assert (
        "no digest of the support set, which could be any: coop, zero-shot" in found.hazards[4].text
    )
    assert "no revision of the lists of images: dtd, pets (12 cells)" in found.hazards[13].text
    differing = audit(changed(coop, split={"digest": "x"}))
    assert "same" not in differing.hazards[5].text


def test_zero_shot_with_other_prompts_of_ones_own_is_none() -> None:
    own = {"data": {"templates": ["my {}"]}}
    notes = " ".join(said([complete(make("coop", **own)), complete(make("zero-shot"))], "note"))
    assert "no zero-shot result under the same prompts: custom on dtd" in notes


def test_prompts_with_numbers_that_json_lacks_are_read() -> None:
    """JSON's 1e999 is infinite in Python."""
    assert audit(changed(coop, split={"templates": [float("inf")]})).hazards[3].state == "open"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_number_is_cut(width: int) -> None:
    """Numbers are cut neither by long method names nor by a narrow terminal."""
    footprint = {
        "steps": 123_456,
        "trained": 987_654_321,
        "work": {"billed": {"images": 7_654_321}},
    }
    selection = {"selection": {"configurations": 400_000, "labels": 188_000}}
    long = {"context_init": "a photo of a", "context_tokens": 16, "class_specific": True}
    records = [
        complete(r, footprint={**footprint, **selection})
        for r in [*matrix(("coop",)), make(overrides=long, options=long, val="full", shots=2)]
    ]
    text = formats.render(document(audit(records)), "terminal", width=width)
    table = text[text.index("What each method was allowed and did") :]
    for number in ("123,456", "987,654,321", "7,654,321", "400,000", "188,000"):
        assert table.count(f" {number} ") + table.count(f" {number}\n") == 2, (number, table)


def test_a_failed_cell_has_no_weights_to_compare() -> None:
    """Finished cells state the digest of the loaded tensors, failed ones that of the file."""
    failed = complete(make(top1=None, dataset="dtd", shots=4, weights="9b" * 32))
    failed = dataclasses.replace(failed, environment={})
    done = [r for r in respec(weights="9b" * 32) if r.spec.method == "coop"]
    assert not any("different weights" in text for text in said([*done[1:], failed]))


def test_seeds_are_counted_under_the_same_conditions() -> None:
    records = [complete(make(seed=s, val=val)) for val in ("none", "min4") for s in (1, 2)]
    assert any("fewer than 3 seeds (2) in 2 of 2 cells" in text for text in said(records))
    assert not any(
        "fewer than" in text for text in said([*records[:2], complete(make(seed=3, val="none"))])
    )


def test_rows_of_other_conditions_lack_cells_of_their_own() -> None:
    records = [*fair(("coop",)), *(r for r in fair(("coop",)) if r.spec.dataset == "dtd")]
    half = len(fair(("coop",)))
    other = [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, precision="bf16"))
        for r in records[half:]
    ]
    lacking = "coop (precision bf16) lacks pets, 4-shot, seed 1 and 2 more"
    assert any(lacking in text for text in said([*records[:half], *other]))


def test_seeds_with_one_support_set_are_a_finding() -> None:
    """This happens with all images of a class, or with a single split seed."""
    text = "seeds with equal support sets: 1 different one in 1 of 1 cells of the table"
    equal = [complete(make(seed=s, digest="same")) for s in (1, 2, 3)]
    fixed = [complete(make(split_seed=1, train_seed=s)) for s in (1, 2, 3)]
    for records in (equal, fixed):
        assert any(text in line for line in said(records))
    assert not any(text in line for line in said([complete(make(seed=s)) for s in (1, 2, 3)]))
