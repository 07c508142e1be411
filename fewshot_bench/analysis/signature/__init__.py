"""Signatures, a line that encodes the cells of a table; and the commands that compute cells."""

from fewshot_bench.analysis.signature.commands import commands_of
from fewshot_bench.analysis.signature.of_records import break_line, signature_of

__all__ = ["break_line", "commands_of", "signature_of"]
