"""Archives of every format are unpacked; malicious and damaged ones leave nothing anywhere."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.helpers import Result, wait_until
from tests.support.preparing import LOCK_FILE, Shop, Tree, below, images, tar, zipped

TREE = images()
WARES = below("wares", TREE)
GOOD = b"content"


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """A tar member without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_entry(name: str, mode: int, content: bytes = GOOD, flags: int = 0) -> bytes:
    """A zip archive with a valid member and one with this mode."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("images/0.jpg", GOOD)
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, content)
    return out.getvalue()


def state(folder: Path) -> dict[str, bytes | str]:
    """All entries of a folder, also links and empty folders, but for locks and compiled code."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else "no file"
        for path in folder.rglob("*")
        if path.name != LOCK_FILE and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_tar_archives_of_every_compression(shop: Shop, mode: str) -> None:
    shop.sell([shop.archive(tar(TREE, mode), "/wares.bin")])
    assert (shop.prepare().code, shop.tree()) == (0, WARES)


def test_zip_and_nested_tar_as_caltech_has_them(shop: Shop) -> None:
    classes = below("101_ObjectCategories", images(3, folder="Faces"))
    outer = {
        "caltech-101/101_ObjectCategories.tar.gz": tar(classes),
        "caltech-101/Annotations.tar": GOOD,
        "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": GOOD,
        "caltech-101/._x": GOOD,
        "elsewhere/readme": GOOD,
    }
    inner = ["caltech-101/101_ObjectCategories.tar.gz"]
    more = {"strip": "caltech-101", "inner": inner, "provides": ["wares/101_ObjectCategories"]}
    shop.sell([shop.archive(zipped(outer), "/c.zip", **more)])
    result = shop.prepare()
    assert result.code == 0, result
    assert shop.tree() == below("wares", classes | {"Annotations.tar": GOOD})


def test_members_outside_of_strip_are_left_out(shop: Shop) -> None:
    tree = below("fgvc/data", TREE) | {"fgvc/evaluate.m": GOOD, "fgvc/data/variants.txt": GOOD}
    shop.sell([shop.archive(tar(tree), strip="fgvc/data")])
    assert shop.prepare().code == 0
    assert shop.tree() == WARES | {"wares/variants.txt": GOOD}
    shutil.rmtree(shop.root)
    shop.sell([shop.archive(tar(tree), strip="other")])
    result = shop.prepare()
    assert result.code == 3
    assert "it holds no file below other" in result.out


TARS: dict[str, Tree | dict[str, bytes | tarfile.TarInfo]] = {
    "leads out of the folder": {"../evil": GOOD},
    "leads out of the folder ": {"images/../../../evil": GOOD},
    "leads out of the folder  ": {"/evil": GOOD},
    "leads out of the folder   ": {"C:evil": GOOD},
    "has a backslash": {"..\\evil": GOOD},
    "control characters": {"images/a\nb": GOOD},
    "control characters ": {"images/\x1b[2Jb": GOOD},
    "is too long": {"i" * 256: GOOD},
    "is too long ": {"/".join(["abcdefgh"] * 200): GOOD},
    "is there twice": {"images/0.jpg": GOOD, "./images/0.jpg": GOOD},
    "where a file is": {"images/0.jpg/below": GOOD},
    "is there twice ": {"images": entry("images")},
    "is a device, pipe or the like": {"": entry("pipe", tarfile.FIFOTYPE)},
    "is a device, pipe or the like ": {"": entry("device", tarfile.BLKTYPE)},
    "is a device, pipe or the like  ": {"": entry("device", tarfile.CHRTYPE)},
    "leads to '/etc/passwd', outside": {"": entry("link", tarfile.SYMTYPE, "/etc/passwd")},
    "leads to '../../evil', outside": {"": entry("images/l", tarfile.SYMTYPE, "../../evil")},
    "leads to '../evil', outside": {"": entry("images/l", tarfile.LNKTYPE, "../evil")},
    "leads to no file of the archive": {"": entry("link", tarfile.SYMTYPE, "images")},
}


def refused(shop: Shop, content: bytes, reason: str, path: str = "/wares.tar.gz") -> Result:
    """Prepare; assert that it is rejected and leaves no files, inside or outside the root."""
    shop.root.mkdir(parents=True, exist_ok=True)
    (shop.root / "mine.txt").write_bytes(b"mine")
    before = state(shop.root.parents[1])
    shop.sell([shop.archive(content, path, sha256="")])
    before["recipes.json"] = shop.recipes.read_bytes()
    result = shop.prepare()
    assert result.code == 3, result
    assert reason.strip() in result.out
    assert "Traceback" not in result.out + result.err
    assert state(shop.root.parents[1]) == before
    return result


@pytest.mark.parametrize("reason", TARS)
def test_malicious_tar_archives_are_refused_as_a_whole(shop: Shop, reason: str) -> None:
    refused(shop, tar({"images/0.jpg": GOOD, **TARS[reason]}), reason)


def test_a_link_is_never_written_through(shop: Shop) -> None:
    tree = {"": entry("way", tarfile.SYMTYPE, ".."), "way/evil": GOOD}
    refused(shop, tar(tree), "outside")
    tree = {"images/0.jpg": GOOD, "": entry("way", tarfile.SYMTYPE, "images"), "way/evil": GOOD}
    refused(shop, tar(tree), "")


ZIPS: dict[str, Callable[[], bytes]] = {
    "leads out of the folder": lambda: zipped({"images/0.jpg": GOOD, "../evil": GOOD}),
    "leads out of the folder ": lambda: zipped({"images/0.jpg": GOOD, "/evil": GOOD}),
    "has a backslash": lambda: zipped({"images/0.jpg": GOOD, "a\\..\\..\\evil": GOOD}),
    "leads to '../evil', outside": lambda: zip_entry("l", stat.S_IFLNK | 0o777, b"../evil"),
    "is a device, pipe or the like": lambda: zip_entry("pipe", stat.S_IFIFO | 0o644),
    "is encrypted": lambda: _encrypted(zipped({"images/0.jpg": GOOD})),
}


def _encrypted(archive: bytes) -> bytes:
    place = archive.index(b"PK\x01\x02") + 8
    (flags,) = struct.unpack_from("<H", archive, place)
    return archive[:place] + struct.pack("<H", flags | 1) + archive[place + 2 :]


@pytest.mark.parametrize("reason", ZIPS)
def test_malicious_zip_archives_are_refused_as_a_whole(shop: Shop, reason: str) -> None:
    refused(shop, ZIPS[reason](), reason, "/wares.zip")


def test_links_inside_become_copies_and_modes_the_usual_ones(shop: Shop) -> None:
    loud = entry("tool")
    loud.mode = 0o6777
    tree = TREE | {
        "": entry("images/soft.jpg", tarfile.SYMTYPE, "./0.jpg"),
        " ": entry("hard.jpg", tarfile.LNKTYPE, "images/1.jpg"),
        "  ": loud,
    }
    shop.sell([shop.archive(tar(tree))])
    assert shop.prepare().code == 0
    found = shop.tree()
    assert found["wares/images/soft.jpg"] == TREE["images/0.jpg"]
    assert found["wares/hard.jpg"] == TREE["images/1.jpg"]
    for path in shop.root.rglob("*"):
        assert not path.is_symlink()
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
        assert path.stat().st_nlink == 1 or path.is_dir()


def test_bombs_are_stopped_by_the_bytes_that_are_written(shop: Shop) -> None:
    zeros = bytes(40 * 2**20)
    for content, path in (
        (zipped({"images/0.jpg": zeros}), "/b.zip"),
        (tar({"0": zeros}), "/b.tgz"),
    ):
        assert len(content) < 10**5
        result = refused(shop, content, "it unpacks to more than 16,777,216 bytes", path)
        assert "it was removed" in result.out
    lying = zipped({"images/0.jpg": zeros}).replace(
        struct.pack("<L", len(zeros)), struct.pack("<L", 10)
    )
    refused(shop, lying, "", "/b.zip")


def test_no_more_of_a_link_is_unpacked_than_a_path_has(shop: Shop) -> None:
    info = zipfile.ZipInfo("link")
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFLNK | 0o777) << 16
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr(info, bytes(128 * 2**20))
    tracemalloc.start()
    try:
        refused(shop, bomb.getvalue(), "control characters", "/b.zip")
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_bombs_in_skipped_members_and_headers_are_stopped(shop: Shop) -> None:
    plain = tar({"images/0.jpg": GOOD, "skipped/0": bytes(90 * 2**20)})
    shop.sell([shop.archive(plain, sha256="", strip="images")])
    assert "it unpacks to more than" in shop.prepare().out
    long = gzip.compress(tar(TREE, "w") + bytes(90 * 2**20))
    refused(shop, long, "it unpacks to more than")
    header = entry("x", tarfile.GNUTYPE_LONGNAME)
    header.size = 2**40
    block = header.tobuf(tarfile.GNU_FORMAT)
    refused(shop, gzip.compress(block + bytes(10**6)), "")


def test_the_limits_of_a_recipe_hold_for_nested_archives_together(shop: Shop) -> None:
    tree = {"a.tar": tar(images(2, 5000), "w"), "b.tar": tar(images(2, 5000, "more"), "w")}
    how = {"inner": ["a.tar", "b.tar"], "provides": ["wares/images", "wares/more"]}
    shop.sell([shop.archive(zipped(tree), "/w.zip", max_unpacked=50_000, **how)])
    assert "it unpacks to more than 50,000 bytes" in shop.prepare().out
    assert shop.tree() == {}
    shutil.rmtree(shop.root)
    shop.sell([shop.archive(zipped(tree), "/w.zip", max_unpacked=80_000, **how)])
    assert shop.prepare().code == 0
    assert len(shop.tree()) == 4


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "zip"])
def test_truncated_archives_are_told_and_the_next_call_works(shop: Shop, mode: str) -> None:
    tree = images(5, 20_000)
    whole = zipped(tree) if mode == "zip" else tar(tree, mode)
    for end in (10, 512, 600, 40_960, len(whole) - 20_000, len(whole) - 10):
        content = whole[:end] if end < len(whole) - 15 or mode != "w" else whole[: 5 * 21_000]
        refused(shop, content, "")
    shop.sell([shop.archive(whole, sha256="")])
    assert shop.prepare().code == 0
    assert len(shop.tree()) == 6


def test_a_corrupt_header_is_not_taken_for_the_end(shop: Shop) -> None:
    whole = bytearray(tar(images(3, 512), "w"))
    whole[1024 + 20] ^= 0xFF
    refused(shop, bytes(whole), "a header is corrupt")


def test_another_source_is_tried_after_a_damaged_archive(shop: Shop) -> None:
    urls = [shop.site.put("/a.tgz", tar(TREE)[:-100]), shop.site.put("/b.tgz", tar(TREE))]
    shop.sell([shop.archive(b"", urls=urls, sha256="")])
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES)
    assert "wares.tar.gz is damaged" in result.out


def test_an_archive_whose_unpacking_was_killed_is_unpacked_again(shop: Shop) -> None:
    tree = images(1500, 2000)
    shop.sell([shop.archive(tar(tree, "w"), provides=["wares/images"])])
    process = shop.start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list(shop.root.rglob("*.jpg"))) >= 20)
    process.kill()
    process.wait()
    assert not (shop.root / "wares" / "images").exists()
    result = shop.prepare()
    assert result.code == 0
    assert shop.tree() == below("wares", tree)
    assert shop.site.asked("/wares.tar.gz") == [""]
    assert os.listdir(shop.root / "wares") == ["images"]


def test_placing_that_was_killed_goes_on(shop: Shop) -> None:
    shop.sell([shop.archive(tar(TREE), provides=["wares/images"])])
    assert shop.prepare().code == 0
    whole = shop.root / "wares" / ".fsbench-unpacked-wares.tar.gz" / "images"
    whole.mkdir(parents=True)
    (shop.root / "wares" / "images" / "2.jpg").rename(whole / "2.jpg")
    assert "already at" not in shop.prepare("wares", "--dry-run").out
    result = shop.prepare()
    assert (result.code, shop.tree()) == (0, WARES)
    assert "unpacked by an earlier call" in result.out
