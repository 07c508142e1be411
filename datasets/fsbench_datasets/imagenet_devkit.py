"""The classes of ImageNet's validation images, from the development kit that comes with them.

`validation_synsets` is the entry. The kit holds one class number a line; which synset a number
stands for has been the same since 2012 and lies here, in the order of the numbers.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from fewshot_bench import DataMissingError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
LARGEST = 64 * 2**20
ORDER_FILE = "imagenet_devkit_classes.txt"


@cache
def kit_synsets() -> Mapping[str, str]:
    """`ILSVRC2012_ID` of the kit's meta.mat, as text, to synset; another order than the labels."""
    text = files("fsbench_datasets").joinpath(ORDER_FILE).read_text("ascii")
    return {str(number): synset for number, synset in enumerate(text.split(), 1)}


def validation_synsets(devkit: Path) -> tuple[str, ...]:
    """The synset of every validation image, by image number less one.

    DataMissingError when the kit is damaged or lacks the list of class numbers.
    """
    numbers = _read(devkit).decode("ascii", "replace").split()
    synsets = kit_synsets()
    for line, number in enumerate(numbers, 1):
        if number not in synsets:
            raise _damaged(devkit, f"{TRUTH}, line {line} is {number!r:.40}, expected 1 to 1000")
    return tuple(synsets[number] for number in numbers)


def _read(devkit: Path) -> bytes:
    """The list of class numbers; a name is enough, whatever the folders are called."""
    found = None
    try:
        with tarfile.open(devkit, "r:*") as archive:
            for info in archive:
                name = info.name.rpartition("/")[2]
                if name == TRUTH and info.isreg() and info.size <= LARGEST:
                    file = archive.extractfile(info)
                    found = file.read() if file is not None else b""
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RecursionError) as error:
        raise _damaged(devkit, f"{type(error).__name__}: {error}") from None
    if found is None:
        raise _damaged(devkit, f"it holds no {TRUTH}")
    return found


def _damaged(devkit: Path, problem: str) -> DataMissingError:
    return DataMissingError(
        f"development kit {devkit} cannot be used: {problem}; fetch it again from image-net.org"
    )
