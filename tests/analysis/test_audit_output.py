"""`fsbench audit` as a command: exit codes, formats, and hostile records."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.audit.audit import audit, document
from tests.support.audit_records import complete, fair, respec
from tests.support.compare_records import make, save
from tests.support.helpers import fsbench


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
    assert any(line.startswith("fsbench:1|") for line in lines[-3:])
    assert max(map(len, lines)) <= 120


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
    told = json.loads(texts["json"])
    assert told["cells"][0]["method"] == HOSTILE
    assert {finding["level"] for finding in told["findings"]} == {"finding", "note"}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
PARTS = {
    "split": ("templates", "digest", "val", "train", "mirrored", "test"),
    "footprint": ("selection", "trained", "trained_source", "steps"),
    "environment": ("packages", "load", "cpus", "commit", "dirty", "weights_digest", "threads"),
}


@settings(max_examples=6, phases=[Phase.generate])
@given(st.data())
def test_records_with_values_of_other_kinds_are_read(data: st.DataObject) -> None:
    records = []
    for record in fair(("coop",))[:3]:
        parts = {
            part: data.draw(st.dictionaries(st.sampled_from(names), JUNK))
            for part, names in PARTS.items()
        }
        records.append(complete(record, **parts, incidents=({"kind": "x"},)))
    result = audit(records)
    for form in ("terminal", "markdown", "csv", "json"):
        assert formats.render(document(result, form), form)


def test_csv_has_one_line_per_cell_with_the_kinds_of_findings(tmp_path: Path) -> None:
    store = save(tmp_path / "store", respec(val="full"))
    target = tmp_path / "audit.csv"
    assert fsbench("audit", "--store", store, "--format", "csv", "-O", target).code == 0
    rows = list(csv.DictReader(target.open(encoding="utf-8")))
    assert len(rows) == 12
    assert {row["val_labels_allowed"] for row in rows} == {"188"}
    assert all(("val-full" in row["findings"]) == (row["method"] == "coop") for row in rows)


def test_templates_of_any_kind_are_read() -> None:
    for stated in (-7, 0.5, True, "a photo", {"a": 1}, [["a"], {}], [], None):
        records = [complete(record, split={"templates": stated}) for record in fair(("coop",))[:1]]
        assert formats.render(document(audit(records), "json"), "json")
