"""Data sets of the `datasets` package: saved folders, columns by type, splits, errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.registry import registry
from tests.support.helpers import fsbench
from tests.support.own_sets import hub_or_skip, picture

hub = hub_or_skip()
NAMES = ["cat", "dog"]
COUNT = 10


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable network and progress bars, and use a cache for this test only."""
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))
    hub.disable_progress_bars()


def table(count: int = COUNT, start: int = 0, **columns: Any) -> Any:
    """Images as bytes with labels 0 and 1 in turn; `columns` adds or replaces (values, type)."""
    numbers = range(start, start + count)
    cells: dict[str, list[Any]] = {
        "image": [{"bytes": picture(number), "path": None} for number in numbers],
        "label": [number % 2 for number in numbers],
    }
    kinds: dict[str, Any] = {"image": hub.Image(), "label": hub.ClassLabel(names=NAMES)}
    for name, (values, kind) in columns.items():
        cells[name], kinds[name] = values, kind
    return hub.Dataset.from_dict(cells, features=hub.Features(kinds))


def saved(folder: Path, **splits: Any) -> Path:
    """Write the splits with `save_to_disk`."""
    hub.DatasetDict(splits).save_to_disk(folder)
    return folder


def opened(argument: object, **data: Any) -> Any:
    return registry().dataset(f"hf:{argument}", data)


def sizes(argument: object, **data: Any) -> list[int]:
    return [len(items) for items in opened(argument, **data).items().values()]


def test_a_saved_set(tmp_path: Path) -> None:
    splits = {"test": table(4, 90), "validation": table(2, 50), "train": table()}
    dataset = opened(saved(tmp_path / "pets", **splits, extra=table(2, 70)))
    card, pools = dataset.card(), dataset.items()
    assert card.classnames == ("cat", "dog")
    assert card.counts == {"train": 10, "val": 2, "test": 4}
    assert card.notes == ("split as it came", "splits that are not used: extra")
    assert [item.id for item in pools["test"]] == [f"test/{n:08d}" for n in (0, 2, 1, 3)]
    assert [item.label for item in pools["train"]] == sorted(n % 2 for n in range(COUNT))
    assert dataset.read(pools["test"][3]) == picture(93)
    assert dataset.read(pools["val"][0]) == picture(50)
    for bad in ("test/4", "other/0", "test/x"):
        with pytest.raises(OSError, match="has no image"):
            dataset.read(type(pools["test"][0])(bad, 0, "cat"))


def test_images_are_never_decoded(tmp_path: Path) -> None:
    broken = [{"bytes": b"no image", "path": None}] * COUNT
    dataset = opened(saved(tmp_path / "a", train=table(image=(broken, hub.Image()))))
    assert dataset.read(dataset.items()["train"][0]) == b"no image"


def test_one_table_is_split(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    dataset = opened(tmp_path / "one")
    assert [len(pool) for pool in dataset.items().values()] == [4, 2, 4]
    assert dataset.items()["train"][0].id.startswith("data/")
    assert dataset.items() == opened(tmp_path / "one").items()
    assert sizes(tmp_path / "one", holdout=0.2) == [6, 2, 2]
    split = saved(tmp_path / "two", train=table(), test=table(2, 90))
    assert sizes(split) == [8, 2, 2]
    with pytest.raises(UsageError, match="comes with its own test images"):
        sizes(split, holdout=0.3)


def test_splits_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", fit=table(), valid=table(2, 50), check=table(4, 90))
    assert sizes(f"{folder}?train=fit&test=check") == [8, 2, 4]
    assert sizes(f"{folder}?train=fit&val=valid&test=check") == [10, 2, 4]
    with pytest.raises(UsageError, match="has no split 'tests': found fit, valid, check"):
        sizes(f"{folder}?train=fit&test=tests")
    with pytest.raises(UsageError, match="'tset=check' after the question mark: expected image="):
        sizes(f"{folder}?train=fit&tset=check")
    with pytest.raises(UsageError, match="one split cannot be train and test at once"):
        sizes(f"{folder}?train=fit&test=fit")
    unclear = saved(tmp_path / "b", a=table(), b=table())
    with pytest.raises(UsageError, match=r"has the splits a, b: say which .* \?train=a&test=b"):
        sizes(unclear)


def test_columns_by_name(tmp_path: Path) -> None:
    other = {
        "fine": ([n % 3 for n in range(12)], hub.ClassLabel(names=["x", "y", "z"])),
        "thumb": ([{"bytes": picture(200 + n), "path": None} for n in range(12)], hub.Image()),
    }
    folder = saved(tmp_path / "a", train=table(12, **other))
    with pytest.raises(UsageError, match="columns image, thumb could be the image; name it with"):
        sizes(folder)
    with pytest.raises(UsageError, match="columns label, fine could be the label"):
        sizes(f"{folder}?image=thumb")
    dataset = opened(f"{folder}?image=thumb&label=fine")
    assert dataset.card().classnames == ("x", "y", "z")
    item = dataset.items()["test"][0]
    assert dataset.read(item) == picture(200 + int(item.id.partition("/")[2]))
    with pytest.raises(UsageError, match=r"no column 'img': found image \(Image\), label \(Class"):
        sizes(f"{folder}?image=img&label=fine")


def test_labels_of_other_types(tmp_path: Path) -> None:
    words = table(label=([NAMES[n % 2] for n in range(COUNT)], hub.Value("string")))
    assert opened(saved(tmp_path / "a", train=words)).card().classnames == ("cat", "dog")
    numbers = table(label=([n % 2 for n in range(COUNT)], hub.Value("int64")))
    folder = saved(tmp_path / "b", train=numbers)
    with pytest.raises(UsageError, match="labels 0 to 1 and no class names"):
        sizes(folder)
    assert opened(folder, classnames=["a", "b"]).card().classnames == ("a", "b")
    floats = table(label=([n % 2 for n in range(COUNT)], hub.Value("float32")))
    with pytest.raises(UsageError, match=r"label is 0\.0 \(row 0 of 'train'\)"):
        sizes(f"{saved(tmp_path / 'c', train=floats)}?label=label")
    with pytest.raises(UsageError, match="expected images, bytes or paths"):
        sizes(f"{folder}?image=label")


def test_splits_that_do_not_agree(tmp_path: Path) -> None:
    turned = table(label=([0, 1] * 5, hub.ClassLabel(names=NAMES[::-1])))
    folder = saved(tmp_path / "a", train=table(), test=turned)
    with pytest.raises(
        UsageError, match="splits 'train' and 'test' have other columns or class na"
    ):
        sizes(folder)


def test_a_saved_set_that_is_damaged(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", train=table())
    (arrow,) = (folder / "train").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:700])
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        sizes(folder)
    arrow.unlink()
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        sizes(folder)


def test_labels_that_are_kept_secret(tmp_path: Path) -> None:
    secret = table(4, 90, label=([-1] * 4, hub.ClassLabel(names=NAMES)))
    folder = saved(tmp_path / "a", train=table(), validation=table(2, 50), test=secret)
    with pytest.raises(UsageError, match="4 of 4 images of the split 'test' have no label"):
        sizes(folder)
    assert sizes(f"{folder}?train=train&test=validation") == [8, 2, 2]


def test_images_as_plain_bytes_or_paths(tmp_path: Path) -> None:
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    paths = [str(tmp_path / f"{number}.png") for number in range(COUNT)]
    kinds: Mapping[str, tuple[list[Any], Any]] = {
        "image": (paths, hub.Image()),
        "text": (paths, hub.Value("string")),
        "bytes": ([picture(number) for number in range(COUNT)], hub.Value("binary")),
    }
    for name, (values, kind) in kinds.items():
        folder = saved(tmp_path / name, train=table(image=(values, kind)))
        dataset = opened(f"{folder}?image=image")
        for item in dataset.items()["train"]:
            number = int(item.id.partition("/")[2])
            assert dataset.read(item) == picture(number), name
            assert dataset.stamp(item).size == len(picture(number)), name


def test_stamps_and_revisions(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", train=table())
    dataset = opened(folder)
    first, second = dataset.items()["train"][:2]
    before = dataset.stamp(first)
    assert before.token != dataset.stamp(second).token
    assert before == opened(folder).stamp(first)
    revision = dataset.card().revision
    assert opened(folder).card().revision == revision
    saved(tmp_path / "b", train=table(start=100))
    for file in (tmp_path / "b" / "train").iterdir():
        (folder / "train" / file.name).write_bytes(file.read_bytes())
    assert opened(folder).stamp(first) != before
    assert opened(folder).card().revision != revision


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    table().to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    table(4, 90).to_parquet(tmp_path / "set" / "test-00000-of-00001.parquet")
    dataset = opened(tmp_path / "set")
    assert dataset.card().counts == {"train": 8, "val": 2, "test": 4}
    assert dataset.read(dataset.items()["test"][0]) == picture(90)


@pytest.mark.parametrize("names", [NAMES, ["ant", "bee"]])
def test_parquet_files_replaced_under_the_same_time_are_read_anew(
    tmp_path: Path, names: list[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()

    def write(file: str, rows: Any) -> None:
        path = folder / file
        before = path.stat() if path.exists() else None
        rows.to_parquet(path)
        if before is not None:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    write("train.parquet", table())
    write("test.parquet", table(4, 90))
    before = opened(folder)
    assert before.read(before.items()["test"][0]) == picture(90)
    kind = hub.ClassLabel(names=names)
    write("train.parquet", table(label=([0, 1] * (COUNT // 2), kind)))
    write("test.parquet", table(4, 70, label=([1, 1, 0, 0], kind)))
    dataset = opened(folder)
    read = [(dataset.read(item), item.classname) for item in dataset.items()["test"]]
    first, second = names
    assert read == [
        (picture(number), name)
        for number, name in ((72, first), (73, first), (70, second), (71, second))
    ]
    assert dataset.card().revision != before.card().revision
    # What was copied once is not copied again.
    item = dataset.items()["test"][0]
    assert opened(folder).stamp(item) == dataset.stamp(item)


def test_files_are_copied_once_where_their_clock_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    table().to_parquet(folder / "train.parquet")
    table(4, 90).to_parquet(folder / "test.parquet")
    ahead = folder.stat().st_ctime_ns + 3600 * 10**9
    monkeypatch.setattr("fsbench_datasets.hub_files._changes", lambda folder: [ahead])
    dataset = opened(folder)
    item = dataset.items()["test"][0]
    assert opened(folder).stamp(item) == dataset.stamp(item)


def test_files_with_other_class_names_are_refused(tmp_path: Path) -> None:
    """`datasets` reads all files under the class names of the first one."""
    turned = table(4, 90, label=([0, 1] * 2, hub.ClassLabel(names=NAMES[::-1])))
    lacking = table(4, 90, label=([0] * 4, hub.ClassLabel(names=["dog"])))
    numbers = table(4, 90, label=([0, 1] * 2, hub.Value("int64")))
    texts = table(4, 90, label=(["dog", "cat"] * 2, hub.Value("string")))
    cases = (
        ("test", turned, "label 0 is 'dog' in test-1.parquet and 'cat' in train-0.parquet"),
        ("test", lacking, "label 0 is 'dog' in test-1.parquet and 'cat' in train-0.parquet"),
        ("train", turned, "label 0 is 'dog' in train-1.parquet and 'cat' in train-0.parquet"),
        ("test", numbers, "test-1.parquet has labels without class names, train-0.parquet has cl"),
        ("test", texts, ""),
    )
    for number, (split, other, problem) in enumerate(cases):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        table().to_parquet(folder / "train-0.parquet")
        other.to_parquet(folder / f"{split}-1.parquet")
        if problem:
            with pytest.raises(UsageError, match=f"{problem}.*: expected the same class names in"):
                sizes(folder)
        else:
            labels = [item.classname for item in opened(folder).items()["test"]]
            assert labels == ["cat", "cat", "dog", "dog"]


def test_arrow_files_with_other_class_names_are_refused(tmp_path: Path) -> None:
    turned = table(4, 90, label=([0, 1] * 2, hub.ClassLabel(names=NAMES[::-1])))
    (tmp_path / "set").mkdir()
    for split, rows in (("train", table()), ("test", turned)):
        rows.save_to_disk(tmp_path / split)
        (arrow,) = (tmp_path / split).glob("*.arrow")
        arrow.rename(tmp_path / "set" / f"{split}.arrow")
    with pytest.raises(UsageError, match=r"label 0 is 'dog' in test\.arrow and 'cat' in "):
        sizes(tmp_path / "set")


def test_files_without_class_names_are_read_under_declared_ones(tmp_path: Path) -> None:
    kind = hub.Value("int64")
    table(label=([n % 2 for n in range(COUNT)], kind)).to_parquet(tmp_path / "train.parquet")
    table(4, 90, label=([0, 1] * 2, kind)).to_parquet(tmp_path / "test.parquet")
    assert opened(tmp_path, classnames=["a", "b"]).card().classnames == ("a", "b")
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': cat\n          '1': dog\n"
        "---\n"
    )
    assert opened(tmp_path).card().classnames == ("cat", "dog")


def test_an_empty_saved_split_and_a_folder_that_cannot_be_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", train=table(), test=table().select([]))
    with pytest.raises(UsageError, match="test was saved without rows: expected images in every"):
        sizes(folder)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.parquet").write_bytes(b"no table")
    with pytest.raises(DataMissingError, match="check that its folder is complete and that you m"):
        sizes(tmp_path / "b")


def test_sets_that_cannot_be_had(tmp_path: Path) -> None:
    result = fsbench("show", "hf:nobody/nothing@v1:small")
    assert result.code == 3
    assert "hf:nobody/nothing@v1:small cannot be loaded" in result.err
    with pytest.raises(DataMissingError, match="is no folder here and no name on the hub"):
        opened(f"{tmp_path}/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataMissingError, match="is a file, expected a folder or a name on the hub"):
        opened(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        sizes(tmp_path / "empty")


def test_a_name_with_revision_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str | None, revision: str | None) -> Any:
        if config is None:
            raise ValueError("Config name is missing.\nPick one among: ['small']")
        assert (name, config, revision) == ("some/pets", "small", "refs/pr/1")
        return hub.DatasetDict(train=table())

    monkeypatch.setattr(hub, "load_dataset", load)
    card = opened("some/pets@refs/pr/1:small").card()
    assert (card.counts["train"], card.sources) == (
        4,
        ("https://huggingface.co/datasets/some/pets",),
    )
    with pytest.raises(UsageError, match=r"name is missing\. Pick one .*hf:NAME:CONFIG says which"):
        sizes("some/pets")


def old(version: str) -> ModuleType:
    module = ModuleType("datasets")
    module.__dict__["__version__"] = version
    return module


@pytest.mark.parametrize(
    ("package", "message"),
    [
        (lambda: None, r"needs the package datasets.*pip install 'fewshot-bench\[hf\]'"),
        (lambda: ModuleType("datasets"), "needs the package datasets"),
        (lambda: old("2.19.0"), "older ones may run code .* found 2.19.0"),
    ],
    ids=["absent", "a folder of that name", "old"],
)
def test_without_the_package(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: Callable[[], Any],
    message: str,
) -> None:
    folder = saved(tmp_path / "a", train=table())
    monkeypatch.setitem(sys.modules, "datasets", package())
    with pytest.raises(DataMissingError, match=message):
        sizes(folder)


def test_a_damaged_arrow_file_is_refused(tmp_path: Path) -> None:
    """Offsets point outside the file: reading such a file can end the process."""
    folder = saved(tmp_path / "pets", train=table(), test=table(4, 90))
    (path,) = (folder / "train").glob("*.arrow")
    data = bytearray(path.read_bytes())
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, len(picture(0))))
    place = data.index(offsets)
    data[place + 4 : place + 8] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        opened(folder).items()


def test_a_saved_set_without_splits_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "pets", train=table(), test=table(4, 90))
    (folder / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(DataMissingError, match="has no splits"):
        opened(folder).items()
