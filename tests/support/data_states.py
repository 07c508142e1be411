"""Helpers for tests of `fsbench data status`: private data roots, the command, its output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.helpers import Result, fsbench, save_image


def own_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set an empty data root and a cache of the test's own; return the root."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    return root


def status(*names: object) -> Result:
    """Run `fsbench data status`; assert success without warnings."""
    result = fsbench("data", "status", *names)
    assert (result.code, result.err) == (0, ""), result
    return result


def row(name: str) -> dict[str, Any]:
    """Status of one data set, from the JSON output."""
    (found,) = json.loads(status(name, "--format", "json").out)["datasets"]
    assert found["name"] == name
    return dict(found)


SPLIT = "split_zhou_DescribableTextures.json"


def different_images(root: Path, extension: str = "png") -> Path:
    seed = 0
    for role, count in (("train", 4), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for index in range(count):
                seed += 1
                save_image(root / role / name / f"{index}.{extension}", seed)
    return root


def verify(*arguments: object) -> Result:
    return fsbench("data", "verify", *arguments)


def lines(result: Result) -> dict[str, tuple[str, str]]:
    """State and text of each check, by name."""
    found = re.findall(r"^  (ok|differs|FAILED) +([a-z-]+(?: file)?)  +(.*)$", result.out, re.M)
    return {name: (state, text) for state, name, text in found}


def states(result: Result) -> dict[str, str]:
    return {name: state for name, (state, _) in lines(result).items()}


def write_dtd(root: Path) -> Path:
    """Write a subset of DTD: two classes in CoOp's layout."""
    different_images(root / "dtd" / "images")
    split = {
        role: [
            [f"{role}/{name}/{index}.png", label, name]
            for label, name in enumerate(("cat", "dog"))
            for index in range(count)
        ]
        for role, count in (("train", 4), ("val", 2), ("test", 3))
    }
    (root / "dtd" / SPLIT).write_text(json.dumps(split), "utf-8")
    return root / "dtd"
