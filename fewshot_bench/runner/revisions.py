"""Revisions of data sets: `revision_of` identifies the lists that a cell is planned with."""

from __future__ import annotations

import hashlib

from fewshot_bench.api.dataset import ROLES, Dataset
from fewshot_bench.api.items import digest_of
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.runner.preflight import check_items


def revision_of(name: str, dataset: Dataset) -> str:
    """Identity of a data set's item lists, as stored in specifications."""
    pools, card = dataset.items(), dataset.card()
    check_items(card, pools)
    lists = digest_of((role, pools.get(role, ())) for role in ROLES)
    if card.revision:
        return f"{card.revision}:{lists[:16]}"
    # Without a revision, the identity also covers all card facts that can change a number.
    said = canonical_json([card.classnames, card.custom_templates, card.identities, card.mirrored])
    return hashlib.sha256(f"{lists}\n{said}".encode()).hexdigest()[:16]
