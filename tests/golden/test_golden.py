"""What commands print of eight stores is, to the last digit, what it was.

`FSBENCH_WRITE_GOLDENS=1 pytest tests/golden` writes the files anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.golden.stores import STORES, fill
from tests.support.helpers import fsbench
from tests.support.report_pages import Page

OUTPUTS = Path(__file__).parent / "outputs"
COMPARE: dict[str, tuple[str, ...]] = {
    "compare.csv": ("compare", "--format", "csv"),
    "compare.json": ("compare", "--format", "json"),
    "compare.txt": ("compare",),
    "full.txt": ("compare", "--layout", "full"),
    "paper.txt": ("compare", "--layout", "paper"),
    "paper.tex": ("compare", "--layout", "paper", "--format", "latex"),
    "audit.csv": ("audit", "--format", "csv"),
    "report.txt": ("report", "--output", "page.html"),
}
BASELINE = {
    "baseline.csv": ("compare", "--format", "csv"),
    "baseline.json": ("compare", "--format", "json"),
}
SWEEP = ("compare", "--layout", "sweep", "-m", "clip-lora", "-o", "rank=1,2,4")
SWEEP = (*SWEEP, "-o", "matrices=q,qv")
REPRODUCE = ("reproduce", "clip-lora-table3", "--only-existing", "--shots", "1", "-m", "clip-lora")


def commands(store: str) -> dict[str, tuple[str, ...]]:
    """The commands of a store by the file of their output."""
    if store == "swept":
        rest = {f"sweep.{form}": (*SWEEP, "--format", form) for form in ("csv", "json")}
        return COMPARE | rest
    if store == "printed":
        forms = ("csv", "json", "latex")
        return {f"reproduce.{form}": (*REPRODUCE, "--format", form) for form in forms}
    baseline = "coop" if store in ("base-to-new", "crossed") else "zero-shot"
    compared = {name: (*words, "--baseline", baseline) for name, words in BASELINE.items()}
    if store == "conditions":
        mixed = {"mixed.csv": ("compare", "--format", "csv", "--allow-mixed")}
        return COMPARE | compared | mixed
    if store == "plain":
        return COMPARE | compared | {"audit.json": ("audit", "--format", "json")}
    return COMPARE | compared


def output(words: tuple[str, ...]) -> str:
    """What a command prints, or the words of the page that it writes."""
    done = fsbench(*words, "--store", "results")
    if words[0] == "report":
        page = Path(words[-1])
        return f"{Page(page.read_text(encoding='utf-8')).text}\n" if page.exists() else done.err
    return done.out or done.err


@pytest.mark.parametrize("store", STORES)
def test_outputs_are_the_golden_ones(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    fill(store, Path("results"))
    differing = []
    for name, words in commands(store).items():
        golden, text = OUTPUTS / store / name, output(words)
        if os.environ.get("FSBENCH_WRITE_GOLDENS"):
            golden.parent.mkdir(parents=True, exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        if text != golden.read_text(encoding="utf-8"):
            (tmp_path / name).write_text(text, encoding="utf-8")
            differing.append(f"diff {golden} {tmp_path / name}")
    assert not differing, "\n".join(differing)
