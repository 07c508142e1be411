"""The atlas of the documentation has all printed numbers with their sources."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest

from fewshot_bench.plugins.reproduce.numbers import all_numbers, numbers, sources
from fewshot_bench.plugins.reproduce.printed import settings_of
from scripts.atlas.page import write_atlas
from tests.support.helpers import fsbench
from tests.support.report_pages import Page

MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def page() -> str:
    return write_atlas()


def data_of(page: str) -> Any:
    """Return the columns of a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*)</script>', page)
    return json.loads(found)


def test_the_atlas_has_every_printed_number_with_its_source(page: str) -> None:
    data = data_of(page)
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


def test_the_atlas_has_the_numbers_of_printed(page: str) -> None:
    data = data_of(page)["numbers"]
    method, backbone, dataset = (
        [data[name]["of"][at] for at in data[name]["at"]]
        for name in ("name", "backbone", "dataset")
    )
    shown = sorted(zip(method, backbone, dataset, data["value"], strict=True))
    printed = fsbench("printed", "--sources", 1, "--format", "csv").out
    for row in csv.DictReader(io.StringIO(printed)):
        key = row["method"], row["backbone"], row["dataset"]
        assert any(float(one[3]) == float(row["value"]) for one in shown if one[:3] == key), row


def test_it_loads_nothing_and_runs_one_script(page: str) -> None:
    parsed = Page(page)
    assert not [a for _, own in parsed.elements for a in own if a == "src"]
    assert {own["href"] for own in parsed.named("link")} == {"data:,"}
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'")
    assert policy.count("sha256-") == 1
    assert len(page.encode()) < MOST_BYTES


def test_without_scripts_averages_are_there(page: str) -> None:
    (plain,) = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert "need JavaScript" in plain
    assert "clip-lora" in plain
    assert "83.0" in page
