"""The pages on plug-ins list every rule, hook and part of the contract; their examples run."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest

from fewshot_bench import Augment, Backbone, DatasetCard, Images, MethodCard, RunContext, Shots
from fewshot_bench.api.backbone import ENCODERS, MATRICES
from fewshot_bench.api.method_rules import ABOUT
from fewshot_bench.testing.kit import checks_on

ROOT = Path(__file__).resolve().parents[2]
GUIDE, DATASETS, ADAPTERS = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in (
        "reference/method-contract",
        "how-to/own-dataset",
        "how-to/adapters-and-views",
    )
)


def test_every_rule_is_listed() -> None:
    listed = (ROOT / "docs" / "reference" / "rules.md").read_text(encoding="utf-8")
    for check in checks_on("cuda"):
        assert f"- `{check.name}`: {check.rule}\n" in listed


def example(name: str) -> str:
    """The code block of a page with this marker."""
    return DATASETS.split(f"<!-- example: {name} -->\n```python\n")[1].split("```\n")[0]


def module_of(source: str, folder: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """Save code of the guide as a module, like a reader would, and import it."""
    (folder / "fsbench_from_the_guide.py").write_text(source, encoding="utf-8")
    patch.syspath_prepend(str(folder))
    patch.delitem(sys.modules, "fsbench_from_the_guide", raising=False)
    return importlib.import_module("fsbench_from_the_guide")


def test_the_card_shown_has_every_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = example("card")
    card = module_of(source, tmp_path, monkeypatch).card
    for field in dataclasses.fields(DatasetCard):
        assert f"\n    {field.name}=" in source
        assert getattr(card, field.name) != field.default


def test_names_that_an_author_writes_are_listed() -> None:
    rows = [line for line in ADAPTERS.splitlines() if line.startswith("| `")]
    (encoders,) = [row for row in rows if row.startswith("| `encoder` |")]
    (matrices,) = [row for row in rows if row.startswith("| `matrix` |")]
    assert all(f'`"{name}"`' in encoders for name in ENCODERS)
    assert all(f'`"{name}"`' in matrices for name in MATRICES)
    assert all(f"`{name}: ClassVar[" in GUIDE for name in ABOUT)
    shown = re.search(r"`(Augment\(.*?flip=0\.5\))`", GUIDE)
    assert shown is not None
    assert eval(shown[1], {"Augment": Augment}) == Augment()


def test_every_part_of_the_contract_is_listed() -> None:
    rows = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `")]
    fields = {f.name for f in dataclasses.fields(MethodCard)}
    assert fields <= set(re.findall(r"`(\w+)`", " ".join(rows)))
    for contract, prefix in ((RunContext, "ctx."), (Backbone, ""), (Images, ""), (Shots, "")):
        names = {*vars(contract), *getattr(contract, "__annotations__", {})}
        for name in names - {*dir(Protocol)}:
            if not name.startswith("_"):
                assert any(re.search(rf"`{re.escape(prefix)}{name}\b", row) for row in rows), name
