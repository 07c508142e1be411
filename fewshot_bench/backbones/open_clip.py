"""open_clip models as backbones: towers that encode images and texts, with adapters.

`OpenClipBackbone` is the entry point; features equal those of the model's own forward pass.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot_bench.api.backbone import Edits, ImageTower, TextTower
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.api.text_features import pool_class_features
from fewshot_bench.backbones.checksums import checksums
from fewshot_bench.backbones.pooled_tower import PooledTower, read_pooled_tower
from fewshot_bench.backbones.text_tower import TextTower as FunctionalTextTower
from fewshot_bench.backbones.text_tower import read_text_tower
from fewshot_bench.backbones.timm_tower import TimmTower, is_timm, read_timm_tower
from fewshot_bench.backbones.tower import Tower
from fewshot_bench.backbones.transformer import tensors_of
from fewshot_bench.backbones.vision_tower import VisionTower, read_vision_tower
from fewshot_bench.profiling.cost import count, not_counted, share_text, tell_pixels
from fewshot_bench.utils.devices import is_accelerator
from fewshot_bench.utils.errors import ContractError, UnsupportedBackboneError, UsageError
from fewshot_bench.utils.memory import keep_freed_memory
from fewshot_bench.utils.transfer import send


def import_library() -> Any:
    """The module open_clip, imported without a search for garbage: a fifth of the time.

    timm, which it imports, imports wandb for its own training script where it finds it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        with _as_if_absent("wandb"):
            return importlib.import_module("open_clip")
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _as_if_absent(name: str) -> Iterator[None]:
    """Let imports of a module fail, as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def split_transform(transform: Any, name: str) -> tuple[list[Any], list[float], list[float]]:
    """The PIL steps of an open_clip transform, and the mean and std of its last step."""
    from torchvision.transforms import Normalize, ToTensor

    steps = list(transform.transforms)
    if not isinstance(steps[-2], ToTensor) or not isinstance(steps[-1], Normalize):
        raise ContractError(
            f"{name}: expected the transform to end in ToTensor and Normalize, got {steps[-2:]}"
        )
    return steps[:-2], list(steps[-1].mean), list(steps[-1].std)


def activation_name(module: nn.Module) -> str:
    """The class names of a module's GELU activations, joined by +; `other` without any."""
    names = {type(child).__name__ for child in module.modules() if "GELU" in type(child).__name__}
    return "+".join(sorted(names)) or "other"


# Case, punctuation, entities and letters of other scripts: where tokenizers differ.
PROBE = "A Photo_of  Café-Crème &amp; 日本's x42!"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_CHUNK = 512
PARITY = 1e-4


class OpenClipBackbone:
    """A frozen open_clip model with its tokenizer and its own preprocessing."""

    def __init__(
        self,
        name: str,
        module: Any,
        tokenizer: Callable[[list[str]], Tensor],
        transform: Any,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        """`transform` is open_clip's evaluation transform (its last steps: tensor, normalize)."""
        if torch.device(device).type == "cpu":
            keep_freed_memory()
        self.name = name
        self.precision = precision
        self._module: Any = module.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._sealed = tokenizer
        self._steps, self._mean, self._std = split_transform(transform, name)
        size = module.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.logit_scale = float(module.logit_scale.exp().mean())
        self.embed_dim = self._embed_dim()
        self.weights_digest = self._digest_weights()
        self._image_tower: ImageTower | UnsupportedBackboneError | None = None
        self._text_tower: FunctionalTextTower | UnsupportedBackboneError | None = None
        self._pooled_tower: PooledTower | UnsupportedBackboneError | None = None
        # Of towers that were compared with the module: see `_sum`.
        self._compared: dict[str, tuple[bytes, list[Any]]] = {}
        self.activation = activation_name(module)

    @property
    def module(self) -> Any:
        """The open_clip model, in fp32 at any precision of the run, frozen and in eval mode.

        Nothing meters what is computed with it, so records of code that takes it say so.
        """
        count(unmetered=1)
        return self._module

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self._module.parameters()).device
        return device

    @property
    def parameters(self) -> int:
        """The number of parameters of the backbone."""
        return sum(parameter.numel() for parameter in self._module.parameters())

    def preprocess(self, image: Any) -> Any:
        """PIL image to a PIL RGB image of `image_size`, exactly as open_clip's own transform."""
        for step in self._steps:
            image = step(image)
        return image

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (b, 3, h, w) to float32 normalized; equal to ToTensor and Normalize bit for bit."""
        device = self.device
        pixels = send(pixels, device)
        # One kernel less, which on a CPU takes longer.
        fewer = is_accelerator(device)
        pixels = torch.div(pixels, 255) if fewer else pixels.float().div_(255)
        mean, std = (_channels(tuple(values), device) for values in (self._mean, self._std))
        return pixels.sub_(mean).div_(std)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """(n, context) int64 token ids; a prompt longer than the context is an error."""
        tokens = self.tokenizer(list(prompts))
        self._check_lengths(prompts, tokens)
        return tokens.to(self.device)

    def _check_lengths(self, prompts: Sequence[str], tokens: Tensor) -> None:
        """UsageError for long prompts: open_clip silently truncates them, with wrong results."""
        context = getattr(self.tokenizer, "context_length", None)
        # Only a prompt that fills the context may have been cut; its end may be a zero.
        filled = tokens[:, -2:].any(dim=-1).nonzero().flatten().tolist()
        full = [prompts[index] for index in filled]
        for prompt, length in zip(full, _lengths(self.tokenizer, full), strict=False):
            if context and length > context:
                raise UsageError(
                    f"prompt '{prompt[:60]}...' has {length} tokens, the text encoder "
                    f"reads {context}; shorten the class name or the template"
                )

    @functools.cached_property
    def settings(self) -> str:
        """Digest of what a config says beside the weights, equal in all versions of the libraries.

        Activation, heads, norms, preprocessing and tokenizer.
        """
        modules = list(self._module.modules())
        facts = {
            "activation": self.activation,
            **{
                name: sorted({str(getattr(module, name, "")) for module in modules})
                for name in ("num_heads", "eps")
            },
            "normalize": [list(self._mean), list(self._std)],
            "preprocess": getattr(self._module.visual, "preprocess_cfg", None),
            "tokens": self._probe(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _probe(self) -> list[Any]:
        """The context of the tokenizer and its tokens of `PROBE`."""
        return [getattr(self.tokenizer, "context_length", None), self.tokenizer([PROBE]).tolist()]

    @functools.cached_property
    def architecture(self) -> str:
        """Digest of what computes with the weights: modules with their settings, and the tokenizer.

        Equal weights give other features with another activation, number of heads or tokenizer.
        """
        sha = hashlib.sha256()
        for name, child in self._module.named_modules():
            # An address differs in every process.
            settings = [text for text in _attributes(child) if " at 0x" not in text]
            sha.update(f"{name} {type(child).__qualname__} {settings}".encode())
        sha.update(repr(self._probe()).encode())
        return sha.hexdigest()

    def autocast(self) -> Any:
        """Context for encoder work at the backbone's precision."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    @torch.no_grad()
    def encode_image(self, pixels: Tensor, *, projected: bool = True) -> Tensor:
        """(b, 3, h, w) to (b, embed_dim) raw float32 features; (b, width) not projected."""
        pixels = pixels.to(self.device)
        with self.autocast():
            if projected:
                features = self._image_encoder()(pixels)
            else:
                features = self.projection_tower().encode(pixels, edits=Edits(projected=False))
        return features.float()

    def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:
        """(n, embed_dim) raw float32 features of prompts, cached when run by the harness."""
        return share_text(self, prompts, lambda: self._encode_text(prompts, cut=cut))

    @torch.no_grad()
    def _encode_text(self, prompts: Sequence[str], *, cut: bool) -> Tensor:
        tokens = self.tokenizer(list(prompts)).to(self.device) if cut else self.tokenize(prompts)
        with self.autocast():
            encode = self._text_encoder()
            parts = [encode(chunk) for chunk in torch.split(tokens, TEXT_CHUNK)]
        return torch.cat(parts).float()

    def class_features(self, task: Vocabulary) -> Tensor:
        """(classes, embed_dim): unit features averaged over the templates, unit length.

        With texts, theirs (`pool_class_features`).
        """
        return pool_class_features(self.encode_text, task)

    def _image_encoder(self) -> Callable[[Tensor], Tensor]:
        """The functional tower, which is faster, or the model's own encoder if unsupported."""
        try:
            return self.image_tower().encode
        except UnsupportedBackboneError:
            return self._encode_image_whole

    def _text_encoder(self) -> Callable[[Tensor], Tensor]:
        try:
            return self.text_tower().encode_tokens
        except UnsupportedBackboneError:
            return self._encode_text_whole

    def _encode_image_whole(self, pixels: Tensor) -> Tensor:
        tell_pixels(pixels)
        count(images=pixels.shape[0], uncounted=pixels.shape[0])
        features: Tensor = self._module.encode_image(pixels)
        return features

    def _encode_text_whole(self, tokens: Tensor) -> Tensor:
        count(text_tokens=tokens.numel(), uncounted=tokens.shape[0])
        features: Tensor = self._module.encode_text(tokens)
        return features

    def image_tower(self) -> ImageTower:
        """Functional image encoder, compared with the model's own on first use."""
        if self._image_tower is None:
            self._image_tower = _read(self._read_image_tower)
        return _tower(self._image_tower)

    def projection_tower(self) -> ImageTower:
        """The image tower, or that of a ResNet, in which only the projection can change."""
        try:
            return self.image_tower()
        except UnsupportedBackboneError as error:
            if self._pooled_tower is None:
                self._pooled_tower = _read(partial(self._read_pooled_tower, error))
            return _tower(self._pooled_tower)

    def text_tower(self) -> TextTower:
        """Functional text encoder, compared with the model's own on first use."""
        if self._text_tower is None:
            self._text_tower = _read(self._read_text_tower)
        return _tower(self._text_tower)

    def _read_image_tower(self) -> VisionTower | TimmTower:
        exact = self._towers_image("fp32")
        self._compare("image", exact.encode, self._module.encode_image, self._noise())
        return exact.at(DTYPES[self.precision])

    def _read_pooled_tower(self, error: UnsupportedBackboneError) -> PooledTower:
        exact = read_pooled_tower(self._module.visual, torch.float32)
        if exact is None:
            raise error
        self._compare("image", exact.encode, self._module.encode_image, self._noise())
        return replace(exact, dtype=DTYPES[self.precision])

    def _noise(self) -> Tensor:
        """Pixels of one image on which encoders are compared."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, 3, *self.image_size, generator=generator).to(self.device)

    def _towers_image(self, precision: str) -> VisionTower | TimmTower:
        visual, dtype = self._module.visual, DTYPES[precision]
        if is_timm(visual):
            return read_timm_tower(visual, self.image_size, dtype, self.name)
        return read_vision_tower(visual, dtype, self.name)

    def _read_text_tower(self) -> FunctionalTextTower:
        exact = read_text_tower(self._module, torch.float32, self.name)
        tokens = self.tokenize(["a photo of a cat.", "a photo of two dogs."])
        self._compare("text", exact.encode_tokens, self._module.encode_text, tokens)
        return exact.at(DTYPES[self.precision])

    @torch.no_grad()
    def _compare(
        self,
        what: str,
        ours: Callable[[Tensor], Tensor],
        theirs: Callable[[Tensor], Tensor],
        batch: Tensor,
    ) -> None:
        """UnsupportedBackboneError if the functional tower's features differ.

        UsageError if the model's own are empty. Both compute in fp32: rounding to 16 bits would
        hide differences.
        """
        with not_counted(), torch.autocast(self.device.type, enabled=False):
            own = theirs(batch)
            self._refuse_empty(what, own)
            expected = F.normalize(own, dim=-1)
            gap = float((F.normalize(ours(batch), dim=-1) - expected).abs().max())
        if not gap < PARITY:
            raise UnsupportedBackboneError(
                f"{self.name}: the {what} encoder computes something else than CLIP's transformer "
                f"(largest difference {gap:.1e}, allowed {PARITY:.0e}); choose another backbone"
            )

    def _embed_dim(self) -> int:
        with torch.no_grad():
            # Not blank pixels: their features are zero in a model whose biases are.
            features = self._module.encode_image(self._noise())
        self._refuse_empty("image", features)
        return int(features.shape[-1])

    def _refuse_empty(self, what: str, features: Tensor) -> None:
        """UsageError for features without content: every method would be as good as chance."""
        if not bool(features.isfinite().all()) or not bool(features.any()):
            raise UsageError(
                f"backbone '{self.name}': its {what} encoder gives features that are all zero or "
                "not finite, so that its weights are not whole: fetch or convert them again"
            )

    def _digest_weights(self) -> str:
        sha = hashlib.sha256()
        for name, tensor in sorted(self._module.state_dict(keep_vars=True).items()):
            _update(sha, name, tensor)
        return sha.hexdigest()

    def fingerprint(self) -> str:
        """Digest of every weight, buffer, flag and hook, and of the backbone's own state.

        Weights are summed where they are (`checksums`), as this follows every fit and prediction.
        """
        sha = hashlib.sha256()
        for name, child in self._module.named_modules():
            sha.update(f"{name} {type(child).__qualname__} {_attributes(child)}".encode())
        tensors = [*self._module.named_parameters(), *self._module.named_buffers()]
        for name, tensor in tensors:
            sha.update(f"{name} {tensor.requires_grad} {tensor.grad is None}".encode())
        weights, match = self._sum([tensor for _, tensor in tensors])
        sha.update(weights)
        words = self.tokenizer(["a photo of a cat"]).tolist()
        changed = sorted(key for key in vars(self) if callable(vars(self)[key]))
        plain = (self.name, self.precision, self.logit_scale, self._mean, self._std, changed)
        state = (words, repr(self._steps), match, self.tokenizer is self._sealed)
        sha.update(repr(state).encode())
        sha.update(repr((plain, self.image_size, self.embed_dim)).encode())
        return sha.hexdigest()

    def _sum(self, tensors: Sequence[Tensor]) -> tuple[bytes, bool]:
        """The checksum of the module's tensors; True if cached towers still hold its weights.

        A tower is compared with the module once, then with itself: by its own tensors' checksum,
        and by the places of those that it shares with the module.
        """
        cached = {"image": self._image_tower, "text": self._text_tower}
        towers = {name: one for name, one in cached.items() if isinstance(one, Tower)}
        places = {tensor.data_ptr() for tensor in tensors}
        parts = {name: list(tensors_of(tower)) for name, tower in towers.items()}
        own = [[one for one in part if one.data_ptr() not in places] for part in parts.values()]
        weights, *sums = checksums([tensors, *own], self.device)
        for (name, part), found in zip(parts.items(), sums, strict=True):
            shared = [(x.data_ptr(), x.shape, x.stride()) for x in part if x.data_ptr() in places]
            if self._compared.get(name) != (found, shared):
                expected = tensors_of(self._read_exact(name).at(DTYPES[self.precision]))
                if len(set(checksums([part, expected], self.device))) > 1:
                    return weights, False
                self._compared[name] = found, shared
        return weights, True

    def _read_exact(self, name: str) -> Tower:
        """The tower of the module's present weights, in float32."""
        if name == "image":
            return self._towers_image("fp32")
        return read_text_tower(self._module, torch.float32, self.name)


def _lengths(tokenizer: Any, prompts: list[str]) -> list[int]:
    """Tokens of each prompt before it is cut to the context; empty if the tokenizer cannot tell.

    open_clip's own tokenizer adds a start and an end. Those of Hugging Face (SigLIP, BERT) add
    what their models need; open_clip adds three in its mode `clips`.
    """
    if not prompts:
        return []
    if hasattr(tokenizer, "encode"):
        return [len(tokenizer.encode(prompt)) + 2 for prompt in prompts]
    inner, clean = getattr(tokenizer, "tokenizer", None), getattr(tokenizer, "clean_fn", str)
    if not callable(inner):
        return []
    clips = getattr(tokenizer, "tokenizer_mode", "") == "clips"
    texts = [clean(prompt) for prompt in prompts]
    tokens = inner(texts, add_special_tokens=not clips, verbose=False)["input_ids"]
    return [len(ids) + 3 * clips for ids in tokens]


@functools.lru_cache(maxsize=8)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Channel values as (3, 1, 1) on a device, copied there once."""
    return torch.tensor(values, device=device).view(3, 1, 1)


_Tower = TypeVar("_Tower")


def _read(read: Callable[[], _Tower]) -> _Tower | UnsupportedBackboneError:
    """The tower, or the error that it is unsupported, so that both are cached."""
    try:
        return read()
    except UnsupportedBackboneError as error:
        return UnsupportedBackboneError(*error.args)


def _tower(tower: _Tower | UnsupportedBackboneError) -> _Tower:
    """The tower, or a new error: one that is raised again keeps the frames of every call alive."""
    if isinstance(tower, UnsupportedBackboneError):
        raise UnsupportedBackboneError(*tower.args)
    return tower


def _attributes(module: Any) -> list[str]:
    """Plain attributes with their values, other attributes by name, and numbers of hooks."""
    plain = (bool, int, float, str, tuple, type(None))
    attributes = []
    for key, value in sorted(vars(module).items()):
        if key.endswith("_hooks"):
            attributes.append(f"{key}:{len(value)}")
        elif not key.startswith("_"):
            attributes.append(f"{key}={value!r}" if isinstance(value, plain) else key)
    return attributes


def _update(sha: Any, name: str, tensor: Tensor) -> None:
    data = tensor.detach().cpu().contiguous()
    sha.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
    sha.update(data.view(-1).view(torch.uint8).numpy())
