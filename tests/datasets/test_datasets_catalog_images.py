"""Images are read by their content: formats behind other names, and every color mode."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.dataset_trees import open_set, put
from tests.support.helpers import fsbench

KINDS = {
    "png": ("RGB", "PNG"),
    "alpha": ("RGBA", "PNG"),
    "gray": ("L", "JPEG"),
    "gray with alpha": ("LA", "PNG"),
    "cmyk": ("CMYK", "JPEG"),
    "palette": ("P", "GIF"),
    "black and white": ("1", "PNG"),
    "rotated": ("RGB", "JPEG"),
}


def encoded(mode: str, format: str, seed: int, rotated: bool) -> bytes:
    """A noise image of 40 x 30 pixels; `rotated` adds a rotation tag (EXIF 6)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(pixels).convert(mode), io.BytesIO()
    exif = Image.Exif()
    if rotated:
        exif[0x0112] = 6
    image.save(buffer, format, exif=exif)
    return buffer.getvalue()


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """OxfordPets with a class per kind of image, all of them named .jpg as in the real set."""
    split: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label, (kind, (mode, format)) in enumerate(KINDS.items()):
        for number, role in enumerate(split):
            name = f"{kind.replace(' ', '_')}_{number}.jpg"
            image = encoded(mode, format, 10 * label + number, kind == "rotated")
            put(tmp_path / "oxford_pets" / "images" / name, image)
            split[role].append([name, label, kind])
    text = json.dumps(split).encode()
    put(tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json", text)
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    return tmp_path


def test_every_kind_of_image_is_evaluated(pets: Path) -> None:
    chosen = ("-m", "zero-shot,tip-adapter", "-d", "oxford_pets", "--shots", "1", "--seeds", "1")
    ran = fsbench("run", *chosen, "--backbone", "tiny", "--store", pets / "store")
    assert ran.code == 0, ran.err
    records = [
        json.loads(path.read_text("utf-8")) for path in (pets / "store").glob("records/*/*.json")
    ]
    assert len(records) == 2
    for item in open_set("oxford_pets").items()["test"]:
        image = Image.open(io.BytesIO(open_set("oxford_pets").read(item)))
        assert image.size == (40, 30), "no rotation is applied"
        assert (image.mode, image.format) == KINDS[item.classname]


def test_a_file_that_is_no_image_is_named(pets: Path) -> None:
    put(pets / "oxford_pets" / "images" / "cmyk_2.jpg", b"no image")
    chosen = ("-m", "zero-shot", "-d", "oxford_pets", "--shots", "1", "--seeds", "1")
    ran = fsbench("run", *chosen, "--backbone", "tiny", "--store", pets / "store")
    assert ran.code != 0
    assert "cmyk_2.jpg" in ran.err + ran.out
