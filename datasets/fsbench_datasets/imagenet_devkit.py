"""The classes of ImageNet's validation images, from the development kit that comes with them."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path

from fewshot_bench import DataMissingError
from fsbench_datasets.mat_file import read_records

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
LARGEST = 64 * 2**20


def validation_synsets(devkit: Path) -> tuple[str, ...]:
    """The synset of every validation image, by image number less one.

    DataMissingError when the kit is damaged or lacks one of the two files that are needed.
    """
    files = _read(devkit)
    synsets = _synsets(devkit, files[META])
    numbers = files[TRUTH].decode("ascii", "replace").split()
    for line, number in enumerate(numbers, 1):
        if number not in synsets:
            raise _damaged(devkit, f"{TRUTH}, line {line} is {number!r}, no class of {META}")
    return tuple(synsets[number] for number in numbers)


def _read(devkit: Path) -> dict[str, bytes]:
    """The two files by name; a name is enough, whatever the folders are called."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(devkit, "r:*") as archive:
            for info in archive:
                name = info.name.rpartition("/")[2]
                if name in (TRUTH, META) and info.isreg() and info.size <= LARGEST:
                    file = archive.extractfile(info)
                    found[name] = file.read() if file is not None else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RecursionError) as error:
        raise _damaged(devkit, f"{type(error).__name__}: {error}") from None
    for name in (TRUTH, META):
        if name not in found:
            raise _damaged(devkit, f"it holds no {name}")
    return found


def _synsets(devkit: Path, content: bytes) -> dict[str, str]:
    """Class number, as text, to synset."""
    try:
        pairs = read_records(content, "synsets", ("ILSVRC2012_ID", "WNID"), LARGEST)
    except ValueError as error:
        raise _damaged(devkit, f"{META}: {error}") from None
    found = {}
    for number, synset in pairs:
        if not isinstance(number, int | float) or number % 1 or not isinstance(synset, str):
            raise _damaged(devkit, f"{META} has the class {number!r:.40}, {synset!r:.40}")
        found[str(int(number))] = synset
    return found


def _damaged(devkit: Path, problem: str) -> DataMissingError:
    return DataMissingError(
        f"development kit {devkit} cannot be used: {problem}; fetch it again from image-net.org"
    )
