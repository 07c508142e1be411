"""The embedded toy backbone `tiny`: a real CLIP, small enough to ship and to run anywhere."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from fewshot_bench.backbones.shape import Shape

FOLDER = "tiny"
CONFIG = "open_clip_config.json"


def _file(name: str) -> bytes:
    return resources.files("fewshot_bench.backbones").joinpath(FOLDER, name).read_bytes()


def identity() -> str:
    """SHA-256 of the weights file."""
    return hashlib.sha256(_file("tiny.safetensors")).hexdigest()


def shape() -> Shape:
    """The backbone's sizes, without loading weights."""
    from fewshot_bench.backbones.shape import shape_in

    return shape_in(json.loads(_file(CONFIG))["model_cfg"])


def load_tiny(device: str = "cpu", precision: str = "fp32") -> Any:
    """A new copy of the embedded backbone."""
    from fewshot_bench.backbones.open_clip import OpenClipBackbone, import_library

    import_library()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    preprocess = PreprocessCfg(**json.loads(_file(CONFIG))["preprocess_cfg"])
    transform = image_transform_v2(preprocess, is_train=False)
    module = copy.deepcopy(_module())
    return OpenClipBackbone(
        "tiny", module, tokenizer(), transform, device=device, precision=precision
    )


@functools.cache
def tokenizer() -> Any:
    """CLIP's tokenizer, which embedded and toy backbones share: to make one takes 0.1 s."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@functools.cache
def _module() -> nn.Module:
    """The model in float32; untrained token embeddings come from a stable random stream."""
    import numpy as np
    import torch
    from open_clip import CLIP
    from safetensors.torch import load

    config = json.loads(_file(CONFIG))
    state = {name: value.float() for name, value in load(_file("tiny.safetensors")).items()}
    rows, ids = state["token_embedding.weight"], state.pop("token_ids").long()
    shape = (config["model_cfg"]["text_cfg"]["vocab_size"], rows.shape[1])
    # RandomState's stream is frozen by NumPy's compatibility policy, unlike newer generators.
    untrained = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    embedding = torch.from_numpy(untrained) * config["untrained_token_std"]
    embedding[ids] = rows
    state["token_embedding.weight"] = embedding
    with torch.random.fork_rng(devices=[]):
        module: nn.Module = CLIP(**config["model_cfg"])
    module.load_state_dict(state)
    return module


def prepare() -> None:
    """Build the parts that all copies share, so that loading one takes little time."""
    _module()
    tokenizer()


load_tiny.threads = 1  # type: ignore[attr-defined]
load_tiny.identity = identity  # type: ignore[attr-defined]
load_tiny.shape = shape  # type: ignore[attr-defined]
