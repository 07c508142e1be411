"""`fsbench audit`: every unfair, incomplete or doubtful thing that records show is named."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fewshot_bench.audit.hazards import HAZARDS
from fewshot_bench.audit.made import audit
from fewshot_bench.audit.rendered import (
    render_csv,
    render_json,
    render_markdown,
    render_terminal,
)
from fewshot_bench.record import Record
from tests.compare_records import inapplicable, make, matrix, save
from tests.helpers import fsbench

ENVIRONMENT = {
    "weights_digest": "ab" * 32,
    "device_name": "card",
    "threads": 1,
    "determinism": "free",
    "fewshot_bench": "0.1.0",
    "commit": "c" * 40,
    "dirty": False,
    "python": "3.11.7",
    "packages": {"torch": "2.6"},
    "load": 0.5,
    "cpus": 2,
}


def complete(record: Record, **parts: Any) -> Record:
    """A record as the harness writes it, with changes to its parts."""
    split = {"train": 47, "val": 188, "test": 100, "mirrored": True, "templates": ["a {}."]}
    footprint = {"selection": {"configurations": 0, "labels": 0}, "trained_source": "observed"}
    values: dict[str, Any] = {
        "split": {**split, **record.split},
        "footprint": {**footprint, **record.footprint},
        "environment": dict(ENVIRONMENT),
        "digests": {"record": "d"},
    }
    for name, part in parts.items():
        values[name] = (
            part if name in ("incidents", "digests") else {**values.get(name, {}), **part}
        )
    return dataclasses.replace(record, **values)


def fair(methods: tuple[str, ...] = ("coop", "zero-shot"), **parts: Any) -> list[Record]:
    return [complete(record, **parts) for record in matrix(methods, ("dtd", "pets"), (4,))]


def changed(index: Callable[[Record], bool], **parts: Any) -> list[Record]:
    return [complete(r, **parts) if index(r) else complete(r) for r in matrix(shots=(4,))]


def coop(record: Record) -> bool:
    return record.spec.method == "coop"


def respec(**values: Any) -> list[Record]:
    """Fair records of which those of coop have another specification."""
    return [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, **values)) if coop(r) else r
        for r in fair()
    ]


def said(records: list[Record], level: str = "finding") -> list[str]:
    return [found.text for found in audit(records).findings if found.level == level]


def test_a_fair_comparison_has_no_finding_and_answers_every_hazard() -> None:
    found = audit(fair())
    assert found.sound
    assert said(fair()) == []
    assert [answer.number for answer in found.hazards] == list(range(1, 16)) == list(HAZARDS)
    assert not any(answer.open for answer in found.hazards)


@pytest.mark.parametrize(
    ("records", "text", "hazard"),
    [
        (respec(val="full"), "different validation labels on dtd, pets: val full (coop), val m", 3),
        (
            respec(val="full"),
            "unfair validation: coop chose on the full validation set of dtd, p",
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
        assert audit(records).hazards[hazard - 1].open


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
    assert found.hazards[1].open
    assert "coop[lr=0.1] on pets, 4-shot" in found.hazards[1].text
    swept = [r for rank in (1, 4) for r in fair(("coop",))]
    swept = [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, overrides={"rank": 1 + i // 6}))
        for i, r in enumerate(swept)
    ]
    assert "2 configurations of coop stand here with test results" in " ".join(said(swept, "note"))
    assert not audit(swept).hazards[1].open


def test_notes_say_what_methods_did() -> None:
    chosen = {"footprint": {"selection": {"configurations": 200, "labels": 188}}}
    records = changed(coop, **chosen, environment={"load": 9.0}, digests={})
    notes = " ".join(said(records, "note"))
    assert "coop compared 200 configurations on 188 validation labels" in notes
    assert "no validation labels were used by zero-shot" in notes
    assert "times of a busy machine (more load than processors): 6 cells" in notes
    assert "without a digest, so that a change would not be seen: 6 cells" in notes
    assert "no zero-shot result under the same prompts: custom on dtd" in " ".join(
        said(fair(("coop",)), "note")
    )
    assert "n/a: tip-adapter" in " ".join(
        said([*fair(), complete(inapplicable("tip-adapter"))], "note")
    )


def test_strict_fails_where_there_is_a_finding(tmp_path: Path) -> None:
    store = save(tmp_path / "store", [*fair(), *respec(val="full")])
    assert fsbench("audit", "--store", store).code == 0
    assert fsbench("audit", "--store", store, "--strict").code == 1
    filtered = fsbench("audit", "--store", store, "--strict", "--val", "min4")
    assert filtered.code == 0, filtered.out
    assert "12 cells: no findings" in filtered.out
    assert fsbench("audit", "--store", store, "--val", "nothing").code == 2
    assert fsbench("audit", "--store", tmp_path / "none").code == 3


def test_findings_come_first_and_the_signature_last(tmp_path: Path) -> None:
    store = save(tmp_path / "store", respec(val="full"))
    lines = fsbench("audit", "--store", store).out.splitlines()
    assert lines[0].startswith("12 cells: ")
    assert lines[1].startswith("! unfair validation: coop")
    assert lines[-1].startswith("fsbench:1|")
    assert max(map(len, lines[:-1])) <= 120


HOSTILE = '=cmd|"x"\x1b[2J<b>_&%$#{}`'


def test_hostile_names_steer_nothing(tmp_path: Path) -> None:
    incident = ({"kind": "\x1b[31m", "text": "=1+1\n\x07"},)
    records = [complete(make(HOSTILE, seed=seed), incidents=incident) for seed in (1, 2, 3)]
    store = save(tmp_path / "store", records)
    texts = {
        form: fsbench("audit", "--store", store, "--format", form).out
        for form in ("terminal", "markdown", "csv", "json")
    }
    for text in texts.values():
        assert all(character.isprintable() or character == "\n" for character in text)
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert all(not value.startswith("=") for row in rows for value in row.values())
    assert "<b>" not in texts["markdown"]
    document = json.loads(texts["json"])
    assert document["cells"][0]["method"] == HOSTILE
    assert {finding["level"] for finding in document["findings"]} == {"finding", "note"}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
PARTS = {
    "split": ("digest", "val", "train", "templates", "mirrored", "test"),
    "footprint": ("selection", "trained", "trained_source", "steps"),
    "environment": ("packages", "load", "cpus", "commit", "dirty", "weights_digest", "threads"),
    "notes": ("fitted_together",),
}


@settings(max_examples=40, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_records_with_values_of_other_kinds_are_read(data: st.DataObject) -> None:
    records = []
    for record in fair(("coop",))[:3]:
        parts = {
            part: data.draw(st.dictionaries(st.sampled_from(names), JUNK))
            for part, names in PARTS.items()
        }
        records.append(complete(record, **parts, incidents=({"kind": "x"},)))
    found = audit(records)
    for render in (render_terminal, render_markdown, render_csv, render_json):
        assert render(found)


def test_csv_has_one_line_per_cell_with_the_kinds_of_findings(tmp_path: Path) -> None:
    store = save(tmp_path / "store", respec(val="full"))
    target = tmp_path / "audit.csv"
    assert fsbench("audit", "--store", store, "--format", "csv", "-O", target).code == 0
    rows = list(csv.DictReader(target.open(encoding="utf-8")))
    assert len(rows) == 12
    assert {row["val_labels_allowed"] for row in rows} == {"188"}
    assert all(("val-full" in row["findings"]) == (row["method"] == "coop") for row in rows)
