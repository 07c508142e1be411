"""ImageNet from class folders and from the original archives: the same items in the same order."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fsbench_datasets.synsets import kit_synsets, synset_names

from fewshot_bench import DataMissingError
from fewshot_bench.api.dataset import all_items
from fewshot_bench.splits.draw import draw
from fewshot_bench.splits.sampling import SAMPLERS
from tests.support.dataset_trees import (
    SYNSETS,
    devkit,
    open_set,
    pack_imagenet,
    put,
    tar_of,
    write_imagenet,
)
from tests.support.helpers import fsbench

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def archives(data: Path, tmp_path: Path) -> Path:
    """The folder of the three archives; no class folders exist below the data root."""
    return pack_imagenet(write_imagenet(tmp_path / "unpacked"), data / "imagenet")


@pytest.mark.parametrize("place", ["imagenet/images", "imagenet", "."])
def test_class_folders(data: Path, place: str) -> None:
    base = write_imagenet(data / place)
    put(base / "train" / SYNSETS[0] / "._hidden.JPEG")
    put(base / "train" / SYNSETS[0] / "notes.txt")
    put(base / "train" / "README.txt")
    dataset = open_set("imagenet")
    pools, card = dataset.items(), dataset.card()
    assert set(pools) == {"train", "test"}
    assert [item.id for item in pools["train"]][:4] == [
        "train/n01440764/n01440764_12.JPEG",
        "train/n01440764/n01440764_19.JPEG",
        "train/n01440764/n01440764_5.JPEG",
        "train/n01443537/n01443537_12.JPEG",
    ]
    assert pools["test"][0].id == "val/n01440764/ILSVRC2012_val_00000003.JPEG"
    assert card.class_ids == SYNSETS
    assert card.classnames == ("tench", "goldfish", "polar bear")
    assert card.counts == {"train": 9, "test": 9}
    assert card.expected_counts == {"train": 1281167, "test": 50000}
    assert card.folder == str(data / place)
    assert any("3 classes and 9/9 images (train/test), published are 1000" in n for n in card.notes)
    item = pools["train"][1]
    assert dataset.read(item) == (data / place / item.id).read_bytes()
    assert dataset.stamp(item).size == len(dataset.read(item))


def test_train_and_val_are_found_independently(data: Path, archives: Path) -> None:
    write_imagenet(data / "imagenet" / "images")
    whole = open_set("imagenet").items()
    (data / "imagenet" / "images" / "train").rename(data / "imagenet" / "train")
    assert open_set("imagenet").items() == whole
    (data / "imagenet" / "images" / "val").rename(data / "away")
    assert open_set("imagenet").items() == whole
    (archives / VAL).unlink()
    with pytest.raises(DataMissingError, match="no val images: expected val with one folder"):
        open_set("imagenet").items()


@pytest.mark.parametrize("place", ["imagenet", "imagenet/images", "."])
def test_archives_give_the_same_items_picks_and_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    unpacked = write_imagenet(tmp_path / "unpacked" / "imagenet")
    pack_imagenet(unpacked, data / place)
    packed = open_set("imagenet")
    monkeypatch.setenv("FSBENCH_DATA", str(unpacked.parent))
    folders = open_set("imagenet")
    assert packed.items() == folders.items()
    assert packed.card().revision == folders.card().revision
    assert packed.card().folder == str(data / place / TRAIN)
    for _, item in all_items(folders):
        assert packed.read(item) == folders.read(item)
    for protocol in SAMPLERS:
        one, other = (
            draw("imagenet", "", d.items(), protocol=protocol, shots=2, seed=1, val="none")
            for d in (packed, folders)
        )
        assert one.digest == other.digest


def test_stamps_of_members_tell_the_member_and_the_archive(archives: Path) -> None:
    dataset = open_set("imagenet")
    items = [item for _, item in all_items(dataset)]
    stamps = {dataset.stamp(item) for item in items}
    assert len(stamps) == len(items)
    assert all(dataset.stamp(item).size == len(dataset.read(item)) for item in items)
    (archives / TRAIN).write_bytes((archives / TRAIN).read_bytes() + bytes(512))
    assert stamps.isdisjoint(dataset.stamp(item) for item in dataset.items()["train"])


def test_a_changed_archive_is_indexed_again(archives: Path, tmp_path: Path) -> None:
    open_set("imagenet").items()
    pack_imagenet(write_imagenet(tmp_path / "more", each=4), archives)
    assert len(open_set("imagenet").items()["train"]) == 12


def test_without_a_cache_that_can_be_written(
    archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(put(tmp_path / "file")))
    assert len(open_set("imagenet").items()["train"]) == 9


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def gone(path: Path) -> None:
    path.unlink()


def filled(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


BAD = [
    (TRAIN, cut, "img_train.tar cannot be read as an uncompressed tar: it ends inside its member"),
    (VAL, cut, "img_val.tar cannot be read as an uncompressed tar"),
    (TRAIN, filled(b"not a tar" * 200), "img_train.tar cannot be read as an uncompressed tar"),
    (TRAIN, filled(tar_of([("n09999999.tar", tar_of([("a.JPEG", b"")]))])), "'n09999999', which"),
    (TRAIN, filled(tar_of([("n01440764.tar", tar_of([]))])), "n01440764.tar in .* has no images"),
    (TRAIN, filled(tar_of([("n01440764.tar", b"cut")])), "the archive inside it at byte 512"),
    (TRAIN, filled(tar_of([("a.JPEG", b"")])), "holds no class archives"),
    (VAL, filled(tar_of([("a.txt", b"")])), "img_val.tar holds no images"),
    (VAL, filled(tar_of([("a.JPEG", b"")])), "holds 'a.JPEG': expected ILSVRC2012_val_00000001"),
    (VAL, filled(tar_of([("ILSVRC2012_val_00000010.JPEG", b"")])), "to 00000009.JPEG, as the dev"),
    (DEVKIT, gone, "ILSVRC2012_devkit_t12.tar.gz is not, which holds the classes"),
    (DEVKIT, cut, "development kit .* cannot be used"),
    (DEVKIT, filled(tar_of([("data/meta.mat", b"")])), "it holds no ILSVRC2012_validation_ground"),
    (DEVKIT, filled(devkit(SYNSETS[:2])), "holds 'ILSVRC2012_val_00000003.JPEG': expected"),
]


@pytest.mark.parametrize(("file", "harm", "expected"), BAD)
def test_damaged_archives(
    archives: Path, file: str, harm: Callable[[Path], None], expected: str
) -> None:
    harm(archives / file)
    with pytest.raises(DataMissingError, match=expected) as caught:
        open_set("imagenet").items()
    assert str(caught.value).startswith("data set 'imagenet': ")
    assert "fsbench data prepare imagenet" in str(caught.value)
    shown = fsbench("show", "imagenet")
    assert (shown.code, "Traceback" in shown.err) == (3, False)


def test_a_class_number_that_the_kit_cannot_hold(archives: Path) -> None:
    put(archives / DEVKIT, tar_of([("ILSVRC2012_validation_ground_truth.txt", b"1000\n1001")]))
    with pytest.raises(DataMissingError, match=r"line 2 is '1001', expected 1 to 1000"):
        open_set("imagenet").items()


def test_the_numbers_of_the_kit() -> None:
    """ILSVRC2012 facts from other sources: some class numbers, and classes of some images.

    The digest is that of the WNIDs in the kit's own meta.mat, in the order of its ILSVRC2012_ID.
    """
    synsets = kit_synsets()
    assert list(synsets) == [str(number) for number in range(1, 1001)]
    assert sorted(synsets.values()) == list(synset_names())
    assert [synsets[str(n)] for n in (1, 2, 3)] == ["n02119789", "n02100735", "n02110185"]
    assert synset_names()[synsets["1000"]] == "dumbbell"
    # The first four numbers in the list of validation labels, and their classes.
    shown = [synset_names()[synsets[n]] for n in ("490", "361", "171", "822")]
    assert shown == ["sea snake", "mountain", "Shetland Sheepdog", "soup bowl"]
    lines = "".join(f"{synset}\n" for synset in synsets.values())
    assert hashlib.sha256(lines.encode()).hexdigest().startswith("e85e4969a881deb8a8ba3293")


def unsorted_val(base: Path) -> None:
    for path in list((base / "val").glob("*/*")):
        path.rename(base / "val" / path.name)
    for folder in (base / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()


FOLDERS = [
    (lambda b: put(b / "val" / "n02129604" / "a.JPEG"), "class n02129604 is in .*val and not in"),
    (lambda b: put(b / "train" / "n09999999" / "a.JPEG"), "'n09999999', which is no class of Imag"),
    (lambda b: (b / "train" / "n02129604").mkdir(), "n02129604 has no images directly in it"),
    (
        lambda b: put(b / "train" / SYNSETS[0] / "a\n.JPEG"),
        "expected names in UTF-8 without control",
    ),
    (unsorted_val, "val holds images directly: sort them into one folder per class, or put ILSVRC"),
    (lambda b: (b / "train").rename(b / "training"), "no train images: expected train with one"),
    (lambda b: b.rename(b.parent / "ImageNet"), "ImageNet has another name than expected: rename"),
]


@pytest.mark.parametrize(("harm", "expected"), FOLDERS)
def test_wrong_folders(data: Path, harm: Callable[[Path], object], expected: str) -> None:
    harm(write_imagenet(data / "imagenet"))
    with pytest.raises(DataMissingError, match=expected) as caught:
        open_set("imagenet").items()
    assert "fsbench data prepare imagenet" in str(caught.value)


def test_class_archives_that_were_not_unpacked(data: Path) -> None:
    put(write_imagenet(data / "imagenet") / "moved" / "n01440764.tar", tar_of([]))
    (data / "imagenet" / "train").rename(data / "imagenet" / "old")
    (data / "imagenet" / "moved").rename(data / "imagenet" / "train")
    with pytest.raises(DataMissingError, match="holds archives: unpack each into a folder"):
        open_set("imagenet").items()


def test_two_classes_may_have_one_name(data: Path, tmp_path: Path) -> None:
    write_imagenet(data / "imagenet", ("n03773504", "n04008634"))
    card = open_set("imagenet").card()
    assert card.classnames == ("missile", "missile")
    assert card.identities == ("n03773504", "n04008634")
    chosen = ("-m", "zero-shot", "-d", "imagenet", "--shots", "1", "--seeds", "1")
    ran = fsbench("run", *chosen, "--backbone", "tiny", "--store", tmp_path / "store")
    assert ran.code == 0, ran.err


def test_a_local_file_of_names_is_compared(data: Path) -> None:
    write_imagenet(data / "imagenet")
    names = data / "imagenet" / "classnames.txt"
    put(names, b"n01440764 tench\r\nn01443537 goldfish\r\n")
    assert not any("classnames.txt" in note for note in open_set("imagenet").card().notes)
    put(names, b"n01440764 tench\nn01443537 gold fish\n")
    card = open_set("imagenet").card()
    assert card.classnames[1] == "goldfish"
    assert any("n01443537 'gold fish' instead of 'goldfish'" in note for note in card.notes)


@pytest.mark.parametrize("above", ["", "imagenet", "imagenet-object-localization-challenge"])
def test_the_layout_of_kaggle(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str
) -> None:
    base = write_imagenet(data)
    expected = open_set("imagenet").items()
    root = tmp_path / "kaggle" / above
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    images.parent.mkdir(parents=True)
    base.rename(images)
    lines = ["ImageId,PredictionString"]
    for path in sorted((images / "val").glob("*/*")):
        lines.append(f"{path.stem},{path.parent.name} 1 2 3 4 {path.parent.name} 5 6 7 8 ")
        path.rename(images / "val" / path.name)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    table = root / "LOC_val_solution.csv"
    table.write_text("\n".join(lines))
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "kaggle"))
    dataset = open_set("imagenet")
    assert dataset.items() == expected
    item = dataset.items()["test"][0]
    assert dataset.read(item) == (images / "val" / Path(item.id).name).read_bytes()
    assert dataset.stamp(item) is not None
    table.write_text("\n".join(lines[:-1]))
    with pytest.raises(DataMissingError, match=r"of which .*LOC_val_solution\.csv has no line"):
        open_set("imagenet").items()
