"""Texts that describe classes, of a file (`--texts FILE`): JSON or CSV, class name to texts.

Cells state `NAME@DIGEST`: the digest is that of what the file says, whatever its layout, spelling
of names and order of classes, and alone enters a cell's key. It covers the whole file, so that the
cells of all data sets that one file describes have one value. `read_texts` reads a file, `find`
gets what a cell states from this process, or from a store that `option_files.look_in` was given.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench.api import option_files
from fewshot_bench.api.file_texts import TEXTS_DIGITS, split_texts
from fewshot_bench.api.spec import BY_TEMPLATES
from fewshot_bench.utils.errors import StoreError, UsageError, suggestion
from fewshot_bench.utils.files import read_regular, read_regular_text
from fewshot_bench.utils.text import counted, few, in_prompts

# What describes classes without a file, beside prompts: random words.
WAFFLE = "waffle"
FORMATS = (".json", ".csv")
_EXPECTED = 'expected {"class name": ["text", ...]}, or that for each data set by its name'
_COLUMNS = "expected the columns class and text (and dataset, where it has texts of several)"

Section = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ClassTexts:
    """What a file says: by data set ("" for all), by name of a class (`in_prompts`), its texts.

    name: of the file. notes: what is odd about it, in words.
    """

    name: str
    sections: Mapping[str, Section]
    notes: tuple[str, ...] = ()

    @cached_property
    def content(self) -> bytes:
        """What the file says as JSON, one form for all layouts: the file that a store keeps."""
        sections = {name: dict(section) for name, section in self.sections.items()}
        return json.dumps(sections, sort_keys=True, ensure_ascii=False).encode()

    @property
    def text(self) -> str:
        """What cells state."""
        return f"{self.name}@{hashlib.sha256(self.content).hexdigest()[:TEXTS_DIGITS]}"

    def section(self, dataset: str) -> Section:
        """The texts for a data set: its own, and those for all."""
        return {**self.sections.get("", {}), **self.sections.get(dataset, {})}

    def of(self, dataset: str, classnames: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The texts of each class; UsageError for classes without any."""
        section = self.section(dataset)
        missing = [name for name in classnames if in_prompts(name) not in section]
        if not missing:
            return tuple(section[in_prompts(name)] for name in classnames)
        spare = sorted(section.keys() - {in_prompts(name) for name in classnames})
        alike = suggestion(in_prompts(missing[0]), spare) if len(section) > 0 else ""
        where = f"for {len(missing):,} of {len(classnames):,} classes of {dataset}"
        others = [name for name in self.sections if name]
        if not section and others:
            where += f" (it has texts for {few(others)})"
        raise UsageError(
            f"texts {self.name}: none {where}, such as {few(missing)}{alike}: expected a text for "
            f"each class; add them, write the names as fsbench show {dataset} does, or leave it out"
        )


_READ: dict[str, ClassTexts] = {}


def read_texts(given: str) -> ClassTexts:
    """The texts of a file, or of what a cell states; UsageError for what is neither."""
    if split_texts(given)[0] and not Path(given).exists():
        try:
            return find(given)
        except StoreError as error:
            raise UsageError(str(error)) from None
    path = Path(given)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"texts '{given}': expected {BY_TEMPLATES}, {WAFFLE}, or a file that ends in "
            f"{' or '.join(FORMATS)} (docs/protocols.md)"
        )
    where = f"texts {given}"
    try:
        text = read_regular_text(path)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{where}, line {line}: is not UTF-8; save the file as UTF-8") from None
    read = _read_json if path.suffix.lower() == ".json" else _read_csv
    texts = tidy(path.name, where, read(text, where))
    _READ[split_texts(texts.text)[1]] = texts
    return texts


def find(text: str) -> ClassTexts:
    """What a cell states, as it was read here or from the copy in a store; StoreError without."""
    name, digest = split_texts(text)
    if digest not in _READ:
        for path in option_files.list_copies(digest):
            _READ[digest] = _decode(name, read_regular(path))
            break
        else:
            raise StoreError(
                f"the texts {name} (digest {digest}) are in no store that was looked in: merge the "
                "store that has them (fsbench store merge), or give --texts FILE"
            )
    return _READ[digest]


@functools.lru_cache(maxsize=1024)
def count_texts(text: str, dataset: str, classnames: tuple[str, ...]) -> int:
    """The number of texts for a data set in a file that a cell states."""
    return sum(map(len, find(text).of(dataset, classnames)))


def _decode(name: str, content: bytes) -> ClassTexts:
    sections = json.loads(content)
    return ClassTexts(
        name,
        {
            dataset: {of_class: tuple(texts) for of_class, texts in section.items()}
            for dataset, section in sections.items()
        },
    )


Entry = tuple[str, str, str]


def read_lists(text: str, where: str) -> dict[str, Any]:
    """A JSON object without a name that stands there twice; UsageError for anything else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = Counter(name for name, _ in pairs)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise UsageError(f"{where}: '{twice[0]}' stands there twice; leave one out")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: {error.msg}; {_EXPECTED}") from None
    except RecursionError:
        raise UsageError(f"{where}: its brackets are too deep; {_EXPECTED}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{where}: {_EXPECTED}")
    return content


def _read_json(text: str, where: str) -> Iterator[Entry]:
    """The data set ("" for all), class and text of each entry; a class without texts has none."""
    for name, value in read_lists(text, where).items():
        inner = value if isinstance(value, Mapping) else {name: value}
        for of_class, texts in inner.items():
            if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
                raise UsageError(f"{where}, '{of_class}': {str(texts)!r:.60}: {_EXPECTED}")
            yield from ((name if isinstance(value, Mapping) else "", of_class, t) for t in texts)


def _read_csv(text: str, where: str) -> Iterator[Entry]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if not {"class", "text"} <= {*(rows.fieldnames or ())} <= {"dataset", "class", "text"}:
        raise UsageError(
            f"{where}: its first line is '{','.join(rows.fieldnames or ())}'; {_COLUMNS}"
        )
    for row in rows:
        if None in row or row["class"] is None or row["text"] is None:
            raise UsageError(f"{where}, line {rows.line_num}: other columns than the first line's")
        yield row.get("dataset") or "", row["class"], row["text"]


def tidy(name: str, where: str, entries: Iterable[Entry]) -> ClassTexts:
    """Texts by class, without empty ones; UsageError for two spellings of one name."""
    spelled: dict[tuple[str, str], str] = {}
    sections: dict[str, dict[str, list[str]]] = {}
    empty, twice = 0, 0
    for dataset, of_class, given in entries:
        key = in_prompts(of_class)
        if spelled.setdefault((dataset, key), of_class) != of_class:
            both = f"'{spelled[dataset, key]}' and '{of_class}'"
            raise UsageError(f"{where}: {both} are one class; put their texts together")
        text = " ".join(unicodedata.normalize("NFC", given).split())
        if not text:
            empty += 1
            continue
        texts = sections.setdefault(dataset, {}).setdefault(key, [])
        twice += text in texts
        texts.append(text)
    if not sections:
        raise UsageError(f"{where}: holds no text; {_EXPECTED}")
    notes = [f"{counted(empty, 'text')} without a word, left out"] if empty else []
    notes += [f"{counted(twice, 'text')} that a class has already, counted again"] if twice else []
    every = {d: {c: tuple(texts) for c, texts in s.items()} for d, s in sections.items()}
    return ClassTexts(name, every, tuple(notes))


def list_oddities(
    texts: ClassTexts, datasets: Mapping[str, Sequence[str]], too_long: Mapping[str, int]
) -> Iterator[str]:
    """What a user should know about texts before a run, one line each.

    datasets: class names by data set. too_long: tokens of texts that the encoder cuts.
    """
    start = f"texts {texts.name}"
    yield from (f"{start}: {note}" for note in texts.notes)
    used = {in_prompts(name) for names in datasets.values() for name in names}
    for dataset, names in datasets.items():
        own = texts.sections.get(dataset)
        spare = sorted((texts.sections.get("", {}) if own is None else own).keys() - used)
        if spare:
            yield f"{start}: {counted(len(spare), 'name')} of no class of {dataset}: {few(spare)}"
        section = texts.section(dataset)
        pairs = [(name, text) for name in names for text in section.get(in_prompts(name), ())]
        lacking = [text for name, text in pairs if in_prompts(name) not in in_prompts(text)]
        if lacking:
            share = f"{len(lacking):,} of {len(pairs):,} texts of {dataset}"
            yield f"{start}: {share} lack the name of their class, such as {few(lacking[:1])}"
        cut = [text for _, text in pairs if text in too_long]
        if cut:
            longest = max(cut, key=lambda text: too_long[text])
            yield (
                f"{start}: {len(cut):,} of {len(pairs):,} texts of {dataset} have more tokens than "
                f"the text encoder reads, and are cut, such as '{longest[:60]}...' "
                f"({too_long[longest]})"
            )
