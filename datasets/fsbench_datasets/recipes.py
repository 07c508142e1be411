"""Download recipes of the public sets for `fsbench data prepare`, read from `recipes.toml`."""

from __future__ import annotations

from typing import Any

from fewshot_bench.api.sources import Recipe, RemoteFile
from fsbench_datasets.catalog import DRIVE, PublicSet, public_set, read_table

# CoOp's split files, pinned by commit. The seven files of this repository have exactly the sizes of
# the published ones.
SPLIT_MIRROR = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
    "c7e7e68ae4eeadfab98e7886b2d6c9cf48a7ceb5/splits/"
)


def recipe_of(name: str) -> Recipe:
    """The recipe of a public set, by its name in the catalog."""
    facts = read_table("recipes.toml")[name]
    split = (_split_file(public_set(name), **facts["split"]),) if "split" in facts else ()
    files = tuple(RemoteFile(**file) for file in facts.get("files", ()))
    return Recipe((*split, *files), facts.get("by_hand", ()))


def _split_file(entry: PublicSet, mirrored: bool = True, **facts: Any) -> RemoteFile:
    """CoOp's split file: mirror first, then the authors' copy; accepted where it is read from."""
    name, first = entry.split_file or "", entry.folders[0]
    above = (image.rpartition("/")[0] for image in entry.images)
    folders = dict.fromkeys((*entry.folders, "", "splits", *above, *entry.images))
    accepted = [f"{folder}/{name}".lstrip("/") for folder in folders if folder != first]
    mirrors = (f"{SPLIT_MIRROR}{name}",) if mirrored else ()
    return RemoteFile(
        name,
        f"{first}/{name}",
        (*mirrors, f"{DRIVE}{entry.split_id}"),
        alternatives=tuple(accepted),
        split=True,
        **facts,
    )
