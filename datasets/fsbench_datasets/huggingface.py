"""`hf:NAME`: a data set of the Hugging Face hub, or a folder (such as one of `save_to_disk`).

Main entry point: `open_hub`. Image and label columns are found by type. The `datasets` package is
imported on first use, and it never decodes an image.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fewshot_bench import DataMissingError, FsbenchError, UsageError
from fewshot_bench.api.sources import Stamp, file_stamp, one_place, one_spelling
from fsbench_datasets.disk import read_file
from fsbench_datasets.hub_files import (
    STATE,
    check_classnames,
    date,
    empty_splits,
    is_older,
    last_change,
)
from fsbench_datasets.labels import Row, label_rows
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import ROLE_NAMES, UNSPLIT, check_holdout, complete
from fsbench_datasets.split_lists import ROLES, lines_of, shortened

LABEL_NAMES = ("label", "labels", "class", "classname", "class_name", "target", "category")
SECRET = -1
HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([^:?]+))?(?::([^?]+))?")
KEYS = ("image", "label", *ROLES)
OLDEST = 4


@dataclass(frozen=True)
class Columns:
    """Names of the image and label columns; `classnames` if the label's type has them."""

    image: str
    label: str
    classnames: tuple[str, ...] | None


def find_columns(name: str, features: Mapping[str, Any], image: str, label: str) -> Columns:
    """The requested columns, else those of the right type; UsageError lists the columns."""
    for asked in (image, label):
        if asked and asked not in features:
            raise UsageError(f"{name} has no column '{asked}': found {_describe(features)}")
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


def _only(name: str, features: Mapping[str, Any], columns: Sequence[str], what: str) -> str:
    if len(columns) != 1:
        problem = (
            f"columns {', '.join(columns)} could be the {what}" if columns else f"no {what} column"
        )
        raise UsageError(
            f"{name}: {problem}; name it with ?{what}=COLUMN, there are {_describe(features)}"
        )
    return columns[0]


def _describe(features: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())


@dataclass(frozen=True)
class Table:
    """One split: `rows` is its data set, in arrow format; image paths are relative to `base`."""

    split: str
    role: str
    rows: Any
    columns: Columns
    base: Path

    def labeled(self, name: str) -> Iterator[Row]:
        """A row per image; UsageError if labels are withheld (None or -1) or of a wrong type."""
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
        """Item ids by row: paths relative to `base` if all images are files there, else split/row.

        An image folder thus has the same ids, and the same few-shot picks, as with `folder:`.
        """
        # A hub set has no folder of its own: ids must not depend on where its files are cached.
        paths = (self._paths() or []) if self.base.is_absolute() else []
        for base in (str(self.base), os.path.realpath(self.base)):
            below = [os.path.relpath(os.path.join(base, path), base) for path in paths]
            if below and not any(path.startswith(os.pardir) for path in below):
                return tuple(path.replace(os.sep, "/") for path in below)
        return tuple(f"{self.split}/{number:08d}" for number in range(len(self.rows)))

    def _paths(self) -> list[str] | None:
        """Image paths if every image is a separate file; else None."""
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
        return read_file(self.base / path)

    def stamp(self, number: int) -> Stamp | None:
        """Stamp by the arrow files and the row, or of the image's own file; None without files."""
        cell = self._cell(number)
        content = cell["bytes"] if _is_struct(cell) else cell
        if not content.is_valid or "string" in str(content.type):
            path = _parts(cell.as_py())[1]
            return None if path is None else file_stamp(self.base / path)
        stamps = [file_stamp(file["filename"]) for file in self.rows.cache_files]
        whole = [stamp for stamp in stamps if stamp is not None]
        if not whole or len(whole) < len(stamps):
            return None
        token = ",".join(stamp.token for stamp in whole)
        size = len(content.as_buffer())
        changed = max(stamp.changed for stamp in whole)
        return Stamp(size, changed, f"{token}:{self.split}:{number}")

    def _cell(self, number: int) -> Any:
        return self.rows[number : number + 1].column(self.columns.image)[0]


def _is_struct(cell: Any) -> bool:
    return str(cell.type).startswith("struct")


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """(bytes, path) of a stored image; None for a part that is absent."""
    if isinstance(value, Mapping):
        return value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value, None
    return None, value if isinstance(value, str) else None


def check_images(name: str, columns: Columns, features: Mapping[str, Any]) -> None:
    """UsageError when the image column holds neither images, bytes nor paths."""
    feature = features[columns.image]
    stored = isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature)
    has_images = type(feature).__name__ == "Image" or "binary" in _dtype(feature)
    if not (stored or has_images or "string" in _dtype(feature)):
        raise UsageError(
            f"{name}: column '{columns.image}' is {feature}: expected images, bytes or paths"
        )


def first_line(error: BaseException) -> str:
    """The first line of a message, for errors of other packages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing(name: str, source: Place, problem: str) -> DataMissingError:
    """The error for a data set that cannot be loaded."""
    step = (
        "check the name and the network, or download it on another machine and give hf:PATH of its "
        "folder"
    )
    if source.folder is not None:
        step = "check that its folder is complete and that you may read it, or save it again"
    return DataMissingError(f"{name} cannot be loaded: {problem}; {step}")


@dataclass(frozen=True)
class Place:
    """The parsed argument of `hf:`: a folder, or a hub name with revision and configuration.

    chosen: columns and splits by the keys `image`, `label`, `train`, `val`, `test`.
    """

    folder: Path | None
    repository: str
    revision: str | None
    config: str | None
    chosen: Mapping[str, str]

    @classmethod
    def of(cls, argument: str) -> Place:
        """Parse `NAME[@REVISION][:CONFIG][?KEY=VALUE&...]` or `PATH[?KEY=VALUE&...]`."""
        whole, mark, query = argument.partition("?")
        if Path(argument).expanduser().is_dir():
            whole, mark = argument, ""
        chosen = _query(argument, query) if mark else {}
        folder = one_place(whole)
        if folder.is_dir():
            return cls(folder, "", None, None, chosen)
        if folder.exists():
            raise DataMissingError(
                f"hf:{argument}: {folder} is a file, expected a folder or a name on the hub (for a "
                "table of image paths use manifest:FILE)"
            )
        match = HUB_NAME.fullmatch(whole)
        if match is None or whole.startswith("."):
            raise DataMissingError(
                f"hf:{argument}: {whole} is no folder here and no name on the hub; expected "
                "hf:NAME, hf:ORGANIZATION/NAME[@REVISION][:CONFIG], or hf:PATH"
            )
        return cls(None, match[1], match[2], match[3], chosen)

    def canonical(self, argument: str) -> str:
        """The argument, with a folder's path in its unique spelling (see `one_spelling`)."""
        if self.folder is None:
            return argument
        _, mark, query = argument.partition("?") if self.chosen else ("", "", "")
        return f"{one_spelling(self.folder)}{mark}{query}"


@dataclass(frozen=True)
class Hub:
    """The images of one data set; ids are `split/row`, or relative paths (see `Table.ids`)."""

    name: str
    place: Place

    def listing(self) -> Listing:
        """All rows with labels; DataMissingError when the data set cannot be loaded."""
        tables = self._tables
        rows = [row for table in tables.values() for row in table.labeled(self.name)]
        classnames = next(iter(tables.values())).columns.classnames
        prints = (f"{t.split}\t{t.role}\t{t.rows._fingerprint}" for t in tables.values())
        info = next(iter(tables.values())).rows.info
        return Listing(
            label_rows(self.name, rows, classnames),
            lines_of(prints),
            license=str(info.license or "unknown"),
            sources=self._sources(),
            notes=self._notes(),
            folder=str(self.place.folder or ""),
        )

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        table, number = self._find(id)
        return table.read(number)

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of one image; None when the data set is not stored in files."""
        table, number = self._find(id)
        return table.stamp(number)

    @cached_property
    def _splits(self) -> Mapping[str, Any]:
        return _load(self.name, self.place)

    @cached_property
    def _roles(self) -> Mapping[str, str]:
        return _roles(self.name, self.place, list(self._splits))

    @cached_property
    def _tables(self) -> dict[str, Table]:
        """Splits by name, train first."""
        tables = {}
        first = next(iter(self._roles))
        columns = None
        for split, role in self._roles.items():
            rows, chosen = self._splits[split], self.place.chosen
            features = rows.features
            names = find_columns(
                self.name, features, chosen.get("image", ""), chosen.get("label", "")
            )
            check_images(self.name, names, features)
            if columns is not None and names != columns:
                raise UsageError(
                    f"{self.name}: the splits '{first}' and '{split}' have other columns or class "
                    "names: expected the same in all"
                )
            columns = names
            base = self.place.folder.absolute() if self.place.folder else Path()
            tables[split] = Table(split, role, rows.with_format("arrow"), names, base)
        if columns is not None:
            self._check_files(columns)
        return tables

    def _check_files(self, columns: Columns) -> None:
        """UsageError when the files of a local folder have other class names than were read."""
        folder = self.place.folder
        if folder is not None and not _is_saved(folder):
            with _quiet(), _readable(self.name, self.place):
                package, used = _package(self.name), self._roles
                check_classnames(
                    self.name, package, folder, used, columns.label, columns.classnames
                )

    @cached_property
    def _rows(self) -> Mapping[str, tuple[Table, int]]:
        return {
            id: (table, number)
            for table in self._tables.values()
            for number, id in enumerate(table.ids)
        }

    def _find(self, id: str) -> tuple[Table, int]:
        row = self._rows.get(id)
        if row is None:
            raise FileNotFoundError(f"{self.name} has no image '{id}'")
        return row

    def _sources(self) -> tuple[str, ...]:
        if self.place.folder is not None:
            return ()
        return (f"https://huggingface.co/datasets/{self.place.repository}",)

    def _notes(self) -> tuple[str, ...]:
        left = [split for split in self._splits if split not in self._roles]
        return (f"splits that are not used: {', '.join(left)}",) if left else ()


def open_hub(argument: str, holdout: float | None = None) -> OwnSet:
    """The data set for `hf:NAME` or `hf:PATH`."""
    source = Place.of(argument)
    name = f"hf:{source.canonical(argument)}"
    check_holdout(name, holdout)
    title = source.folder.resolve().name if source.folder else source.repository
    return OwnSet(name, title, Hub(name, source), partial(complete, name, holdout=holdout))


def _query(argument: str, query: str) -> dict[str, str]:
    chosen = {}
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in KEYS or not value or key in chosen:
            raise UsageError(
                f"hf:{argument}: '{part}' after the question mark: expected "
                f"{', '.join(f'{option}=NAME' for option in KEYS)}, each once"
            )
        chosen[key] = value
    return chosen


def _package(name: str) -> Any:
    """The `datasets` package; DataMissingError if it is absent or may run a data set's scripts."""
    needed = f"{name} needs the package datasets, version {OLDEST} or newer"
    try:
        package = importlib.import_module("datasets")
        version = str(package.__version__)
    except (ImportError, AttributeError):
        raise DataMissingError(f"{needed}: pip install 'fewshot-bench[hf]'") from None
    if int(version.partition(".")[0]) < OLDEST:
        raise DataMissingError(
            f"{needed} (older ones may run code that comes with a data set), found {version}: "
            "pip install 'fewshot-bench[hf]'"
        )
    return package


def _load(name: str, source: Place) -> Mapping[str, Any]:
    """Split name to data set."""
    package = _package(name)
    empty = empty_splits(source.folder) if source.folder and _is_saved(source.folder) else []
    if empty:
        raise UsageError(
            f"{name}: {shortened(empty)} was saved without rows: expected images in every split "
            "(save the set again without it)"
        )
    with _readable(name, source):
        with _quiet():
            loaded = _open(package, source)
        for rows in loaded.values() if isinstance(loaded, Mapping) else (loaded,):
            # Reading from a damaged arrow file can crash the process.
            rows.data.validate(full=True)
    if isinstance(loaded, Mapping):
        return loaded
    return {str(loaded.split or "data"): loaded}


@contextlib.contextmanager
def _readable(name: str, source: Place) -> Iterator[None]:
    """Raise errors of the packages that read a data set as errors of one line."""
    try:
        yield
    except FsbenchError:
        raise
    except Exception as error:  # Many packages can fail here: network, hub, arrow, file system.
        if "config" in first_line(error).casefold() and isinstance(error, ValueError):
            problem = " ".join(str(error).split())
            raise UsageError(f"{name}: {problem} (hf:NAME:CONFIG says which)") from None
        raise missing(name, source, f"{type(error).__name__}: {first_line(error)}") from None


def _open(package: Any, source: Place) -> Any:
    if source.folder is None:
        return package.load_dataset(source.repository, source.config, revision=source.revision)
    if _is_saved(source.folder):
        return package.load_from_disk(str(source.folder))
    folder = str(source.folder)
    loaded, change = package.load_dataset(folder), last_change(source.folder)
    if is_older(loaded, change):
        # The description goes, too: new copies would be read under the earlier class names.
        with contextlib.suppress(FileNotFoundError):  # another process may be doing the same
            shutil.rmtree(package.load_dataset_builder(folder).cache_dir)
        loaded = package.load_dataset(folder)
        date(loaded, change)
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings of the hub's client: a failure is reported once, by the final error."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_saved(folder: Path) -> bool:
    return any((folder / file).is_file() for file in (STATE, "dataset_dict.json"))


def _roles(name: str, source: Place, splits: list[str]) -> dict[str, str]:
    """Split name to role, train first; UsageError when the roles are unclear."""
    if not splits:
        raise missing(name, source, "it has no splits")
    chosen = source.chosen
    asked = {chosen[role]: role for role in ROLES if role in chosen}
    if len(asked) < len(chosen.keys() & set(ROLES)):
        raise UsageError(f"{name}: one split cannot be train and test at once: name distinct ones")
    for split in asked:
        if split not in splits:
            raise UsageError(f"{name} has no split '{split}': found {', '.join(splits)}")
    if asked:
        return asked
    roles = {
        split: ROLE_NAMES[split.casefold()] for split in splits if split.casefold() in ROLE_NAMES
    }
    if not roles and len(splits) == 1:
        return {splits[0]: UNSPLIT}
    if not roles or len(set(roles.values())) < len(roles):
        raise UsageError(
            f"{name} has the splits {', '.join(splits)}: say which to use, for example "
            f"?train={splits[0]}&test={splits[-1]}"
        )
    return dict(sorted(roles.items(), key=lambda pair: ROLES.index(pair[1])))
