"""Folder trees of the public data sets in their documented formats, with a few images each."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fsbench_datasets.catalog import public_set
from PIL import Image

from fewshot_bench.api.registry import registry

SYNSETS = ("n01440764", "n01443537", "n02134084")
# Class numbers in ImageNet's development kit.
KIT_NUMBERS = {"n01440764": 449, "n01443537": 450, "n02134084": 103}
ROLES = ("train", "val", "test")
# Format of the paths in each split file.
PATHS = {
    "caltech101": "{name}/image_{number:04d}.jpg",
    "oxford_pets": "{name}_{number}.jpg",
    "stanford_cars": "cars_{half}/{number:05d}.jpg",
    "oxford_flowers": "image_{number:05d}.jpg",
    "food101": "{name}/{number}.jpg",
    "sun397": "{letter}/{name}/sun_{number}.jpg",
    "dtd": "{name}/{name}_{number:04d}.jpg",
    "eurosat": "{name}/{name}_{number}.jpg",
    "ucf101": "{name}/v_{name}_g01_c{number:02d}.jpg",
}


def jpeg(color: str = "red") -> bytes:
    """A small JPEG image."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = jpeg()


def put(path: Path, content: bytes = JPEG) -> Path:
    """Write a file, creating parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def open_set(name: str) -> Any:
    """Open a data set by name; it is searched for below the folders in FSBENCH_DATA."""
    return registry().dataset(name)


def split_of(name: str, names: Sequence[str] = ("beaver", "ant")) -> dict[str, list[list[Any]]]:
    """Splits in CoOp's schema; the order of classes differs from that of their labels."""
    lists: dict[str, list[list[Any]]] = {role: [] for role in ROLES}
    number = 0
    for label in reversed(range(len(names))):
        for role in (*ROLES, "train"):
            number += 1
            half = "test" if role == "test" else "train"
            values = {"name": names[label], "number": number, "half": half}
            path = PATHS[name].format(letter=names[label][0], **values)
            lists[role].append([path, label, names[label]])
    return lists


def write_split(folder: Path, name: str) -> Path:
    """Write the split file of a set under its published name; return its path."""
    text = json.dumps(split_of(name), indent=4, separators=(",", ": "))
    return put(folder / str(public_set(name).split_file), text.encode())


def write_images(folder: Path, name: str) -> None:
    """Write the images that `split_of` lists."""
    for entries in split_of(name).values():
        for relative, *_ in entries:
            put(folder / relative)


def write_set(root: Path, name: str, images: str = "", split: str | None = None) -> Path:
    """Write a set in one of its layouts, by default CoOp's."""
    entry = public_set(name)
    write_images(root / (images or entry.images[0]), name)
    write_split(root / (entry.folders[0] if split is None else split), name)
    return root


def write_aircraft(
    base: Path, variants: Sequence[str] = ("707-320", "F-16A/B", "Boeing 717"), end: str = "\n"
) -> Path:
    """Write FGVC-Aircraft's lists and images; the lists hold the variants in reverse order."""
    put(base / "variants.txt", (end.join(variants) + end).encode())
    number = 0
    for role in ROLES:
        lines = []
        for variant in reversed(variants):
            number += 1
            put(base / "images" / f"{number:07d}.jpg")
            lines.append(f"{number:07d} {variant}")
        put(base / f"images_variant_{role}.txt", (end.join(lines) + end).encode())
    return base


def write_imagenet(base: Path, synsets: Sequence[str] = SYNSETS, each: int = 3) -> Path:
    """Write ImageNet's class folders; numerical order of file names differs from text order."""
    for synset in synsets:
        for number in range(each):
            image = jpeg() + f"{synset} {number}".encode()
            put(base / "train" / synset / f"{synset}_{number * 7 + 5}.JPEG", image)
    for number in range(1, each * len(synsets) + 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        put(base / "val" / synsets[number % len(synsets)] / name, jpeg() + name.encode())
    return base


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    """An uncompressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def pack_imagenet(source: Path, target: Path) -> Path:
    """Write the three published archives from class folders, with members in reverse order."""
    classes = sorted((source / "train").iterdir(), reverse=True)
    inner = ((f"{c.name}.tar", tar_of(_files(sorted(c.iterdir(), reverse=True)))) for c in classes)
    put(target / "ILSVRC2012_img_train.tar", tar_of(inner))
    images = sorted((source / "val").glob("*/*"), key=lambda path: path.name)
    put(target / "ILSVRC2012_img_val.tar", tar_of(_files(images[::-1])))
    put(target / "ILSVRC2012_devkit_t12.tar.gz", devkit([path.parent.name for path in images]))
    return target


def _files(paths: Iterable[Path]) -> Iterable[tuple[str, bytes]]:
    return ((path.name, path.read_bytes()) for path in paths)


def devkit(synsets: Sequence[str]) -> bytes:
    """The development kit for validation images of these classes."""
    truth = "".join(f"{KIT_NUMBERS[synset]}\n" for synset in synsets).encode()
    folder = "ILSVRC2012_devkit_t12/data"
    files = [
        (f"{folder}/meta.mat", b"not read"),
        (f"{folder}/ILSVRC2012_validation_ground_truth.txt", truth),
    ]
    return gzip.compress(tar_of(files))
