"""Kept splits with other classes, swapped cached lists, and images that are links to themselves
or to no file.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsbench_datasets import kept_lists

from fewshot_bench import DataMissingError, Item, UsageError
from fewshot_bench.api.registry import registry
from tests.support.helpers import fsbench, save_image

QUICK = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))


def classes(root: Path, *names: str, count: int = 6) -> Path:
    for label, name in enumerate(names or ("cat", "cow", "dog")):
        for index in range(count):
            save_image(root / name / f"{index}.png", 100 * label + index, (8, 8))
    return root


def opened(root: Path) -> Any:
    return registry().dataset(f"folder:{root}", store=root.parent / "store")


def swapped(content: Any) -> None:
    """Test images of cats are dogs, and the other way round."""
    other = {0: (2, "dog"), 2: (0, "cat"), 1: (1, "cow")}
    content["test"] = [[id, *other[label]] for id, label, _ in content["test"]]


def renamed(content: Any) -> None:
    """Cows are bulls in all pools."""
    for role, rows in content.items():
        content[role] = [[id, n, "bull" if n == 1 else name] for id, n, name in rows]


def renumbered(content: Any) -> None:
    """Labels run in the other direction, in all pools."""
    for role, rows in content.items():
        content[role] = [[id, 2 - label, name] for id, label, name in rows]


@pytest.mark.parametrize("change", [swapped, renamed, renumbered])
def test_a_kept_split_of_false_classes_is_refused(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    root = classes(tmp_path / "pets")
    path = opened(root).keep_split()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"has the class .* of its folder: put the file back"):
        opened(root).items()
    result = fsbench("run", *QUICK, "-d", f"folder:{root}", "--store", tmp_path / "store")
    assert (result.code, str(path) in result.err) == (2, True)


def test_classes_that_came_or_went_later_keep_the_split(tmp_path: Path) -> None:
    root = classes(tmp_path / "pets", "a/other", "b/dog", "c/cow")
    opened(root).keep_split()
    before = opened(root).items()
    # Classes before the others, one of which takes a name that was unique.
    classes(root, "a/ape", "d/other")
    assert opened(root).items() == before
    shutil.rmtree(root / "c")
    lenient = {"skipped": {f"folder:{root}": []}}
    dataset = registry().dataset(f"folder:{root}", lenient, tmp_path / "store")
    assert dataset.items() == before


@pytest.mark.parametrize("family", ["folder", "manifest"])
def test_a_byte_order_mark_in_a_kept_split_is_named(tmp_path: Path, family: str) -> None:
    root = classes(tmp_path / "pets")
    place = root
    if family == "manifest":
        place = tmp_path / "m.csv"
        rows = [f"pets/{path.relative_to(root)},{path.parent.name}" for path in root.glob("*/*")]
        place.write_text("path,label\n" + "\n".join(rows))
    name = f"{family}:{place}"
    path = registry().dataset(name, store=tmp_path / "store").keep_split()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(DataMissingError, match="starts with a byte order mark"):
        registry().dataset(name, store=tmp_path / "store").items()


def test_lists_of_the_cache_that_were_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Folders count as old, however long the test takes.
    later = time.time_ns() + 10**13
    monkeypatch.setattr(time, "time_ns", lambda: later)
    roots = classes(tmp_path / "pets"), classes(tmp_path / "trees", "ash", "elm", count=9)
    seen = [(opened(root).items(), opened(root).card()) for root in roots]
    lists = sorted((tmp_path / "cache" / "lists").iterdir())
    content = [path.read_bytes() for path in lists]
    for path, other in zip(lists, [*content[1:], content[0]], strict=True):
        path.write_bytes(other)
    assert [(opened(root).items(), opened(root).card()) for root in roots] == seen
    assert [path.read_bytes() for path in lists] == content


@pytest.mark.parametrize("junk", [b"", b"junk", b"[1]\n", b"\n", b"[[]]\njunk"])
def test_lists_that_cannot_be_decoded_count_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes
) -> None:
    root = classes(tmp_path / "pets")
    before = opened(root).items()
    monkeypatch.setattr(kept_lists, "kept_list", lambda key: junk)
    assert opened(root).items() == before


def test_an_image_that_is_a_link_to_itself(tmp_path: Path) -> None:
    root, store = classes(tmp_path / "pets"), tmp_path / "store"
    loop = root / "cat" / "loop.png"
    loop.symlink_to(loop)
    (root / "loop").symlink_to(root / "loop")
    name = f"folder:{root}"
    shown = fsbench("show", name)
    assert (shown.code, "3: cat, cow, dog" in shown.out) == (0, True), shown
    verified = fsbench("data", "verify", name)
    assert "cat/loop.png: a link that leads to itself" in verified.out
    result = fsbench("run", *QUICK, "-d", name, "--store", store)
    assert (result.code, "1 of its images cannot be used" in result.err) == (3, True), result
    assert "cat/loop.png: a link that leads to itself" in result.err
    result = fsbench("run", *QUICK, "-d", name, "--store", store, "--skip-damaged")
    assert (result.code, "images (1): 'cat/loop.png'" in result.out) == (0, True), result


def test_links_to_a_pipe_and_to_a_device_are_not_opened(tmp_path: Path) -> None:
    """The pipe has no writer, so opening it would never end."""
    root, store = classes(tmp_path / "pets"), tmp_path / "store"
    os.mkfifo(tmp_path / "pipe")
    (root / "cat" / "pipe.png").symlink_to(tmp_path / "pipe")
    (root / "dog" / "zero.png").symlink_to("/dev/zero")
    name = f"folder:{root}"
    verified = fsbench("data", "verify", name)
    for image in ("cat/pipe.png", "dog/zero.png"):
        assert f"{image}: cannot be read: OSError: it is a link to a pipe, a" in verified.out
    result = fsbench("run", *QUICK, "-d", name, "--store", store)
    assert (result.code, "2 of its images cannot be used" in result.err) == (3, True), result
    (root / "cow" / "link.png").symlink_to(root / "cat" / "0.png")
    dataset = opened(root)
    assert dataset.read(Item("cow/link.png", 0, "cow")) == (root / "cat" / "0.png").read_bytes()
