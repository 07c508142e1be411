"""The generated pages are current, and links between pages lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.spec import PRESETS
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from tests.helpers import PATIENCE

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
PAGES = sorted([*(ROOT / name for name in TOP), *(ROOT / "docs").glob("*.md")])


def test_generated_pages_are_current() -> None:
    command = [sys.executable, "-m", "scripts.generate_docs", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{done.stderr}; run: python -m scripts.generate_docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_what_is_declared_by_name_is_explained() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name in (*SAMPLERS, *VALIDATION, *TEMPLATE_SETS, *PRESETS):
        assert f"`{name}`" in page


def test_the_architecture_page_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.(?:py|toml))`", page))
    folders = (ROOT, ROOT / "fewshot_bench", *(ROOT / "datasets").glob("*"))
    folders += tuple((ROOT / "methods").glob("*"))
    assert len(named) > 30
    assert not {name for name in named if not any((f / name).exists() for f in folders)}
