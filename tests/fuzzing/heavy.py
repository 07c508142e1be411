"""Readers that need torch or Pillow: feature and image caches, checkpoints, images, hub folders."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from fewshot_bench.api.dataset import DatasetCard, Stamp
from fewshot_bench.api.items import Item
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import loading
from fewshot_bench.images.cache import SegmentWriter, open_segment
from fewshot_bench.images.decode import ImageFiles, decode_or_explain, deep_problem
from fewshot_bench.profiling.cost import Cost
from tests.fuzzing import models, uploads
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support.own_sets import hub_package

# Imported before memory is limited.
hub = hub_package()
MODEL = "fsbench-fuzz-small"
CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1},
    "text_cfg": {"width": 8, "heads": 1, "layers": 1, "vocab_size": 49408, "context_length": 8},
}


# Caches.

KEYS = [hashlib.sha256(bytes([n])).digest() for n in range(4)]
TRANSFORM, SHAPE = '{"size": 4}', (3, 4, 4)


def _segments(folder: Path) -> list[Seed]:
    name = f"cache/images/{'0' * 16}/{'1' * 64}.pixels"
    path = folder / name
    path.parent.mkdir(parents=True)
    writer = SegmentWriter(path.with_suffix(".tmp"), SHAPE)
    for number in range(5):
        writer.add(KEYS[number % 4], np.full(SHAPE, number, np.uint8), Cost(1.0, 1.0))
    writer.finish(path, {"dataset": "set", "transform": TRANSFORM})
    return [Seed(name, path.read_bytes())]


def _read_segment(folder: Path, file: Path) -> bool:
    segment = open_segment(file, TRANSFORM, SHAPE)
    if segment is None:
        return False
    assert math.isfinite(segment.price.wall + segment.price.cpu)
    good = segment.is_good(range(len(segment.digests)))
    return good and segment.rows.shape[1:] == SHAPE


class _Stamped:
    """A data set whose only image has a stamp."""

    def stamp(self, item: Item) -> Stamp:
        return Stamp(3, 0.0, "token")

    def card(self) -> Any: ...

    def items(self) -> None: ...

    def read(self, item: Item) -> Any: ...


ITEM = Item("a.png", 0, "cat")


# Checkpoints.


def _small_model(folder: Path) -> dict[str, torch.Tensor]:
    import open_clip

    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / f"{MODEL}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / "configs")
    logging.getLogger().setLevel(logging.CRITICAL)
    torch.manual_seed(0)
    model = open_clip.create_model(MODEL)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


def _whole_config() -> bytes:
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    return json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}).encode()


class _Bomb:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("touch executed",)


def _checkpoints(folder: Path) -> list[Seed]:
    state = _small_model(folder)
    # The large table is constant, so that a case is cheap.
    (folder / "open_clip_config.json").write_bytes(_whole_config())
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)
    return [
        Seed("w.safetensors", save(state), "safetensors"),
        Seed("w.pt", new.getvalue(), "zip"),
        Seed("old.pt", old.getvalue(), "pickle"),
        Seed("bomb.pt", pickle.dumps({"state_dict": _Bomb()}), "pickle"),
        Seed("open_clip_config.json", _whole_config(), "json"),
    ]


def _load_checkpoint(folder: Path, file: Path) -> bool:
    name = "w.safetensors" if file.suffix == ".json" else file.name
    if not (folder / name).exists():
        (folder / name).write_bytes(save(_small_model(folder)))
    loading.load(f"{MODEL}@{folder / name}")
    return True


def _local_dirs(folder: Path) -> list[Seed]:
    state = _small_model(folder)
    (folder / "model").mkdir()
    (folder / "model" / "open_clip_model.safetensors").write_bytes(save(state))
    return [Seed("model/open_clip_config.json", _whole_config(), "json")]


def _load_local_dir(folder: Path, file: Path) -> bool:
    loading.load(f"local-dir:{folder / 'model'}")
    return True


# Images.


def _images(folder: Path) -> list[Seed]:
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 255, (24, 20, 3), np.uint8))
    kinds = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
    return [_image(pixels, kind) for kind in ("PNG", *kinds)]


def _image(pixels: Image.Image, kind: str) -> Seed:
    out = io.BytesIO()
    pixels.save(out, kind)
    return Seed(f"x.{kind.lower()}", out.getvalue(), kind.lower())


@dataclass(frozen=True)
class _OneImage(_Stamped):
    """A data set of one image file."""

    file: Path

    def card(self) -> DatasetCard:
        return DatasetCard("one", "One", ("cat",))

    def read(self, item: Item) -> bytes:
        return self.file.read_bytes()


def _decode(folder: Path, file: Path) -> bool:
    found = decode_or_explain(file.read_bytes())
    # If the file is not an image, the reader of a run rejects it.
    image = ImageFiles(_OneImage(file), [ITEM]).decode(0)
    assert not isinstance(found, str)
    assert image.size == found.size
    found.convert("RGB")
    return deep_problem(found) is None


# Saved data sets of the hub's package.


def _hub(folder: Path) -> list[Seed]:
    from tests.support.own_sets import picture

    if hub is None:
        return []
    hub.disable_progress_bars()
    cells = {"image": [{"bytes": picture(n), "path": None} for n in range(6)]}
    kinds = {"image": hub.Image(), "label": hub.ClassLabel(names=["cat", "dog"])}
    table = hub.Dataset.from_dict(cells | {"label": [0, 1] * 3}, features=hub.Features(kinds))
    hub.DatasetDict(train=table, test=table).save_to_disk(folder / "set")
    patterns = (("set/*.json", "json"), ("set/*/*.json", "json"), ("set/*/*.arrow", ""))
    return seeds_in(folder, *patterns)


def _open_hub(folder: Path, file: Path) -> bool:
    dataset = registry().dataset(f"hf:{folder / 'set'}")
    for items in dataset.items().values():
        for item in items[:1]:
            with contextlib.suppress(OSError):
                dataset.read(item)
    return True


SUBJECTS = (
    Subject("decoded images", 5, _segments, _read_segment),
    Subject("checkpoints", 0.6, _checkpoints, _load_checkpoint),
    Subject("local backbones", 0.4, _local_dirs, _load_local_dir),
    Subject("images", 14, _images, _decode),
    Subject("saved hub data sets", 0.4, _hub, _open_hub),
    *models.SUBJECTS,
    *uploads.SUBJECTS,
)
