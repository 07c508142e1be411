"""Backbones of plug-ins: `load_registered` checks that one has what the harness needs.

A wrong member would otherwise fail within a method, which is then blamed, or give wrong numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.backbone import Backbone, LoadedBackbone
from fewshot_bench.api.registry import registry
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.api.text_features import pool_class_features
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.utils.errors import FsbenchError, PluginError

# Largest difference of two features, relative to the largest feature, that is taken for rounding.
ROUNDING = 0.01
# A label space of two classes, on which the features of texts are checked.
_PAIR = Vocabulary(("cat", "dog"), ("a photo of a {}.",))


def load_registered(name: str, device: str, precision: str) -> LoadedBackbone:
    """A registered backbone on `device`; PluginError with its origin if it is not usable."""
    entry = registry().backbones.find(name)
    load = entry.load()
    try:
        loaded = load(device, precision)
        # Its encoders are checked on first use.
        checked = isinstance(loaded, OpenClipBackbone)
        problem = "" if checked else next(_problems(name, loaded, torch.device(device)), "")
    except FsbenchError:
        raise
    except (Exception, SystemExit) as error:
        problem = error_text(error, entry.target)
    if problem:
        raise PluginError(
            f"backbone '{name}' ({entry.origin}): {problem}; docs/how-to/own-backbone.md"
        )
    backbone: LoadedBackbone = loaded
    return backbone


def identity_of_registered(name: str) -> str:
    """The text of `load.identity()`, empty without it; PluginError if it is no text."""
    entry = registry().backbones.find(name)
    identity = getattr(entry.load(), "identity", None)
    if identity is None:
        return ""
    try:
        digest = identity()
        problem = "" if isinstance(digest, str) else f"returned {digest!r:.80}, expected a text"
    except FsbenchError:
        raise
    except (Exception, SystemExit) as error:
        problem = f"failed: {error_text(error, entry.target)}"
    if problem:
        raise PluginError(f"backbone '{name}' ({entry.origin}): identity() {problem}")
    text: str = digest
    return text


def _problems(name: str, loaded: Any, device: torch.device) -> Iterator[str]:
    """Missing and wrong members of the loaded object, one sentence each."""
    needed = {*LoadedBackbone.__annotations__, *Backbone.__annotations__}
    for kind in (Backbone, LoadedBackbone):
        needed |= {member for member in vars(kind) if not member.startswith("_")}
    absent = sorted(member for member in needed if not hasattr(loaded, member))
    if absent:
        yield f"load() returned {type(loaded).__name__} without {', '.join(absent)}"
    if loaded.name != name:
        yield f"its name is {loaded.name!r:.80}, expected the one that it is registered under"
    yield from _wrong_facts(loaded)
    if loaded.device.type != device.type:
        yield f"its device is {loaded.device}, expected {device}"
    height, width = loaded.image_size
    image = loaded.preprocess(Image.new("RGB", (width + 8, height + 16)))
    if not isinstance(image, Image.Image) or (image.mode, image.size) != ("RGB", (width, height)):
        yield f"preprocess() returned {image!r:.80}, expected an RGB image of {width} x {height}"
    black = torch.zeros(2, 3, height, width, dtype=torch.uint8, device=loaded.device)
    pixels = loaded.normalize(black)
    yield from _wrong_rows("normalize", pixels, tuple(black.shape), loaded.device)
    width = loaded.embed_dim
    for function, given in (
        ("encode_image", pixels),
        ("encode_text", ["a cat", "a dog"]),
        ("class_features", _PAIR),
    ):
        features = getattr(loaded, function)(given)
        yield from _wrong_rows(function, features, (2, width), loaded.device)
    lengths = features.norm(dim=-1)
    if not torch.allclose(lengths, torch.ones_like(lengths), atol=1e-3):
        yield f"class_features() returned rows of length {lengths.tolist()}, expected 1"
    texts = (("a red bird",), ("a green cat", "a blue dog"))
    described = replace(_PAIR, texts=texts)
    expected = pool_class_features(loaded.encode_text, described)
    if not _alike(loaded.class_features(described), expected):
        yield (
            "class_features() returned other features than those of the texts of the vocabulary; "
            "return fewshot_bench.backbones.pool_class_features(self.encode_text, vocabulary)"
        )
    yield from _unsteady(loaded)


def _unsteady(loaded: Any) -> Iterator[str]:
    """Features that change from call to call, or follow from anything but what is encoded."""
    before, shape = loaded.fingerprint(), (4, 3, *loaded.image_size)
    noise = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    pixels = loaded.normalize(noise.to(loaded.device, torch.uint8))
    whole = loaded.encode_image(pixels)
    if not _alike(loaded.encode_image(pixels), whole):
        yield "encode_image() returned other features for the same pixels in a second call"
    if torch.equal(whole[0], whole[1]):
        yield "encode_image() returned equal features for different images (all zero?)"
    if not _alike(loaded.encode_image(pixels[:2]), whole[:2]):
        yield (
            "encode_image() returned other features for two images of a batch of four than for the "
            "two alone, expected each from its image; call .eval() on its modules"
        )
    texts = ["a red bird", "a green cat", "a red bird"]
    rows = loaded.encode_text(texts)
    if torch.equal(rows[0], rows[1]):
        yield "encode_text() returned equal features for different texts (all zero?)"
    alone = torch.cat([loaded.encode_text([text]) for text in texts])
    if not _alike(rows, alone):
        yield "encode_text() returned other features for texts together than alone, in this order"
    if loaded.fingerprint() != before:
        yield (
            "its encoders change it: fingerprint() differs after they were called; call .eval() "
            "on its modules, and cover only what stays as it is"
        )


def _alike(rows: Tensor, expected: Tensor) -> bool:
    """True if features are equal up to the rounding of 16-bit encoders."""
    if rows.shape != expected.shape:
        return False
    return bool((rows - expected).abs().max() <= ROUNDING * expected.abs().max())


def _wrong_facts(loaded: Any) -> Iterator[str]:
    size = loaded.image_size
    facts = {
        "embed_dim": (_is_count(loaded.embed_dim), "a whole number from 1"),
        "logit_scale": (
            isinstance(loaded.logit_scale, float) and 0 < loaded.logit_scale < math.inf,
            "a float above 0",
        ),
        "image_size": (
            isinstance(size, tuple) and len(size) == 2 and all(map(_is_count, size)),
            "(height, width), whole numbers from 1",
        ),
        "weights_digest": (
            isinstance(loaded.weights_digest, str) and loaded.weights_digest != "",
            "a text that changes with the weights",
        ),
        "device": (isinstance(loaded.device, torch.device), "a torch.device"),
    }
    for name, (holds, expected) in facts.items():
        if not holds:
            yield f"its {name} is {getattr(loaded, name)!r:.80}, expected {expected}"
    prints = [loaded.fingerprint() for _ in range(2)]
    if not isinstance(prints[0], str) or prints[0] != prints[1]:
        yield f"fingerprint() returned {prints[0]!r:.80}, then {prints[1]!r:.80}: expected one text"


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _wrong_rows(
    function: str, rows: object, shape: tuple[int, ...], device: torch.device
) -> Iterator[str]:
    if not isinstance(rows, Tensor):
        yield f"{function}() returned {type(rows).__name__}, expected a tensor"
        return
    facts = f"{tuple(rows.shape)} {rows.dtype} on {rows.device.type}"
    wanted = f"{shape} {torch.float32} on {device.type}"
    if facts != wanted:
        yield f"{function}() returned {facts}, expected {wanted}"
    elif not bool(rows.isfinite().all()):
        yield f"{function}() returned values that are not finite"
    elif rows.requires_grad:
        yield f"{function}() returned a tensor that requires gradients; use torch.no_grad"
