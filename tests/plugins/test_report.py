"""Contents of a report: the verdict, the numbers, missing cells, and no external resources."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from fewshot_bench import load
from fewshot_bench.analysis.formats.style import COLORS, LINES, Look, looks
from fewshot_bench.analysis.statistics.intervals import holm
from fewshot_bench.analysis.statistics.paired import compare_paired
from fewshot_bench.api.metrics import measured
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.cli.demo import METHODS
from fewshot_bench.plugins.report.figures import ranks
from fewshot_bench.plugins.report.figures.costs import Point, front
from fewshot_bench.plugins.report.figures.curves import spread
from fewshot_bench.plugins.report.figures.fits import HEIGHT, POINTS, WIDTH
from fewshot_bench.plugins.report.rows import MARKS
from fewshot_bench.runner.preflight import revision_of
from fewshot_bench.store.store import Store
from tests.support import compare_records
from tests.support.answers import put_answers, stored_arrays
from tests.support.helpers import fsbench, image_folder, save_image
from tests.support.report_pages import (
    HOSTILE,
    IDS,
    LABELS,
    Page,
    answers,
    hostile,
    on_another_backbone,
    read,
    record,
    report,
    store_of,
    without_figures,
)


def test_the_first_words_are_the_verdict(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "clip-lora": 0.8, "tip-adapter": 0.6})
    text = Page(report(tmp_path, store)).text
    # 64 of 80 correct, plus 2 for the second number of shots, 1 for pets, 1 for seeds 1 and 3.
    expected = 100 * np.mean([66 + seed % 2 + place for seed in (1, 2, 3) for place in (0, 1)]) / 80
    verdict = text.index(f"clip-lora wins with {expected:.2f} % top-1 accuracy")
    assert "averaged over 2 data sets at 16 shots" in text[verdict:]
    assert "It is significantly better than both others; the closest is tip-adapter" in text
    cost = "trains 184.3 k parameters, takes 4.00 s on cpu and needs up to 103 MB of memory"
    run = f"One run of clip-lora (one data set, one seed) {cost}. No other method is quicker."
    assert verdict < text.index("Leaderboard") < text.index(run)
    assert "Not drawn: memory, 103 MB for every method." in text, "it says nothing of the methods"


def test_the_numbers_are_those_of_the_statistics_on_the_stored_logits(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "clip-lora": 0.6, "tip": 0.55})
    opened = Store(store)
    hits: dict[str, dict[str, list[np.ndarray]]] = {}
    errors: dict[str, list[float]] = {}
    for found in sorted(opened.records(), key=lambda r: r.spec.split_seed):
        if found.spec.shots == 16:
            arrays = stored_arrays(opened, found.spec.key())
            predicted = arrays["predictions"]
            by_set = hits.setdefault(found.spec.method, {})
            by_set.setdefault(found.spec.dataset, []).append(predicted == arrays["labels"])
            metrics = measured(opened.answers(found.spec.key()).answers)
            errors.setdefault(found.spec.method, []).append(metrics["ece"])
    pairs = [("clip-lora", "tip"), ("clip-lora", "coop"), ("tip", "coop")]
    tests = [compare_paired(hits[one], hits[other]) for one, other in pairs]
    corrected = holm([test.p for test in tests])
    text = read(tmp_path, store)
    for (_, other), test, p in zip(pairs[:2], tests[:2], corrected[:2], strict=True):
        shown = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
        line = f"{np.mean([100 * h.mean() for s in hits[other].values() for h in s]):.2f} ±"
        difference = f"−{test.difference:.2f} [−{test.high:.2f}, −{test.low:.2f}] {shown} "
        start = text.index(line)
        assert difference in text[start : start + 200]
    for method, values in errors.items():
        assert f"4.00 s 103 MB {np.mean(values):.1f} " in text[text.index(f"{method} ") :]


def test_records_without_logits_have_numbers_and_no_test(tmp_path: Path) -> None:
    store = compare_records.save(tmp_path / "s", compare_records.matrix())
    text = read(tmp_path, store)
    assert "Whether its lead is significant cannot be told" in text
    assert "its logits are not in the store" in text
    assert "There are no logits that can be used" in text


def test_failed_and_missing_cells_are_listed_with_their_errors(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    broken = compare_records.make("prograd", "dtd", 16, 2, None)
    error = {"type": "NumericalError", "message": "the loss is not finite", "traceback": ""}
    Store(store).write(dataclasses.replace(broken, error=error))
    text = read(tmp_path, store)
    assert "1 failed run" in text
    assert "NumericalError the loss is not finite" in text
    assert "fsbench run --store" in text
    assert "prograd" in text[: text.index("Accuracy per data set")], "it is in the leaderboard"


def test_cells_that_are_not_applicable_are_listed_with_the_reason(tmp_path: Path) -> None:
    reason = "the backbone has no transformer"
    records = [compare_records.make(), compare_records.inapplicable("maple", "dtd", reason=reason)]
    text = read(tmp_path, compare_records.save(tmp_path / "s", records))
    assert f"not applicable {reason}" in " ".join(text.split())


def test_without_any_average_there_is_no_winner(tmp_path: Path) -> None:
    records = [compare_records.make("coop", "dtd"), compare_records.make("maple", "pets")]
    text = read(tmp_path, compare_records.save(tmp_path / "s", records))
    assert "No winner yet" in text
    assert "2 cells not complete" in text


def test_zero_shot_is_paired_with_methods_of_any_shots(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    opened = Store(store)
    for dataset in ("dtd", "pets"):
        for seed in (1, 2, 3):
            made = record("zero-shot", dataset, 0, seed, 30)
            put_answers(opened, made, answers(30), LABELS, IDS)
    text = read(tmp_path, store)
    assert "It is significantly better than both others" in text


def test_other_conditions_are_a_block_of_the_same_page(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8}, shots=(16,))
    with without_figures():
        alone = report(tmp_path, store)
        others = {"coop": 0.6, "gda": 0.9, "tip": 0.7}
        store_of(store, others, ("dtd",), (16,), change=on_another_backbone)
        page = report(tmp_path, store)
    # The one with the most records comes first, as it is alone.
    main = re.compile(r"<section.*</section>", re.DOTALL)
    assert main.findall(alone)[0] in page
    text = read(tmp_path, store, "--baseline", "gda")
    assert "Conditions 1 of 2: backbone test maple " in text
    assert "Conditions 2 of 2: backbone other gda " in text
    assert text.count("no differences to gda") == 2, "a note, also of the table as LaTeX"
    assert "from 21 records" in text
    only = read(tmp_path, store, "--backbone", "other", "--baseline", "gda")
    second = only.partition(" Missing ")[2].partition(" Written by")[0]
    assert len(second) > 1000
    assert second in text
    mixed = read(tmp_path, store, "--allow-mixed")
    assert "coop backbone=other" in mixed


def test_a_block_that_would_mix_is_refused_alone(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    for seed in (1, 2):
        Store(store).write(compare_records.make("gda", seed=seed, val="none", revision=str(seed)))
    page = tmp_path / "page.html"
    with without_figures():
        done = fsbench("report", "--store", store, "-O", page)
    assert done.code == 0
    assert "warning: val none left out: records differ in revision of 'dtd'" in done.err
    text = Page(page.read_text(encoding="utf-8")).text
    assert "maple wins" in text
    assert "Conditions 2 of 2: val none records differ in revision" in text
    assert fsbench("report", "--store", store, "-O", page, "--val", "none").code == 2


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    assert fsbench("report", "--store", tmp_path / "none").code == 3
    store = store_of(tmp_path / "s", {"coop": 0.5})
    wrong = fsbench("report", "--store", store, "--baseline", "cop", "-O", tmp_path / "r.html")
    assert wrong.code == 2
    assert "did you mean 'coop'" in wrong.err
    with without_figures():
        nowhere = fsbench("report", "--store", store, "-O", tmp_path / "no" / "r.html")
    assert nowhere.code == 2
    assert "choose another file with --output" in nowhere.err


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three methods, and its report page.html beside it."""
    folder = tmp_path_factory.mktemp("trio")
    report(folder, store_of(folder / "s", {"a": 0.5, "b": 0.8, "c": 0.6}))
    return folder


def test_the_same_store_gives_the_same_bytes(trio: Path, tmp_path: Path) -> None:
    assert report(tmp_path, trio / "s") == (trio / "page.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_outside(trio: Path) -> None:
    page = Page((trio / "page.html").read_text(encoding="utf-8"))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            value = attributes.get(name) or ""
            # A link loads nothing before it is followed.
            leads = tag == "a" and value.startswith("https://")
            assert leads or value.startswith(("#", "data:")) or not value, (tag, value)
    policy = next(a["content"] for a in page.named("meta") if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy


def test_names_from_records_are_only_text(trio: Path, tmp_path: Path) -> None:
    plain = Page((trio / "page.html").read_text(encoding="utf-8"))
    methods = {name: 0.3 + 0.07 * place for place, name in enumerate(HOSTILE)}
    store = store_of(tmp_path / "s", methods, HOSTILE[:3], (1,), hostile)
    error = {"type": HOSTILE[0], "message": HOSTILE[1], "traceback": HOSTILE[2]}
    broken = compare_records.make(HOSTILE[0], HOSTILE[2], 1, 9, None)
    Store(store).write(dataclasses.replace(broken, error=error))
    html = report(tmp_path, store, "--title", HOSTILE[1])
    page = Page(html)
    usual = {tag for tag, _ in plain.elements} | {"h3", "input", "label"}
    assert {tag for tag, _ in page.elements} <= usual
    assert len(page.named("script")) == len(page.named("style")) == 1
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert HOSTILE[0] in page.text
    assert HOSTILE[4] in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)


def test_ids_are_unique_and_references_lead_somewhere(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"a": 0.5, "b": 0.8, "c": 0.6})
    store_of(store, {"a": 0.5, "b": 0.8, 'id="x" <i id="y">': 0.6}, change=on_another_backbone)
    page = Page(report(tmp_path, store))
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert [name for name, count in ids.items() if count > 1] == []
    assert 'id="x" <i id="y">' in page.text
    parts = [str(a["id"]) for tag in ("section", "table") for a in page.named(tag)]
    own = {name for name in parts if not name.startswith("b2-")}
    assert {f"b2-{name}" for name in own} == set(parts) - own
    for _, attributes in page.elements:
        for name in ("href", "aria-labelledby", "for", "data-filter"):
            for word in (attributes.get(name) or "").split():
                if word.startswith("#") or name != "href":
                    assert word.removeprefix("#") in ids, word


def test_every_figure_and_table_says_what_it_is(trio: Path) -> None:
    page = Page((trio / "page.html").read_text(encoding="utf-8"))
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["svg"] == tags["desc"] > 6
    assert tags["caption"] == tags["table"] > 6
    assert all("scope" in attributes for attributes in page.named("th"))
    assert {"main", "nav", "header", "footer"} <= set(tags)


@pytest.mark.parametrize("changed", [False, True])
def test_example_images_are_shown_where_the_data_is(tmp_path: Path, changed: bool) -> None:
    data = image_folder(tmp_path / "photos", test=8)
    name = f"folder:{data}"
    dataset = registry().dataset(name)
    items = dataset.items()["test"]
    labels = np.array([item.label for item in items])
    store = Store(tmp_path / "s")
    store.create()
    for method in ("coop", "maple"):
        logits = np.eye(2, dtype=np.float32)[1 - labels]
        record = compare_records.make(method, name, top1=0.0, revision=revision_of(name, dataset))
        names = {item.label: item.classname for item in items}
        split = {**record.split, "classnames": [names[0], names[1]]}
        record = dataclasses.replace(record, split=split)
        put_answers(store, record, logits, labels, [i.id for i in items])
    with without_figures():
        assert not Page(report(tmp_path, tmp_path / "s")).named("img")
        if changed:
            save_image(data / "test" / "cat" / "another.jpg", 1)
        page = Page(report(tmp_path, tmp_path / "s", "--images", "3"))
    images = page.named("img")
    if changed:
        assert not images, "the data set lists other images than the record's"
        return
    assert 1 <= len(images) <= 3
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in images)
    assert "dog taken for cat" in page.text


@pytest.mark.parametrize("words", [("--metric", "macro_accuracy"), ("--shots", "1")])
def test_choices_of_the_table_hold_for_the_report(tmp_path: Path, words: tuple[str, ...]) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    text = read(tmp_path, store, *words)
    shown = {"macro_accuracy": "macro accuracy averaged", "1": "at 1 shot"}[words[1]]
    assert shown in text


def test_a_baseline_is_compared_with_however_many_methods(tmp_path: Path) -> None:
    methods = {f"method-{number:02d}": 0.3 + number / 50 for number in range(26)}
    store = store_of(tmp_path / "s", methods, ("dtd",), (4,))
    text = read(tmp_path, store, "--baseline", "method-07")
    assert "Of 25 methods compared with the baseline method-07:" in text
    assert "corrected after Holm over all 49 comparisons" in text


def test_a_method_looks_the_same_beside_any_others(tmp_path: Path) -> None:
    methods = {"zero-shot": 0.4, "coop": 0.5, "mine": 0.6, "tip-adapter": 0.7, "maple": 0.8}
    store = store_of(tmp_path / "s", methods, ("dtd",), (1, 4))
    head = r'class="(s\d+)[^"]*"><th[^>]*><span[^>]*>(.)</span>([\w.:-]+)'
    with without_figures():
        page = report(tmp_path, store)
        every = {name: (css, mark) for css, mark, name in re.findall(head, page)}
        assert set(every) == set(methods)
        page = report(tmp_path, store, "--method", "maple,mine,coop")
    for css, mark, name in re.findall(head, page):
        assert every[name] == (css, mark)
    for line in load(store).where(method=("coop", "maple")).figure().figure.axes[0].get_lines():
        css, mark = every[str(line.get_label())]
        look = Look(int(css.removeprefix("s")))
        assert (line.get_color(), line.get_marker()) == (COLORS[look.color][0], look.marker)
        assert mark == MARKS[look.marker]


def test_built_in_methods_look_different() -> None:
    known = sorted(name for name, one in registry().methods.entries.items() if one.is_built_in)
    found = looks(known)
    assert len({(one.color, one.marker, one.line) for one in found.values()}) == len(known) > 30
    often = (*METHODS, "clip-adapter", "maple")
    next_often = ("cocoop", "kgcoop", "prograd", "taskres", "promptsrc")
    for group in (often, next_often):
        assert len({found[name].color for name in group}) == len(group)
    # One more that would look like `coop` gets another look, and leaves that of `coop` alone.
    twin = next(name for name in map(str, range(9999)) if looks([name])[name] == found["coop"])
    assert looks([twin, "coop"])["coop"] != looks([twin, "coop"])[twin]
    many = [f"method-{number}" for number in range(500)]
    assert len({one.css for one in looks(many).values()}) == len(many)
    assert {one.line for one in looks(many).values()} == set(LINES)


def test_every_row_names_the_paper_of_its_method(tmp_path: Path) -> None:
    with without_figures():
        html = report(tmp_path, store_of(tmp_path / "s", {"coop": 0.5, "my-own": 0.8}))
    row = html[html.index('<table id="leaderboard"') :].partition("</table>")[0]
    link = r'coop <span class="paper"><a href="https://[^"]*" title="Learning [^"]* \(IJCV 2022\)"'
    assert re.search(rf"{link} [^>]*>Zhou et al\. 2022</a>", row)
    assert row.count('class="paper"') == 1, "of a method that is not installed nothing is known"
    page = Page(html).text
    assert "@article{zhou2022learning," in page
    assert "\\begin{tabular}" in page


def test_a_cost_is_drawn_where_methods_differ_more_than_their_runs(tmp_path: Path) -> None:
    def costly(made: Record) -> Record:
        wild = made.spec.dataset == "pets" and made.spec.split_seed * 300.0
        seconds = {"coop": 4.0, "maple": 9.0}[made.spec.method]
        memory = {"coop": 500.0, "maple": 700.0}[made.spec.method] + wild
        trained = {"coop": 1000, "maple": 1050}[made.spec.method]
        footprint = {"trained": trained, "peak_memory_mb": memory}
        return dataclasses.replace(made, footprint=footprint, timings={"billed_seconds": seconds})

    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8}, change=costly)
    html = report(tmp_path, store)
    assert re.findall('aria-labelledby="cost-([a-z]+)-title', html) == ["billed"]
    text = Page(html).text
    assert "Not drawn: trained parameters, 1.0 k to 1.1 k, within a tenth of the largest." in text
    near = "no further apart than runs of one method are"
    assert f"Not drawn: memory, 1.40 GB to 1.60 GB, {near}." in text


def test_curves_have_a_gap_where_a_cell_is_missing(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"a": 0.5, "b": 0.6}, ("dtd",), (1, 4, 16))
    opened = Store(store)
    for one in list(opened.records()):
        if (one.spec.method, one.spec.shots) == ("b", 4):
            opened.file(one.spec.key()).unlink()
    figure = report(tmp_path, store).partition('aria-labelledby="curves-')[2].partition("</svg>")[0]
    whole, broken = re.findall(r'class="curve s\d+".*? d="([^"]*)"', figure, re.S)[:2]
    assert re.findall("[ML]", whole) == ["M", "L", "L"]
    assert re.findall("[ML]", broken) == ["M", "M"]


def test_the_curves_of_all_seeds_are_in_one_small_picture(tmp_path: Path) -> None:
    def change(made: Record) -> Record:
        steps, seed = list(range(1, 101)), made.spec.train_seed
        rate = {"steps": steps, "values": [0.1 / step for step in steps]}
        loss = {"steps": steps, "values": [seed + 1.0 / step for step in steps]}
        odd = {"steps": [1], "values": [-0.5]}
        curves = {"rate": rate, "loss": loss, '"><svg/onload=1>': odd}
        return dataclasses.replace(made, curves=curves if made.spec.method == "a" else {})

    store = store_of(tmp_path / "s", {"a": 0.5, "b": 0.6}, ("dtd",), (1, 4), change)
    with without_figures():
        html = report(tmp_path, store)
    page = Page(html)
    assert "a loss loss of a 2 to 1.01 in 100 steps, 3 seeds 2 to 1.01 in" in page.text
    assert "a rate rate of a 0.1 to 0.001 in 100 steps, 3 seeds 0.1 to 0.001 in" in page.text
    lines = [str(line["points"]) for line in page.named("polyline")]
    # Three of the loss, and one where those of all seeds are the same.
    assert len(lines) == 5
    for line in lines:
        spots = [tuple(map(int, spot.split(","))) for spot in line.split()]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in spots)
        assert len(spots) <= POINTS
    assert [int(line.split()[-1].split(",")[0]) for line in lines] == [WIDTH] * 5
    # The first step is drawn, too: a rate often warms up after it.
    assert {int(line.split(",")[0]) for line in lines[:4]} == {round(WIDTH / 100)}
    # What 12 methods on 11 data sets may add: two series, three seeds.
    fits = [part.partition("</figure>")[0] for part in html.split('<figure class="fit">')[1:]]
    assert sum(map(len, fits[:2])) * 12 * 11 < 500_000
    assert not [tag for tag, _ in page.elements if tag == "svg/onload"]
    assert "onload=1&gt;" in html


def test_tables_have_the_methods_that_figures_have_no_room_for(tmp_path: Path) -> None:
    methods = {f"method-{number:02d}": 0.3 + number / 50 for number in range(18)}
    store = store_of(tmp_path / "s", methods, ("dtd", "pets", "cars"), (4,))
    draw = ranks.draw
    with without_figures(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "draw", draw)
        text = Page(report(tmp_path, store)).text
    table = text.partition("Expected calibration error in % (15 bins of equal width)")[2]
    assert all(name in table.partition("Classes and confusions")[0] for name in methods)
    assert "The best 16 of 18 methods. Friedman test over 3 data sets" in text


def test_the_front_holds_what_no_other_method_beats() -> None:
    costs = {"dear": (9, 80), "free": (0, 60), "good": (5, 80), "bad": (5, 70)}
    points = [Point(Mock(label=label), *pair) for label, pair in costs.items()]
    assert [point.contestant.label for point in front(points)] == ["free", "good"]
    assert front([]) == []


def test_labels_are_moved_apart_and_kept_in_the_panel() -> None:
    assert spread([1.0, 5.0], 1, 0, 10) == [1.0, 5.0]
    assert spread([5.0, 5.0, 5.0], 1, 0, 10) == [4.0, 5.0, 6.0]
    assert spread([9.9, 10.0], 1, 0, 10) == [9.0, 10.0]
    assert spread([0.0, 0.1], 1, 0, 10) == [0.0, 1.0]
