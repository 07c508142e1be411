"""Split files as text, and onto the disk without harm to what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.splits.coop import Pools, coop_text
from fewshot_bench.splits.index import index_text
from fewshot_bench.splits.lines import lines_text
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.splits.ours import ours_text
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.text import plain_text

# Formats that can be written, with the ending of their files.
ENDINGS: Mapping[str, str] = {"fsbench": "json", "coop": "json", "index": "json", "jsonl": "jsonl"}


def text_of(file: SplitFile, format: str, pools: Pools) -> str:
    """The text of a split in one of `ENDINGS`; `pools` are the data set's lists.

    UsageError when the format cannot hold this split.
    """
    _check_names(file)
    if format == "coop":
        return _coop(file)
    if format == "index":
        if not file.is_draw:
            raise UsageError("format index holds few-shot picks: add --shots, or use another")
        return index_text(file.lists, pools)
    return lines_text(file.lists) if format == "jsonl" else ours_text(file)


def place(path: Path, content: bytes, *, force: bool) -> bool:
    """Write a file, whole or not at all; False when the same file is there already.

    UsageError when another file is there and `force` is not set; StoreError when it cannot be
    written.
    """
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
        refuse_existing([path], force=force)
        write_whole(path, content)
    except OSError as error:
        raise StoreError(
            f"cannot write {path} ({error.strerror or error}): expected a folder with free space "
            "that can be written to"
        ) from None
    return True


def refuse_existing(paths: list[Path], *, force: bool) -> None:
    """UsageError when a path is a folder, or a file that may not be replaced."""
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: expected the name of a file")
        if path.exists() and not force:
            raise UsageError(f"{path} is there already: use --force to replace it, or another name")


def _coop(file: SplitFile) -> str:
    if file.is_draw:
        raise UsageError(
            "format coop holds the lists of a whole data set: leave --shots out, or use --format "
            "fsbench, index or jsonl"
        )
    absent = [role for role in ROLES if role not in file.lists]
    if absent:
        raise UsageError(
            f"'{file.dataset}' has no {absent[0]} list, which format coop needs: use --format "
            "fsbench or jsonl"
        )
    return coop_text(file.lists)


def _check_names(file: SplitFile) -> None:
    for items in file.lists.values():
        for item in items:
            if not all(text and plain_text(text) for text in (item.id, item.classname)):
                raise UsageError(
                    f"'{file.dataset}' names an image {item.id!a} of class {item.classname!a}: "
                    "expected names in UTF-8 without control characters, which every format holds"
                )
