"""`fsbench audit`: reports everything unfair, incomplete or doubtful in the records."""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.audit.audit import audit, document
from fewshot_bench.analysis.audit.facts import facts
from fewshot_bench.analysis.audit.hazards import HAZARDS
from fewshot_bench.api.record import Record
from fewshot_bench.api.violations import DEPENDENT
from tests.support.audit_records import changed, complete, coop, fair, respec, said
from tests.support.compare_records import inapplicable, make, matrix


def specified(record: Record, **values: object) -> Record:
    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, **values))  # type: ignore[arg-type]


def split(**values: object) -> list[Record]:
    return changed(coop, split=values)


def environment(**values: object) -> list[Record]:
    return changed(coop, environment=values)


def test_a_fair_comparison_has_no_finding_and_answers_every_hazard() -> None:
    result = audit(fair())
    assert result.sound
    assert said(fair()) == []
    assert [answer.number for answer in result.hazards] == list(range(1, 16)) == list(HAZARDS)
    assert not any(answer.state == "open" for answer in result.hazards)


KIT = {"version": 3, "passed": 23, "failed": []}
OWN = {"labels": "separate", "code": {"distribution": "fewshot-bench", "digest": "d"}}
OTHERS = OWN | {"kit": KIT, "code": {"distribution": "sly", "digest": "d"}}


def not_shown(records: list[Record]) -> dict[int, str]:
    """The reasons by number of the hazard."""
    answers = [answer for answer in audit(records).hazards if answer.state == "not shown"]
    return {answer.number: answer.text.partition(". Observed: ")[0] for answer in answers}


def test_what_records_cannot_show_is_not_called_ok() -> None:
    assert not_shown(fair(environment=OWN | {"kit": KIT})) == {}
    unchecked = "not shown: the conformance kit never checked the code of coop, zero-shot"
    assert not_shown(fair(environment=OWN)) == {1: unchecked, 11: unchecked}
    rights = "not shown: third-party code runs with the user's rights: coop"
    sly = not_shown(changed(coop, environment=OTHERS)[:3])
    assert sly == dict.fromkeys((1, 7, 8, 9, 10, 11, 15), rights)
    held = not_shown(fair(environment=OWN | {"kit": KIT, "labels": None}))
    assert held == {1: "not shown: test labels may have been in the process: 12 cells"}
    unseen = fair(environment=OWN | {"kit": KIT}, footprint={"trained_source": "not observed"})
    assert list(not_shown(unseen)) == [11]
    answer = audit(changed(coop, environment=OTHERS)[:3]).hazards[0]
    assert answer.text.startswith(f"{rights}. Observed: no test labels handed over to")


def test_what_was_observed_of_third_party_code_does_not_hide_a_finding() -> None:
    (answer, *_) = audit(fair(environment=OTHERS, footprint={"violations": [DEPENDENT]})).hazards
    assert answer.state == "open"
    assert "depends on other queries: coop, zero-shot (12 cells), against its card" in answer.text


def test_what_sees_other_queries_as_declared_is_a_note() -> None:
    card = {"schedule": "s", "text": "templates", "at_test": "", "sees": "batch", "official": {}}
    company = {"card": card, "violations": []}
    footprint = company | {"moved": 0.25, "depends_on_queries": True}
    found = audit(fair(footprint=footprint)).findings
    assert [one.level for one in found if one.kind == "other-queries"] == ["note"]


@pytest.mark.parametrize(
    ("hazard", "text", "records"),
    [
        (3, "different validation labels on dtd, pets: val full (coop), val m", respec(val="full")),
        (3, "validation: coop had the full validation set of dtd, p", respec(val="full")),
        (3, "numbers of validation labels on dtd, pets: 188 (zero", split(val=9)),
        (4, "template sets on dtd, pets: custom (zero-shot), s", respec(prompts="simple")),
        (4, 'under one name on dtd, pets: ["a {}."] (ze', split(templates=["{}"])),
        (4, 'under one name on dtd, pets: ["a {}."] (ze', split(templates=[float("inf")])),
        (5, "sampling protocols on dtd, pets: coop (zero-shot)", respec(protocol="nested")),
        (5, "different splits on dtd, pets: (zero-shot), (co", split(digest="x")),
        (5, "not the published picks: dtd, pets (6 cells)", split(verified=False)),
        (5, "for all methods: coop lacks dtd, 4-shot, seed 1", fair(("coop", "tip"))[1:]),
        (6, "than 3 seeds (1) in 2 of 2 ce", [r for r in fair() if r.spec.train_seed == 1]),
        (9, "different mirroring on dtd, pets: False (co", split(mirrored=False)),
        (12, "different precisions: bf16 (coop), fp32 (zero-shot)", respec(precision="bf16")),
        (0, "limited to 60 images: coop on dtd, pets", respec(limit=60)),
        (0, "numbers of test images: 60 images (coop), all (zero-shot)", respec(limit=60)),
        (0, "devices: cpu (zero-shot), cuda (coop): times cannot", respec(device="cuda")),
        (0, "versions of torch: 2.6 (ze", environment(packages={"torch": "2.7"})),
        (0, "modes of determinism: free", environment(determinism="strict")),
        (0, "different commits: cccccccccccc (z", environment(commit="e" * 40)),
        (0, "different weights: abababab", environment(weights_digest="f" * 64)),
        (0, "uncommitted changes of fewshot_bench: 6", environment(dirty=True)),
        (0, "failed: coop on dtd (1 x Runtime", [*fair(), complete(make(top1=None, seed=9))]),
    ],
)
def test_what_is_unfair_is_a_finding(hazard: int, text: str, records: list[Record]) -> None:
    result = audit(records)
    texts = [finding.text for finding in result.findings if finding.level == "finding"]
    assert any(text in line for line in texts), texts
    assert hazard == 0 or result.hazards[hazard - 1].state == "open"


def test_revisions_of_one_data_set_are_a_finding() -> None:
    records = [specified(record, revision="r1") for record in fair()]
    other = specified(records[0], revision="r2")
    assert "different lists of images on dtd: r1 (coop, zero-shot), r2 (coop)" in said(
        [other, *records[1:]]
    )


def test_incidents_are_findings() -> None:
    for kind, text in {
        "out-of-memory": "retried after out of memory: time not comparable: coop on dtd",
        "retried": "the worker was lost once: time not comparable: coop on dtd",
        "threads": "incident 'threads': coop on dtd, pets (6 cells; it left a thread)",
    }.items():
        records = changed(coop, incidents=({"kind": kind, "text": "it left a thread"},))
        assert any(line.startswith(text) for line in said(records))


def test_one_method_with_options_per_data_set_is_a_finding() -> None:
    tuned = [specified(r, overrides={"lr": 0.1} if i < 3 else {}) for i, r in enumerate(fair())]
    result = audit([record for record in tuned if coop(record)])
    assert result.hazards[1].state == "open"
    assert "coop[lr=0.1] on dtd, 4-shot" in result.hazards[1].text
    swept = [specified(r, overrides={"rank": n}) for n in (1, 4) for r in fair(("coop",))]
    assert "2 configurations of coop stand here with test results" in " ".join(said(swept, "note"))
    assert audit(swept).hazards[1].state != "open"


def test_notes_say_what_methods_did() -> None:
    chosen = {"footprint": {"selection": {"configurations": 200, "labels": 188}}}
    records = changed(coop, **chosen, environment={"load": 9.0})
    notes = " ".join(said(records, "note"))
    assert "coop compared 200 configurations on 188 validation labels" in notes
    assert "no validation labels were used by zero-shot" in notes
    assert "times of a busy machine (more load than processors): 6 cells" in notes
    records = [*fair(("coop",)), complete(inapplicable("tip-adapter"))]
    notes = " ".join(said(records, "note"))
    assert "no zero-shot result under the same prompts: custom on dtd" in notes
    assert "n/a: tip-adapter" in notes
    own = {"data": {"templates": ["my {}"]}}
    notes = " ".join(said([complete(make("coop", **own)), complete(make("zero-shot"))], "note"))
    assert "no zero-shot result under the same prompts: custom on dtd" in notes


def test_methods_that_know_more_are_a_finding() -> None:
    usual = {"schedule": "s", "text": "templates", "at_test": "", "official": {}}
    for card, expected in (
        ({"text": "other texts"}, "texts on classes: other texts (coop), the task's own"),
        ({"at_test": "the other queries"}, ""),
        ({"text": "class names"}, ""),
    ):
        records = [
            complete(r, footprint={"card": usual | (card if coop(r) else {})})
            for r in matrix(shots=(4,))
        ]
        texts = [text for text in said(records) if text.startswith("different")]
        assert len(texts) == bool(expected)
        assert all(expected in text for text in texts)
    records = changed(coop, footprint={"card": {"text": "other texts", "at_test": "the split"}})
    assert not [text for text in said(records) if "texts on classes" in text]


def shotless(datasets: tuple[str, ...] = ("dtd", "pets")) -> list[Record]:
    """Zero-shot with no shots and one seed."""
    return [complete(make("zero-shot", dataset, 0)) for dataset in datasets]


def test_zero_shot_stands_beside_the_others() -> None:
    """It draws nothing, so neither its shots nor its single seed are a finding."""
    records = [complete(r) for r in matrix(("coop", "clip-lora"), ("dtd", "pets"), (1, 4, 16))]
    result = audit([*records, *shotless()])
    assert result.sound, result.findings
    assert result.hazards[5].text == "3 seeds"
    lacking = said([*records[:-1], *shotless()])
    assert any("clip-lora lacks pets, 16-shot, seed 3" in text for text in lacking)
    once = [r for r in fair(("zero-shot",)) if r.spec.train_seed == 1]
    assert audit([*fair(("coop", "clip-lora")), *once]).sound


def test_cells_that_only_some_have_are_a_finding() -> None:
    lacking = "not the same cells for all methods: zero-shot lacks pets"
    assert lacking in said([*fair(("coop",)), *shotless(("dtd",))])
    lacking = "not the same cells for all methods: coop lacks eurosat and 1 more"
    assert lacking in said([*fair(("coop",)), *shotless(("dtd", "pets", "eurosat", "ucf101"))])
    crossed = [
        complete(make(method, split_seed=1, train_seed=t)) for method in "ab" for t in (1, 2)
    ]
    assert any("a lacks dtd, 1-shot, seed 1/2" in text for text in said(crossed[:1] + crossed[2:]))
    mine = fair(("coop",))
    other = [specified(r, precision="bf16") for r in mine if r.spec.dataset == "dtd"]
    lacking = "coop (precision bf16) lacks pets, 4-shot, seed 1 and 2 more"
    assert any(lacking in text for text in said([*mine, *other]))


def test_images_are_counted_whether_they_are_pixels_or_features() -> None:
    """CoOp trains on features and reads no pixels, which does not make its budget smaller."""
    work = {"work": {"billed": {"images": 140}}, "images_seen": 0}
    result = audit(changed(coop, footprint=work))
    assert "140 images billed" in result.hazards[7].text
    assert [line["images billed"] for line in result.methods] == ["140", ""]
    assert {facts(record)["images_billed"] for record in result.records} == {140, None}


def test_what_is_not_in_the_records_is_not_claimed() -> None:
    """Without a digest, support sets cannot be claimed to be equal."""
    records = [dataclasses.replace(r, split={"train": 47, "val": 188}) for r in fair()]
    hazards = audit(records).hazards
    assert hazards[4].state == "open"
    assert "no digest of the support set, which could be any: coop, zero-shot" in hazards[4].text
    assert "no revision of the lists of images: dtd, pets (12 cells)" in hazards[13].text
    assert "same" not in audit(split(digest="x")).hazards[5].text


def test_no_number_is_cut() -> None:
    """Numbers are cut neither by long method names nor by a narrow terminal."""
    footprint = {
        "steps": 123_456,
        "trained": 987_654_321,
        "work": {"billed": {"images": 7_654_321}},
        "selection": {"configurations": 400_000, "labels": 188_000},
    }
    long = {"context_init": "a photo of a", "context_tokens": 16, "class_specific": True}
    records = [
        complete(r, footprint=footprint)
        for r in [*matrix(("coop",)), make(overrides=long, options=long, val="full", shots=2)]
    ]
    shown = document(audit(records))
    for width in (60, 80, 120):
        text = formats.render(shown, "terminal", width=width)
        table = text[text.index("What each method was allowed and did") :]
        for number in ("123,456", "987,654,321", "7,654,321", "400,000", "188,000"):
            assert table.count(f" {number} ") + table.count(f" {number}\n") == 2, (number, table)


def test_a_failed_cell_has_no_weights_to_compare() -> None:
    """Finished cells state the digest of the loaded tensors, failed ones that of the file."""
    failed = complete(make(top1=None, dataset="dtd", shots=4, weights="9b" * 32))
    failed = dataclasses.replace(failed, environment={})
    done = [r for r in respec(weights="9b" * 32) if coop(r)]
    assert not any("different weights" in text for text in said([*done[1:], failed]))


def test_seeds_are_counted_under_the_same_conditions() -> None:
    records = [complete(make(seed=s, val=val)) for val in ("none", "min4") for s in (1, 2)]
    assert any("fewer than 3 seeds (2) in 2 of 2 cells" in text for text in said(records))
    third = complete(make(seed=3, val="none"))
    assert not any("fewer than" in text for text in said([*records[:2], third]))


def test_seeds_with_one_support_set_are_a_finding() -> None:
    """This happens with all images of a class, or with a single split seed."""
    text = "seeds with equal support sets: 1 different one in 1 of 1 cells of the table"
    equal = [complete(make(seed=s, digest="same")) for s in (1, 2, 3)]
    fixed = [complete(make(split_seed=1, train_seed=s)) for s in (1, 2, 3)]
    for records in (equal, fixed):
        assert any(text in line for line in said(records))
    assert not any(text in line for line in said([complete(make(seed=s)) for s in (1, 2, 3)]))
