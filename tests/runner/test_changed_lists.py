"""A cell is fitted on the lists that it was planned with, or fails before it is fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fewshot_bench.api.registry import registry
from fewshot_bench.runner.examiner import Examiner
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.utils.errors import DataMissingError
from tests.support.helpers import fsbench, image_folder, save_image

SHUFFLED = '''
"""A data set that lists its images in another order in every process."""

import os
import random
from pathlib import Path

from fewshot_bench import DatasetCard, Item, hookimpl

CLASSES = ("cat", "dog")


class Shuffled:
    def __init__(self, argument):
        self.root = Path(argument)

    def card(self):
        return DatasetCard(f"shuffled:{self.root}", "Shuffled", CLASSES)

    def items(self):
        order = random.Random(os.getpid())
        pools = {"train": [], "val": [], "test": []}
        for role, items in pools.items():
            for label, name in enumerate(CLASSES):
                for path in sorted((self.root / role / name).iterdir()):
                    items.append(Item(path.relative_to(self.root).as_posix(), label, name))
            order.shuffle(items)
        return pools

    def read(self, item):
        return (self.root / item.id).read_bytes()


@hookimpl
def register_datasets(register):
    register("shuffled:", Shuffled)
'''


def test_other_lists_in_another_process_are_refused(
    tmp_path: Path, install: Callable[[str, str], None]
) -> None:
    """The picks would not be those that the revision in the record identifies."""
    install("shuffled", SHUFFLED)
    root, store = image_folder(tmp_path / "photos"), tmp_path / "results"
    asked = ("-m", "zero-shot", "-d", f"shuffled:{root}", "--shots", "1", "--val", "none")
    done = fsbench("run", *asked, "--backbone", "tiny", "--seeds", "1", "--store", store)
    assert done.code == 1, done
    assert "lists other images or classes than when this cell was planned" in done.err
    assert "must list the same in every process" in done.err


def test_a_folder_that_changes_during_a_run_is_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "photos")
    request = Request(("zero-shot",), (f"folder:{root}",), (1,), (1,), backbone="tiny")
    (cell,) = expand(request).cells
    assert Examiner().cell(cell).queries.count == 12
    save_image(root / "test" / "cat" / "added.png", 7)
    registry.cache_clear()
    with pytest.raises(DataMissingError, match=r"run the command again"):
        Examiner().cell(cell)
