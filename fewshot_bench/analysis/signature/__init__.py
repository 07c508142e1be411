"""Signatures: one line that encodes the cells and conditions of a table, and its parser."""

from fewshot_bench.analysis.signature.commands import commands, commands_of, problems
from fewshot_bench.analysis.signature.line import parse, write
from fewshot_bench.analysis.signature.of_records import break_line, signature_of

__all__ = [
    "break_line",
    "commands",
    "commands_of",
    "parse",
    "problems",
    "signature_of",
    "write",
]
