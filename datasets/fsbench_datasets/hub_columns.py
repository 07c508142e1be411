"""Images and labels of a table from the `datasets` package, found by type and never decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError, Stamp, UsageError, file_stamp
from fsbench_datasets.labels import Row

LABEL_NAMES = ("label", "labels", "class", "classname", "class_name", "target", "category")
SECRET = -1


@dataclass(frozen=True)
class Columns:
    """Which columns hold image and label; `classnames` where the label's type has them."""

    image: str
    label: str
    classnames: tuple[str, ...] | None


def find_columns(name: str, features: Mapping[str, Any], image: str, label: str) -> Columns:
    """The columns that were named, or those of the right type; UsageError lists what is there."""
    for asked in (image, label):
        if asked and asked not in features:
            raise UsageError(f"{name} has no column '{asked}': found {_described(features)}")
    image = image or _only(name, features, _of_type(features, "Image"), "image")
    label = label or _only(name, features, _label_columns(features), "label")
    names = getattr(features[label], "names", None)
    return Columns(image, label, None if names is None else tuple(names))


def _of_type(features: Mapping[str, Any], kind: str) -> list[str]:
    return [column for column, feature in features.items() if type(feature).__name__ == kind]


def _label_columns(features: Mapping[str, Any]) -> list[str]:
    labeled = _of_type(features, "ClassLabel")
    if labeled:
        return labeled
    texts = [column for column in features if "string" in _dtype(features[column])]
    usable = [column for column in features if column in texts or "int" in _dtype(features[column])]
    named = [column for column in usable if column.casefold() in LABEL_NAMES]
    return named or texts


def _dtype(feature: Any) -> str:
    return str(getattr(feature, "dtype", ""))


def _only(name: str, features: Mapping[str, Any], found: Sequence[str], what: str) -> str:
    if len(found) != 1:
        problem = (
            f"columns {', '.join(found)} could be the {what}" if found else f"no {what} column"
        )
        raise UsageError(
            f"{name}: {problem}; name it with ?{what}=COLUMN, there are {_described(features)}"
        )
    return found[0]


def _described(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())


@dataclass(frozen=True)
class Table:
    """One split: `rows` is its data set, in arrow format; relative paths start from `base`."""

    split: str
    role: str
    rows: Any
    columns: Columns
    base: Path

    def labeled(self, name: str) -> Iterator[Row]:
        """A row per image; UsageError where labels are kept secret."""
        column = self.rows.select_columns([self.columns.label])[:].column(0).to_pylist()
        secret = sum(label is None or label == SECRET for label in column)
        if secret:
            raise UsageError(
                f"{name}: {secret} of {len(column)} images of the split '{self.split}' have no "
                "label; say which splits to use, for example ?train=train&test=validation"
            )
        for number, label in enumerate(column):
            if isinstance(label, bool) or not isinstance(label, str | int):
                raise UsageError(
                    f"{name}: {self.columns.label} is {label!r:.40} (row {number} of "
                    f"'{self.split}'): expected a class name or a whole number"
                )
            where = f"row {number} of '{self.split}'"
            yield Row(self.ids[number], label, None, self.role, where)

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """By row: the path below `base` where every image is a file there, else split and row.

        A folder of images has the ids that `folder:` gives them, and so the same picks.
        """
        # A set of the hub has no folder of its own: where its files are kept must not matter.
        paths = (self._paths() or []) if self.base.is_absolute() else []
        for base in (str(self.base), os.path.realpath(self.base)):
            below = [os.path.relpath(os.path.join(base, path), base) for path in paths]
            if below and not any(path.startswith(os.pardir) for path in below):
                return tuple(path.replace(os.sep, "/") for path in below)
        return tuple(f"{self.split}/{number:08d}" for number in range(len(self.rows)))

    def _paths(self) -> list[str] | None:
        """Where every image of the table is a file of its own, the paths of these files."""
        column = self.rows.select_columns([self.columns.image])[:].column(0).combine_chunks()
        if _is_struct(column):
            if len(column) != column.field("bytes").null_count:
                return None
            column = column.field("path")
        if "string" not in str(column.type) or column.null_count:
            return None
        return [str(path) for path in column.to_pylist()]

    def read(self, number: int) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        value = self._cell(number).as_py()
        content, path = _parts(value)
        if content is not None:
            return content
        if path is None:
            raise OSError(f"row {number} of '{self.split}' has neither bytes nor a path")
        return (self.base / path).read_bytes()

    def stamp(self, number: int) -> Stamp | None:
        """By the arrow files and the row, or by the image's own file; None without any file."""
        cell = self._cell(number)
        content = cell["bytes"] if _is_struct(cell) else cell
        if not content.is_valid or "string" in str(content.type):
            path = _parts(cell.as_py())[1]
            return None if path is None else file_stamp(self.base / path)
        stamps = [file_stamp(file["filename"]) for file in self.rows.cache_files]
        known = [stamp for stamp in stamps if stamp is not None]
        if not known or len(known) < len(stamps):
            return None
        token = ",".join(stamp.token for stamp in known)
        size = len(content.as_buffer())
        changed = max(stamp.changed for stamp in known)
        return Stamp(size, changed, f"{token}:{self.split}:{number}")

    def _cell(self, number: int) -> Any:
        return self.rows[number : number + 1].column(self.columns.image)[0]


def _is_struct(cell: Any) -> bool:
    return str(cell.type).startswith("struct")


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """Bytes and path of an image as it is stored."""
    if isinstance(value, Mapping):
        return value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value, None
    return None, value if isinstance(value, str) else None


def check_images(name: str, columns: Columns, features: Mapping[str, Any]) -> None:
    """UsageError when the image column holds neither images, bytes nor paths."""
    feature = features[columns.image]
    stored = isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature)
    known = type(feature).__name__ == "Image" or "binary" in _dtype(feature)
    if not (stored or known or "string" in _dtype(feature)):
        raise UsageError(
            f"{name}: column '{columns.image}' is {feature}: expected images, bytes or paths"
        )


def first_line(error: BaseException) -> str:
    """The first line of a message, for errors of other packages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing(name: str, problem: str) -> DataMissingError:
    """The error for a set that cannot be had."""
    return DataMissingError(
        f"{name} cannot be loaded: {problem}; check the name and the network, or download it on "
        "another machine and give hf:PATH of its folder"
    )
