"""Build the tiny CLIP, encode truncated texts, and read and write its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

VERSION = "1"
VOCABULARY = 49408
EMBEDDING_STD = 0.08
MODEL_CFG = {
    "embed_dim": 64,
    "quick_gelu": False,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 96,
        "layers": 4,
        "head_width": 32,
        "mlp_ratio": 4.0,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": VOCABULARY,
        "width": 64,
        "heads": 2,
        "layers": 3,
    },
}
MEAN = STD = [0.5, 0.5, 0.5]
PREPROCESS_CFG = {
    "size": [32, 32],
    "mean": MEAN,
    "std": STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
DESCRIPTION = (
    "A toy CLIP trained on rendered glyphs, shapes and textures, for trying and testing the tool. "
    "Rows of the token embedding that are not in tiny.safetensors are filled with "
    "numpy.random.RandomState(0).standard_normal((vocab_size, width)) as float32 "
    "times untrained_token_std."
)


def initial_embedding(std: float = EMBEDDING_STD) -> torch.Tensor:
    """Return the token embedding before training, from numpy's frozen legacy stream."""
    width = MODEL_CFG["text_cfg"]["width"]
    rows = np.random.RandomState(0).standard_normal((VOCABULARY, width)).astype(np.float32)
    return torch.from_numpy(rows * np.float32(std))


def build(seed: int, token_ids: np.ndarray) -> CLIP:
    """Return an untrained model whose embedding holds only the rows that training can use."""
    torch.manual_seed(seed)
    model = CLIP(**MODEL_CFG)
    rows = initial_embedding()[torch.from_numpy(token_ids)]
    model.token_embedding = nn.Embedding.from_pretrained(rows, freeze=False)
    return model


def encode_text(model: CLIP, tokens: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Encode tokens cut after the longest caption; causal attention makes this exact."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)
    return x[torch.arange(len(x)), ends] @ model.text_projection


class Vocabulary:
    """Tokenizes captions into positions in the list of token ids that occur."""

    def __init__(self, texts: list[str]) -> None:
        """Collect the token ids of all the texts."""
        self.tokenizer = SimpleTokenizer()
        self.known: dict[str, list[int]] = {}
        ids = {token for text in texts for token in self.encode(text)}
        self.token_ids = np.array(sorted(ids), dtype=np.int32)
        self.row_of = {int(token): row for row, token in enumerate(self.token_ids)}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text with its start and end marks."""
        if text not in self.known:
            start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
            self.known[text] = [start, *self.tokenizer.encode(text), end]
        return self.known[text]

    def batch(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embedding rows, padded with 0, and the position of each end mark."""
        rows = [[self.row_of[token] for token in self.encode(text)] for text in texts]
        length = max(map(len, rows))
        padded = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        return padded, torch.tensor([len(row) - 1 for row in rows])


def resume(model: CLIP, folder: Path) -> str:
    """Load the weights of an earlier stage and return the line that describes its training."""
    with safe_open(str(folder / "tiny.safetensors"), framework="pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        line = (file.metadata() or {})["training"]
    del state["token_ids"]
    model.load_state_dict(state)
    return line


def save(model: CLIP, token_ids: np.ndarray, folder: Path, note: dict[str, str]) -> None:
    """Write tiny.safetensors and open_clip_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().to(torch.float16).contiguous().clone()
        for name, tensor in model.state_dict().items()
        if name != "attn_mask"
    }
    state["logit_scale"] = model.logit_scale.detach().float().clone()
    state["token_ids"] = torch.from_numpy(token_ids)
    partial = folder / "tiny.safetensors.part"
    save_file(state, str(partial), metadata=note)
    partial.chmod(0o644)
    partial.replace(folder / "tiny.safetensors")
    config = {
        "model_cfg": MODEL_CFG,
        "preprocess_cfg": PREPROCESS_CFG,
        "description": DESCRIPTION,
        "untrained_token_std": EMBEDDING_STD,
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
