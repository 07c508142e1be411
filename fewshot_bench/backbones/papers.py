"""`papers_of_weights`: what to cite for a model and its weights, by open_clip's names."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

from fewshot_bench.api.paper import Paper


def papers_of_weights(name: str) -> tuple[Paper, ...]:
    """The papers of `MODEL/TAG` or `hf-hub:ORG/NAME`; empty for a model that is not known.

    Those of a registered backbone are in its entry, as its plug-in registered them.
    """
    folded = name.partition("@")[0].lower()
    if "/" not in folded or folded.startswith("local-dir:"):
        return ()
    return tuple(
        paper
        for paper, names, but in _read_entries()
        if any(part in folded for part in names) and not any(part in folded for part in but)
    )


@cache
def _read_entries() -> tuple[tuple[Paper, list[str], list[str]], ...]:
    """Papers, and parts of names: one of the first list must be in a name, none of the second."""
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    entries = []
    for facts in table.values():
        names, but = facts.pop("names"), facts.pop("but", [])
        entries.append((Paper(**{**facts, "authors": tuple(facts["authors"])}), names, but))
    return tuple(entries)
