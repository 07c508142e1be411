"""The text file beside a record: what the code of its cell printed, logged and warned of.

A record with such a file states its digest. A file that is gone or was changed affects no result.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import read_regular

# Name of the digest in a record, and the ending of the file.
LOG, ENDING = "log", ".log"


def digest_log(content: bytes) -> str:
    """The digest of a log, as records state it."""
    return hashlib.sha256(content).hexdigest()


def read_log(path: Path, record: Record) -> str:
    """The log beside the file of a record; empty if nothing was printed.

    StoreError for one that is gone, that cannot be read or that is not the record's.
    """
    if LOG not in record.digests:
        return ""
    file = path.with_suffix(ENDING)
    try:
        content = read_regular(file)
    except OSError as error:
        raise StoreError(f"the log '{file}' cannot be read: {error.strerror}") from None
    if digest_log(content) != record.digests[LOG]:
        raise StoreError(f"the log '{file}' is not that of its record: it was changed")
    return content.decode("utf-8", "replace")


def log_problem(path: Path, record: Record) -> str:
    """The reason why the log beside a record cannot be used; empty if it can, or without one."""
    try:
        read_log(path, record)
    except StoreError as error:
        return str(error)
    return ""
