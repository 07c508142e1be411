"""`fsbench site`: its numbers are those of `printed` and `compare`, and foreign names are text."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.analysis.gathering import Entry, Gathered
from fewshot_bench.analysis.reference import read
from fewshot_bench.plugins.reproduce.numbers import all_numbers, numbers, sources
from fewshot_bench.plugins.reproduce.printed import settings_of
from fewshot_bench.plugins.site.results import write_results
from fewshot_bench.store.standing import Standing
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import DataMissingError
from tests.support.helpers import fsbench
from tests.support.report_pages import HOSTILE, Page, hostile, on_another_backbone, store_of
from tests.support.synthetic_store import fill

METHODS = {"coop": 0.5, "clip-lora": 0.8, "tip-adapter": 0.6}
# Bytes of both pages, of 35 methods x 11 sets x 5 shots x 3 backbones x 3 seeds.
MOST, RECORDS = 1_500_000, 35 * 11 * 5 * 3 * 3


def site(folder: Path, *arguments: object) -> dict[str, str]:
    """Write a site; its pages by name."""
    done = fsbench("site", *arguments, "-O", folder)
    assert done.code == 0, done
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def data_of(page: str) -> Any:
    """The columns of a page."""
    found = re.findall(r'<script type="application/json" id="data">(.*)</script>', page)
    return json.loads(found[0])


def details_of(page: str) -> Any:
    """What a page reads on first use."""
    found = re.findall(r'<script type="text/plain" id="details">(.*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(found[0])))


def reasons_of(page: str) -> set[str]:
    """Why rows have no higher level."""
    return {row["reasons"] for board in details_of(page)["boards"] for row in board["rows"]}


def rows_of(page: str, **axes: str) -> dict[str, dict[str, Any]]:
    """The rows of the only board with these values, by their name."""
    data = data_of(page)
    boards = [b for b in data["boards"] if axes.items() <= b["axes"].items()]
    assert len(boards) == 1, [b["axes"] for b in boards]
    lines = (dict(zip(data["fields"], row, strict=True)) for row in boards[0]["rows"])
    return {line["method"]: line | {"sets": boards[0]["sets"]} for line in lines}


def entries(store: Path, source: str, level: str, **more: Any) -> list[Entry]:
    """All cells of a store as those of a source."""
    opened = Store(store)
    standing = Standing(level, () if level != "unverified" else ("its top1 is not of its logits",))
    return [Entry(record, source, opened, standing, **more) for record in opened.records()]


def gathered(*parts: list[Entry]) -> Gathered:
    """The cells of several sources."""
    every = tuple(entry for part in parts for entry in part)
    return Gathered(every, tuple(dict.fromkeys(entry.source for entry in every)))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A site about three methods on two data sets."""
    folder = tmp_path_factory.mktemp("site")
    return site(folder / "site", store_of(folder / "s", METHODS))


def test_without_a_source_it_writes_the_atlas_alone(tmp_path: Path) -> None:
    (name, page), *others = site(tmp_path / "site").items()
    assert (name, others) == ("index.html", [])
    assert "results.html" not in page


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "site"):
        done = fsbench("site", "-O", folder)
        assert done.code == 2
        assert f"cannot make '{folder}'" in done.err


def test_the_atlas_has_every_printed_number_with_its_source(pages: dict[str, str]) -> None:
    data = data_of(pages["index.html"])
    c = {
        name: [own["of"][at] for at in own["at"]] if isinstance(own, dict) else own
        for name, own in data["numbers"].items()
    }
    names = ("name", "backbone", "dataset", "shots", "classes", "value", "metric", "sd", "seeds")
    names += ("label", "note", "under", "kind")
    shown = list(zip(*(c[name] for name in names), strict=True))
    fields = ["printed" if name == "value" else name for name in names]
    assert shown == [tuple(getattr(n, name) for name in fields) for n in all_numbers()]
    about = ("source", "table", "url", "place", "citation")
    told = [tuple(data["tables"][place][name] for name in about) for place in c["table"]]
    of = [sources()[n.source, n.table] for n in all_numbers()]
    assert told == [tuple(getattr(source, name) for name in about) for source in of]
    assert c["why"] == ["; ".join(n.why_incomparable) for n in all_numbers()]
    assert {"coop-50/100/200", ""} < set(c["schedule"])
    several = [[gap, *(c["value"][at] for at in places)] for gap, *places in data["settings"]]
    assert several == [
        [f"{s.gap:.2f}", *(n.printed for n in s.numbers)] for s in settings_of(numbers(), 2)
    ]


def test_the_atlas_has_the_numbers_of_printed(pages: dict[str, str]) -> None:
    data = data_of(pages["index.html"])["numbers"]
    method, backbone, dataset = (
        [data[name]["of"][at] for at in data[name]["at"]]
        for name in ("name", "backbone", "dataset")
    )
    shown = sorted(zip(method, backbone, dataset, data["value"], strict=True))
    printed = fsbench("printed", "--sources", 1, "--format", "csv").out
    for row in csv.DictReader(io.StringIO(printed)):
        key = row["method"], row["backbone"], row["dataset"]
        assert any(float(one[3]) == float(row["value"]) for one in shown if one[:3] == key), row


def test_the_results_are_those_of_compare(pages: dict[str, str], tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    table = fsbench("compare", "--store", store, "--format", "csv").out
    checked = 0
    for row in csv.DictReader(io.StringIO(table)):
        line = rows_of(pages["results.html"], shots=row["shots"])[row["method"]]
        shown = line["cells"][line["sets"].index(row["dataset"])]
        assert shown == f"{float(row['top1_mean']):.2f} ± {float(row['top1_ci95']):.2f}"
        checked += 1
    assert checked == 3 * 2 * 3


def test_a_number_leads_to_its_records_signature_and_command(
    pages: dict[str, str], tmp_path: Path
) -> None:
    opened = Store(store_of(tmp_path / "s", METHODS))
    by_key = {record.spec.key()[:12]: record for record in opened.records()}
    data, details = data_of(pages["results.html"]), details_of(pages["results.html"])
    for shown, board in zip(data["boards"], details["boards"], strict=True):
        for (label, *_), row in zip(shown["rows"], board["rows"], strict=True):
            for place, seed, value, key, split, logits, environment, _ in zip(
                *row["records"], strict=True
            ):
                record = by_key[key]
                assert record.spec.method == label
                assert record.spec.dataset == shown["sets"][place]
                assert (str(record.spec.train_seed), record.metrics["top1"]) == (seed, value)
                assert record.logits_digest.startswith(logits)
                assert record.split["digest"].startswith(split)
                assert details["environments"][environment]
            assert len(row["records"][0]) == 6
            assert row["signature"].startswith("fsbench:1|m:")
            assert row["commands"].startswith("fsbench run --method")
        assert "\\toprule" in board["latex"]
        assert board["card"].startswith("<svg")
    assert len(details["bibtex"]["at"]) == len(details["boards"])
    assert all("@" in text for text in details["bibtex"]["of"])


def test_a_table_speaks_of_its_own_cells_alone(tmp_path: Path) -> None:
    one, two = store_of(tmp_path / "one", METHODS), store_of(tmp_path / "two", {"coop": 0.5})
    store_of(one, {"maple": 0.7}, shots=(1,))
    page = write_results(gathered(*(entries(s, s.name, "verified") for s in (one, two))), "t")
    boards = zip(data_of(page)["boards"], details_of(page)["boards"], strict=True)
    shown, board = next((s, b) for s, b in boards if s["axes"]["shots"] == "16")
    assert "; 24 records; " in shown["signature"]
    assert "maple" not in board["latex"]
    assert "signature: fsbench:1|m:clip-lora@1,coop@1,tip-adapter@1|" in board["latex"]
    assert "coop (two)" in board["card"]
    assert "more method" not in board["card"]


def test_a_harmonic_mean_leads_to_the_records_of_its_halves(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 2, 2, (4,), queries=40, classes=4, halves=True)
    page = site(tmp_path / "site", store.path)["results.html"]
    boards = zip(data_of(page)["boards"], details_of(page)["boards"], strict=True)
    board = next(b for s, b in boards if s["axes"]["classes"].startswith("harmonic"))
    assert "base & new & H" in board["latex"]
    for row in board["rows"]:
        halves = [f"{seed}, {half}" for half in ("base", "new") for seed in (1, 2, 3)]
        assert row["records"][1] == 2 * halves
        assert "--classes base,new" in row["commands"]


def test_groups_follow_from_paired_tests(pages: dict[str, str], tmp_path: Path) -> None:
    rows = rows_of(pages["results.html"], shots="16")
    assert {name: row["group"] for name, row in rows.items()} == {
        "clip-lora": 1,
        "tip-adapter": 2,
        "coop": 3,
    }
    close = store_of(tmp_path / "close", {"coop": 0.8, "clip-lora": 0.8, "tip-adapter": 0.5})
    level = rows_of(site(tmp_path / "site", close)["results.html"], shots="16")
    assert [level[name]["group"] for name in ("coop", "clip-lora", "tip-adapter")] == [1, 1, 2]


def test_without_logits_it_says_that_nothing_was_tested(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    cells = entries(store, "lab", "submitted")
    for path in store.rglob("*.npz"):
        path.unlink()
    page = write_results(gathered(cells), "t")
    board = data_of(page)["boards"][0]
    assert "logits" in board["why"]
    assert {row["group"] for row in rows_of(page, shots="1").values()} == {None}


def test_levels_and_sources_are_never_mixed(tmp_path: Path) -> None:
    one = store_of(tmp_path / "one", {"coop": 0.5, "clip-lora": 0.8})
    two = store_of(tmp_path / "two", {"coop": 0.7, "maple": 0.6})
    three = store_of(tmp_path / "three", {"coop": 0.9})
    wrong = store_of(tmp_path / "wrong", {"coop": 1.0})
    page = write_results(
        gathered(
            entries(one, "lab-a", "verified", disagrees_with=("lab-b",)),
            entries(two, "lab-b", "verified", disagrees_with=("lab-a",)),
            entries(three, "lab-c", "submitted"),
            entries(wrong, "lab-d", "unverified"),
        ),
        "t",
    )
    verified = rows_of(page, level="verified", shots="16")
    assert set(verified) == {"coop (lab-a)", "coop (lab-b)", "clip-lora", "maple"}
    alone = rows_of(page, level="submitted", shots="16")
    assert set(alone) == {"coop (lab-c)"}
    assert alone["coop (lab-c)"]["cells"][0].startswith("9")
    assert verified["coop (lab-a)"]["group"] > verified["coop (lab-b)"]["group"]
    means = [float(verified[f"coop (lab-{x}"]["cells"][0].split()[0]) for x in ("a)", "b)")]
    assert means[1] - means[0] == pytest.approx(20, abs=0.02), "each has its own"
    assert verified["coop (lab-a)"]["disagrees"] == "lab-b"
    conflict = next(each for each in data_of(page)["conflicts"] if each[0] == "coop")
    assert [(float(value) > 0, source) for value, source in conflict[2]] == [
        (True, "lab-a"),
        (True, "lab-b"),
    ]
    wrong = rows_of(page, level="unverified", shots="16")
    assert set(wrong) == {"coop (lab-d)"}
    assert reasons_of(page) == {"", "its top1 is not of its logits"}
    levels = {board["axes"]["level"] for board in data_of(page)["boards"]}
    assert levels == {"verified", "submitted", "unverified"}


def test_a_source_may_have_several_files(tmp_path: Path) -> None:
    one = store_of(tmp_path / "one", {"coop": 0.5, "clip-lora": 0.8})
    two = store_of(tmp_path / "two", {"coop": 0.7, "maple": 0.6})
    parts = (entries(store, "lab", "verified") for store in (one, two))
    page = write_results(gathered(*parts), "t")
    rows = rows_of(page, shots="16")
    assert {name: row["group"] for name, row in rows.items()} == {
        "clip-lora": 1,
        "maple": 2,
        "coop": 3,
    }, "the predictions of both are read"
    assert "lab has cells in several files: the first of each is shown" in page


def test_the_same_runs_of_two_sources_are_told(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    one, two = (
        [dataclasses.replace(e, same_run=(other,)) for e in entries(store, name, "verified")]
        for name, other in (("lab-a", "lab-b"), ("lab-b", "lab-a"))
    )
    page = write_results(gathered(one, two), "t")
    assert f"{len(one)} cells of lab-a and lab-b are the same runs" in page


def test_a_row_has_the_lowest_level_of_its_cells(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    first, *others = entries(store, "lab", "verified")
    first = dataclasses.replace(first, standing=Standing("submitted", ("no logits",)))
    page = write_results(gathered([first, *others]), "t")
    method, shots = first.record.spec.method, str(first.record.spec.shots)
    lower = rows_of(page, level="submitted", shots=shots)
    assert set(lower) == {method}
    assert reasons_of(page) == {"", "no logits"}
    assert method not in rows_of(page, level="verified", shots=shots)


def test_what_is_unverified_stands_apart_and_last(tmp_path: Path) -> None:
    good, wrong = (store_of(tmp_path / name, METHODS) for name in ("good", "wrong"))
    parts = entries(wrong, "lab-a", "unverified"), entries(good, "lab-b", "submitted")
    data = data_of(write_results(gathered(*parts), "t"))
    assert [b["axes"]["level"] for b in data["boards"]] == [*["submitted"] * 2, *["unverified"] * 2]
    assert data["first"]["level"] == "submitted"
    bare = []
    for entry in parts[0]:
        metrics = {name: v for name, v in entry.record.metrics.items() if name != "top1"}
        record = dataclasses.replace(entry.record, metrics=metrics)
        bare.append(dataclasses.replace(entry, record=record))
    for without in (gathered(), gathered(bare)):
        with pytest.raises(DataMissingError, match="no source has a finished cell"):
            write_results(without, "t")


def test_the_reference_is_a_source(tmp_path: Path) -> None:
    page = site(tmp_path / "site", "reference")["results.html"]
    cells: dict[tuple[str, str], list[float]] = {}
    for line in read()[0]:
        if line.top1 is not None and (line.queries, line.views) == ("alone", 1):
            cells.setdefault((line.method, line.dataset), []).append(line.top1)
    rows = rows_of(page, shots="4", level="submitted", queries="alone", views="1")
    for (method, dataset), values in cells.items():
        if method in rows:
            place = rows[method]["sets"].index(dataset)
            shown = rows[method]["cells"][place]
            assert float(shown.split()[0]) == pytest.approx(np.mean(values), abs=0.006)
    assert len(rows) > 10


def test_backbones_are_boards_of_their_own(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", METHODS)
    store_of(store, METHODS, change=on_another_backbone)
    page = site(tmp_path / "site", store)["results.html"]
    backbones = {board["axes"]["backbone"] for board in data_of(page)["boards"]}
    assert len(backbones) == 2
    assert set(rows_of(page, shots="16", backbone="other")) == set(METHODS)


def test_foreign_names_are_only_text(pages: dict[str, str], tmp_path: Path) -> None:
    methods = {name: 0.3 + 0.07 * place for place, name in enumerate(HOSTILE)}
    store = store_of(tmp_path / "s", methods, HOSTILE[:3], (1,), hostile)
    cells = entries(store, HOSTILE[0], "verified", disagrees_with=(HOSTILE[2],))
    html = write_results(gathered(cells), HOSTILE[1])
    usual = {tag for tag, _ in Page(pages["results.html"]).elements}
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= usual
    assert len(page.named("script")) == 3
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert "<" not in re.findall(r'id="data">(.*)</script>', html)[0]
    cards = [board["card"] for board in details_of(html)["boards"]]
    for card in cards:
        elements = Page(card).elements
        assert {tag for tag, _ in elements} <= {
            "svg",
            "title",
            "desc",
            "path",
            "g",
            "text",
            "circle",
        }
        assert not [a for _, own in elements for a in own if a.startswith("on")]
    words = json.dumps(data_of(html), ensure_ascii=False)
    assert not re.search("[\x00-\x1f\u202e]", words)


def test_pages_load_nothing_and_run_one_script(pages: dict[str, str]) -> None:
    for text in pages.values():
        page = Page(text)
        assert not [a for _, own in page.elements for a in own if a == "src"]
        assert {own["href"] for own in page.named("link")} == {"data:,"}
        (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
        assert policy.startswith("default-src 'none'")
        assert policy.count("sha256-") == 1


def test_without_scripts_averages_are_there(pages: dict[str, str]) -> None:
    for text in pages.values():
        (plain,) = re.findall(r"<noscript>(.*?)</noscript>", text, re.DOTALL)
        assert "need JavaScript" in plain
        assert "clip-lora" in plain
    assert "83.0" in pages["index.html"]


def test_the_size_grows_slowly_with_records(tmp_path: Path) -> None:
    sizes, counts = [], []
    for methods in (3, 9):
        store = fill(tmp_path / str(methods), 4, methods, (4, 16), queries=20, classes=4)
        page = site(tmp_path / f"site-{methods}", store.path)
        sizes.append(len(page["results.html"].encode()))
        counts.append(methods * 4 * 2 * 3)
        atlas = len(page["index.html"].encode())
    each = (sizes[1] - sizes[0]) / (counts[1] - counts[0])
    # A row of few data sets has more beside its records.
    assert atlas + each * RECORDS < 2 * MOST
