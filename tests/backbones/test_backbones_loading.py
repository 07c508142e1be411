"""Backbone names, local checkpoints, activations, and rejected inputs."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.backbones import loading
from fewshot_bench.backbones.loading import Name
from tests.support.helpers import fsbench

MODEL = "fsbench-test-small"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"width": 32, "heads": 2, "layers": 1},
}
TAGS = {
    "quick": {"hf_hub": "no/where", "quick_gelu": True, "mean": (0.1,) * 3, "std": (0.2,) * 3},
    "plain": {"hf_hub": "no/where", "mean": (0.3,) * 3, "std": (0.4,) * 3},
}


@pytest.fixture(scope="module", autouse=True)
def _small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Register a small model and its tags with open_clip."""
    from open_clip import factory, pretrained

    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{MODEL}.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
        patch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
        patch.setitem(pretrained._PRETRAINED, MODEL, TAGS)
        open_clip.add_model_config(folder)
        yield


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Random weights of the small model."""
    torch.manual_seed(0)
    return dict(open_clip.create_model(MODEL).state_dict())


@pytest.fixture(params=["pt", "wrapped.pt", "safetensors"])
def checkpoint(request: Any, weights: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    """The weights in each common checkpoint format."""
    path = tmp_path / f"weights.{request.param}"
    if request.param == "safetensors":
        save_file(weights, path)
    else:
        wrapped = {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3}
        torch.save(wrapped if request.param == "wrapped.pt" else weights, path)
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ViT-B-16/openai", Name("ViT-B-16", "openai")),
        ("ViT-B/16", Name("ViT-B-16", "openai")),
        ("ViT-B-16", Name("ViT-B-16", "openai")),
        ("ViT-L/14/openai", Name("ViT-L-14", "openai")),
        ("ViT-L/14@336px", Name("ViT-L-14-336", "openai")),
        ("RN50", Name("RN50", "openai")),
        ("ViT-B-16/openai@a/b.pt", Name("ViT-B-16", "openai", Path("a/b.pt"))),
        ("ViT-B-16@a/b.pt", Name("ViT-B-16", None, Path("a/b.pt"))),
    ],
)
def test_names(text: str, name: Name) -> None:
    assert loading.parse(text) == name


@pytest.mark.parametrize(("tag", "activation"), [("quick", "QuickGELU"), ("plain", "GELU")])
def test_a_file_is_loaded_as_its_tag_says(
    checkpoint: Path, weights: dict[str, torch.Tensor], tag: str, activation: str
) -> None:
    backbone: Any = loading.load(f"{MODEL}/{tag}@{checkpoint}")
    assert backbone.activation == activation
    assert backbone._mean == list(TAGS[tag]["mean"])  # type: ignore[call-overload]
    found = backbone.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert backbone.image_size == (16, 16)
    assert len(loading.identity(f"{MODEL}/{tag}@{checkpoint}")) == 64
    backbone.image_tower()
    backbone.text_tower()


def test_a_config_beside_the_file_will_do(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=loading.CONFIG):
        loading.load(f"{MODEL}@{checkpoint}")
    config = {
        "model_cfg": CONFIG | {"quick_gelu": True},
        "preprocess_cfg": {"size": 16, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    (checkpoint.parent / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    backbone: Any = loading.load(f"{MODEL}@{checkpoint}")
    assert (backbone.activation, backbone._std) == ("QuickGELU", [0.25] * 3)


def test_a_local_folder(
    weights: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    backbone: Any = loading.load(f"local-dir:{tmp_path}")
    assert torch.equal(backbone.module.visual.proj, weights["visual.proj"])
    assert backbone._std == [0.25] * 3
    first = loading.identity(f"local-dir:{tmp_path}")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    at_home: Any = loading.load(f"local-dir:~/{tmp_path.name}")
    assert torch.equal(at_home.module.visual.proj, weights["visual.proj"])
    assert loading.identity(f"local-dir:~/{tmp_path.name}") == first
    config["preprocess_cfg"]["mean"] = [0.1] * 3  # type: ignore[index]
    (tmp_path / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    assert loading.identity(f"local-dir:{tmp_path}") != first


class Attack:
    """A pickle that would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_file_with_code_in_it_is_refused(tmp_path: Path, how: str) -> None:
    path, target = tmp_path / "weights.pt", tmp_path / "owned"
    content = {"state_dict": Attack(target)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        loading.load(f"{MODEL}/quick@{path}")
    assert not target.exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        loading.load(f"{MODEL}/quick@{tmp_path / 'weights.safetensors'}")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("fsbench-test-smal/quick", f"did you mean '{MODEL}'"),
        (f"{MODEL}/quik", "did you mean 'quick'"),
        (f"{MODEL}/zzzzzz", "expected one of"),
        ("rn50", "did you mean 'RN50'"),
        (f"{MODEL}/", "has no pretrained tag ''"),
        ("hf-hub:", "expected hf-hub:ORG/NAME"),
        ("hf-hub:a b/c", "expected hf-hub:ORG/NAME"),
        ("hf-hub:org/name@main", "a repository without a revision"),
        ("convnext_base", "has no pretrained tag 'openai': expected one of"),
    ],
)
def test_unknown_names(name: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        loading.check(name)


@pytest.mark.parametrize("name", ["RN50", "RN101", "ViT-B/16", "ViT-L/14@336px"])
def test_names_of_openai_need_no_tag(name: str) -> None:
    loading.check(name)


def test_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{MODEL}/quick@{tmp_path / 'no.pt'}", f"local-dir:{tmp_path / 'no'}"):
        with pytest.raises(DataMissingError, match=r"does not exist; check the path$"):
            loading.check(name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataMissingError, match="check the path, which is relative to /"):
        loading.check("local-dir:no")


@pytest.mark.parametrize("name", [f"{MODEL}/quick", "hf-hub:no/where"])
def test_weights_that_cannot_be_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataMissingError, match="use --backbone tiny"):
        loading.load(name)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP/webli", "xlm-roberta-base-ViT-B-32@FILE"])
def test_a_tokenizer_of_a_missing_package_is_named_before_weights_are_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    file = tmp_path / "weights.pt"
    torch.save({"logit_scale": torch.ones(())}, file)
    name = name.replace("FILE", str(file))
    found = fsbench("run", "-m", "zero-shot", "-d", "digits", "--backbone", name, "--dry-run")
    assert found.code == 2
    assert "transformers, which is not installed: pip install 'transformers[" in found.err
    assert found.err.count("\n") == 1


def test_a_checkpoint_file_needs_no_weights_of_the_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def built(**config: Any) -> Any:
        fetched.append(config["text_cfg"]["hf_model_pretrained"])
        raise RuntimeError("built")

    monkeypatch.setattr("open_clip.factory.CustomTextCLIP", built)
    monkeypatch.setitem(sys.modules, "transformers", sys)
    file = tmp_path / "weights.pt"
    torch.save({"logit_scale": torch.ones(())}, file)
    with pytest.raises(DataMissingError, match="built"):
        loading.load(f"xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k@{file}")
    assert fetched == [False]
