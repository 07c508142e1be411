"""Readers of archives, and of the files kept beside downloads."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.api.dataset import DatasetCard, RemoteFile
from fewshot_bench.plugins.data.download import Download, Origin, source_of
from fewshot_bench.plugins.data.extract import DamagedError, UnsafeError, unpack
from fewshot_bench.plugins.data.status import keep_outcome, recall
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support.preparing import tar, zipped

REFUSED = (DamagedError, UnsafeError)


def _archives(folder: Path) -> list[Seed]:
    tree = {"wares/a/1.jpg": b"x" * 700, "wares/b/2.jpg": b"y" * 80, "wares/list.txt": b"1\n2\n"}
    return [
        Seed("a.zip", zipped(tree), "zip"),
        Seed("a.tar", tar(tree, "w"), "tar"),
        Seed("a.tar.gz", tar(tree, "w:gz"), "tar.gz"),
        Seed("a.tar.xz", tar(tree, "w:xz")),
        Seed("a.tar.bz2", tar(tree, "w:bz2")),
        Seed("b.zip", zipped({"wares/inner.tar": tar(tree, "w")}), "zip"),
    ]


def _unpack(folder: Path, file: Path) -> bool:
    inner = ("wares/inner.tar",) if file.name == "b.zip" else ()
    return unpack(file, folder / "target" / "wares", strip="wares", inner=inner) > 0


def _download(folder: Path) -> Download:
    return Download(RemoteFile("file.zip", "files"), folder / "file.zip", print)


def _notes(folder: Path) -> list[Seed]:
    download = _download(folder)
    download.start(Origin("http://x/file.zip", '"tag"', "today", 9))
    download.part.write_bytes(b"12345")
    about = download.note.read_bytes()
    (folder / "done.zip.source.json").write_bytes(about)
    card = DatasetCard("set", "Set", ("a",), folder=str(folder))
    keep_outcome("set", card, 3, ("x",), passed=True)
    return seeds_in(folder, ("*.json", "json"), ("cache/verified/*.json", "json"))


def _read_notes(folder: Path, file: Path) -> bool:
    origin, source = _download(folder).origin(), source_of(folder / "done.zip")
    found = recall("set", DatasetCard("set", "Set", ("a",), folder=str(folder)))
    if found is not None:
        assert isinstance(found.day, str)
    return None not in (origin, found) and bool(source)


SUBJECTS = (
    Subject("archives", 8, _archives, _unpack, REFUSED),
    Subject("notes of downloads", 3, _notes, _read_notes),
)
