"""`fsbench submit`, `verify` and `store merge` of bundles: what people see and type."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fewshot_bench import load
from fewshot_bench.api.metrics import rounded
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.answers import answers_of
from tests.support.bundles import change_record, members_of, with_metric, write
from tests.support.helpers import fsbench

RUN = (
    *("run", "-m", "zero-shot,tip-adapter", "-d", "digits", "--shots", 1, "--limit", 40),
    *("--seeds", 1, "--backbone", "tiny", "--device", "cpu", "--jobs", 1),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `s`, a store of two cells; `a.zip`, its bundle; and `wrong.zip`."""
    folder = tmp_path_factory.mktemp("work")
    done = fsbench(*RUN, "--store", folder / "s")
    assert done.code == 0, done.err
    sent = fsbench("submit", folder / "s", "-O", folder / "a.zip", "--submitter", "Lab A")
    assert sent.code == 0, sent.err
    assert "2 cells of Lab A" in sent.out
    changed = change_record(members_of(folder / "a.zip"), with_metric("top1", 99.0))
    write(folder / "wrong.zip", changed)
    return folder


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, which is the current one."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_good_bundle(here: Path) -> None:
    done = fsbench("verify", "a.zip")
    assert (done.code, done.out) == (0, "a.zip: 2 cells of Lab A: 2 verified\n")
    assert fsbench("store", "merge", "a.zip", "--store", "m").code == 0
    assert len(list(Store(Path("m")).records())) == 2
    assert "2 equal" in fsbench("store", "merge", "a.zip", "--store", "m").out
    tables = [fsbench("compare", "--store", name).out for name in ("s", "m")]
    assert tables[0] == tables[1]


def test_filters_choose_cells(here: Path) -> None:
    done = fsbench("submit", "s", "-O", "one.zip", "-m", "tip-adapter")
    assert done.code == 0
    assert "1 cell of anonymous" in done.out
    assert "unknown" not in done.err
    none = fsbench("submit", "s", "-O", "none.zip", "-m", "coop")
    assert none.code == 2
    assert not Path("none.zip").exists()


def test_cells_that_are_not_done_are_left_out(here: Path) -> None:
    store = Store(here / "s")
    spec = dataclasses.replace(next(iter(store.records())).spec, train_seed=7)
    error = {"type": "RuntimeError", "message": "x", "traceback": f"at {here}/x.py"}
    store.write(
        dataclasses.replace(next(iter(store.records())), spec=spec, status="failed", error=error)
    )
    done = fsbench("submit", "s", "-O", "b.zip")
    assert "left out: 1 cell that is failed" in done.out
    assert "2 cells" in fsbench("verify", "b.zip").out


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
def test_a_wrong_number_is_named(here: Path, form: str) -> None:
    done = fsbench("verify", "a.zip", "wrong.zip", "--format", form)
    assert done.code == 1
    assert "the record has top1 99.0, its answers give" in done.out.replace("\\", "")
    assert "1 verified, 1 unverified" in done.out or form == "json"
    if form == "json":
        _, wrong = json.loads(done.out)["bundles"]
        assert sorted(cell["level"] for cell in wrong["cells"]) == ["unverified", "verified"]


def test_nothing_of_a_wrong_bundle_is_merged(here: Path) -> None:
    done = fsbench("store", "merge", "a.zip", "wrong.zip", "--store", "m")
    assert done.code == 1
    assert "'wrong.zip': 1 of 2 cells do not hold" in done.err
    assert not Path("m").exists()


def test_a_hostile_bundle_is_refused(here: Path) -> None:
    Path("bad.zip").write_bytes(Path("a.zip").read_bytes()[:-9])
    before = sorted(here.rglob("*"))
    done = fsbench("verify", "a.zip", "bad.zip")
    assert done.code == 2
    assert "a.zip: 2 cells of Lab A: 2 verified" in done.out
    assert "bad.zip: refused: 'bad.zip' is not a usable bundle" in done.out
    assert fsbench("verify", "bad.zip", "--format", "markdown").code == 2
    assert fsbench("store", "merge", "bad.zip", "--store", "m").code == 2
    assert fsbench("verify", "gone.zip").code == 2
    assert sorted(here.rglob("*")) == before


def test_a_bundle_given_as_a_store_leads_to_merge(here: Path) -> None:
    done = fsbench("compare", "--store", "a.zip")
    assert done.code == 2
    assert "fsbench store merge" in done.err
    with pytest.raises(UsageError, match="fsbench store merge"):
        load("a.zip")


def test_a_signature_must_be_of_the_records(here: Path) -> None:
    members = members_of(Path("a.zip"))
    manifest = json.loads(members["bundle.json"])
    manifest["signature"] = ["fsbench:1|other"]
    write(Path("b.zip"), {**members, "bundle.json": json.dumps(manifest).encode()})
    done = fsbench("verify", "b.zip")
    assert done.code == 1
    assert "its signature is not that of its records" in done.out


def _other_run(flipped: bool) -> None:
    """A bundle of Lab B: the first cell with the same answers, the second as asked."""
    store, other = Store(Path("s")), Store(Path("o"))
    for place, record in enumerate(store.records()):
        stored = store.answers(record.spec.key())
        logits = -stored.answers.logits if place and flipped else stored.answers.logits
        answers = answers_of(logits, stored.answers.labels)
        environment = {**record.environment, "device_name": "another card"}
        timings = {**record.timings, "wall_seconds": 9.0}
        other.write(
            dataclasses.replace(
                record, metrics=rounded(answers), environment=environment, timings=timings
            ),
            answers,
            stored.ids,
        )
    assert fsbench("submit", "o", "-O", "b.zip", "--submitter", "Lab B").code == 0


def test_cells_that_somebody_else_ran_again(here: Path) -> None:
    _other_run(flipped=False)
    done = fsbench("verify", "a.zip", "--beside", "b.zip")
    assert done.out.splitlines() == [
        "a.zip: 2 cells of Lab A: 2 re-run",
        "re-run: 2 cells as Lab B has them",
    ]
    assert done.code == 0


def test_a_disagreement_is_shown_with_both_numbers(here: Path) -> None:
    _other_run(flipped=True)
    done = fsbench("verify", "a.zip", "--beside", "b.zip")
    assert done.code == 0
    head, _, *lines = done.out.splitlines()
    assert head == "a.zip: 2 cells of Lab A: 1 re-run, 1 verified"
    assert lines[0].startswith("disagreement: ")
    assert lines[0].count(" %") == 2
    assert lines[0].endswith("Lab B")
    assert any(line.startswith("  right in Lab A alone: ") for line in lines)
    assert any(
        line.startswith("  device_name: ") and "another card Lab B" in line for line in lines
    )
    shown = fsbench("verify", "a.zip", "--beside", "b.zip", "--format", "markdown").out
    assert "- **disagreement**: " in shown


def test_a_site_names_the_records_that_it_lacks(here: Path) -> None:
    path = next((here / "s").glob("records/*/*.json"))
    path.write_text(path.read_text("utf-8")[:300], "utf-8")
    done = fsbench("site", "s", "-O", "out")
    assert done.code == 0, done.err
    assert done.err.count("not used: ") == 1
    assert path.name in done.err


def test_a_site_names_a_source_of_damaged_records_alone(here: Path) -> None:
    shutil.copytree(here / "s", here / "damaged")
    paths = list((here / "damaged").glob("records/*/*.json"))
    for path in paths:
        path.write_text("{", "utf-8")
    done = fsbench("site", "s", "damaged", "-O", "out")
    assert done.code == 0, done.err
    assert done.err.count("not used: ") == len(paths) > 0


def test_own_images_need_a_word(here: Path) -> None:
    store = Store(here / "s")
    record = next(iter(store.records()))
    stored = store.answers(record.spec.key())
    spec = dataclasses.replace(record.spec, dataset="folder:photos")
    store.write(dataclasses.replace(record, spec=spec), stored.answers, stored.ids)
    refused = fsbench("submit", "s", "-O", "b.zip")
    assert refused.code == 2
    assert "'folder:photos' is of own images" in refused.err
    assert fsbench("submit", "s", "-O", "b.zip", "--own-images").code == 0
    done = fsbench("verify", "b.zip")
    assert done.code == 1
    assert "submitted: " in done.out
    assert "the images of folder:photos are the submitter's own" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("s", "-O", "b.txt"), ".zip"),
        (("s", "-O", "b.zip", "--submitter", "<b>"), "submitter '<b>'"),
        (("gone", "-O", "b.zip"), "does not exist"),
        (("a.zip", "-O", "b.zip"), "is not a folder"),
    ],
)
def test_what_cannot_be_submitted(here: Path, words: tuple[str, ...], said: str) -> None:
    done = fsbench("submit", *words)
    assert done.code in (2, 3)
    assert said in done.err
    assert not Path("b.zip").exists()
