"""What records state of the company of queries: `python -m benchmarks.company [METHOD ...]`.

All built-in methods are fitted with one epoch on `digits` in one run, and asked again as their
cards say. Exits with 1 if a method does not keep to its card, or one that answers each query by
itself is not verified to do so.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

from fewshot_bench.api.method import list_changed_options
from fewshot_bench.api.method_card import IN_COMPANY, read_card
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.testing import quick
from tests.support.helpers import cells

COMPANY = {"batch": "all", "stream": "stream"}
SHORT = ("epochs", "iterations", "search_steps")


def shorten(name: str) -> list[str]:
    """Options of a method for a fit of a few steps."""
    method = quick(registry().method_class(name)())
    fields = {field.name for field in dataclasses.fields(method)}
    method = dataclasses.replace(method, **dict.fromkeys(fields & {*SHORT}, 1))
    return [f"{name}.{key}={value}" for key, value in list_changed_options(method).items()]


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--limit", type=int, default=100)
    asked = parser.parse_args()
    catalog, session, wrong = registry().methods, Session(), 0
    built_in = [name for name in catalog.names() if catalog.find(name).is_built_in]
    print("method            sees    depends     gap  moved  encoded  CPU s  violations")
    for name in asked.methods or built_in:
        sees = read_card(registry().method_class(name)).sees
        allowed = {"queries": COMPANY.get(sees, "alone"), "views": 64, "limit": asked.limit}
        (spec,) = cells(name, options=shorten(name), **allowed)
        start = time.process_time()
        record = run_one(spec, session).record
        seconds, stated = time.process_time() - start, record.footprint
        if record.status != "done":
            print(f"{name:17} {sees:7} {record.status}: {(record.error or {}).get('message')}")
            wrong += 1
            continue
        alone = sees not in IN_COMPANY and stated["depends_on_queries"] is not False
        wrong += bool(stated["violations"]) or alone
        gap, moved, encoded = (stated[key] for key in ("query_gap", "moved", "encoded_per_query"))
        print(
            f"{name:17} {sees:7} {stated['depends_on_queries']!s:7} {gap:7.1e} {moved:6.2f} "
            f"{encoded:8.1f} {seconds:6.1f}  {', '.join(stated['violations']) or '-'}",
            flush=True,
        )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
