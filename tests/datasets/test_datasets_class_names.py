"""Class names and paths have one meaning in every spelling and container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import UsageError
from fewshot_bench.api.registry import registry
from tests.support.helpers import fsbench, image_folder
from tests.support.own_sets import hub_or_skip, picture, write_shard


def manifest(root: Path, *names: str, count: int = 6) -> str:
    """Write a manifest with `count` images of each name, in alternating order."""
    lines = ["path,class"]
    for number in range(count * len(names)):
        (root / f"{number:02d}.png").write_bytes(picture(number))
        lines.append(f'{number:02d}.png,"{names[number % len(names)]}"')
    (root / "list.csv").write_text("\n".join(lines))
    return f"manifest:{root / 'list.csv'}"


def shards(root: Path, *names: str, count: int = 6) -> str:
    members = []
    for number in range(count * len(names)):
        members.append((f"{number:02d}.png", picture(number)))
        members.append((f"{number:02d}.txt", names[number % len(names)].encode()))
    write_shard(root / "0.tar", members)
    return f"wds:{root}"


def classnames(name: str, **data: Any) -> tuple[str, ...]:
    return tuple(registry().dataset(name, data).card().classnames)


@pytest.mark.parametrize("container", [manifest, shards])
def test_blanks_make_no_classes(tmp_path: Path, container: Any) -> None:
    name = container(tmp_path, "dress", "dress ", " hot  dog", "hot dog")
    assert classnames(name) == ("dress", "hot dog")


@pytest.mark.parametrize("container", [manifest, shards])
def test_case_makes_no_classes(tmp_path: Path, container: Any) -> None:
    name = container(tmp_path, "UPPER", "upper", "other")
    with pytest.raises(UsageError, match="'UPPER' and 'upper' differ in case, blanks"):
        classnames(name)
    # Class names given by the user distinguish them.
    assert classnames(name, classnames=["a", "b", "c"]) == ("a", "b", "c")


@pytest.mark.parametrize("container", [manifest, shards])
def test_underscores_make_no_classes(tmp_path: Path, container: Any) -> None:
    """Prompts have blanks for underscores: both classes had the same prompt."""
    name = container(tmp_path, "hot_dog", "hot dog", "other")
    with pytest.raises(UsageError, match="'hot dog' and 'hot_dog' differ in case, blanks or under"):
        classnames(name)
    assert classnames(name, classnames=["a", "b", "c"]) == ("a", "b", "c")
    for given in (["hot_dog", "hot dog", "c"], ["Cat", "cat", "c"]):
        with pytest.raises(UsageError, match=r"given to 2 classes .*tell them apart"):
            classnames(name, classnames=given)


def test_class_folders_that_underscores_tell_apart(tmp_path: Path) -> None:
    for folder in ("x/hot_dog", "y/hot dog", "z/other"):
        for number in range(3):
            path = tmp_path / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
    assert classnames(f"folder:{tmp_path}") == ("other", "x/hot_dog", "y/hot dog")
    (tmp_path / "y").rename(tmp_path / "w")
    (tmp_path / "w/hot dog").rename(tmp_path / "x/hot dog")
    (tmp_path / "w").rmdir()
    with pytest.raises(UsageError, match=r"hot_dog' .* differ in case, blanks or underscores"):
        classnames(f"folder:{tmp_path}")


def test_names_beside_the_labels(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "0.tar",
        [
            (f"{number}.{ending}", content)
            for number in range(12)
            for ending, content in (("png", picture(number)), ("cls", str(number % 3).encode()))
        ],
    )
    (tmp_path / "classnames.txt").write_text("Dress\ndress\nshoe\n")
    with pytest.raises(UsageError, match="differ in case, blanks or underscores"):
        classnames(f"wds:{tmp_path}")


def test_the_order_of_lines_changes_no_picks(tmp_path: Path) -> None:
    name = manifest(tmp_path, "b", "a", "a b")
    lists = registry().dataset(name).items()
    path = tmp_path / "list.csv"
    head, *rows = path.read_text().split("\n")
    path.write_text("\n".join([head, *reversed(rows)]))
    assert registry().dataset(name).items() == lists
    assert [item.classname for item in lists["train"]] == sorted(
        item.classname for item in lists["train"]
    )


def test_a_folder_of_images_has_the_same_picks_everywhere(tmp_path: Path) -> None:
    hub_or_skip().disable_progress_bars()
    root = tmp_path / "set"
    for number in range(48):
        role, classname = ("train", "test")[number % 2], ("a", "a b", "B")[number % 3]
        (root / role / classname).mkdir(parents=True, exist_ok=True)
        (root / role / classname / f"{number:02d}.png").write_bytes(picture(number))
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    lines = [f"{file},{file.parts[1]},{file.parts[0]}" for file in files]
    (root / "list.csv").write_text("\n".join(["path,class,split", *lines]))
    names = (f"folder:{root}", f"manifest:{root / 'list.csv'}", f"hf:{root}")
    found = [registry().dataset(name).items() for name in names]
    (root / "list.csv").unlink()
    assert found[0] == found[1] == found[2]
    assert len(found[0]["train"]) + len(found[0]["val"]) == len(found[0]["test"]) == 24


def test_a_folder_without_its_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "clothes")
    (tmp_path / "list.csv").touch()
    for name in ("clothes", "./clothes", str(tmp_path / "clothes")):
        result = fsbench("run", "-m", "zero-shot", "-d", name)
        assert (result.code, f"did you mean 'folder:{name}'?" in result.err) == (2, True)
        shown = fsbench("show", name)
        assert (shown.code, f"did you mean 'folder:{name}'?" in shown.err) == (2, True)
    result = fsbench("run", "-m", "zero-shot", "-d", "list.csv")
    assert "did you mean 'manifest:list.csv'?" in result.err
