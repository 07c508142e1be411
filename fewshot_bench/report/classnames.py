"""Names of classes: from the data set where it can be opened, else from the images' folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewshot_bench.record import Record
from fewshot_bench.report import text
from fewshot_bench.report.readings import Reading


def opened(record: Record) -> Any:
    """The data set that a record was evaluated on; None where it cannot be opened here.

    Whatever goes wrong in a plug-in or on the disk, a report is written without it.
    """
    from fewshot_bench.registry import registry

    spec = record.spec
    data = {} if spec.target else spec.data
    try:
        return registry().dataset(spec.target or spec.dataset, data)
    except Exception:
        return None


def class_names(record: Record, reading: Reading, dataset: Any) -> tuple[list[str], str]:
    """A name per class of the reading, and where they are from."""
    names = _from_card(record, reading, dataset)
    if names:
        return [text.name(name) for name in names], "the data set"
    names = _from_folders(reading)
    if names:
        return [text.name(name) for name in names], "the folders of the images"
    return [f"class {label}" for label in range(reading.classes)], "their numbers"


def _from_card(record: Record, reading: Reading, dataset: Any) -> list[str]:
    """The card's names, if the card is that of the record's data set and revision."""
    if dataset is None:
        return []
    try:
        card = dataset.card()
        names = [str(name) for name in card.classnames]
    except Exception:
        return []
    spec = record.spec
    revision = spec.target_revision if spec.target else spec.revision
    if card.revision and revision.partition(":")[0] != card.revision.partition(":")[0]:
        return []
    if spec.classes != "all":
        # The first half is rounded up (CoOp `subsample_classes`).
        middle = (len(names) + 1) // 2
        names = names[:middle] if spec.classes == "base" else names[middle:]
    return names if len(names) == reading.classes else []


def _from_folders(reading: Reading) -> list[str]:
    """The folder that all images of a class lie in, if each class has one of its own."""
    found: dict[int, str] = {}
    for name, label in zip(reading.ids.tolist(), reading.labels.tolist(), strict=True):
        parts: Sequence[str] = name.split("/")
        folder = parts[-2] if len(parts) > 1 else ""
        if not folder or found.setdefault(label, folder) != folder:
            return []
    if len(set(found.values())) < len(found):
        return []
    return [found.get(label, f"class {label}") for label in range(reading.classes)]
