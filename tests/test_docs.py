"""Generated pages are current, and links between pages resolve."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.api.spec import PRESETS
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from scripts import generate_docs
from tests.helpers import PATIENCE

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = sorted([*(ROOT / name for name in TOP), *(ROOT / "docs").glob("*.md")])


def test_generated_pages_are_current() -> None:
    """Else: python -m scripts.generate_docs."""
    stale = [
        path.name
        for path, text in generate_docs.pages().items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert stale == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8"))
    missing = [
        f"{target}#{heading}"
        for target, heading in links
        if heading not in list_headings(page.parent / target if target else page)
    ]
    assert not missing


def list_headings(page: Path) -> set[str]:
    """The names of a page's headings in links, as hosts of Markdown make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


def test_no_example_runs_all_methods() -> None:
    """That is a thousand cells: examples name methods or a suite, or add --dry-run."""
    texts = [*PAGES, *(ROOT / "fewshot_bench").rglob("*.py")]
    found = [
        line
        for path in texts
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"fsbench .*run .*(-m|--method)[ =]all\b", line) and "--dry-run" not in line
    ]
    assert found == []


def test_what_is_declared_by_name_is_explained() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name in (*SAMPLERS, *VALIDATION, *TEMPLATE_SETS, *PRESETS):
        assert f"`{name}`" in page


def test_metrics_are_defined_for_readers() -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in METRICS)


def test_the_architecture_page_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|toml))`", page))
    folders = (ROOT, ROOT / "fewshot_bench", *(ROOT / "datasets").glob("*"))
    folders += tuple((ROOT / "methods").glob("*"))
    assert len(named) > 30
    assert not {name for name in named if not any((f / name).exists() for f in folders)}


def test_the_page_on_python_runs_as_a_script(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    script = tmp_path / "page.py"
    # Fewer images take less time and change nothing that is tested.
    text = "\n".join(blocks).replace("limit=200", "limit=20")
    script.write_text(text, encoding="utf-8")
    command = [sys.executable, script.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    for line in re.findall(r"# ((?:Results|unknown)[^.\n]*)", "\n".join(blocks)):
        assert line.strip() in done.stdout
    files = {"table.tex", "table.csv", "table.json", "table.html", "curves.pdf"}
    assert files <= {path.name for path in tmp_path.iterdir()}


def test_the_page_on_python_names_every_argument_and_column(tmp_path: Path) -> None:
    import inspect

    import fewshot_bench as fb
    from fewshot_bench.analysis.results import HEADS

    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    arguments = [*inspect.signature(fb.run).parameters]
    for name in [*arguments[:-1], *inspect.signature(fb.Results.compare).parameters][1:]:
        assert f"`{name}" in page or name == "self", name
    conditions = page.partition("`where` takes")[2]
    for name in HEADS:
        assert f"`{name}" in page or f"`{name}`" in conditions or name in UNNAMED, name


# Columns that the page calls "the conditions" and "every metric", or that it needs not name.
UNNAMED = {"val", "picks", *METRICS}
