"""Helpers for tests of `fsbench data prepare`: archives, a server, data sets with recipes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.data.commands import LOCK
from tests.support import helpers
from tests.support.http_server import Page, Site, serving

MODULE = "fsbench_remote"
RECIPES = "FSBENCH_TEST_RECIPES"
PLUGIN = f'''
import functools, json, os
from fewshot_bench import (DataMissingError, DatasetCard, hookimpl)
from fewshot_bench.api.sources import (Recipe, RemoteFile, data_roots)

class Remote:
    def __init__(self, name):
        self.name = name

    def card(self):
        return DatasetCard(self.name, self.name, ())

    def items(self):
        files = content()[self.name]["files"]
        if not files and not (data_roots()[0] / self.name).is_dir():
            raise DataMissingError("no folder")
        return {{}}

    def read(self, item):
        raise OSError

    def recipe(self):
        entry = content()[self.name]
        files = tuple(RemoteFile(**{{k: tuple(v) if isinstance(v, list) else v
            for k, v in file.items()}}) for file in entry["files"])
        return Recipe(files, tuple(entry["by_hand"]))

def content():
    with open(os.environ["{RECIPES}"]) as file:
        return json.load(file)

@hookimpl
def register_datasets(register):
    for name in content():
        register(name, functools.partial(Remote, name), suites=("remotes",))
'''
LOCK_FILE = f".{LOCK}.lock"
Tree = dict[str, bytes]


@dataclass
class Shop:
    """A server, a data root, and data sets whose recipes point to the server."""

    site: Site
    root: Path
    recipes: Path

    def sell(self, files: list[dict[str, Any]], name: str = "wares", by_hand: Any = ()) -> None:
        """Register a data set with these files, in addition to existing data sets."""
        known = json.loads(self.recipes.read_text())
        if name not in known:
            registry.cache_clear()
        known[name] = {"files": files, "by_hand": list(by_hand)}
        self.recipes.write_text(json.dumps(known))

    def archive(self, content: bytes, path: str = "/wares.tar.gz", **more: Any) -> dict[str, Any]:
        """A served archive with a known digest, to be unpacked into wares/."""
        how = {key: more.pop(key) for key in list(more) if key in _HOW}
        url = self.site.put(path, content, **how)
        values = {"name": path[1:], "place": "wares", "urls": [url], "unpack": True}
        return values | {"sha256": sha256(content)} | more

    def prepare(self, *arguments: object) -> helpers.Result:
        """Run `fsbench data prepare` in this process."""
        return helpers.fsbench("data", "prepare", *(arguments or ("wares",)))

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start `fsbench data prepare` in a subprocess."""
        return helpers.start("data", "prepare", *(arguments or ("wares",)), **options)

    def tree(self) -> Tree:
        """All files below the root except downloads and the lock file."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not {"downloads", LOCK_FILE} & {*path.parts}
        }

    def part(self, name: str = "wares.tar.gz", dataset: str = "wares") -> Path:
        """Path of a partial download."""
        return self.root / "downloads" / dataset / f"{name}.part"


_HOW = {field.name for field in fields(Page)} - {"content"}


@contextmanager
def open_shop(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Open a shop whose data sets are registered here and in child processes."""
    plugin, recipes, root = folder / "plugin", folder / "recipes.json", folder / "outer" / "data"
    info = plugin / f"{MODULE}-1.0.dist-info"
    info.mkdir(parents=True)
    (plugin / f"{MODULE}.py").write_text(PLUGIN)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fewshot_bench]\nremote = {MODULE}\n")
    recipes.write_text("{}")
    patch.syspath_prepend(str(plugin))
    before = os.environ.get("PYTHONPATH")
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(plugin), before))))
    patch.setenv(RECIPES, str(recipes))
    patch.setenv("FSBENCH_DATA", str(root))
    patch.setenv("FSBENCH_HTTP_BACKOFF", "0.01")
    registry.cache_clear()
    try:
        with serving() as site:
            yield Shop(site, root, recipes)
    finally:
        registry.cache_clear()
        sys.modules.pop(MODULE, None)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, which acts like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sha256(content: bytes) -> str:
    """SHA-256 hex digest."""
    return hashlib.sha256(content).hexdigest()


def images(count: int = 3, size: int = 400, folder: str = "images") -> Tree:
    """Incompressible files, by path."""
    return {f"{folder}/{i}.jpg": os.urandom(size) for i in range(count)}


def tar(tree: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w:gz") -> bytes:
    """A tar archive of files by name; TarInfo values are added as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in tree.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zipped(tree: Mapping[str, bytes]) -> bytes:
    """A zip archive of files by name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(name, content)
    return out.getvalue()


def below(folder: str, tree: Tree) -> Tree:
    """The same files in a folder."""
    return {f"{folder}/{name}": content for name, content in tree.items()}
