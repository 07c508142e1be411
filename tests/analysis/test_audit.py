"""`fsbench audit`: reports everything unfair, incomplete or doubtful in the records."""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.analysis.audit.hazards import HAZARDS
from fewshot_bench.api.record import Record
from tests.audit_records import changed, complete, coop, fair, respec, said
from tests.compare_records import inapplicable, make, matrix


def test_a_fair_comparison_has_no_finding_and_answers_every_hazard() -> None:
    found = audit(fair())
    assert found.sound
    assert said(fair()) == []
    assert [answer.number for answer in found.hazards] == list(range(1, 16)) == list(HAZARDS)
    assert not any(answer.state == "open" for answer in found.hazards)


KIT = {"version": 3, "passed": 23, "failed": []}
OWN = {"labels": "separate", "code": {"distribution": "fewshot-bench", "digest": "d"}}
OTHERS = OWN | {"kit": KIT, "code": {"distribution": "sly", "digest": "d"}}


def not_shown(records: list[Record]) -> dict[int, str]:
    """The reasons by number of the hazard."""
    found = [answer for answer in audit(records).hazards if answer.state == "not shown"]
    return {one.number: one.text.partition(". Observed: ")[0] for one in found}


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
    assert answer.text.startswith(f"{rights}. Observed: no test labels in the process of fit and")


def test_what_was_observed_of_third_party_code_does_not_hide_a_finding() -> None:
    (answer, *_) = audit(fair(environment=OTHERS, footprint={"depends_on_queries": True})).hazards
    assert answer.state == "open"
    assert "which no card says (at_test: 'other queries')" in answer.text


@pytest.mark.parametrize(
    ("records", "text", "hazard"),
    [
        (respec(val="full"), "different validation labels on dtd, pets: val full (coop), val m", 3),
        (
            respec(val="full"),
            "unfair validation: coop had the full validation set of dtd, p",
            3,
        ),
        (
            changed(coop, split={"val": 9}),
            "numbers of validation labels on dtd, pets: 188 (zero",
            3,
        ),
        (
            respec(prompts="simple"),
            "different template sets on dtd, pets: custom (zero-shot), s",
            4,
        ),
        (
            changed(coop, split={"templates": ["{}"]}),
            'under one name on dtd, pets: ["a {}."] (ze',
            4,
        ),
        (
            respec(protocol="nested"),
            "different sampling protocols on dtd, pets: coop (zero-shot)",
            5,
        ),
        (
            changed(coop, split={"digest": "x"}),
            "different splits on dtd, pets: (zero-shot), (co",
            5,
        ),
        (
            changed(coop, split={"verified": False}),
            "not the published picks: dtd, pets (6 cells)",
            5,
        ),
        (
            fair(("coop", "tip"))[1:],
            "not the same cells for all methods: coop lacks dtd, 4-shot, seed 1",
            5,
        ),
        ([r for r in fair() if r.spec.train_seed == 1], "fewer than 3 seeds (1) in 2 of 2 ce", 6),
        (
            changed(coop, split={"mirrored": False}),
            "different mirroring on dtd, pets: False (co",
            9,
        ),
        (respec(precision="bf16"), "different precisions: bf16 (coop), fp32 (zero-shot)", 12),
        (respec(limit=60), "limited to 60 images: coop on dtd, pets", 0),
        (
            respec(limit=60),
            "different numbers of test images: 60 images (coop), all (zero-shot)",
            0,
        ),
        (respec(device="cuda"), "different devices: cpu (zero-shot), cuda (coop): times cannot", 0),
        (
            changed(coop, environment={"packages": {"torch": "2.7"}}),
            "versions of torch: 2.6 (ze",
            0,
        ),
        (changed(coop, environment={"determinism": "strict"}), "modes of determinism: free", 0),
        (changed(coop, environment={"commit": "e" * 40}), "different commits: cccccccccccc (z", 0),
        (changed(coop, environment={"weights_digest": "f" * 64}), "different weights: abababab", 0),
        (changed(coop, environment={"dirty": True}), "uncommitted changes of fewshot_bench: 6", 0),
        (
            [*fair(), complete(make(top1=None, seed=9))],
            "1 cell failed: coop on dtd (1 x Runtime",
            0,
        ),
    ],
)
def test_what_is_unfair_is_a_finding(records: list[Record], text: str, hazard: int) -> None:
    assert any(text in line for line in said(records)), said(records)
    if hazard:
        assert audit(records).hazards[hazard - 1].state == "open"


def test_revisions_of_one_data_set_are_a_finding() -> None:
    records = [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, revision="r1")) for r in fair()
    ]
    other = dataclasses.replace(
        records[0], spec=dataclasses.replace(records[0].spec, revision="r2")
    )
    assert "different lists of images on dtd: r1 (coop, zero-shot), r2 (coop)" in said(
        [other, *records[1:]]
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("out-of-memory", "retried after out of memory: time not comparable: coop on dtd"),
        ("retried", "the worker was lost once: time not comparable: coop on dtd"),
        ("threads", "incident 'threads': coop on dtd, pets (6 cells; it left a thread)"),
    ],
)
def test_incidents_are_findings(kind: str, text: str) -> None:
    records = changed(coop, incidents=({"kind": kind, "text": "it left a thread"},))
    assert any(line.startswith(text) for line in said(records))


def test_one_method_with_options_per_data_set_is_a_finding() -> None:
    def tuned(record: Record) -> Record:
        overrides = {"lr": 0.1} if record.spec.dataset == "pets" else {}
        return dataclasses.replace(
            record, spec=dataclasses.replace(record.spec, overrides=overrides)
        )

    found = audit([tuned(record) for record in fair(("coop",))])
    assert found.hazards[1].state == "open"
    assert "coop[lr=0.1] on pets, 4-shot" in found.hazards[1].text
    swept = [r for rank in (1, 4) for r in fair(("coop",))]
    swept = [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, overrides={"rank": 1 + i // 6}))
        for i, r in enumerate(swept)
    ]
    assert "2 configurations of coop stand here with test results" in " ".join(said(swept, "note"))
    assert audit(swept).hazards[1].state != "open"


def test_notes_say_what_methods_did() -> None:
    chosen = {"footprint": {"selection": {"configurations": 200, "labels": 188}}}
    records = changed(coop, **chosen, environment={"load": 9.0})
    notes = " ".join(said(records, "note"))
    assert "coop compared 200 configurations on 188 validation labels" in notes
    assert "no validation labels were used by zero-shot" in notes
    assert "times of a busy machine (more load than processors): 6 cells" in notes
    assert "no zero-shot result under the same prompts: custom on dtd" in " ".join(
        said(fair(("coop",)), "note")
    )
    assert "n/a: tip-adapter" in " ".join(
        said([*fair(), complete(inapplicable("tip-adapter"))], "note")
    )


@pytest.mark.parametrize(
    ("card", "said_of_it"),
    [
        ({"text": "other texts"}, "different texts on classes: other texts (coop), the task's own"),
        ({"at_test": "the other queries"}, ""),
        ({"text": "class names"}, ""),
    ],
)
def test_methods_that_know_more_are_a_finding(card: dict[str, str], said_of_it: str) -> None:
    usual = {"schedule": "s", "text": "templates", "at_test": "", "official": {}}
    records = [
        complete(r, footprint={"card": usual | (card if coop(r) else {})})
        for r in matrix(shots=(4,))
    ]
    found = [text for text in said(records) if text.startswith("different")]
    assert len(found) == bool(said_of_it)
    assert all(text.startswith(said_of_it) for text in found)


def test_records_without_a_card_claim_nothing_about_it() -> None:
    records = changed(coop, footprint={"card": {"text": "other texts", "at_test": "the split"}})
    assert not [text for text in said(records) if "texts on classes" in text]
