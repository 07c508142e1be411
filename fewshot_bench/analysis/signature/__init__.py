"""Signatures: one line that encodes the cells and conditions of a table, and its parser."""

from fewshot_bench.analysis.signature.commands import commands, commands_of, problems
from fewshot_bench.analysis.signature.line import parse, write
from fewshot_bench.analysis.signature.of_records import (
    broken,
    signature_of,
    splits_digest,
    under_table,
)

__all__ = [
    "broken",
    "commands",
    "commands_of",
    "parse",
    "problems",
    "signature_of",
    "splits_digest",
    "under_table",
    "write",
]
