"""Names of classes: those of the record, else the folders of the images, else numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.record import Record
from fewshot_bench.report import text
from fewshot_bench.report.readings import Reading


def class_names(record: Record, reading: Reading) -> tuple[list[str], str]:
    """A name per class of the reading, and where they are from; old records have no names."""
    stated = record.split.get("classnames")
    if isinstance(stated, list) and len(stated) == reading.classes:
        return [text.name(str(name)) for name in stated], "the records"
    names = _from_folders(reading)
    if names:
        return [text.name(name) for name in names], "the folders of the images"
    return [f"class {label}" for label in range(reading.classes)], "their numbers"


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
