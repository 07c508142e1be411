"""Image checks before a run: all images of a small set, the used ones of a large set."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.decode import find_unreadable
from fewshot_bench.runner.preflight import check_images
from tests.support.helpers import cells, fsbench, image_folder, save_image
from tests.support.plugin_photos import Counted


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Eight training and six test images, none in the digest cache."""
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 0.0)
    for role, count in (("train", 4), ("test", 3)):
        for name in ("cat", "dog"):
            for index in range(count):
                save_image(tmp_path / "pets" / role / name / f"{index}.jpg", 10 * index)
    return Counted(tmp_path / "pets")


def cell(**changes: object) -> RunSpec:
    """A one-shot cell without validation."""
    (spec,) = cells("zero-shot", val="none", limit=None)
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


def read(pets: Counted) -> list[str]:
    """The images read since the last call."""
    log = pets.root / "reads.log"
    found = sorted(log.read_text(encoding="utf-8").split()) if log.is_file() else []
    log.unlink(missing_ok=True)
    return found


def test_all_of_a_small_set_once(pets: Counted) -> None:
    assert check_images({"digits": pets}, [cell()]) == {}
    assert len(read(pets)) == 14
    assert check_images({"digits": pets}, [cell()]) == {}
    assert read(pets) == []


def test_what_cells_use_of_a_large_set(pets: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot_bench.runner.preflight.ALL_CHECKED", 10)
    assert check_images({"digits": pets}, [cell(), cell(method="coop")]) == {}
    found = read(pets)
    assert len(found) == 2 + 6
    assert sum(name.startswith("test/") for name in found) == 6
    assert check_images({"digits": pets}, [cell(limit=2, shots=2)]) == {}
    assert all(name.startswith("train/") for name in read(pets))


def test_of_a_target_its_test_images(pets: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot_bench.runner.preflight.ALL_CHECKED", 10)
    other = Counted(pets.root.parent / "other")
    for role in ("train", "test"):
        for name in ("cat", "dog"):
            for index in range(6):
                save_image(other.root / role / name / f"{index}.jpg", 7 * index)
    (other.root / "test" / "dog" / "1.jpg").write_bytes(b"no image")
    both = {"digits": pets, "other": other}
    problems = check_images(both, [cell(target="other")])
    assert list(problems) == ["other"]
    assert "1 of its images cannot be used: test/dog/1.jpg: " in problems["other"]
    assert all(name.startswith("train/") for name in read(pets))
    assert sorted({name.split("/")[0] for name in read(other)}) == ["test"]
    imported = cell(protocol="imported", picks="0" * 64)
    assert check_images(both, [imported]) == {}
    assert all(name.startswith("test/") for name in read(pets))


def test_many_bad_images_are_shortened(pets: Counted) -> None:
    for path in (pets.root / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    (problem,) = check_images({"digits": pets}, [cell()]).values()
    assert "digits: 8 of its images cannot be used, all 4 train images of class 'cat', " in problem
    assert "train/cat/0.jpg: the file is empty;" in problem
    assert "; and 3 more; mend or restore these files" in problem
    assert problem.endswith("(fsbench data verify digits lists all)")


def test_images_that_would_turn_white_are_refused(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "deep")
    values = np.linspace(5000, 60000, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(root / "test" / "cat" / "scaled.png")
    Image.fromarray(values.astype(np.int32) + 9000).save(root / "test" / "cat" / "deep.tif")
    Image.fromarray(values // 300).save(root / "test" / "cat" / "dark.png")
    found = fsbench(
        *("run", "-m", "zero-shot", "-d", f"folder:{root}", "--shots", "1", "--seeds", "1"),
        *("--backbone", "tiny", "--store", tmp_path / "store"),
    )
    assert found.code == 3
    assert "test/cat/deep.tif: not the values of 8 bits" in found.err
    assert "dark.png" not in found.err
    assert "scaled.png" not in found.err
    assert "results in" not in found.out


def test_images_that_would_turn_black_are_refused(tmp_path: Path) -> None:
    root, names = image_folder(tmp_path / "deep"), set()
    for ending in ("tif", "png"):
        for scale in (1.0, 0.5, 200.0):
            values = np.linspace(0, scale, 32 * 32).reshape(32, 32)
            kept = values if ending == "tif" and scale < 200 else np.rint(values)
            kind = np.float32 if ending == "tif" else np.uint16
            name = f"test/cat/{scale}.{ending}"
            Image.fromarray(kept.astype(kind)).save(root / name)
            names |= {name} if scale < 200 else set()
    run = ("run", "-m", "zero-shot", "-d", f"folder:{root}", "--shots", 1, "--seeds", 1)
    store = ("--backbone", "tiny", "--store", tmp_path / "store")
    for words in (("data", "verify", f"folder:{root}"), (*run, *store)):
        found = fsbench(*words)
        said = found.out + found.err
        assert said.count("not the values of 8 bits") == len(names)
        assert all(f"{name}: not the values of 8 bits" in said for name in names)


def png(value: int) -> bytes:
    """A PNG of 8 x 8 pixels with colors of 16 bits of one value, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    # Each line stands after its filter.
    lines = (b"\0" + struct.pack(">H", value) * 24) * 8
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


def ppm(value: int, highest: int = 65535) -> bytes:
    """A PPM of 8 x 8 pixels whose colors have one value of two bytes."""
    return b"P6 8 8 %d\n" % highest + struct.pack(">H", value) * 192


def cmyk(value: int) -> bytes:
    """A TIFF of 8 x 8 pixels with four inks of 16 bits and one value."""
    rows = ((256, 8), (257, 8), (258, 122), (259, 1), (262, 5), (273, 130), (277, 4), (278, 8))
    tags = b"".join(
        struct.pack("<HHII", tag, 3, 4 if tag == 258 else 1, number)
        for tag, number in (*rows, (279, 512))
    )
    head = b"II*\0" + struct.pack("<IH", 8, 9) + tags + bytes(4)
    return head + struct.pack("<4H", 16, 16, 16, 16) + struct.pack("<H", value) * 256


def bitmap() -> bytes:
    """A BMP of 8 x 8 nearly black pixels with colors of 5, 6 and 5 bits, 16 in all."""
    pixels = struct.pack("<H", 0x0821) * 64
    about = struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    about += struct.pack("<III", 0xF800, 0x07E0, 0x1F)
    return b"BM" + struct.pack("<IHHI", 14 + 52 + 128, 0, 0, 14 + 52) + about + pixels


def test_colors_of_16_bits_that_would_turn_black_are_refused(tmp_path: Path) -> None:
    contents = {
        "a.png": (png(200), "none of them above 255 of 65,535: they would look black"),
        "b.png": (png(256), "none of them above 511 of 65,535: they would look black"),
        "c.png": (png(4095), "none of them above 4,095 of 65,535: they would look black"),
        "d.png": (png(4096), ""),
        "a.ppm": (ppm(4095), "look black"),
        "b.ppm": (ppm(4400), ""),
        "c.ppm": (ppm(200, 4095), ""),
        "a.tif": (cmyk(4095), "look white"),
        "b.tif": (cmyk(4096), ""),
        "a.bmp": (bitmap(), ""),
    }
    root = image_folder(tmp_path / "deep")
    for name, (content, _) in contents.items():
        (root / "test" / "cat" / name).write_bytes(content)
    dataset = registry().dataset(f"folder:{root}")
    bad = find_unreadable(dataset, dataset.items()["test"]).bad
    for name, (_, reason) in contents.items():
        assert (f"test/cat/{name}" in bad) == bool(reason), name
        assert reason in bad.get(f"test/cat/{name}", "")
    verified = fsbench("data", "verify", f"folder:{root}")
    assert verified.out.count("colors of 16 bits") == len(bad)


def test_a_refused_run_keeps_no_split(tmp_path: Path) -> None:
    root, store = tmp_path / "pets", tmp_path / "store"
    for name in ("cat", "dog"):
        for index in range(10):
            save_image(root / name / f"{index}.png", index + 100 * (name == "dog"))
    bad = root / "dog" / "3.png"
    bad.write_bytes(b"no image")
    words = ("run", "-m", "zero-shot", "-d", f"folder:{root}", "--shots", 1, "--seeds", 1)
    words = (*words, "--backbone", "tiny", "--store", store)
    assert fsbench(*words).code == 3
    bad.unlink()
    mended = fsbench(*words)
    assert (mended.code, mended.err) == (0, "")
    assert len(list((store / "splits" / "made").iterdir())) == 1


def test_prompts_longer_than_the_text_encoder_reads_are_named_before_a_run(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets")
    names = tmp_path / "names.json"
    few = ("-d", f"folder:{root}", "--shots", "1", "--seeds", "1", "--dry-run")
    run = ("run", "-m", "zero-shot,linear-probe", *few, "--classnames", names)
    for backbone in ("tiny", "ViT-B-32/openai"):
        # 5 tokens of the template "a photo of a {}." and 2 at the ends.
        for words, said in ((70, False), (71, True)):
            names.write_text(json.dumps({"cat": " ".join(["cat"] * words)}), encoding="utf-8")
            found = fsbench(*run, "--backbone", backbone, "--store", tmp_path / "store")
            assert found.code == 0, found.err
            name = f"warning: folder:{root}: 1 of 2 prompts have more tokens than the text encoder "
            told = f"{name}of {backbone} reads, the longest 78 ('a photo of a cat cat"
            assert (told in found.err) == said, found.err
