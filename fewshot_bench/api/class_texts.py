"""Texts that describe classes, of a file (`--texts FILE`): JSON or CSV, class name to texts.

Cells state them as other files; the digest is that of what the file says, whatever its layout,
spelling of names and order of classes. It covers the whole file, so that the cells of all data sets
that one file describes have one value.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fewshot_bench.api import option_files
from fewshot_bench.api.file_texts import LONG, split
from fewshot_bench.api.spec import BY_TEMPLATES
from fewshot_bench.utils.errors import StoreError, UsageError, suggestion
from fewshot_bench.utils.files import read_regular_text
from fewshot_bench.utils.text import few, in_prompts

# What describes classes without a file, beside prompts: random words.
WAFFLE = "waffle"
_EXPECTED = (
    'expected {"class name": ["text", ...]}, or that for each data set by its name; in CSV the '
    "columns class and text, and dataset for texts of several"
)
# Data set ("" for all), class and some of its texts.
Entry = tuple[str, str, Sequence[str]]


@dataclass(frozen=True)
class ClassTexts:
    """The texts of a file: by data set ("" for all) and by name of a class (`in_prompts`).

    name: of the file. empty: number of texts without a word, which are left out.
    """

    name: str
    sections: Mapping[str, Mapping[str, Sequence[str]]]
    empty: int

    @classmethod
    def of(cls, name: str, entries: Iterable[Entry]) -> ClassTexts:
        """Entries of one class are put together; UsageError if there is no text."""
        sections: dict[str, dict[str, list[str]]] = {}
        empty = 0
        for dataset, classname, texts in entries:
            for text in (" ".join(unicodedata.normalize("NFC", each).split()) for each in texts):
                if text:
                    section = sections.setdefault(dataset, {})
                    section.setdefault(in_prompts(classname), []).append(text)
                empty += not text
        if not sections:
            raise UsageError(f"texts {name}: holds no text; {_EXPECTED}")
        return cls(name, sections, empty)

    @cached_property
    def content(self) -> bytes:
        """All texts as JSON, one form for all layouts: the file that a store keeps."""
        return json.dumps(self.sections, sort_keys=True, ensure_ascii=False).encode()

    @property
    def text(self) -> str:
        """The name and digest that cells state."""
        return f"{self.name}@sha256:{hashlib.sha256(self.content).hexdigest()[:LONG]}"

    def section(self, dataset: str) -> Mapping[str, Sequence[str]]:
        """The texts for a data set: its own, and those for all."""
        return {**self.sections.get("", {}), **self.sections.get(dataset, {})}

    def describe(self, dataset: str, classnames: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The texts of each class; UsageError for classes without any."""
        section = self.section(dataset)
        missing = [name for name in classnames if in_prompts(name) not in section]
        if missing:
            has = f" (it has texts for {few(self.sections)})" if not section else ""
            alike = suggestion(in_prompts(missing[0]), section) if section else ""
            raise UsageError(
                f"texts {self.name}: none for {len(missing):,} of {len(classnames):,} classes of "
                f"{dataset}{has}, such as {few(missing)}{alike}: expected a text for each class; "
                f"add them, write the names as fsbench show {dataset} does, or leave it out"
            )
        return tuple(tuple(section[in_prompts(name)]) for name in classnames)

    def list_oddities(
        self,
        datasets: Mapping[str, Sequence[str]],
        too_long: Callable[[Sequence[str]], Container[str]],
    ) -> Iterator[str]:
        """Oddities that a user should know before a run, one line each.

        datasets: class names by data set. too_long: gets those of some texts that the encoder cuts.
        """
        classes = {in_prompts(name) for names in datasets.values() for name in names}
        odd = {"texts without a word, left out": [""] * self.empty}
        for dataset, names in datasets.items():
            section, own = self.section(dataset), {in_prompts(name) for name in names}
            pairs = [(name, text) for name in own for text in section[name]]
            cut = too_long([text for _, text in pairs])
            odd |= {
                f"names of no class of {dataset}": sorted(section.keys() - classes),
                f"texts of {dataset} twice in their class, where they count twice": [
                    text for (_, text), count in Counter(pairs).items() for _ in range(1, count)
                ],
                f"texts of {dataset} without the name of their class": [
                    text for name, text in pairs if name not in in_prompts(text)
                ],
                f"texts of {dataset} of more tokens than the text encoder reads, cut": [
                    text for _, text in pairs if text in cut
                ],
            }
        for what, names in odd.items():
            if names:
                yield f"texts {self.name}: {what} ({len(names):,}): {few(t[:60] for t in names)}"


# By digest: those that this process has read.
READ: dict[str, ClassTexts] = {}


def read_texts(given: str) -> ClassTexts:
    """The texts of a file, or of what a cell states; UsageError for what is neither."""
    path = Path(given)
    if split(given)[0] and not path.exists():
        return find(given)
    if path.suffix.lower() not in (".json", ".csv"):
        raise UsageError(
            f"texts '{given}': expected {BY_TEMPLATES}, {WAFFLE}, or a file that ends in .json or "
            ".csv (docs/reference/protocols.md)"
        )
    texts = ClassTexts.of(path.name, read_entries(path))
    return READ.setdefault(split(texts.text)[1], texts)


def find(text: str) -> ClassTexts:
    """The texts that a cell states, as read here or from the copy in a store; else StoreError."""
    name, digest = split(text)
    if digest not in READ:
        path = next(iter(option_files.list_copies(digest)), None)
        if path is None:
            raise StoreError(
                f"the texts {name} (digest {digest}) are in no store that was looked in: merge the "
                "store that has them (fsbench store merge), or give --texts FILE"
            )
        READ[digest] = ClassTexts.of(name, _read_json(read_regular_text(path), f"texts {path}"))
    return READ[digest]


def read_entries(path: Path) -> Iterator[Entry]:
    """The entries of a JSON or CSV file; UsageError for one that cannot be read."""
    where = f"texts {path}"
    try:
        text = read_regular_text(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} cannot be read as UTF-8: {error}") from None
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror}") from None
    return (_read_csv if path.suffix.lower() == ".csv" else _read_json)(text, where)


def _read_json(text: str, where: str) -> Iterator[Entry]:
    try:
        # Objects are tuples of pairs, so that a name that stands there twice loses nothing.
        content = json.loads(text, object_pairs_hook=tuple)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: {error.msg}; {_EXPECTED}") from None
    except RecursionError:
        raise UsageError(f"{where}: its brackets are too deep; {_EXPECTED}") from None
    if not isinstance(content, tuple):
        raise UsageError(f"{where}: {_EXPECTED}")
    for name, value in content:
        nested = isinstance(value, tuple)
        for classname, texts in value if nested else [(name, value)]:
            if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
                raise UsageError(f"{where}, '{classname}': {str(texts)!r:.60}: {_EXPECTED}")
            yield name if nested else "", classname, texts


def _read_csv(text: str, where: str) -> Iterator[Entry]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    for row in rows:
        if not {"class", "text"} <= row.keys() <= {"dataset", "class", "text"} or None in [
            *row.values()
        ]:
            raise UsageError(f"{where}, line {rows.line_num}: {_EXPECTED}")
        yield row.get("dataset") or "", row["class"], [row["text"]]
