"""`fsbench reproduce`: listing, selection, rejections and runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.spec import PRECISIONS
from fewshot_bench.plugins.reproduce.cells import Wanted, cells, plan
from fewshot_bench.plugins.reproduce.published import reproductions
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.store.store import Store
from tests.support.compare_records import make, read_csv, save
from tests.support.dataset_trees import write_imagenet, write_set
from tests.support.helpers import fsbench

TABLE = "clip-lora-table3"
NAMES = sorted(reproductions())


def test_without_a_name_it_lists_all() -> None:
    done = fsbench("reproduce")
    assert [line.split()[0] for line in done.out.splitlines()] == list(reproductions())


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_a_configuration_of_ours(name: str) -> None:
    table = reproductions()[name]
    found = cells(table, Wanted())
    assert found
    assert table.precision in PRECISIONS
    used = {id(table.setting(number)) for number in table.numbers()}
    if table.collected:
        assert used == {*map(id, table.settings.values())}, "settings of rows that are not there"
    for cell in found:
        assert cell.number.backbone == table.backbone.partition("/")[0]
        assert cell.setting.protocol in SAMPLERS
        assert cell.setting.val in VALIDATION
        assert cell.prompts in TEMPLATE_SETS
        assert not cell.changed
        if cell.variant is None:
            assert not cell.setting.shipped
            continue
        assert {n: str(cell.variant.options[n]) for n in cell.number.options} == dict(
            cell.number.options
        )


def test_options_by_data_set_are_those_of_the_official_code() -> None:
    found = {
        (cell.label, cell.number.dataset): cell
        for cell in cells(reproductions()["tip-adapter-rn50"], Wanted(shots=(16,)))
    }
    eurosat = found["tip-adapter-f", "eurosat"]
    assert eurosat.variant.options["epochs"] == 100
    assert found["tip-adapter", "oxford_flowers"].variant.options["beta_scale"] == 50.0
    assert found["tip-adapter", "imagenet"].prompts == "ensemble"
    assert found["tip-adapter", "dtd"].prompts == "custom"
    coop = cells(reproductions()[TABLE], Wanted(methods=("coop",), shots=(16,)))
    epochs = {c.number.dataset: c.variant.options["epochs"] for c in coop if c.label == "coop"}
    assert epochs["imagenet"] == 50
    assert {epochs[name] for name in epochs if name != "imagenet"} == {0}


def test_options_by_data_set_are_those_of_run_published(tmp_path: Path) -> None:
    """One declaration, in the card of the method, serves both."""

    def of(table: str, method: str, option: str, shots: int = 16) -> dict[str, object]:
        wanted = Wanted(methods=(method,), shots=(shots,))
        found = [cell for cell in cells(reproductions()[table], wanted) if cell.variant]
        return {cell.number.dataset: cell.variant.options[option] for cell in found}

    means = of("few-shot-means", "promptsrc", "gpa_mean")
    assert (means["dtd"], means["stanford_cars"], means["food101"]) == (45.0, 45.0, 30.0)
    assert {*of("base-to-new", "promptsrc", "gpa_mean").values()} == {15.0}
    assert of("few-shot-means", "prograd", "strength")["eurosat"] == 0.8
    assert of("few-shot-means", "prograd", "strength", shots=4)["eurosat"] == 1.0
    assert "texture" in str(of("plot-plus-plus", "plot++", "context_init")["dtd"])
    halves = of("base-to-new", "mmrl", "weight")
    assert (halves["eurosat"], halves["stanford_cars"]) == (0.01, 7.0)
    assert {*of("base-to-new", "mmrl", "batch_size").values()} == {4, 32}
    unlike = of("base-to-new", "coop", "epochs")
    assert unlike["imagenet"] == 0, "DePT's rows, listed last, have 10 epochs everywhere"
    chosen = cells(reproductions()[TABLE], Wanted(methods=("coop",), shots=(16,)))
    planned = plan(chosen, Wanted(), "tiny", "cpu", tmp_path)
    assert all(cell.published for cell in planned.cells)


def test_rows_are_chosen_by_method_label_and_configuration(tmp_path: Path) -> None:
    def labels(table: str, *words: str) -> set[str]:
        call = (table, "--only-existing", "--format", "csv", "--store", tmp_path / "none", *words)
        done = fsbench("reproduce", *call)
        assert done.code == 0, done.err
        return {line["method"] for line in read_csv(done.out)}

    context = "coop[context_init=a photo of a]"
    assert labels(TABLE, "-m", "coop") == {"coop", context}
    assert labels(TABLE, "-m", context) == {context}
    figure = labels("clip-lora-figure3", "--where", "rank=2,4", "--where", "encoder=text")
    assert "clip-lora[encoder=text,matrices=k,rank=4]" in figure
    assert len(figure) == 2 * 7
    assert labels("clip-lora-figure3", "-m", "clip-lora[rank=8]") == {"clip-lora[rank=8]"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("clip-lora-tabel3",), "did you mean 'clip-lora-table3'"),
        ((TABLE, "-m", "clip_lora"), "did you mean 'clip-lora'"),
        ((TABLE, "-d", "digits"), "unknown data set of this table 'digits'"),
        ((TABLE, "--shots", "3"), "shots 3: this table has 0, 1, 2, 4, 8, 16"),
        ((TABLE, "--where", "rank=77"), "no row of this table has rank=77"),
        (("clip-lora-figure3", "--where", "rank=2", "--where", "rank=4"), "has rank=2, rank=4"),
        ((TABLE, "-o", "iterations=1,2"), "several values"),
        ((TABLE, "-o", "no_such=1"), "unknown hyper-parameter"),
        ((TABLE, "-m", "coop", "-o", "clip-lora.rank=4"), "not among those that run"),
        ((TABLE, "-o", "coop.context_init=x"), "is what rows of clip-lora-table3 differ in"),
        (("clip-lora-figure3", "-o", "rank=4"), "choose rows with --where rank="),
        ((TABLE, "--precision", "fp64"), "unknown precision"),
        ((TABLE, "--seeds", "1,1"), "stands there twice"),
        ((TABLE, "--dry-run"), "--only-existing runs nothing"),
        (("coop-caltech101", "-m", "coop", "--shots", "1"), "shots 1: this table has 16"),
    ],
)
def test_bad_requests_are_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = fsbench("reproduce", *words, "--only-existing", "--store", tmp_path / "none")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_only_existing_creates_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = fsbench("reproduce", TABLE, "--only-existing", "--store", store, "-d", "dtd,eurosat")
    assert (done.code, store.exists()) == (0, False)
    assert done.err == f"warning: there is no store '{store}': all is missing\n"
    again = f"fsbench reproduce {TABLE} --dataset dtd,eurosat --store {store}"
    assert f"to run what the data sets allow: {again}\n" in done.out
    other = fsbench("reproduce", TABLE, "--only-existing", "--store", store, "-m", "clip-lora@1")
    assert other.code == 0
    assert "fsbench reproduce" not in other.out


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with two classes of dtd only."""
    monkeypatch.setenv("FSBENCH_DATA", str(write_set(tmp_path / "data", "dtd")))
    return tmp_path


QUICK = ("--backbone", "tiny", "--device", "cpu", "--seeds", "1", "--shots", "1")
CHANGED = ("-o", "clip-lora.iterations=2")


@pytest.mark.slow
def test_it_runs_what_there_is_data_for_and_shows_the_rest(data: Path) -> None:
    store = data / "store"
    call = ("reproduce", TABLE, *QUICK, *CHANGED, "-m", "zero-shot,clip-lora", "--store", store)
    dry = fsbench(*call, "-d", "dtd,eurosat", "--dry-run")
    assert dry.code == 0
    assert "2 cells: 0 done already, 2 to run" in dry.out
    assert "no data for eurosat: 'fsbench data prepare eurosat'" in dry.out
    assert not store.exists()

    done = fsbench(*call, "-d", "dtd,eurosat", "--format", "csv")
    assert done.code == 0, done.err
    assert "2 cells: 0 done already, 2 to run" in done.err
    lines = {(line["method"], line["dataset"]): line for line in read_csv(done.out)}
    assert lines["clip-lora", "dtd"]["verdict"] == "other backbone, options, data"
    assert lines["zero-shot", "dtd"]["verdict"] == "other backbone, data"
    assert lines["clip-lora", "eurosat"]["verdict"] == "missing (no data)"
    assert lines["clip-lora", "average"]["datasets"] == "1"
    specs = {record.spec.method: record.spec for record in Store(store).records()}
    lora, zero = specs["clip-lora"], specs["zero-shot"]
    assert (lora.protocol, lora.val, lora.prompts) == ("clip-lora", "none", "simple")
    assert lora.overrides == {"iterations": 2}
    assert zero.prompts == "custom"

    # A failed cell is shown, and the exit code says so.
    again = fsbench(*call, "-d", "dtd,eurosat", "-o", "clip-lora.lr=1e30")
    assert "2 cells: 1 done already, 1 to run" in again.out
    assert "backbone tiny: NOT the paper's ViT-B-16/openai" in again.out
    assert "dtd is not the published data set, or has other lists: 2 test images" in again.out
    assert "no data for eurosat" in again.out
    assert (again.code, "failed (" in again.out, "--retry-failed" in again.out) == (1, True, True)


GDA = ("reproduce", "gda-rn50", "--backbone", "tiny", "-d", "imagenet,dtd", "--shots", "1")


def test_imagenet_without_a_validation_pool_has_few_shot_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(tmp_path / "data", "dtd")
    write_imagenet(root / "imagenet")
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    done = fsbench(*GDA, "--device", "cpu", "--store", tmp_path / "store", "--dry-run")
    assert done.code == 0, done.err
    assert "6 cells: 0 done already, 6 to run" in done.out
    rows = cells(reproductions()["gda-rn50"], Wanted(shots=(1,)))
    policies = {cell.number.dataset: cell.val for cell in rows}
    assert (policies["imagenet"], policies["dtd"]) == ("min4", "full")


def test_a_data_set_that_cannot_be_planned_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(write_set(tmp_path / "data", "dtd"), "eurosat")
    (split,) = root.rglob("split_zhou_EuroSAT.json")
    split.write_text(json.dumps(json.loads(split.read_text()) | {"val": []}))
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    call = ("reproduce", "gda-rn50", *QUICK, "--store", tmp_path / "store", "--dry-run", "-d")
    dry = fsbench(*call, "dtd,eurosat")
    assert dry.code == 0, dry.err
    assert "left out: data set 'eurosat' has no validation images" in dry.err
    assert "1 cell: 0 done already, 1 to run" in dry.out
    assert "no data for" not in dry.out
    alone = fsbench(*call, "eurosat")
    assert (alone.code, "left out: data set 'eurosat'" in alone.err) == (0, True)
    assert "worker" not in alone.out
    shown = fsbench(*call[:-2], "-d", "eurosat", "--format", "csv")
    (line,) = read_csv(shown.out)
    assert line["verdict"] == "missing (left out)"


def test_records_of_imagenet_with_few_shot_validation_are_its_own(tmp_path: Path) -> None:
    found = {c.number.dataset: c for c in cells(reproductions()["gda-rn50"], Wanted(shots=(1,)))}
    records = [
        make(
            *("gda", "imagenet", 1, 1, top1),
            backbone="tiny",
            val=val,
            prompts="ensemble",
            method_version=found["imagenet"].variant.version,
            options=dict(found["imagenet"].variant.options),
        )
        for val, top1 in (("min4", 40.0), ("full", 50.0))
    ]
    call = (*GDA, "--only-existing", "--store", save(tmp_path / "store", records))
    lines = read_csv(fsbench(*call, "--format", "csv").out)
    assert {line["dataset"]: line["ours"] for line in lines}["imagenet"] == "40.0"
    shown = fsbench(*call).out
    assert "val full, val min4 on imagenet" in shown
    assert "not used: 1 record of these cells with val full" in shown
