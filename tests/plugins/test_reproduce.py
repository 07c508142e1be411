"""`fsbench reproduce`: published numbers beside a store's records."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce import command
from fewshot_bench.plugins.reproduce.published import reproduction
from tests.support.compare_records import read_csv, save
from tests.support.helpers import fsbench
from tests.support.reproduced import TABLE, line, options, record, rows, three


def shown(store: Path, *words: object) -> str:
    """The table of CLIP-LoRA for a store."""
    call = (TABLE, "--only-existing", "--store", store, "-m", "clip-lora")
    return fsbench("reproduce", *call, *words).out


def verdict(folder: Path, records: Iterable[Record], *words: object) -> str:
    return line(save(folder, records), "dtd", *words)["verdict"]


def test_agreeing_and_differing_cells(tmp_path: Path) -> None:
    store = save(tmp_path, [*three("dtd", 54.0), *three("oxford_pets", 95.0, 0.2)])
    lines = rows(store)
    same = lines["clip-lora", "dtd"]
    assert same["verdict"] == "agrees"
    assert float(same["paper"]) == 54.3
    assert float(same["ours"]) == pytest.approx(54.0)
    assert float(same["difference"]) == pytest.approx(-0.3)
    # Student's t with 2 degrees of freedom times sd * sqrt(1/3 + 1/3); the rest in quadrature.
    seeds = 4.30265 * 0.5 * (2 / 3) ** 0.5
    rest = 1.96**2 * (0.05**2 / 3 + 0.01 * 1e4 / 1692)
    assert float(same["noise"]) == pytest.approx((seeds**2 + rest) ** 0.5, rel=1e-3)
    assert float(same["test_sampling"]) == pytest.approx(196 * (0.54 * 0.46 / 1692) ** 0.5, 1e-3)
    other = lines["clip-lora", "oxford_pets"]
    ratio = 2.7 / float(other["noise"])
    assert other["verdict"] == f"differs (+2.70, {ratio:.1f} x noise)"
    assert lines["clip-lora", "imagenet"]["verdict"] == "missing"
    assert lines["clip-lora", "imagenet"]["ours"] == ""


def test_crossed_seeds_are_not_used_and_counted(tmp_path: Path) -> None:
    crossed = [record("dtd", seed, 90.0, split_seed=1) for seed in (2, 3)]
    store = save(tmp_path, [record("dtd", 1, 54.0), *crossed])
    assert line(store)["verdict"] == "incomplete (1 of 3 seeds)"
    text = "not used: 2 records of these cells with another split seed than training seed"
    assert text in shown(store)


def test_records_of_renamed_classes_are_of_other_data(tmp_path: Path) -> None:
    records = three("dtd", 54.0)
    for each in records:
        each.split["classnames"] = [f"texture {label}" for label in range(47)]  # type: ignore[index]
    assert verdict(tmp_path, records) == "other data"


def test_records_without_a_number_of_images_have_no_range_over_other_images(tmp_path: Path) -> None:
    records = three("dtd", 54.0)
    for each in records:
        del each.metrics["n"]  # type: ignore[attr-defined]
    assert line(save(tmp_path, records))["test_sampling"] == ""


def test_the_mean_is_over_the_sets_that_both_sides_have(tmp_path: Path) -> None:
    store = save(tmp_path, [*three("dtd", 54.0), *three("oxford_pets", 92.4, 0.2)])
    mean = line(store, "average")
    assert (mean["datasets"], mean["datasets_of"]) == ("2", "11")
    assert float(mean["paper"]) == pytest.approx((54.3 + 92.3) / 2)
    assert float(mean["ours"]) == pytest.approx((54.0 + 92.4) / 2)
    assert float(mean["difference"]) == pytest.approx(-0.1)
    assert mean["verdict"] == "agrees"
    text = shown(store)
    assert "mean of 2 of 11 sets" in text
    assert "means are over the data sets that both sides have" in text


def test_means_are_rounded_as_in_tables(tmp_path: Path) -> None:
    """Half of the sum of these is 59.144999999999996."""
    store = save(tmp_path, [record("dtd", 1, 72.03), record("dtd", 2, 46.26)])
    assert " 59.15 " in fsbench("compare", "--store", store).out
    assert " 59.15 " in shown(store)


def test_too_few_seeds_and_too_much_noise(tmp_path: Path) -> None:
    two = three("dtd", 54.0)[1:]
    assert verdict(tmp_path / "a", two) == "incomplete (2 of 3 seeds)"
    assert verdict(tmp_path / "b", three("dtd", 54.0, 5.0)) == "too noisy to tell"
    unknown = "too noisy to tell (the spread over seeds is not known: run three or more)"
    assert verdict(tmp_path / "c", [record("dtd", 1, 54.0)], "--seeds", 1) == unknown
    assert line(tmp_path / "c", "dtd", "--seeds", 1)["noise"] == ""
    assert verdict(tmp_path / "d", [record("dtd", 1, None), *two]) == "incomplete (2 of 3 seeds)"
    assert verdict(tmp_path / "e", [record("dtd", 1, None)]) == "failed (RuntimeError)"
    # A large difference is told in spite of noise.
    assert verdict(tmp_path / "f", three("dtd", 20.0, 2.0)).startswith("differs (-34.30, ")


def test_what_must_not_be_compared_is_not(tmp_path: Path) -> None:
    for index, (change, words, expected) in enumerate(
        (
            ({"backbone": "tiny"}, ("--backbone", "tiny"), "other backbone"),
            ({"limit": 10}, ("--limit", 10), "other limit"),
            ({"revision": "file:0123456789abcdef"}, (), "other data"),
        )
    ):
        lines = rows(save(tmp_path / str(index), three("dtd", 54.0, **change)), *words)
        for dataset in ("dtd", "average"):
            cell = lines["clip-lora", dataset]
            assert (cell["status"], cell["verdict"]) == ("not compared", expected)
            assert (cell["difference"], cell["noise"], cell["ratio"]) == ("", "", "")
            assert float(cell["ours"]) == pytest.approx(54.0)


@pytest.mark.parametrize(
    ("schedule", "expected", "said"),
    [
        ("kgcoop-100", "agrees", ""),
        ("kgcoop-50", "other schedule", "schedule kgcoop-50 there, kgcoop-100 here"),
        ("", "agrees", "schedule not stated there, kgcoop-100 here"),
    ],
)
def test_rows_of_another_schedule_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str, expected: str, said: str
) -> None:
    table = reproduction(TABLE)
    setting = msgspec.structs.replace(table.settings["kgcoop"], schedule=schedule)
    changed = dataclasses.replace(table, settings={"kgcoop": setting})
    monkeypatch.setattr(command, "reproduction", {TABLE: changed}.__getitem__)
    more = {"prompts": "custom", "method_version": "1", "options": options("kgcoop", "dtd")}
    store = save(tmp_path, [record("dtd", s, 51.7 + s / 2, "kgcoop", **more) for s in (1, 2, 3)])
    call = (TABLE, "--only-existing", "--store", store, "--shots", 1, "--format", "json")
    document = json.loads(fsbench("reproduce", *call).out)
    for row in (row for row in document["rows"] if row["dataset"] in ("dtd", "average")):
        assert row["verdict"] == expected
        assert (row["difference"] is None) == (expected != "agrees")
    lines = [text for text in document["meta"]["differences"] if ": schedule" in text]
    assert lines == ([f"kgcoop: {said}"] if said else [])


@pytest.mark.parametrize("table", [TABLE, "clip-lora-table4", "clip-lora-table5"])
def test_the_table_has_all_rows_of_the_paper(table: str) -> None:
    assert reproduction(table).others() == []
    assert len({number.name for number in reproduction(table).numbers()}) == 12
    done = fsbench("reproduce", table, "-m", "taskres", "-d", "dtd", "--only-existing", "--full")
    text = " ".join(done.out.split())
    assert "taskres: chosen per data set by the official code: templates: eight on" in text
    assert "the official code: scale" not in text, "as in the paper"
    assert [options("taskres", d, table)["scale"] for d in ("dtd", "oxford_flowers")] == [0.5, 1.0]


def test_the_schedule_is_that_of_the_records(tmp_path: Path) -> None:
    """Cards of other method versions may state another schedule."""
    made = [
        dataclasses.replace(each, footprint={"card": {"schedule": schedule}})
        for each, schedule in zip(three("dtd", 54.0), ("", "clip-lora-9", ""), strict=True)
    ]
    assert verdict(tmp_path / "one", made) == "other schedule"
    assert verdict(tmp_path / "none", [made[0], *three("dtd", 54.0)[1:]]) == "agrees"


def test_other_options_are_not_compared(tmp_path: Path) -> None:
    changed = options("clip-lora", "dtd") | {"iterations": 7}
    store = save(tmp_path, three("dtd", 54.0, options=changed))
    assert line(store)["verdict"] == "missing"
    assert line(store, "dtd", "-o", "iterations=7")["verdict"] == "other options"
    assert verdict(tmp_path / "b", three("dtd", 54.0), "-o", "iterations=500") == "agrees"


def test_records_under_other_conditions_are_named(tmp_path: Path) -> None:
    said = {
        "precision bf16": {"precision": "bf16"},
        "protocol coop, val min4": {"protocol": "coop", "val": "min4"},
        "method version 1": {"method_version": "1"},
        "limit 40": {"limit": 40},
        "own data (skipped)": {"data": {"skipped": {"dtd": ["a.jpg"]}}},
        "imported picks": {"protocol": "imported", "picks": "ab"},
        "the picks of a kept model": {"protocol": "kept", "picks": "ab"},
    }
    store = save(tmp_path, [r for change in said.values() for r in three("dtd", 54.0, **change)])
    text = shown(store, "--shots", 1, "-d", "dtd", "--precision", "fp32")
    for words in said:
        assert f"not used: 3 records of these cells with {words}" in text
    assert "none of 3 runs" in text


def test_a_cell_is_counted_once_whether_its_options_were_published_or_named(
    tmp_path: Path,
) -> None:
    assert verdict(tmp_path / "one", three("dtd", 54.0, published=True)) == "agrees"
    both = [*three("dtd", 54.0, published=True), *three("dtd", 10.0)]
    cell = line(save(tmp_path / "both", both))
    assert (cell["verdict"], cell["seeds"]) == ("agrees", "3")


def test_devices_are_never_averaged(tmp_path: Path) -> None:
    store = save(tmp_path, [record("dtd", 1, 54.0, device="cuda"), *three("dtd", 54.0)])
    assert line(store)["verdict"] == "mixed (records differ in device)"
    assert line(store)["ours"] == ""


def test_names_from_records_steer_nothing(tmp_path: Path) -> None:
    hostile = {"type": "=1+1|<b>\x1b[31m\nEvil", "message": "m", "traceback": ""}
    store = save(tmp_path, [dataclasses.replace(record("dtd", 1, None), error=hostile)])
    call = ("-d", "dtd", "--shots", 1, "--seeds", 1, "--format")
    texts = {
        form: shown(store, *call, form) for form in ("terminal", "markdown", "latex", "csv", "json")
    }
    assert not any("\x1b" in text for text in texts.values())
    (row,) = read_csv(texts["csv"])
    assert (row["status"], row["reason"][:2]) == ("failed", "'=")
    assert json.loads(texts["json"])["rows"][0]["reason"] == hostile["type"]
    (text,) = [text for text in texts["markdown"].splitlines() if text.startswith("| clip-lora")]
    assert "\\<b\\>" in text


def test_a_local_file_of_the_papers_model_is_named(tmp_path: Path) -> None:
    name = "ViT-B-16/openai@weights.pt"
    store = save(tmp_path, three("dtd", 54.0, backbone=name))
    text = shown(store, "-d", "dtd", "--shots", 1, "--backbone", name)
    assert "cells: 1 agrees" in text
    assert f"backbone {name}: a local file, taken for the paper's weights" in text


def test_zero_shot_needs_one_record(tmp_path: Path) -> None:
    more = {"prompts": "custom", "method_version": "1", "val": "min4", "protocol": "coop"}
    store = save(tmp_path, [record("dtd", 1, 43.8, "zero-shot", **more)])
    cell = rows(store, "-m", "zero-shot")["zero-shot", "dtd"]
    # No spread over seeds: only rounding, and images decided by other arithmetic.
    assert float(cell["noise"]) == pytest.approx(
        (1.96**2 * (0.05**2 / 3 + 0.01 * 1e4 / 1692)) ** 0.5, rel=1e-3
    )
    assert cell["verdict"] == "agrees"


def test_markdown_is_one_table(tmp_path: Path) -> None:
    store = save(tmp_path, three("dtd", 54.0))
    call = (TABLE, "--only-existing", "--store", store, "--shots", 1, "-d", "dtd")
    text = fsbench("reproduce", *call, "--format", "markdown").out
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "coop\\[context\\_init=a photo of a\\]" in text


def test_without_results_it_says_in_ten_lines_what_is_needed(tmp_path: Path) -> None:
    few = ("-m", "clip-lora,zero-shot", "-d", "dtd,eurosat", "--shots", "1,4", "--only-existing")
    call = ("reproduce", TABLE, *few, "--store", save(tmp_path / "s", []))
    text = fsbench(*call).out
    assert len(text.splitlines()) <= 12
    assert "arxiv.org/abs/2405.18541v2" in text
    # Two shots and three seeds of CLIP-LoRA, and zero-shot once, on two data sets.
    assert "none of 14 runs" in text
    assert "no data for eurosat, dtd: 'fsbench data prepare eurosat'" in text
    again = f"fsbench reproduce {TABLE} --method clip-lora,zero-shot --dataset dtd,eurosat"
    assert f"to run what the data sets allow: {again} --shots 1,4 --store" in text
    for more in (("--full",), ("--format", "markdown")):
        assert "cells: 6 missing" in fsbench(*call, *more).out
    # One result is enough for the table.
    store = save(tmp_path / "t", three("dtd", 54))
    assert "cells: 1 agrees, 1 missing" in shown(store, "-d", "dtd,eurosat", "--shots", 1)
