"""`papers_of_weights`: what to cite for a model and its weights, by open_clip's names."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fewshot_bench.api.paper import Paper


class _Known(NamedTuple):
    """A paper, and parts of names: one of `names` must be in a name, none of `but`."""

    paper: Paper
    names: tuple[str, ...]
    but: tuple[str, ...]


def papers_of_weights(name: str) -> tuple[Paper, ...]:
    """The papers of `MODEL/TAG` or `hf-hub:ORG/NAME`; empty for a model that is not known.

    Those of a registered backbone are in its entry, as its plug-in registered them.
    """
    folded = name.partition("@")[0].lower()
    if "/" not in folded or folded.startswith("local-dir:"):
        return ()
    return tuple(
        entry.paper
        for entry in _read_entries()
        if any(part in folded for part in entry.names)
        and not any(part in folded for part in entry.but)
    )


@cache
def _read_entries() -> tuple[_Known, ...]:
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    entries = []
    for facts in table.values():
        names, but = tuple(facts.pop("names")), tuple(facts.pop("but", ()))
        paper = Paper(**{**facts, "authors": tuple(facts["authors"])})
        entries.append(_Known(paper, names, but))
    return tuple(entries)
