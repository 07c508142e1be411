"""What a model was made from, so that it can be made again with more pictures: `sources.json`.

`pack_sources` and `read_sources` write and read it; it has paths of this machine, and is on no hub.
`join` puts the pictures of several folders into one, as links.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import msgspec

from fewshot_bench.api.dataset import ROLE_NAMES
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.store.kept_models import SOURCES, image_digest
from fewshot_bench.utils.errors import StoreError, UsageError
from fewshot_bench.utils.files import open_regular, read_regular
from fewshot_bench.utils.text import few

ASKED = (
    *("method", "options", "backbone", "precision", "classnames", "templates", "metric", "relabel"),
    *("shots", "seed", "exif", "keep_contradictions", "skip_damaged", "keep_support"),
    *("reject", "negatives"),
)
"""The arguments of `adapt` that make the same model of the same pictures."""


class Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """datasets: names with whole paths; asked: arguments of `adapt`, those of ASKED."""

    datasets: tuple[str, ...]
    asked: dict[str, Any]


class Joined(str):
    """The name of a folder that `join` filled; datasets: the names of the folders of its pictures.

    >>> Joined("folder:links", ("folder:photos", "folder:new")).datasets
    """

    datasets: tuple[str, ...]

    def __new__(cls, name: str, datasets: tuple[str, ...]) -> Joined:
        """A text with the names."""
        joined = super().__new__(cls, name)
        joined.datasets = datasets
        return joined


def pack_sources(dataset: str, asked: Mapping[str, Any]) -> bytes:
    """The content of `sources.json`; dataset: the name of a data set, or a `Joined`."""
    names = dataset.datasets if isinstance(dataset, Joined) else (_absolute(dataset),)
    packed = msgspec.json.encode(Sources(names, dict(asked)), enc_hook=os.path.abspath)
    return msgspec.json.format(packed) + b"\n"


def _absolute(dataset: str) -> str:
    family, colon, path = dataset.partition(":")
    whole = os.path.abspath(os.path.expanduser(path))
    return f"{family}:{whole}" if colon and os.path.exists(whole) else dataset


def read_sources(folder: Path) -> Sources:
    """What a model was made from; one-line StoreError if its folder does not tell."""
    path = folder / SOURCES
    try:
        sources = msgspec.json.decode(read_regular(path), type=Sources)
    except OSError:
        raise StoreError(
            f"{folder} does not tell what it was made from (there is no {SOURCES} that can be "
            "read; a model of a hub or of a run has none): adapt to a folder of all pictures"
        ) from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}; adapt to a folder of all pictures") from None
    if unknown := sorted(set(sources.asked) - set(ASKED)):
        raise StoreError(f"{path} has {few(unknown)}, which no model is made by; update it")
    return sources


class Gathered(msgspec.Struct):
    """Pictures of a folder: digests of the linked ones, their number, and that of those left out.

    Known are pictures with the bytes of one in the same class of an earlier folder.
    """

    digests: set[str]
    linked: int = 0
    known: int = 0


def join(folders: Sequence[Path], target: Path) -> list[Gathered]:
    """Link the pictures of some folders into one, as if each was copied over those before it.

    Class folders are the same by their path below train and val, or if the end of it is the path
    of a single other one. Of two pictures with one path, the later is renamed. UsageError for a
    folder without pictures in class folders.
    """
    found: list[Gathered] = []
    homes: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()
    for folder in folders:
        gathered, new, own = Gathered(set()), set(), dict[str, str]()
        for path in map(Path, list_images([str(folder)])):
            parent = path.relative_to(folder).parent.as_posix()
            home = own.setdefault(parent, _find_home(parent, homes))
            if parent == "." or not home:
                continue
            picture = _split(home)[1], _digest(path)
            if picture in seen:
                gathered.known += 1
                continue
            new.add(picture)
            gathered.digests.add(picture[1])
            gathered.linked += 1
            _link(path, target / home)
        if not gathered.linked + gathered.known:
            raise UsageError(f"{folder} holds no pictures in class folders: expected one per class")
        seen |= new
        homes |= dict.fromkeys(home for home in own.values() if home not in ("", "."))
        found.append(gathered)
    return found


def _find_home(parent: str, homes: Iterable[str]) -> str:
    """Where the pictures of a class folder go, among those of earlier folders; empty for nowhere.

    parent: the path of the class folder. UsageError if it may be one of several.
    """
    above, name, below = _split(parent)
    parts, role = [home for home in homes if _is_trained(home)], _role(above or below)
    if not parts or parent in homes:
        return parent
    divided = any(_split(parts[0])[::2])
    if role == "test" or (role == "val" and divided):
        return parent if divided else ""
    alike = [home for home in parts if _split(home)[1] == name] or [
        home
        for home, (_, other, _) in zip(parts, map(_split, parts), strict=True)
        if f"/{other}".endswith(f"/{name}") or f"/{name}".endswith(f"/{other}")
    ]
    if len({_split(home)[1] for home in alike}) > 1:
        raise UsageError(
            f"the class folder {parent} may be {few(alike)}: name it by its whole path"
        )
    first, _, last = _split(parts[0])
    return alike[0] if alike else "/".join(filter(None, (first, name, last)))


def _split(parent: str) -> tuple[str, str, str]:
    """The folder of a role above a class, the path of the class, and the folder of a role in it."""
    parts = normalize("NFC", parent).split("/")
    above = parts.pop(0) if len(parts) > 1 and _role(parts[0]) else ""
    below = parts.pop() if len(parts) > 1 and _role(parts[-1]) else ""
    return above, "/".join(parts), below


def _role(name: str) -> str:
    return ROLE_NAMES.get(name.strip().casefold(), "")


def _is_trained(home: str) -> bool:
    above, _, below = _split(home)
    return _role(above or below) in ("", "train")


def _digest(path: Path) -> str:
    """The digest of a picture as models state it; its path for one that cannot be read."""
    try:
        with open_regular(path) as file:
            return image_digest(hashlib.file_digest(file, "sha256").digest())
    except OSError:
        return str(path)


def _link(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    link, number = folder / path.name, 1
    while os.path.lexists(link):
        number += 1
        link = folder / f"{path.stem}_{number}{path.suffix}"
    try:
        link.symlink_to(path.absolute())
    except OSError:
        # Some systems let not everybody make links.
        shutil.copyfile(path, link)
