"""Stores for tests of reports, and helpers that parse a page."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.figures import costs, curves, ranks, reliability
from fewshot_bench.store.store import Store
from tests import compare_records
from tests.answers import put_answers
from tests.helpers import fsbench

CLASSES, QUERIES = 4, 80
LABELS = np.arange(QUERIES) % CLASSES
IDS = [f"test/{label}/{index}.png" for index, label in enumerate(LABELS)]


def answers(right: int, seed: int = 0) -> np.ndarray:
    """Logits (QUERIES, CLASSES): the first `right` queries correct, the others one class off."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.1, (QUERIES, CLASSES)).astype(np.float32)
    chosen = np.where(np.arange(QUERIES) < right, LABELS, (LABELS + 1) % CLASSES)
    logits[np.arange(QUERIES), chosen] += 3
    return logits


def record(method: str, dataset: str, shots: int, seed: int, right: int, **spec: object) -> Record:
    """A finished record with the accuracy of `answers(right)`."""
    made = compare_records.make(method, dataset, shots, seed, 100 * right / QUERIES, **spec)
    return dataclasses.replace(made, split={**made.split, "classes": CLASSES, "test": QUERIES})


def store_of(
    folder: Path,
    methods: dict[str, float],
    datasets: tuple[str, ...] = ("dtd", "pets"),
    shots: tuple[int, ...] = (1, 16),
    change: Callable[[Record], Record] = lambda record: record,
) -> Path:
    """A store of records with logits; `methods`: accuracy of each at the fewest shots."""
    store = Store(folder)
    store.create()
    for method, share in methods.items():
        for place, dataset in enumerate(datasets):
            for step, k in enumerate(shots):
                for seed in (1, 2, 3):
                    right = round(QUERIES * share) + 2 * step + place + seed % 2
                    made = change(record(method, dataset, k, seed, right))
                    put_answers(store, made, answers(right, seed), LABELS, IDS)
    return folder


def report(folder: Path, store: Path, *words: str) -> str:
    """Run `fsbench report` and return the page."""
    page = folder / "page.html"
    done = fsbench("report", "--store", store, "-O", page, *words)
    assert done.code == 0, done.err
    return page.read_text(encoding="utf-8")


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Reports inside have no figures, which take two thirds of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw_large", lambda *_: None)
        patch.setattr(curves, "draw_panels", lambda *_: [])
        patch.setattr(costs, "draw_all", lambda *_: ([], []))
        patch.setattr(ranks, "draw", lambda *_: "")
        patch.setattr(reliability, "draw_all", lambda *_: [])
        yield


def read(folder: Path, store: Path, *words: str) -> str:
    """The text of a report without figures."""
    with without_figures():
        return Page(report(folder, store, *words)).text


class Page(HTMLParser):
    """Elements of a page as (name, attributes), and its text outside of script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """All text, with whitespace collapsed."""
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of all elements with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]
