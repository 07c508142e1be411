"""Folders and files of weights: what they are not, and features of what they were before."""

from __future__ import annotations

import json
import math
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.backbones import loading
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.rng import isolate
from tests.support.families import MODEL, PREPROCESS, TEXT, VISION, WEIGHTS, configure
from tests.support.helpers import fsbench, save_image


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random weights of the small model."""
    with isolate(0):
        module = open_clip.CLIP(**MODEL)
    return {name: 3 * value.clone() for name, value in module.state_dict().items()}


class Photos:
    """Two images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(2):
            save_image(folder / f"{number}.png", number)

    def card(self) -> DatasetCard:
        """A card with two classes."""
        return DatasetCard("photos", "Photos", ("cat", "dog"))

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """Both images in train."""
        items = tuple(Item(f"{n}.png", n, ("cat", "dog")[n]) for n in range(2))
        return {"train": items, "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        """Bytes of one image."""
        return (self.folder / item.id).read_bytes()


def loaded(name: str) -> Any:
    """The backbone of this name."""
    return loading.load(name)


def cached(name: str, photos: Photos, folder: Path) -> tuple[Tensor, Tensor]:
    """Features of the photos and of a prompt, from the cache in a folder or written into it."""
    backbone, meter, store = loading.load(name), Meter(torch.device("cpu")), FeatureCache(folder)
    source = ImageSource.of(photos, photos.items()["train"], backbone)
    with accounted(store, meter), meter.phase("fit"):
        images = image_view(source, store, meter, phase="encode_support").raw_features
        return images, backbone.encode_text(["a photo of a CAT"])


@pytest.mark.parametrize(
    ("changes", "images", "texts"),
    [
        ({"quick_gelu": True}, True, True),
        ({"vision_cfg": VISION | {"head_width": 8}}, True, False),
        ({"vision_cfg": VISION | {"norm_kwargs": {"eps": 0.1}}}, True, False),
        ({"text_cfg": TEXT | {"tokenizer_kwargs": {"clean": "whitespace"}}}, False, True),
    ],
)
def test_a_changed_config_of_equal_weights_has_features_of_its_own(
    weights: dict[str, Tensor], tmp_path: Path, changes: Any, images: bool, texts: bool
) -> None:
    photos, store = Photos(tmp_path / "photos"), tmp_path / "features"
    name = configure(tmp_path / "model")
    save_file(weights, tmp_path / "model" / WEIGHTS)
    first, before = cached(name, photos, store), loaded(name).settings
    configure(tmp_path / "model", **changes)
    assert loaded(name).settings != before
    second, plain = cached(name, photos, store), cached(name, photos, tmp_path / "other")
    for found, expected, old, changed in zip(second, plain, first, (images, texts), strict=True):
        assert torch.equal(found, expected)
        assert torch.equal(found, old) is not changed


@pytest.mark.parametrize("held", [(), ("model.pt",), ("a.safetensors", "b.safetensors")])
def test_a_folder_without_the_weights_of_its_config_is_refused(
    weights: dict[str, Tensor], tmp_path: Path, held: tuple[str, ...]
) -> None:
    name = configure(tmp_path)
    for file in held:
        if file.endswith(".pt"):
            torch.save(weights, tmp_path / file)
        else:
            save_file(weights, tmp_path / file)
    found = fsbench("run", "-m", "zero-shot", "-d", "digits", "--backbone", name, "--dry-run")
    what = f"has the weights {', '.join(held)}" if len(held) == 2 else "has no weights"
    assert found.code != 0
    assert what in found.err
    assert found.err.count("\n") == 1
    save_file(weights, tmp_path / WEIGHTS)
    assert torch.equal(loaded(name).module.visual.proj, weights["visual.proj"])


def test_a_repository_without_weights_is_no_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path)
    monkeypatch.setattr(loading, "check_weights", lambda name: None)
    config = json.loads((tmp_path / loading.CONFIG).read_text(encoding="utf-8"))
    monkeypatch.setattr("open_clip.factory._get_hf_config", lambda *_, **__: config)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataMissingError, match="could not be loaded"):
        loading.load("hf-hub:no/where")


@pytest.mark.parametrize(
    ("part", "key", "value", "expected"),
    [
        ("model_cfg", "embed_dim", None, "expected a whole number"),
        ("model_cfg", "vision_cfg", None, "expected an object"),
        ("model_cfg", "quick_gelu", "false", "is 'false', expected true or false"),
        ("preprocess_cfg", "mean", [0.5, 0.5], "expected three numbers"),
        ("preprocess_cfg", "std", [0, 0, 0], "expected three numbers above 0"),
        ("preprocess_cfg", "std", "0.5", "expected three numbers above 0"),
        ("preprocess_cfg", "interpolation", "lanczos", "expected bicubic or bilinear"),
        ("preprocess_cfg", "resize_mode", ["squash"], "expected shortest, longest or squash"),
    ],
)
def test_settings_of_a_folder_are_checked_before_a_run(
    weights: dict[str, Tensor], tmp_path: Path, part: str, key: str, value: Any, expected: str
) -> None:
    name = configure(tmp_path)
    save_file(weights, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / loading.CONFIG).read_text(encoding="utf-8"))
    config[part][key] = value
    (tmp_path / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises((DataMissingError, UsageError), match=f"{key}.*{expected}"):
        loading.check(name)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    """The small model under a name of open_clip, with a tag."""
    from open_clip import factory, pretrained

    configs = {**factory._MODEL_CONFIGS, "fsbench-small": MODEL}
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", configs)
    tags = {"plain": {"hf_hub": "no/where", "mean": (0.3,) * 3, "std": (0.4,) * 3}}
    monkeypatch.setitem(pretrained._PRETRAINED, "fsbench-small", tags)
    return "fsbench-small"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("image", {"vision_cfg": VISION | {"image_size": 32}}),
        ("text", {"text_cfg": TEXT | {"context_length": 40}}),
    ],
)
def test_weights_for_another_size_are_not_stretched(
    named: str, tmp_path: Path, part: str, changes: Any
) -> None:
    with isolate(0):
        other = open_clip.CLIP(**(MODEL | changes))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=f"tokens of its {part} encoder, the model has"):
        loading.load(f"{named}/plain@{tmp_path / 'weights.pt'}")


def test_files_that_hold_no_tensors_are_named(named: str, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 598516980\n"
    (tmp_path / "pointer.safetensors").write_text(pointer, encoding="utf-8")
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{member}", b"")
    whole = (tmp_path / "script.pt").read_bytes()
    (tmp_path / "damaged.pt").write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x00"))
    (tmp_path / "text.pt").write_text("<html>no such file</html>", encoding="utf-8")
    for file, what in (
        ("pointer.safetensors", "is a pointer of Git LFS"),
        ("empty.pt", "is empty"),
        ("script.pt", r"TorchScript archive.*save its tensors once.*state_dict\(\)"),
    ):
        with pytest.raises(DataMissingError, match=what):
            loading.check(f"{named}/plain@{tmp_path / file}")
    for file in ("damaged.pt", "text.pt"):
        with pytest.raises(DataMissingError, match="cannot be loaded") as refused:
            loading.load(f"{named}/plain@{tmp_path / file}")
        assert "weights_only" not in str(refused.value)


def test_tensors_of_openais_archives_load(
    named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    facts = {"input_resolution": 16, "context_length": 77, "vocab_size": 49408}
    half = {name: value.half() for name, value in weights.items()}
    numbers = {name: torch.tensor(value) for name, value in facts.items()}
    torch.save(half | numbers, tmp_path / "ViT-tensors.pt")
    backbone: Any = loading.load(f"{named}/plain@{tmp_path / 'ViT-tensors.pt'}")
    assert torch.equal(backbone.module.visual.proj, half["visual.proj"].float())


def test_a_config_beside_a_file_says_what_the_file_is(
    named: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "weights.pt")
    name = f"{named}@{tmp_path / 'weights.pt'}"
    configure(tmp_path)
    first = loading.identity(name)
    configure(tmp_path, quick_gelu=True)
    assert loading.identity(name) != first
    backbone: Any = loading.load(name)
    assert backbone.activation == "QuickGELU"
    configure(tmp_path, vision_cfg=VISION | {"head_width": 8})
    with pytest.raises(UsageError, match="head_width is 8, and 16 in fsbench-small"):
        loading.load(name)
    (tmp_path / loading.CONFIG).write_text(json.dumps(MODEL | {"quick_gelu": True}), "utf-8")
    with pytest.raises(DataMissingError, match="model_cfg is no object"):
        loading.load(name)


class Words:
    """A tokenizer of Hugging Face with a number for each word and an end, also of cut texts."""

    def __init__(self, end: int) -> None:
        self.end = end

    @classmethod
    def from_pretrained(cls, folder: Path, **_: Any) -> Words:
        """The tokenizer that a folder describes."""
        return cls(int((folder / "end.txt").read_text(encoding="utf-8")))

    def __call__(
        self, texts: list[str], *, max_length: int = 0, add_special_tokens: bool = True, **_: Any
    ) -> Any:
        """Token ids: a tensor padded to `max_length` if given, else a list for each text."""
        ends = [self.end] if add_special_tokens else []
        ids = [[*(3 + len(word) for word in text.split()), *ends] for text in texts]
        if not max_length:
            return {"input_ids": ids}
        rows = [[*one[: max_length - 1], *[self.end] * max_length][:max_length] for one in ids]
        return types.SimpleNamespace(input_ids=torch.tensor(rows))


@pytest.mark.parametrize("end", [0, 1])
def test_prompts_too_long_for_a_tokenizer_of_hugging_face_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int
) -> None:
    transformers = types.SimpleNamespace(AutoTokenizer=Words)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    text = TEXT | {"context_length": 8, "hf_tokenizer_name": "no/where", "vocab_size": 99}
    name = configure(tmp_path, text_cfg=text)
    (tmp_path / "end.txt").write_text(str(end), encoding="utf-8")
    with isolate(0):
        module = open_clip.CLIP(24, VISION, TEXT | {"context_length": 8, "vocab_size": 99})
    save_file(dict(module.state_dict()), tmp_path / WEIGHTS)
    backbone: Any = loading.load(name)
    assert backbone.encode_text(["a photo of a very small cat"]).shape == (1, 24)
    with pytest.raises(UsageError, match=r"has 9 tokens, the text encoder reads 8"):
        backbone.encode_text(["a cat", "a photo of a very small cat indeed"])


def test_the_activation_of_a_text_encoder_beside_a_resnet_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_clip import factory

    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    quick = {"fsbench-resnet": model | {"quick_gelu": True}}
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", factory._MODEL_CONFIGS | quick)
    torch.save(open_clip.create_model("fsbench-resnet").state_dict(), tmp_path / "weights.pt")
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (tmp_path / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="its weights need GELU, the model has QuickGELU"):
        loading.load(f"fsbench-resnet@{tmp_path / 'weights.pt'}")


@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize(("what", "name"), [("image", "visual.proj"), ("text", "text_projection")])
def test_weights_whose_features_are_empty_are_refused(
    tmp_path: Path, weights: dict[str, Tensor], what: str, name: str, value: float
) -> None:
    broken = {**weights, name: torch.full_like(weights[name], value)}
    named = configure(tmp_path / "model")
    save_file(broken, tmp_path / "model" / WEIGHTS)
    with pytest.raises(UsageError, match=f"its {what} encoder gives features that are all zero"):
        loading.load(named).encode_text(["a cat"])


def test_weights_without_biases_are_whole(tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "image_size": 32}
    named = configure(tmp_path / "model", vision_cfg=vision)
    with isolate(0):
        module = open_clip.CLIP(24, vision, TEXT)
    # New biases are zero, and so are the features of blank pixels.
    with torch.no_grad():
        assert not module.eval().encode_image(torch.zeros(1, 3, 32, 32)).any()
    save_file(module.state_dict(), tmp_path / "model" / WEIGHTS)
    assert loading.load(named).embed_dim == 24
