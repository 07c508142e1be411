"""Findings of fuzzing in caches, backbones and images, each as a test of its own."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.backbones import loading
from fewshot_bench.images.decode import ImageFiles
from tests.fuzzing.hostile import DEEP
from tests.own_sets import picture

CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1},
        "text_cfg": {"width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {},
}


@pytest.mark.parametrize(
    ("part", "changes", "match"),
    [
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "never done"),
        ("text_cfg", {"width": 10**9}, "width is 1000000000"),
        ("text_cfg", {"layers": 10**6}, "layers is 1000000"),
        ("vision_cfg", {"image_size": float("inf")}, "image_size is inf"),
        ("text_cfg", {"width": 60_000}, "of a model of more than"),
    ],
)
def test_configs_of_backbones(
    tmp_path: Path, part: str, changes: dict[str, Any], match: str
) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"][part] |= changes
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(save({"a": torch.zeros(3)}))
    with pytest.raises(UsageError, match=match):
        loading.load(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("text", ["", DEEP, "[]", '{"model_cfg": 3}', '{"preprocess_cfg": []}'])
def test_configs_that_are_no_configs(tmp_path: Path, text: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(text)
    (tmp_path / "w.safetensors").write_bytes(save({"a": torch.zeros(3)}))
    for name in (f"local-dir:{tmp_path}", f"ViT-B-32@{tmp_path / 'w.safetensors'}"):
        with pytest.raises(DataMissingError, match="backbone config"):
            loading.load(name)


def test_a_config_whose_numbers_fit_nothing(tmp_path: Path) -> None:
    """A failure at the first use of a model is also reported as an error of the backbone."""
    config = json.loads(json.dumps(CONFIG)) | {"preprocess_cfg": {"size": -1}}
    config["model_cfg"]["vision_cfg"]["image_size"] = -8
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(save({"a": torch.zeros(300)}))
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        loading.load(f"local-dir:{tmp_path}")


class OneImage:
    """A data set of one image."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def card(self) -> DatasetCard:
        return DatasetCard("one", "One", ("cat",))

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {"train": (ITEM,), "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        return self.content


ITEM = Item("a.png", 0, "cat")


def test_images_that_pillow_fails_at_in_its_own_ways() -> None:
    """Pillow raises IndexError for a color profile without its compression method."""
    body = b"iCCPx\0"
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    good = picture(1)
    ImageFiles(OneImage(good), [ITEM]).decode(0)
    end = good.index(b"IEND") - 4
    content = good[:end] + chunk + good[end:]
    with pytest.raises(DataMissingError, match="does not decode: IndexError"):
        ImageFiles(OneImage(content), [ITEM]).decode(0)
