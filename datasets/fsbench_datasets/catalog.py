"""All public sets that have a name here."""

from __future__ import annotations

from fsbench_datasets.catalog_eleven import ELEVEN
from fsbench_datasets.catalog_entry import PublicSet
from fsbench_datasets.catalog_ood import IMAGENET_OOD

PUBLIC_SETS = (*ELEVEN, *IMAGENET_OOD)


def public_set(name: str) -> PublicSet:
    """The entry of a catalog name."""
    return next(entry for entry in PUBLIC_SETS if entry.name == name)


def by_split_file(file_name: str) -> PublicSet | None:
    """The entry whose published split file has this name."""
    return next((entry for entry in PUBLIC_SETS if entry.split_file == file_name), None)
