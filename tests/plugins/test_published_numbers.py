"""The package's published numbers: complete, consistent, and equal to the sources."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections import Counter, defaultdict

import pytest

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.numbers import (
    AVERAGE,
    HARMONIC,
    Number,
    Source,
    all_numbers,
    numbers,
    sources,
)
from fewshot_bench.utils.errors import UsageError
from tests.helpers import fsbench

SHOTS = (1, 2, 4, 8, 16)
# CLIP-LoRA Table 3 (ViT-B/16), the paper's own row of means and cells of four methods.
TABLE3 = {
    ("clip-lora", "average"): (72.5, 75.5, 77.4, 80.3, 83.0),
    ("clip-lora", "food101"): (84.3, 83.2, 82.7, 83.1, 84.2),
    ("coop", "average"): (67.6, 70.8, 74.0, 76.8, 80.0),
    ("coop[context_init=a photo of a]", "average"): (67.2, 70.5, 73.0, 76.4, 79.0),
    ("tip-adapter-f", "average"): (70.9, 73.7, 75.6, 78.3, 80.7),
    ("maple", "average"): (66.4, 70.5, 73.5, 76.4, 78.6),
}


def identity(number: Number) -> tuple[object, ...]:
    return (
        *(number.source, number.table, number.name, number.backbone),
        *(number.dataset, number.classes, number.shots, number.metric, number.under),
    )


def test_every_collected_row_is_accounted_for() -> None:
    # A collected row has one accuracy, or, if it has none, one other number.
    kept = Counter(
        (number.source, number.table)
        for number in all_numbers()
        if number.metric in ("top1", "train_minutes", "trained_params")
    )
    for key, source in sources().items():
        assert source.collected == source.kept + source.left_out, key
        assert source.kept == kept[key], key
        assert bool(source.left_out) == bool(source.reason), key
        assert source.url.startswith("https://"), key
        assert source.citation, key
    assert set(kept) <= set(sources())
    assert sum(source.collected for source in sources().values()) == 5272
    assert len(all_numbers()) == 5855
    assert sum(source.left_out for source in sources().values()) == 174


def test_only_the_numbers_of_a_method_s_authors_are_official() -> None:
    kinds: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in csv.DictReader(
        io.StringIO(fsbench("printed", "--sources", 1, "--format", "csv").out)
    ):
        method = row["method"].partition("[")[0]
        kinds[row["source"], row["table"]].add(f"{method} {row['kind']}")
    assert {"clip-lora official", "coop secondary", "maple secondary"} < kinds[
        "clip-lora", "table3"
    ]
    assert kinds["clip-svd", "readme"] >= {"clip-svd official", "clip-lora secondary"}
    assert kinds["tip-adapter", "exp-log"] == {
        *("tip-adapter official", "tip-adapter-f official"),
        *("zero-shot secondary", "clip-adapter secondary"),
    }
    assert kinds["maple", "base-to-new"] >= {"maple official", "vpt-deep secondary"}
    assert kinds["tuw", "tables3-5"] == {"clip-lora rerun"}
    # Official numbers of a method with a paper here are all of sources of that paper's authors.
    papers = {name: card_of(registry().method_class(name)) for name in registry().methods.entries}
    for number in all_numbers():
        if number.kind == "official" and number.method in papers and number.under == "":
            own, first = (
                papers[name] for name in (number.method, number_source(number).methods[0])
            )
            assert own is not None, number
            assert first is not None, number
            assert {*own.papers} & {*first.papers}, number


def number_source(number: Number) -> Source:
    return sources()[number.source, number.table]


def test_no_number_stands_there_twice() -> None:
    assert [key for key, n in Counter(map(identity, all_numbers())).items() if n > 1] == []


def test_values_are_possible() -> None:
    datasets = {*registry().expand_datasets(["all", "imagenet-ood"]), AVERAGE, ""}
    for number in all_numbers():
        assert number.dataset in datasets or re.fullmatch(r"average-\d+", number.dataset)
        assert number.backbone in ("RN50", "RN101", "ViT-B-16", "ViT-B-32", "ViT-L-14")
        assert number.shots in (None, 0, *SHOTS)
        assert number.shots == 0 or number.method != "zero-shot"
        assert number.shots != 0 or number.method in ("zero-shot", "calip") or number.under
        assert math.isfinite(number.value)
        assert number.metric != "top1" or 0 < number.value < 100
        assert number.label != "assumed" or "assumed" in number.note


def test_means_over_data_sets_are_the_printed_means() -> None:
    rows: defaultdict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    for number in numbers():
        key = (*number.row, number.classes)
        rows[key][number.dataset] = number.value
    checked = 0
    for key, row in rows.items():
        printed = row.pop(AVERAGE, None)
        if printed is not None and row:
            assert len(row) == 11, key
            assert sum(row.values()) / 11 == pytest.approx(printed, abs=0.06), key
            checked += 1
    # 168 rows of CLIP-LoRA's Tables 3 to 5, and the complete rows of SeMoBridge.
    assert checked > 168


def test_harmonic_means_are_those_of_the_printed_means() -> None:
    rows: defaultdict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    for number in all_numbers():
        if number.classes != "all":
            rows[number.row][number.classes] = number.value
    assert len(rows) == 23
    without = {row[2] for row, found in rows.items() if HARMONIC not in found}
    assert without == {"gda"}, "its printed one is another mean"
    for row, found in rows.items():
        expected = 2 * found["base"] * found["new"] / (found["base"] + found["new"])
        # Up to three roundings to two decimals.
        assert found.get(HARMONIC, expected) == pytest.approx(expected, abs=0.015), row


def test_the_tables_are_whole() -> None:
    for table, backbone in (("table3", "ViT-B-16"), ("table4", "ViT-B-32"), ("table5", "ViT-L-14")):
        found = numbers(source="clip-lora", table=table, backbone=backbone)
        assert len(found) == 12 * (1 + 11 * len(SHOTS))
        assert {number.decimals for number in found} == {1}
    heat = numbers(source="clip-lora", table="figure3-heatmap")
    assert Counter(number.dataset for number in heat) == dict.fromkeys(
        ("imagenet", "stanford_cars", "eurosat"), 7 * 3 * 6
    )
    assert {number.label for number in heat} == {"figure"}


def test_known_rows_of_table_3() -> None:
    for (name, dataset), values in TABLE3.items():
        rows = numbers(source="clip-lora", table="table3", dataset=dataset)
        printed = {number.shots: number.value for number in rows if number.name == name}
        assert printed == dict(zip(SHOTS, values, strict=True))


def test_known_single_numbers() -> None:
    (zero_shot,) = numbers(table="table5", method="zero-shot", dataset=AVERAGE)
    assert (zero_shot.value, zero_shot.seeds) == (72.2, None)
    (coop,) = numbers(source="coop")
    assert (coop.dataset, coop.value, coop.sd, coop.seeds) == ("caltech101", 92.0, 0.15, 3)
    minutes = numbers(table="table1", metric="train_minutes")
    assert {number.name: number.value for number in minutes} == {
        "coop": 120,
        "plot++": 930,
        "prograd": 200,
        "clip-lora": 50,
    }
    parameters = numbers(source="othoradapt", metric="trained_params")
    assert [number.value for number in parameters] == [184320, 368640, 737280]


def test_a_filter_that_nothing_matches_suggests_another() -> None:
    with pytest.raises(UsageError, match="did you mean 'clip-lora'"):
        numbers(method="clip_lora")
    both = numbers(table="table3", method="coop", dataset="dtd", shots=1)
    assert [number.name for number in both] == ["coop[context_init=a photo of a]", "coop"]
    assert all(a.table == b.table for a, b in itertools.pairwise(both))
