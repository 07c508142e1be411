"""Load the saved tiny CLIP and measure zero-shot and linear-probe accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from .captions import DIGITS


def load(folder: Path) -> tuple[CLIP, dict]:
    """Rebuild the full model from its two files."""
    config = json.loads((folder / "open_clip_config.json").read_text())
    state = load_file(str(folder / "tiny.safetensors"))
    token_ids = state.pop("token_ids").long()
    model = CLIP(**config["model_cfg"])
    rows = np.random.RandomState(0).standard_normal(tuple(model.token_embedding.weight.shape))
    embedding = torch.from_numpy(rows.astype(np.float32) * config["untrained_token_std"])
    embedding[token_ids] = state["token_embedding.weight"].float()
    state["token_embedding.weight"] = embedding
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval(), config["preprocess_cfg"]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits as 32 by 32 RGB images, and their labels."""
    data = load_digits()
    gray = np.round(data.images / 16 * 255).astype(np.uint8)
    large = [Image.fromarray(g).resize((32, 32), Image.Resampling.BICUBIC) for g in gray]
    return np.stack([np.stack([np.asarray(g)] * 3, -1) for g in large]), data.target


@torch.no_grad()
def image_features(model: CLIP, images: np.ndarray, config: dict) -> torch.Tensor:
    """Return unnormalized image features of uint8 images of the model's size."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[k]).view(3, 1, 1) for k in ("mean", "std"))
    batches = ((pixels - mean) / std).split(256)
    return torch.cat([model.encode_image(batch) for batch in batches])


@torch.no_grad()
def zero_shot(
    model: CLIP, features: torch.Tensor, labels: np.ndarray, names: list[str], template: str
) -> float:
    """Return zero-shot accuracy with one template."""
    tokens = SimpleTokenizer()([template.format(name) for name in names])
    text = model.encode_text(tokens, normalize=True)
    guessed = (features @ text.T).argmax(1).numpy()
    return float((guessed == labels).mean())


def probe(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    shots: int,
    draws: int = 3,
) -> float:
    """Return the mean accuracy of logistic regression on `shots` images per class."""
    scores = []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(train[1]))
        labels = train[1][order]
        chosen = np.concatenate([order[labels == c][:shots] for c in np.unique(labels)])
        rest = np.setdiff1d(np.arange(len(test[1])), chosen) if test is train else slice(None)
        classifier = LogisticRegression(C=1.0, max_iter=2000)
        classifier.fit(train[0][chosen], train[1][chosen])
        scores.append(classifier.score(test[0][rest], test[1][rest]))
    return float(np.mean(scores))


def measure_digits(folder: Path) -> dict[str, float]:
    """Return zero-shot and probe accuracy on scikit-learn's digits, which are never trained on."""
    model, config = load(folder)
    images, labels = digits()
    features = image_features(model, images, config)
    results = {}
    for template in ('a photo of the number: "{}".', "a photo of a {}."):
        for names in (list(DIGITS), [str(i) for i in range(10)]):
            key = f"zero-shot, {template} {names[0]}.."
            results[key] = zero_shot(model, features, labels, names, template)
    data = (features.numpy(), labels)
    for shots in (1, 4, 16):
        results[f"probe, {shots} shots"] = probe(data, data, shots)
    return results


def measure_demo(folder: Path, path: Path, template: str) -> dict[str, float]:
    """Return zero-shot and probe accuracy on the test split of a demo data set."""
    model, config = load(folder)
    with np.load(path) as data:
        images, labels, split = data["images"], data["labels"], data["split"]
        names = [str(name) for name in data["classnames"]]
    features = image_features(model, images, config)
    train, test = ((features.numpy()[split == part], labels[split == part]) for part in (0, 2))
    results = {}
    for text in (template, "a photo of a {}."):
        accuracy = zero_shot(model, features[split == 2], test[1], names, text)
        results[f"zero-shot, {text}"] = accuracy
    for shots in (1, 4, 16):
        results[f"probe, {shots} shots"] = probe(train, test, shots)
    return results
