"""The embedded toy backbone `tiny`: a real CLIP, small enough to ship and to run anywhere."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewshot_bench.backbones.shape import Shape

FOLDER = "tiny"


def _file(name: str) -> bytes:
    return resources.files("fewshot_bench.backbones").joinpath(FOLDER, name).read_bytes()


def identity() -> str:
    """SHA-256 of the weights file."""
    return hashlib.sha256(_file("tiny.safetensors")).hexdigest()


def shape() -> Shape:
    """Its sizes, which need no weights."""
    from fewshot_bench.backbones.shape import shape_in

    return shape_in(json.loads(_file("open_clip_config.json"))["model_cfg"])


def load_tiny(device: str = "cpu", precision: str = "fp32") -> Any:
    """The embedded backbone; token rows that were never trained come from a frozen stream."""
    import numpy as np
    import torch
    from open_clip import CLIP
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from safetensors.torch import load

    from fewshot_bench.backbones.open_clip import OpenClipBackbone

    config = json.loads(_file("open_clip_config.json"))
    state = {name: value.float() for name, value in load(_file("tiny.safetensors")).items()}
    rows, ids = state["token_embedding.weight"], state.pop("token_ids").long()
    shape = (config["model_cfg"]["text_cfg"]["vocab_size"], rows.shape[1])
    # RandomState's stream is frozen by NumPy's compatibility policy, unlike newer generators.
    untrained = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    embedding = torch.from_numpy(untrained) * config["untrained_token_std"]
    embedding[ids] = rows
    state["token_embedding.weight"] = embedding
    with torch.random.fork_rng(devices=[]):
        model = CLIP(**config["model_cfg"])
    model.load_state_dict(state)
    transform = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    return OpenClipBackbone(
        "tiny", model, SimpleTokenizer(), transform, device=device, precision=precision
    )


load_tiny.threads = 1  # type: ignore[attr-defined]
load_tiny.identity = identity  # type: ignore[attr-defined]
load_tiny.shape = shape  # type: ignore[attr-defined]
