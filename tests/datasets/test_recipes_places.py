"""`fsbench data prepare` fetches nothing that the data sets read in whatever place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsbench_datasets.catalog import PUBLIC_SETS, split_file_places

from tests.support.dataset_trees import (
    pack_imagenet,
    put,
    split_of,
    write_aircraft,
    write_imagenet,
    write_images,
    write_set,
    write_split,
)
from tests.support.helpers import fsbench

# A class folder that copies of the set have.
FIRST = {
    "eurosat": "Forest",
    "imagenet-v2": "0",
    "imagenet-sketch": "n01440764",
    "imagenet-a": "n01498041",
    "imagenet-r": "n01443537",
}
KAGGLE = "ILSVRC/Data/CLS-LOC"


def places() -> Iterator[tuple[str, str, str]]:
    """Set, place of its images, and the data root below the folder of the test."""
    for entry in PUBLIC_SETS:
        for place in (*entry.images, *([""] if entry.layout == "imagenet" else [])):
            yield entry.name, place, "data"
            # The data root may be the folder of the set itself.
            above, _, below = place.partition("/")
            if above:
                yield entry.name, below, above


def write(base: Path, name: str) -> None:
    if name == "imagenet":
        write_imagenet(base)
    elif name == "fgvc_aircraft":
        write_aircraft(base.parent)
    elif name in split_sets():
        write_images(base, name)
    if name in FIRST:
        put(base / FIRST[name] / "1.jpg")


def nothing_is_fetched(name: str) -> None:
    """The set is ready, and no file of its recipe would be fetched."""
    status = fsbench("data", "status", name).out
    assert f"{name} " in status
    assert "ready" in status, status
    result = fsbench("data", "prepare", name, "--dry-run")
    files = [line for line in result.out.splitlines() if line.startswith("  ") and ": " in line]
    files = [line for line in files if not line.startswith("  by hand")]
    assert files
    assert all(": already at " in line for line in files), result.out


@pytest.mark.parametrize(("name", "place", "root"), list(places()))
def test_images_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, root: str
) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / root))
    write(tmp_path / root / place, name)
    if name in split_sets():
        write_split(tmp_path / root, name)
    nothing_is_fetched(name)


def split_sets() -> list[str]:
    return [entry.name for entry in PUBLIC_SETS if entry.split_file]


@pytest.mark.parametrize("name", split_sets())
def test_split_files_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A second copy in another place would be read before the one that is there."""
    (entry,) = (entry for entry in PUBLIC_SETS if entry.name == name)
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    write_images(tmp_path / entry.images[0], name)
    assert split_of(name)["train"]
    for path in split_file_places(entry, [tmp_path]):
        written = write_split(path.parent, name)
        nothing_is_fetched(name)
        written.unlink()


@pytest.mark.parametrize("above", ["", "imagenet", "imagenet-object-localization-challenge"])
def test_kaggles_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    base = write_imagenet(tmp_path / above / KAGGLE)
    lines = ["ImageId,PredictionString"]
    for image in sorted((base / "val").glob("*/*")):
        lines.append(f"{image.stem},{image.parent.name} 1 2 3 4")
        image.rename(base / "val" / image.name)
    for folder in (base / "val").glob("n*"):
        folder.rmdir()
    put(tmp_path / above / "LOC_val_solution.csv", "\n".join(lines).encode())
    nothing_is_fetched("imagenet")


def test_archives_of_imagenet_in_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_imagenet(tmp_path / "source")
    for place in ("imagenet", "imagenet/images", ""):
        root = tmp_path / f"in-{place.replace('/', '-')}"
        pack_imagenet(source, root / place)
        monkeypatch.setenv("FSBENCH_DATA", str(root))
        nothing_is_fetched("imagenet")


def test_a_folder_that_holds_hidden_files_alone_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking into a folder in macOS leaves a .DS_Store, and the archive was never fetched."""
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    put(tmp_path / "dtd" / "images" / ".DS_Store")
    out = fsbench("data", "prepare", "dtd", "--dry-run").out
    assert "dtd-r1.0.1.tar.gz: 625.2 MB" in out


def test_images_that_are_missing_from_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that was unpacked by hand in part is not "there now"."""
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    write_split(tmp_path / "dtd", "dtd")
    write_images(tmp_path / "dtd/images", "dtd")
    assert "there now: dtd" in fsbench("data", "prepare", "dtd").out
    (tmp_path / "dtd/images" / split_of("dtd")["test"][0][0]).unlink()
    result = fsbench("data", "prepare", "dtd")
    assert (result.code, "there now" in result.out) == (3, False)
    assert f"1 of 8 listed images are not in {tmp_path}/dtd/images: " in result.out
    assert "move" in result.out


def test_a_split_file_that_is_given_and_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first folder of FSBENCH_DATA goes first, whatever is put into the second."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_set(first, "dtd")
    monkeypatch.setenv("FSBENCH_DATA", f"{first}{os.pathsep}{second}")
    mine = put(tmp_path / "mine.json", json.dumps(split_of("dtd", ("ant", "bee"))).encode())
    call = ("data", "prepare", "dtd", "--split-file", mine, "--yes", "--root")
    read = next((first / "dtd").glob("split*.json"))
    given = fsbench(*call, second).out
    assert f"; NOT in use: dtd reads {read} before it (remove that one, or" in given
    assert "NOT in use" not in fsbench(*call, first).out
    read.unlink()
    assert "NOT in use" not in fsbench(*call, second).out
