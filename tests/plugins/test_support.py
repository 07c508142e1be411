"""Training images kept in a model for display: small, without metadata, bounded, never pushed."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import fewshot_bench as fb
from fewshot_bench.store.kept_models import (
    EXTRAS,
    SUPPORT,
    SUPPORT_MOST,
    SUPPORT_SIDE,
    Support,
    evenly,
    pack_support,
    read_model,
    write_model,
)
from fewshot_bench.utils.errors import StoreError, UsageError
from tests.support.helpers import fsbench

TINY: Any = {"backbone": "tiny", "device": "cpu", "method": "zero-shot"}
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large images with location, camera and comment; one has a rotation tag."""
    root = tmp_path_factory.mktemp("private") / "photos"
    rng = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(3):
            small = rng.integers(0, 256, (6, 4 + 4 * label, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((400, 200))
            exif = Image.Exif()
            exif[0x0110] = "SecretCamera"
            exif[0x0112] = 6 if index == 0 else 1
            exif.get_ifd(0x8825)[1] = "N"
            image.save(root / name / f"secret{index}.jpg", exif=exif, comment=b"SecretComment")
    return root


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("adapted") / "model"
    found = fb.adapt(f"folder:{photos}", output, keep_support=True, **TINY)
    assert found.notes[-1] == "support.safetensors holds small pictures of 6 of the images"
    return output


def test_pictures_are_small_upright_and_bare(folder: Path, photos: Path) -> None:
    support = fb.load_model(folder).support
    assert support is not None
    assert support.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = [Image.open(io.BytesIO(one)) for one in support.pictures]
    assert [one.size for one in images] == [(48, 96), (96, 48), (96, 48)] * 2
    assert max(images[0].size) == SUPPORT_SIDE
    assert not any(one.getexif() or "comment" in one.info for one in images)
    for path in folder.iterdir():
        content = path.read_bytes().lower()
        if path.name in EXTRAS and path.name != SUPPORT:
            # They name files and folders, and are never pushed.
            content = re.sub(rb"secret\d\.jpg", b"", content)
            content = content.replace(str(photos).lower().encode(), b"")
        assert b"secret" not in content, path.name
        assert str(photos.parent).lower().encode() not in content, path.name


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n  20\nno hexadecimal digits\n")
    for label, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        image = Image.new("RGB", (40, 20), (90 * label, 50, 0))
        image.save(tmp_path / "photos" / name / "0.png", pnginfo=info)
    fb.adapt(f"folder:{tmp_path / 'photos'}", tmp_path / "model", keep_support=True, **TINY)
    support = fb.load_model(tmp_path / "model").support
    assert support is not None
    assert [Image.open(io.BytesIO(one)).size for one in support.pictures] == [(40, 20)] * 2


def test_a_training_image_is_nearest_to_itself(folder: Path, photos: Path) -> None:
    model = fb.load_model(folder)
    paths = [photos / name / f"secret{index}.jpg" for name in CLASSES for index in range(3)]
    found = model.nearest(paths, count=2)
    assert [near[0].number for near in found] == list(range(6))
    assert [near[0].classname for near in found] == ["cat"] * 3 + ["dog"] * 3
    assert all(near[0].similarity == pytest.approx(1, abs=1e-5) for near in found)
    assert all(near[1].similarity < near[0].similarity for near in found)
    assert len(model.nearest(paths[0], count=50)[0]) == 6
    with pytest.raises(fb.DataMissingError, match=r"gone\.jpg does not exist"):
        model.nearest(["gone.jpg"])


def test_none_are_kept_unless_asked_for(photos: Path, tmp_path: Path) -> None:
    asked = ("adapt", "-d", f"folder:{photos}", "--backbone", "tiny", "-m", "zero-shot", "-O")
    assert fsbench(*asked, tmp_path / "plain").code == 0
    assert not (tmp_path / "plain" / SUPPORT).exists()
    model = fb.load_model(tmp_path / "plain")
    assert model.support is None
    with pytest.raises(UsageError, match=r"no training images \(fsbench adapt --keep-support\)"):
        model.nearest([photos / "cat" / "secret0.jpg"])
    assert fsbench(*asked, tmp_path / "kept", "--keep-support").code == 0
    assert (tmp_path / "kept" / SUPPORT).exists()


def test_at_most_so_many_are_kept_and_of_each_class_the_same() -> None:
    labels = [0] * 2000 + [1] * 40 + [2] * 2000
    chosen = evenly(labels)
    assert len(chosen) == SUPPORT_MOST == 500
    assert chosen == sorted(chosen)
    assert np.bincount([labels[place] for place in chosen]).tolist() == [230, 40, 230]
    assert evenly([1, 0, 1]) == [0, 1, 2]


def changed(folder: Path, to: Path, content: bytes) -> fb.Model:
    """A model with another file of training images, and a matching digest."""
    config, tensors = read_model(folder)
    write_model(to, config, tensors, "", {SUPPORT: content})
    return fb.load_model(to)


def test_a_damaged_file_is_one_line_and_a_removed_one_none(folder: Path, tmp_path: Path) -> None:
    content = (folder / SUPPORT).read_bytes()
    model = changed(folder, tmp_path / "model", content)
    (tmp_path / "model" / SUPPORT).write_bytes(content[:-1])
    with pytest.raises(StoreError, match=r"support.safetensors is damaged: its digest"):
        _ = model.support
    assert model.predict([Image.new("RGB", (8, 8))]).shape[0] == 1
    (tmp_path / "model" / SUPPORT).unlink()
    assert fb.load_model(tmp_path / "model").support is None
    config, tensors = read_model(folder)
    write_model(tmp_path / "silent", config, tensors, "")
    (tmp_path / "silent" / SUPPORT).write_bytes(content)
    assert fb.load_model(tmp_path / "silent").support is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([0, 0, 0, 1, 1, 2])},
        {"labels": np.array([0, 0, 0, 1, 1, -1])},
        {"labels": np.array([0, 0, 0, 1, 1])},
        {"features": np.zeros((6, 3), np.float32)},
        {"features": np.full((6, 256), np.nan, np.float32)},
        {"features": np.full((6, 256), 3e38, np.float32)},
        {"features": np.full((6, 256), 0.1, np.float32)},
        {"pictures": (b"<html>",) * 6},
        {"pictures": (b"\xff\xd8\xff",) * 5},
        {"pictures": ()},
        {"pictures": (b"\xff\xd8\xff",) * 5 + (b"",)},
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    support = fb.load_model(folder).support
    assert isinstance(support, Support)
    content = pack_support(dataclasses.replace(support, **change))
    with pytest.raises(StoreError, match="holds no training images of this model; remove it"):
        _ = changed(folder, tmp_path / "model", content).support


def test_what_is_no_safetensors_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for number, content in enumerate((b"{", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}")):
        with pytest.raises(StoreError, match="holds no training images of this model; remove it"):
            _ = changed(folder, tmp_path / str(number), content).support


def test_the_page_gives_pictures_by_their_numbers_alone(folder: Path, photos: Path) -> None:
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from fewshot_bench.plugins.models import app as server

    model = fb.load_model(folder)
    client = TestClient(
        server.application(model, 1_000_000, {"localhost"}, print), base_url="http://localhost"
    )
    assert client.get("/model").json()["support"] == 6
    photo = photos / "dog" / "secret1.jpg"
    answer = client.post("/predict", content=photo.read_bytes()).json()
    near = answer["nearest"]
    assert near[0]["class"] == "dog"
    assert near[0]["image"] == "/support/4"
    assert len(near) == server.NEAREST
    picture = client.get("/support/4")
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert model.support is not None
    assert picture.content == model.support.pictures[4]
    for path in ("6", "-1", "9" * 20, "9" * 5000, "0/..", "..%2fconfig.json", "4.jpg", ""):
        assert client.get(f"/support/{path}").status_code == 404, path
    assert str(folder) not in client.post("/predict", content=photo.read_bytes()).text
