"""`fsbench printed`: printed numbers with their sources, gaps and the figure of them."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fewshot_bench.plugins.reproduce.numbers import all_numbers
from fewshot_bench.plugins.reproduce.printed import agreement, settings_of
from tests.support.helpers import fsbench

MEANS = ("-d", "average", "--shots", 16, "--backbone", "ViT-B-16", "--classes", "all")


def test_settings_have_the_numbers_of_all_their_sources() -> None:
    found = {(s.method, s.dataset, s.shots, s.classes, s.backbone): s for s in settings()}
    means = found["clip-adapter", "average", 16, "all", "ViT-B-16"]
    assert [(n.source, n.value) for n in means.numbers] == [
        ("semobridge", 75.49),
        ("clip-lora", 75.5),
        ("clip-svd", 79.86),
    ]
    assert means.gap == pytest.approx(4.37)
    assert means.text == "75.49 semobridge, 75.5 clip-lora, 79.86 clip-svd"
    assert found["maple", "average", 16, "all", "ViT-B-16"].gap == pytest.approx(3.19)


def test_the_count_of_disagreements_is_that_of_a_plain_loop() -> None:
    values = defaultdict(list)
    for n in all_numbers():
        if n.metric == "top1" and n.label in ("printed", "log"):
            if n.incomparable or n.kind in ("rerun", "copied"):
                continue
            key = (n.method, *sorted(n.options.items()), n.backbone, n.dataset, n.shots, n.classes)
            key = (*key, *n.conditions.values())
            values[key].append((n.source, n.value))
    several = [group for group in values.values() if len({source for source, _ in group}) > 1]
    apart = sum(max(v for _, v in group) - min(v for _, v in group) > 1 for group in several)
    text = agreement(n for n in all_numbers() if n.metric == "top1")
    assert text.startswith(f"{len(several)} settings printed by two or more sources")
    assert f": {apart} ({apart / len(several):.0%}) differ by more than a point" in text


def test_the_widest_gap_stands_first_and_csv_has_every_source() -> None:
    shown = fsbench("printed", *MEANS)
    lines = [line.split()[0] for line in shown.out.splitlines() if "16-shot" in line]
    assert lines[:3] == ["clip-adapter", "maple", "coop"]
    assert "*: 16 context tokens are assumed" in shown.out
    rows = list(csv.DictReader(io.StringIO(fsbench("printed", *MEANS, "--format", "csv").out)))
    assert {row["source"] for row in rows} == {"2sfs", "clip-lora", "clip-svd", "semobridge"}
    assert all(row["url"].startswith("https://") and row["citation"] for row in rows)
    alone = fsbench("printed", "-m", "coop", "-d", "dtd", "--sources", 1, "--format", "json")
    assert len(json.loads(alone.out)["rows"]) >= 10


@pytest.mark.parametrize("words", [(), ("-m", "coop,gda", "-d", "dtd"), ("--sources", 3)])
@pytest.mark.parametrize("form", ["terminal", "csv", "json"])
def test_numbers_of_too_few_sources_are_counted(words: tuple, form: str) -> None:
    def rows(*words: object) -> list[dict[str, str]]:
        done = fsbench("printed", *words, "--format", "csv")
        return list(csv.DictReader(io.StringIO(done.out)))

    shown, every = rows(*words), rows(*words, "--sources", 1)
    told = fsbench("printed", *words, "--format", form).err
    assert told.startswith(f"left out: {len(every) - len(shown):,} numbers that fewer than ")
    missing = {row["method"].partition("[")[0] for row in every}
    missing -= {row["method"].partition("[")[0] for row in shown}
    assert f", all of {', '.join(sorted(missing))} among them; --sources 1 shows them" in told
    assert fsbench("printed", *words, "--sources", 1, "--format", form).err == ""


def test_the_figure_states_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "gaps.svg"
    assert fsbench("printed", *MEANS, "--figure", path).code == 0
    assert "clip-adapter" in path.read_text(encoding="utf-8")
    ElementTree.parse(path)
    other = fsbench("printed", "--figure", path)
    assert other.code == 2
    assert "-d average --shots 16 --backbone ViT-B-16 --classes all" in other.err


def test_wrong_words_are_named() -> None:
    for words, message in (
        (("-m", "cop"), "did you mean 'coop'"),
        (("-d", "mnist"), "printed dataset"),
        (("--shots", 3), "printed shots"),
        (("--sources", 9), "--sources 1"),
        (("-m", "coop", "--figure", "gaps.gif"), "expected a name that ends in"),
    ):
        answer = fsbench("printed", *words)
        assert (answer.code, message in answer.err) == (2, True), answer.err


def settings() -> list:
    return settings_of(n for n in all_numbers() if n.metric == "top1")
