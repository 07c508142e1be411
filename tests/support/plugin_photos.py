"""A plug-in with a data set that logs its reads; see `test_image_cache_runs.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import DatasetCard, Item, Paper, hookimpl
from fewshot_bench.api.sources import Stamp, file_stamp

CLASSES = ("cat", "dog")
PAPER = Paper("Counted cats", ("Ann Oak", "Ash, Tom"), 2024, venue="ICCV", code="https://a.org")


@dataclass(frozen=True)
class Counted:
    """`train/` and `test/` with a folder per class; every read appends a line to `reads.log`."""

    root: Path

    def card(self) -> DatasetCard:
        """A card with two classes."""
        return DatasetCard(f"counted:{self.root}", "Counted", CLASSES, folder=str(self.root))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Items sorted by class and file name."""
        return {role: self._listed(role) for role in ("train", "test")} | {"val": ()}

    def _listed(self, role: str) -> tuple[Item, ...]:
        return tuple(
            Item(path.relative_to(self.root).as_posix(), label, name)
            for label, name in enumerate(CLASSES)
            for path in sorted((self.root / role / name).iterdir())
        )

    def read(self, item: Item) -> bytes:
        """Log and read one file."""
        with (self.root / "reads.log").open("a", encoding="utf-8") as log:
            log.write(f"{item.id}\n")
        return (self.root / item.id).read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one file."""
        return file_stamp(self.root / item.id)


def open_counted(argument: str) -> Counted:
    """Open `counted:PATH`."""
    return Counted(Path(argument))


@hookimpl
def register_datasets(register: Callable[..., None]) -> None:
    """Register the family of data sets."""
    register("counted:", open_counted, paper=PAPER)
