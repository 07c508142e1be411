"""Webdataset shards: patterns, roles, labels of every kind, class names, and damaged samples."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.registry import registry
from tests.support.own_sets import Members, picture, samples, write_shard


def described(labels: Sequence[Mapping[str, Any] | str]) -> Members:
    """Samples with `.json`, or `.txt` for text labels."""
    for number, label in enumerate(labels):
        yield f"{number:06d}.jpg", picture(number, "JPEG")
        if isinstance(label, str):
            yield f"{number:06d}.txt", label.encode()
        else:
            yield f"{number:06d}.json", json.dumps(label).encode()


def opened(argument: object, **data: Any) -> Any:
    return registry().dataset(f"wds:{argument}", data)


def ids(argument: object, **data: Any) -> dict[str, list[str]]:
    return {role: [i.id for i in items] for role, items in opened(argument, **data).items().items()}


def sizes(argument: object, **data: Any) -> list[int]:
    return [len(pool) for pool in ids(argument, **data).values()]


@pytest.fixture
def benchmark_set(tmp_path: Path) -> Path:
    """A folder in the export format of clip-benchmark."""
    root = tmp_path / "wds_pets"
    write_shard(root / "train" / "0.tar", samples(6))
    write_shard(root / "train" / "1.tar", samples(4, 6))
    write_shard(root / "test" / "0.tar", samples(4, 10))
    for role, count in (("train", 2), ("test", 1)):
        (root / role / "nshards.txt").write_text(str(count))
    (root / "classnames.txt").write_text("cat\nbig dog\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\nart: {c}\n")
    return root


def test_the_layout_of_clip_benchmark(benchmark_set: Path) -> None:
    dataset = opened(benchmark_set)
    card = dataset.card()
    assert card.classnames == ("cat", "big dog")
    assert card.custom_templates == ("a photo of a {}.", "art: {}")
    assert card.counts == {"train": 8, "val": 2, "test": 4}
    assert "2 of" not in " ".join(card.notes)
    item = dataset.items()["test"][2]
    assert (item.id, item.label, item.classname) == ("test/0.tar/000011.png", 1, "big dog")
    assert dataset.read(item) == picture(11)
    with pytest.raises(OSError, match=r"has no image 'x\.png'"):
        dataset.read(type(item)("x.png", 0, "cat"))


def test_one_shard_by_a_link_is_refused(benchmark_set: Path) -> None:
    (benchmark_set / "test" / "1.tar").symlink_to("../train/1.tar")
    with pytest.raises(UsageError, match=r"test/1\.tar and .*train/1\.tar are one file, by a link"):
        opened(benchmark_set).items()


def test_stamps_change_with_the_shard_and_the_place(benchmark_set: Path) -> None:
    dataset = opened(benchmark_set)
    first, second = dataset.items()["test"][:2]
    before = dataset.stamp(first)
    assert before.size == len(picture(10))
    assert before.token != dataset.stamp(second).token
    write_shard(benchmark_set / "test" / "0.tar", samples(4, 20))
    assert dataset.stamp(first) != before
    (benchmark_set / "test" / "0.tar").unlink()
    assert dataset.stamp(first) is None
    with pytest.raises(OSError, match="No such file"):
        dataset.read(first)


def test_the_revision_changes_with_the_images(benchmark_set: Path) -> None:
    before = opened(benchmark_set).card().revision
    assert opened(benchmark_set).card().revision == before
    other = [(name, picture(1, "BMP") if "png" in name else b) for name, b in samples(4, 10)]
    write_shard(benchmark_set / "test" / "0.tar", other)
    assert opened(benchmark_set).card().revision != before


def test_patterns_find_the_same_shards(tmp_path: Path) -> None:
    for number in range(3):
        write_shard(tmp_path / f"pets-train-{number:03d}.tar", samples(4, 4 * number))
    write_shard(tmp_path / "pets-test-000.tar", samples(4, 20))
    names = ["cat", "dog"]
    whole = ids(tmp_path, classnames=names)
    assert [len(pool) for pool in whole.values()] == [10, 2, 4]
    for argument in (
        f"{tmp_path}/*.tar",
        f"{tmp_path}/pets-train-{{000..002}}.tar;{tmp_path}/pets-test-000.tar",
        f"{tmp_path}/pets-test-*.tar ; {tmp_path}/pets-train-00?.tar",
        f"train={tmp_path}/pets-train-*.tar;test={tmp_path}/pets-test-*.tar",
    ):
        assert ids(argument, classnames=names) == whole, argument
    part = ids(f"{tmp_path}/pets-train-{{000..001}}.tar", classnames=names, holdout=0.25)
    assert [len(pool) for pool in part.values()] == [4, 2, 2]
    assert part["train"][0].startswith("pets-train-00")


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    write_shard(tmp_path / "a-000.tar", samples(4))
    for argument, message in {
        f"{tmp_path}/a-{{000..003}}.tar": r"3 shards are not there: .*a-001\.tar",
        f"{tmp_path}/b-*.tar": "no shard matches",
        f"{tmp_path}/b.tar": "no shard matches",
        str(tmp_path.parent / "nowhere"): "no shard matches",
    }.items():
        with pytest.raises(DataMissingError, match=message):
            ids(argument)


def test_a_pipe_among_the_shards_is_refused_unopened(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", samples(8))
    os.mkfifo(tmp_path / "b.tar")
    for argument in (tmp_path, tmp_path / "*.tar"):
        with pytest.raises(DataMissingError, match=r"1 (of its .tar|shards) are .*b\.tar"):
            ids(argument)


def test_patterns_that_make_no_sense(tmp_path: Path) -> None:
    for argument, message in {
        f"{tmp_path}/a-{{x}}.tar": "expected a range of numbers",
        f"{tmp_path}/a-{{3..1}}.tar": "lower number first",
        f"{tmp_path}/a-{{0..999999999}}.tar": "at most",
        "https://x.org/a.tar": "files on this machine",
        "pipe:cat a.tar": "files on this machine",
        ";": "expected a pattern",
    }.items():
        with pytest.raises(UsageError, match=message):
            ids(argument)


def test_roles_that_are_not_clear(tmp_path: Path) -> None:
    write_shard(tmp_path / "train.tar", samples(4))
    write_shard(tmp_path / "more.tar", samples(4))
    with pytest.raises(UsageError, match=r"shard more\.tar is of no split while others are"):
        ids(tmp_path)
    (tmp_path / "more.tar").rename(tmp_path / "train_test.tar")
    with pytest.raises(UsageError, match="names several splits"):
        ids(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        [{"label": n % 2, "class": ("cat", "dog")[n % 2]} for n in range(6)],
        [{"class": ("cat", "dog")[n % 2]} for n in range(6)],
        [("cat", "dog")[n % 2] for n in range(6)],
    ],
    ids=["label and class", "class", "text"],
)
def test_names_that_the_samples_carry(tmp_path: Path, labels: Any) -> None:
    dataset = opened(write_shard(tmp_path / "all.tar", described(labels)))
    assert dataset.card().classnames == ("cat", "dog")
    assert dataset.card().counts == {"train": 2, "val": 2, "test": 2}
    item = dataset.items()["train"][0]
    assert dataset.read(item)[:3] == b"\xff\xd8\xff"


def test_keys_with_folders_and_files_that_are_no_samples(tmp_path: Path) -> None:
    members = [("./a/0.x.png", b""), ("__meta__.json", b"{}"), ("README", b""), ("a/.x.png", b"")]
    members = [*members[1:], *(("./a/" + name, content) for name, content in samples(6))]
    pools = ids(write_shard(tmp_path / "all.tar", members), classnames=["x", "y"])
    assert sorted(p for pool in pools.values() for p in pool)[0] == "all.tar/a/000000.png"
    assert sum(map(len, pools.values())) == 6


def test_labels_without_names(tmp_path: Path, benchmark_set: Path) -> None:
    path = write_shard(tmp_path / "all.tar", samples(8))
    with pytest.raises(UsageError, match=r"labels 0 to 1 and no class names.*--classnames"):
        ids(path)
    assert opened(path, classnames=["a", "b"]).card().classnames == ("a", "b")
    (benchmark_set / "classnames.txt").write_text("cat\n")
    with pytest.raises(UsageError, match=r"label 1 \(.*0\.tar, 0000.1\) is not among its 1 class"):
        ids(benchmark_set)
    (benchmark_set / "classnames.txt").write_text("cat\ndog\ncow\n")
    with pytest.raises(UsageError, match="class 'cow' has no images"):
        ids(benchmark_set)
    (benchmark_set / "classnames.txt").write_text("cat\n\ndog\n")
    with pytest.raises(UsageError, match=r"classnames\.txt, line 2"):
        ids(benchmark_set)


BAD = {
    "no image": ([("a.cls", b"0")], "sample 'a' .* has 0 images among cls"),
    "dots in keys": (
        [(f"a.{n}.jpg", b"") for n in range(9)],
        r"among 0\.jpg, 1\.jpg, 2\.jpg, 3\.jpg, 4\.jpg, and 4 more: .* up to the first dot",
    ),
    "two images": ([("a.jpg", b""), ("a.png", b"")], "has 2 images among jpg, png"),
    "no label": ([("a.jpg", b"")], r"has no label: expected a\.cls with a number"),
    "empty label": ([("a.jpg", b""), ("a.cls", b" \n")], "has no label"),
    "bad json": ([("a.jpg", b""), ("a.json", b"{")], r"'a\.json' is not valid JSON"),
    "list": ([("a.jpg", b""), ("a.json", b"[1]")], "expected an object with label or class"),
    "no text": ([("a.jpg", b""), ("a.cls", b"\xff")], r"'a\.cls' is not UTF-8"),
    "twice": ([("a.jpg", b""), ("a.jpg", b"")], r"holds 'a\.jpg' twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_samples_that_are_not_whole(tmp_path: Path, case: str) -> None:
    members, message = BAD[case]
    with pytest.raises(UsageError, match=message):
        ids(write_shard(tmp_path / "all.tar", members))


def test_archives_and_sets_of_another_kind(tmp_path: Path, benchmark_set: Path) -> None:
    path = write_shard(tmp_path / "all.tar", samples(8))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataMissingError, match="cannot be read as an uncompressed tar"):
        ids(path)
    (benchmark_set / "dataset_type.txt").write_text("retrieval\n")
    with pytest.raises(UsageError, match="is a retrieval set"):
        ids(benchmark_set)


def test_templates_without_a_place(benchmark_set: Path) -> None:
    (benchmark_set / "zeroshot_classification_templates.txt").write_text("a photo\n")
    with pytest.raises(UsageError, match="template 'a photo' in zeroshot"):
        opened(benchmark_set).card()
