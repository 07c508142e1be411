"""The package's published numbers: complete, consistent, and equal to the sources."""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest

from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.paper import Paper
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.cells import Wanted, cells
from fewshot_bench.plugins.reproduce.numbers import (
    AVERAGE,
    HARMONIC,
    Number,
    all_numbers,
    numbers,
    sources,
)
from fewshot_bench.plugins.reproduce.published import reproduction
from fewshot_bench.runner.variants import expand_methods
from fewshot_bench.utils.errors import UsageError
from tests.support.helpers import fsbench

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
    assert sum(source.collected for source in sources().values()) == 6208
    assert len(all_numbers()) == 6071
    assert sum(source.left_out for source in sources().values()) == 894


def test_only_the_numbers_of_a_method_s_authors_are_official() -> None:
    kinds: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    shown = fsbench("printed", "--sources", 1, "--format", "csv").out
    for row in csv.DictReader(io.StringIO(shown)):
        method = row["method"].partition("[")[0]
        kinds[row["source"], row["table"]].add(f"{method} {row['kind']}")
    assert kinds["clip-lora", "table3"] > {"clip-lora official", "coop secondary"}
    assert kinds["clip-svd", "readme"] >= {"clip-svd official", "clip-lora secondary"}
    assert kinds["tip-adapter", "exp-log"] == {
        *("tip-adapter official", "tip-adapter-f official"),
        *("zero-shot secondary", "clip-adapter secondary"),
    }
    assert kinds["maple", "base-to-new"] >= {"maple official", "vpt-deep secondary"}
    assert kinds["tuw", "tables3-5"] == {"clip-lora rerun"}
    for number in all_numbers():
        if number.kind == "official" and not number.under:
            own, first = (papers(name) for name in (number.method, owner(number)))
            assert not own or own & first, f"{number.name} of {number.source}: of other authors"


def papers(method: str) -> set[Paper]:
    """The papers of a method; empty if it is not installed."""
    if method not in registry().methods.entries:
        return set()
    card = card_of(registry().method_class(method))
    assert card is not None
    return {*card.papers}


def owner(number: Number) -> str:
    return sources()[number.source, number.table].methods[0]


def test_every_number_names_the_options_of_its_run() -> None:
    # Defaults that numbers without an option had. If one moves, numbers that had the old value name
    # it (`lr=1e-05` in column `options`), and this file stays as it is; it gets lines for options
    # that are new.
    recorded = json.loads(Path(__file__).with_name("printed_defaults.json").read_text("utf-8"))
    moved = []
    methods = {number.method for number in all_numbers()} & {*registry().methods.entries}
    today = {name: resolved(name) for name in methods}
    assert sorted(recorded) == sorted(methods)
    for number in all_numbers():
        had, has = (values.get(number.method, {}) for values in (recorded, today))
        for name in {*had, *has} - {*number.options}:
            if had.get(name) != has.get(name):
                moved.append(f"{number.source} {number.table} {number.name}: {name}")
    assert not moved, f"the default is another one than in these runs: {sorted({*moved})}"


@functools.cache
def resolved(method: str, *words: str) -> Mapping[str, object]:
    """All options of a method with these; empty if it is not installed."""
    if method not in registry().methods.entries:
        return {}
    (variant,) = expand_methods([method], words, registry())
    return variant.options


# Tables of one source that print the same cells: a figure and a table, a log and a table, or other
# templates, which are no option.
SEVERAL_TIMES = {
    ("clip-lora", "table3", "figure3-heatmap", "figure3-bars"),
    ("tuw", "tables3-5", "figure3-placement", "figure3-heatmap"),
    ("prolip", "base-to-new", "base-to-new-generic"),
    ("zero", "tables", "ensemble"),
    ("dmn", "log", "table3"),
}


def test_a_source_prints_a_cell_once() -> None:
    printed: defaultdict[tuple[object, ...], list[str]] = defaultdict(list)
    for number in all_numbers():
        words = [f"{name}={value}" for name, value in sorted(number.options.items())]
        run = resolved(number.method, *(word for word in words if "blocks" not in word))
        what = sorted({**number.options, **run}.items())
        key = number.source, number.metric, number.method, str(what), number.backbone
        key = *key, number.dataset, number.shots, number.classes, number.under
        printed[key].append(number.table)
    several = {(str(key[0]), *tables) for key, tables in printed.items() if len(tables) > 1}
    assert several == SEVERAL_TIMES


def test_rows_of_prolip_are_those_of_their_learning_rate() -> None:
    rows = {
        (variant.options["lr"], variant.options["penalty"], cell.shots): cell.mean.printed
        for cell in cells(reproduction("prolip-rn50"), Wanted(methods=("prolip",)))
        if (variant := cell.variant) and cell.mean
    }
    assert (rows[1e-3, 0.0, 1], rows[1e-3, 0.0, 16]) == ("40.05", "61.79")
    assert (rows[1e-5, 0.0, 1], rows[1e-5, 0.0, 16]) == ("62.84", "75.65")
    assert (rows[1e-3, 1.0, 16], rows[1e-5, 1.0, 16]) == ("75.73", "75.20")
    assert len(rows) == 40


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
    rows: defaultdict[tuple[object, ...], dict[str, Number]] = defaultdict(dict)
    for number in numbers():
        rows[*number.row, number.classes][number.dataset] = number
    means = {}
    for key, row in rows.items():
        printed = row.pop(AVERAGE, None)
        if printed is not None and row:
            assert {*row} == {*printed.sets}, key
            # The mean is rounded, and each number of it is.
            mean, unit = sum(n.value for n in row.values()) / 11, 10.0**-printed.decimals
            noted = re.fullmatch(r"its printed sets have a mean of ([\d.]+)", printed.note)
            assert mean == pytest.approx(float(noted[1]) if noted else printed.value, abs=unit), key
            assert not noted or abs(mean - printed.value) > unit, f"{key}: the note is needless"
            means[key] = noted
    assert Counter(key[:2] for key in means if key[-1] == "all") == {
        **{("clip-lora", table): 56 for table in ("table3", "table4", "table5")},
        ("semobridge", "vit-b-16"): 49,
        ("semobridge", "rn50"): 51,
    }
    assert [key[:3] for key, noted in means.items() if noted] == [
        ("semobridge", "vit-b-16", "2sfs"),
        ("vacsr", "appendix", "mma"),
    ]
    # Base-to-new by data set: both halves of nine methods.
    halves = Counter(key[2] for key in means if key[-1] != "all")
    names = ("zero-shot", "coop", "cocoop", "kgcoop", "maple", "promptsrc", "tcp", "mma", "mmrl")
    assert halves == dict.fromkeys(names, 2)


def test_harmonic_means_are_those_of_the_printed_means() -> None:
    rows: defaultdict[tuple[object, ...], dict[str, float]] = defaultdict(dict)
    for number in all_numbers():
        if number.classes != "all" and number.kind != "copied":
            rows[*number.row, number.dataset][number.classes] = number.value
    assert len(rows) == 23
    without = {row[2] for row, found in rows.items() if HARMONIC not in found}
    assert without == {"gda"}, "its printed one is another mean"
    # It is one number for all sets: of one set it follows from base and new.
    harmonic = [number for number in all_numbers() if number.classes == HARMONIC]
    assert {(number.dataset, number.kind == "copied") for number in harmonic} == {(AVERAGE, False)}
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
