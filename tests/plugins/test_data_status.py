"""`fsbench data status`: present parts, missing parts, and the next step."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import pytest

from fewshot_bench.api.registry import registry
from tests.support.data_states import SPLIT, different_images, own_roots, row, status, write_dtd
from tests.support.helpers import environment, fsbench, save_image, start


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_roots(tmp_path, monkeypatch)


def test_all_named_sets_are_listed_whatever_state_they_are_in(data: Path) -> None:
    write_dtd(data)
    shown = {line.split("  ")[0] for line in status().out.splitlines()}
    named = [name for name in registry().datasets.entries if not name.endswith(":")]
    assert set(named) <= shown
    text = status().out
    assert re.search(
        r"^dtd +ready +2 of 47 +8/4/6 of 2,820/1,128/1,692 +[\d.]+ kB +no ", text, re.M
    )
    assert re.search(r"^ucf101 +not there +- of 101 +- of 7,639/1,898/3,783 +- ", text, re.M)
    assert re.search(r"^digits +ready +10 +400/200/1,197 ", text, re.M)
    assert "fsbench data prepare NAME" in text
    assert str(data / "dtd" / "images") in text


def test_roots_are_shown_with_where_they_come_from(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_DATA", f"{data}{os.pathsep}{tmp_path / 'none'}")
    first = status("digits").out.splitlines()[0]
    assert first == f"FSBENCH_DATA is set: {data}, {tmp_path / 'none'} (does not exist)"
    monkeypatch.delenv("FSBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    first = status("digits").out.splitlines()[0]
    assert first == "FSBENCH_DATA is not set: data is looked for in data"
    told = json.loads(status("digits", "--format", "json").out)
    assert (told["value"], told["roots"]) == (None, [{"path": "data", "exists": True}])


def test_a_root_that_cannot_be_looked_at_hides_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, but no name may be that long.
    long = tmp_path / ("a" * 300)
    monkeypatch.setenv("FSBENCH_DATA", f"{long}{os.pathsep}{data}")
    result = status("digits")
    assert (result.code, "digits" in result.out) == (0, True)
    assert f"{long} (cannot be read: File name too long), {data}\n" in result.out
    told = json.loads(status("digits", "--format", "json").out)
    assert [root["exists"] for root in told["roots"]] == [False, True]


def test_a_narrow_terminal_gets_facts_below_each_name(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dtd(data)
    monkeypatch.setattr("fewshot_bench.plugins.data.commands.terminal_width", lambda: 72)
    shown = status("dtd").out.splitlines()[2:]
    # The folder is one word, which may exceed the terminal width; facts then take separate lines.
    assert max(len(line) for line in shown if str(data) not in line) <= 72
    for fact in ("dtd", "ready", "8/4/6", "of 47", "2,820/1,128/1,692"):
        assert any(fact in line for line in shown), fact


def test_a_terminal_sees_the_progress_of_a_verification(data: Path) -> None:
    write_dtd(data)
    outside, inside = os.openpty()
    variables = environment(COLUMNS="100", TERM="xterm")
    process = start("data", "verify", "dtd", stdout=inside, stderr=inside, env=variables)
    os.close(inside)
    shown = b""
    # Reading fails after the process has ended and all output was read.
    with contextlib.suppress(OSError):
        while part := os.read(outside, 4096):
            shown += part
    os.close(outside)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    for part in ("data verify: images of dtd, ", " of 18", "dtd: verified"):
        assert part in text


def test_states_of_a_public_set(data: Path) -> None:
    assert row("dtd")["state"] == "not there"
    assert "fsbench data prepare dtd" in row("dtd")["step"]
    folder = write_dtd(data)
    found = row("dtd")
    images = [path for path in (folder / "images").rglob("*") if path.is_file()]
    assert (found["state"], found["step"]) == ("ready", "")
    assert (found["classes"], found["expected_classes"]) == (2, 47)
    assert found["counts"] == {"train": 8, "val": 4, "test": 6}
    assert found["bytes"] == sum(path.stat().st_size for path in images)
    (folder / "images/train/cat/1.png").unlink()
    found = row("dtd")
    assert found["state"] == "some images missing"
    assert "train/cat/1.png" in found["step"]
    (folder / "images").rename(folder / "pictures")
    assert row("dtd")["state"] == "images missing"
    (folder / SPLIT).write_text("{", "utf-8")
    found = row("dtd")
    assert found["state"] == "cannot be used"
    assert "cannot be read as JSON" in found["step"]
    (folder / SPLIT).unlink()
    (folder / "pictures").rename(folder / "images")
    found = row("dtd")
    assert found["state"] == "split file missing"
    assert SPLIT in found["step"]


def test_own_folders(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    found = row(f"folder:{root}")
    assert (found["state"], found["classes"], found["expected_classes"]) == ("ready", 2, None)
    assert found["bytes"] > 0
    assert row(f"folder:{tmp_path / 'none'}")["state"] == "not there"
    (tmp_path / "empty").mkdir()
    assert row(f"folder:{tmp_path / 'empty'}")["state"] == "cannot be used"


def test_a_verification_is_remembered_until_the_data_changes(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    name = f"folder:{root}"
    assert re.search(r" no +\S*pets$", status(name).out, re.M)
    assert fsbench("data", "verify", name).code == 0
    found = row(name)
    assert found["current"] is True
    assert (found["verified"]["images"], found["verified"]["differs"]) == (18, [])
    assert re.search(r" \d{4}-\d\d-\d\d +\S*pets$", status(name).out, re.M)
    save_image(root / "test" / "cat" / "more.png", 99)
    assert row(name)["current"] is False
    assert re.search(r" changed since \d{4}-\d\d-\d\d +\S*pets$", status(name).out, re.M)


def test_a_failed_verification_is_none(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    name = f"folder:{root}"
    image = root / "test" / "cat" / "0.png"
    assert fsbench("data", "verify", name).code == 0
    image.write_bytes(b"?" * image.stat().st_size)
    assert fsbench("data", "verify", name).code == 3
    assert row(name)["verified"] is None


def test_differences_are_remembered_and_a_damaged_memory_is_no_memory(
    data: Path, tmp_path: Path
) -> None:
    write_dtd(data)
    assert fsbench("data", "verify", "dtd").code == 0
    assert row("dtd")["verified"]["differs"] == ["counts", "split", "draws"]
    assert re.search(r" \d{4}-\d\d-\d\d, differs ", status("dtd").out)
    (kept,) = (tmp_path / "cache" / "verified").iterdir()
    for damage in ("{", "[]", '{"differs": []}'):
        kept.write_text(damage, "utf-8")
        assert row("dtd")["verified"] is None


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "file"))
    result = fsbench("data", "verify", f"folder:{different_images(tmp_path / 'pets')}")
    assert result.code == 0
    assert result.err.startswith("warning: fsbench data status will not know of this:")
    assert "FSBENCH_CACHE" in result.err


def test_a_verification_is_a_kind_of_cache(tmp_path: Path) -> None:
    name = f"folder:{different_images(tmp_path / 'pets')}"
    assert fsbench("data", "verify", name).code == 0
    assert "removed 1 files" in fsbench("env", "--clear-cache", "verified").out
    assert row(name)["verified"] is None


def test_unknown_names_have_a_suggestion() -> None:
    result = fsbench("data", "status", "dtdd")
    assert (result.code, result.out) == (2, "")
    assert "did you mean 'dtd'?" in result.err


def test_half_an_imagenet_lacks_images_and_no_split_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    save_image(tmp_path / "imagenet" / "images" / "train" / "n01440764" / "a.JPEG", 1)
    found = fsbench("data", "status", "imagenet")
    assert "some images missing" in found.out
    assert "split file" not in found.out
