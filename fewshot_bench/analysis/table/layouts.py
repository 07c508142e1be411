"""The layouts of a table; `lay_out` is the entry. A layout is a module and a name in `LAYOUTS`."""

from __future__ import annotations

from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.table import compact, full, paper
from fewshot_bench.analysis.table.table import Table

# What each shows, in the words of help texts.
LAYOUTS = {
    "compact": "methods x data sets, a table per shots",
    "full": "a table per data set, with costs",
    "paper": "compact without intervals",
}
DEFAULT = "compact"
DATA = ("csv", "json")


def lay_out(table: Table, form: str, name: str = DEFAULT, caption: str = "") -> Document:
    """The table as a document for a format, in the layout of this name; caption: of `paper`.

    CSV and JSON hold all numbers in every layout, except for the CSV of `paper`.
    """
    if name == "paper":
        return paper.document(table, form, caption)
    if form in DATA:
        from fewshot_bench.analysis.table.export import FIRST, meta, rows

        found = rows(table)
        return Document(rows=found, heads=FIRST, data={"meta": meta(table), "rows": found})
    return full.document(table, form) if name == "full" else compact.document(table, form)
