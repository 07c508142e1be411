"""Uploads to `fsbench app`: changed pictures and headers are answered, or refused in one line."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewshot_bench.analysis.model import Model, load_model
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.image_formats import image_endings
from tests.fuzzing.subject import Seed, Subject
from tests.support.models import zero_shot_model

CLASSES = ("cat", "dog", "cow")
KINDS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "TGA", "AVIF", "HEIF", "JPEG2000")
LONGEST = 600
_MODEL: list[Model] = []
_CLIENT: list[Any] = []
_FAILED: list[str] = []
VALUES = (
    *("", "0", "-1", "1", "99999999999", "text/html", "multipart/form-data", "chunked", "gzip"),
    *("null", "http://evil.example", "http://localhost", "evil.example", "localhost", "[::1"),
    *("bytes=0-1", "100-continue", "x" * 9000, "\xff\xfe", "a, b;q=0", "127.0.0.1:99999"),
)
NAMES = (
    *("Content-Type", "Content-Length", "Content-Encoding", "Host", "Origin", "Referer", "Range"),
    *("Transfer-Encoding", "Accept", "Expect", "X-Forwarded-Host", "Cookie", "Connection", "Via"),
)
TOPS = ("1", "3", "0", "-1", "x", "99999999999999999999", "1e3", "", "%00", "\u00b2")


def _build(folder: Path) -> Sequence[Seed]:
    from starlette.testclient import TestClient

    from fewshot_bench.plugins.models.app import application

    model = load_model(zero_shot_model(folder / "model", CLASSES, reject=0.4), device="cpu")
    page = application(model, 10**6, {"localhost"}, _FAILED.append)
    _MODEL[:] = [model]
    _CLIENT[:] = [TestClient(page, "http://localhost", raise_server_exceptions=True)]
    image_endings()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    seeds = []
    for kind in ("PNG", "JPEG", *KINDS):
        out = io.BytesIO()
        try:
            Image.fromarray(pixels).save(out, kind, exif=exif)
        except (KeyError, OSError, ValueError):
            # A build of Pillow without this format.
            continue
        seeds.append(Seed(f"x.{kind.lower()}", out.getvalue(), kind.lower()))
    return seeds


def _ask(folder: Path, file: Path) -> bool:
    """The page answers as the model does for a file."""
    data = file.read_bytes()
    answer = _CLIENT[0].post("/predict", content=data)
    row = _MODEL[0].predict(file).iloc[0]
    found = answer.json()
    if answer.status_code == 200:
        shares = [one["probability"] for one in found["classes"]]
        assert {one["class"] for one in found["classes"]} == {*CLASSES}
        assert abs(sum(shares) - 1) < 1e-6
        assert (found["classes"][0]["class"], shares[0]) == (row["class"], row["probability"])
        assert (found["rejected"], row["error"]) == (shares[0] < 0.4, None)
    else:
        assert row["error"] or "pixels" in found["error"]
        assert answer.status_code in (400, 415), answer.status_code
    _check_changed(random.Random(data), data)
    assert not _FAILED
    if answer.status_code != 200:
        raise FsbenchError(found["error"])
    return True


def _check_changed(rng: random.Random, data: bytes) -> None:
    """The same with other headers."""
    chosen = {rng.choice(NAMES): rng.choice(VALUES).encode("latin-1") for _ in range(2)}
    path = "/predict" if rng.random() < 0.5 else f"/predict?top={rng.choice(TOPS)}"
    answer = _CLIENT[0].post(path, content=data, headers=chosen)
    assert answer.status_code in (200, 400, 403, 413, 415), (answer.status_code, chosen)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    if answer.status_code != 200:
        text = answer.json()["error"]
        assert text.isprintable(), text
        assert 0 < len(text) < LONGEST, text


SUBJECTS = (Subject("uploads", 6, _build, _ask),)
