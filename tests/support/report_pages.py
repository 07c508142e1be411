"""Stores for tests of reports, and helpers that parse a page."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.figures import costs, curves, ranks, reliability
from fewshot_bench.store.store import Store
from tests.support import compare_records
from tests.support.answers import put_answers
from tests.support.helpers import fsbench

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


HOSTILE = (
    "<script>window.hit=1</script>",
    "</title></style><img src=x onerror=window.hit=1>",
    '"><svg/onload=window.hit=1>',
    "$\\frac{1}{0}$ & <!-- ]]>",
    "{{ 7 * 7 }}{% for %}",
    "\u202egnp.exe\x1b[2J\x00",
    "javascript:window.hit=1",
    "x" * 5000,
)


def on_another_backbone(made: Record) -> Record:
    return dataclasses.replace(made, spec=dataclasses.replace(made.spec, backbone="other"))


def hostile(made: Record) -> Record:
    names = [*HOSTILE[:3], HOSTILE[5]]
    return dataclasses.replace(
        made,
        split={**made.split, "classnames": names},
        environment={HOSTILE[0]: HOSTILE[1], "packages": {HOSTILE[2]: HOSTILE[0]}},
        incidents=[{"kind": HOSTILE[0], "text": HOSTILE[1]}],
    )


@dataclass
class Seen:
    """A page opened from disk, with its requests and error messages."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def opened(browser: Any, path: Path, **options: Any) -> Seen:
    """Open a file in the browser."""
    options = {"viewport": {"width": 1280, "height": 800}} | options
    seen = Seen(browser.new_page(**options))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.goto(path.as_uri())
    return seen
