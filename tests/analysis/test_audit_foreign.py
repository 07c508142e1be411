"""What an audit says of code that is not of this project."""

from __future__ import annotations

from pathlib import Path

import fewshot_bench as fb
from fewshot_bench.analysis.audit.audit import audit
from tests.support.audit_records import fair

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar

from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Chooser:
    """Chooses a scale on validation."""

    name: ClassVar[str] = "chooser"
    how: str = "blind"

    def fit(self, task, backbone, ctx):
        weights = backbone.logit_scale * backbone.class_features(task)
        if self.how in ("silent", "counted", "learned"):
            (task.val.features @ weights.T).argmax(1).eq(task.val.labels).sum()
        if self.how == "batches":
            for _, labels in task.val.batches(8, labels=True):
                labels.sum()
        if self.how == "images":
            task.val.features.mean()
        if self.how == "counted":
            ctx.count_selection(2, len(task.val))
        if self.how == "learned":
            ctx.count_selection(0, len(task.val))
        return LinearClassifier(weights)
'''
READING = {"silent", "batches", "counted", "learned"}
HOW = ("blind", "images", *sorted(READING))


def test_validation_labels_that_are_read_and_not_counted_are_a_finding(tmp_path: Path) -> None:
    file = tmp_path / "chooser.py"
    file.write_text(METHOD, encoding="utf-8")
    few = {"shots": 1, "seeds": 1, "limit": 20, "progress": False, "engine": "here"}
    done = fb.run(f"{file}:Chooser", "digits", options={"how": HOW}, store=tmp_path / "s", **few)
    read = {r.spec.options["how"]: r.footprint["selection"]["labels_read"] for r in done}
    assert read == {how: how in READING for how in HOW}
    found = {finding.kind: finding for finding in audit([*done]).findings}
    uncounted = {record.spec.options["how"] for record in found["labels-uncounted"].records}
    assert uncounted == {"silent", "batches"}
    assert found["labels-uncounted"].level == "finding"
    assert len(found["kit-unchecked"].records) == len(HOW)


def test_code_that_the_kit_never_saw_is_a_finding_unless_it_is_ours() -> None:
    code = {"distribution": "", "registered": False, "digest": "d"}
    unseen = audit(fair(environment={"kit": None, "code": code}))
    assert [finding.kind for finding in unseen.findings if finding.level == "finding"] == [
        "kit-unchecked"
    ]
    states = {answer.number: answer.state for answer in unseen.hazards}
    # Nobody has shown that its seeds decide what it draws.
    assert (states[1], states[6]) == ("open", "not shown")
    assert "never checked that the seed decides" in unseen.hazards[5].text
    kit = {"version": 3, "passed": 23, "failed": []}
    for environment in (
        {"kit": None, "code": code | {"distribution": "fewshot-bench"}},
        {"kit": kit, "code": code},
    ):
        assert audit(fair(environment=environment)).sound


def test_knowledge_at_test_time_names_the_company_of_a_card() -> None:
    card = {"schedule": "s", "text": "templates", "at_test": "", "official": {}}
    for sees, known in (
        ("batch", "the other queries of its batch"),
        ("stream", "the queries before it"),
    ):
        records = fair(("coop",), footprint={"card": card | {"sees": sees}})
        records += fair(("zero-shot",), footprint={"card": card | {"sees": "query"}})
        (note,) = [one for one in audit(records).findings if one.kind == "test-knowledge"]
        assert f"{known} (coop)" in note.text
        assert "the image and the list of classes (zero-shot)" in note.text
        assert f"knowledge at test time: {known}" in [*fb.MethodCard("s", sees=sees).lines()]
