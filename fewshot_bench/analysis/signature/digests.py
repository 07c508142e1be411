"""The first digits of the digests that stand in a signature."""

from __future__ import annotations

import hashlib

from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.spec import RunSpec, canonical_json

DIGITS = 6


def short(text: str) -> str:
    """The first digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def revision_digest(revision: str) -> str:
    """Of the lists of a data set; empty where none is known."""
    return short(revision) if revision else ""


def weights_digest(spec: RunSpec) -> str:
    """Of the backbone's weights: their own digits where they are hexadecimal."""
    known = spec.weights[:DIGITS]
    return known if set(known) <= set("0123456789abcdef") else short(spec.weights)


def names_digest(spec: RunSpec) -> str:
    """Of a person's own class names; empty without."""
    names = spec.data.get("classnames")
    return "" if names is None else short(canonical_json(names))


def skipped_digest(spec: RunSpec) -> str:
    """Of the names of damaged images that are left out; empty without."""
    skipped = spec.data.get(SKIPPED)
    return short(canonical_json(skipped)) if skipped else ""
