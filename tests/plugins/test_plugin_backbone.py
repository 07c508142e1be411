"""Backbones of plug-ins: the documented one runs; wrong ones end a run with the plug-in's name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.backbones import loading
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import PluginError
from tests.support.helpers import fsbench, save_image

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "own-backbone.md"
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1")
FEW = (*RUN, "--limit", "40", "--backbone", "mean-color", "--jobs", "1", "--store")


@pytest.fixture(scope="module")
def shown() -> str:
    """The backbone of the guide."""
    text = GUIDE.read_text(encoding="utf-8")
    return text.split("<!-- example: backbone -->\n```python\n")[1].split("```\n")[0]


def test_the_backbone_shown_runs_and_prints_nothing_into_predictions(
    install: Any, tmp_path: Path, shown: str
) -> None:
    loud = shown.replace(
        "    return MeanColor(device)", "    print('loads')\n    return MeanColor(device)"
    )
    loud = loud.replace(
        "        return image.convert", "        print('prepares')\n        return image.convert"
    )
    install("color", loud)
    ran = fsbench(*FEW, tmp_path / "s", "-m", "zero-shot,clip-lora", "--keep-models")
    assert "mean-color has no transformer" in ran.out
    records = {record.spec.method: record for record in Store(tmp_path / "s").records()}
    statuses = {name: record.status for name, record in records.items()}
    assert statuses == {"zero-shot": "done", "clip-lora": "inapplicable"}
    (weights,) = {record.spec.weights for record in records.values()}
    assert weights == records["zero-shot"].environment["weights_digest"] != ""
    model = next((tmp_path / "s" / "models").iterdir())
    save_image(tmp_path / "one.png", 1)
    done = fsbench("predict", model, tmp_path / "one.png", "--format", "jsonl")
    assert json.loads(done.out)["image"] == str(tmp_path / "one.png")
    assert {"loads", "prepares"} <= set(done.err.splitlines())
    measured = fsbench("evaluate", model, "-d", "digits", "--format", "json")
    assert json.loads(measured.out)["dataset"] == "digits"


WRONG = {
    "no preprocess": ("def preprocess", "def process", "returned MeanColor without preprocess"),
    "no backbone": ("return MeanColor(device)", "return None", "returned NoneType without class_"),
    "raises": ("return MeanColor(device)", "return 1 / 0", r"ZeroDivisionError: .*fsbench_color"),
    "exits": ("return MeanColor(device)", "raise SystemExit(3)", "SystemExit: 3"),
    "takes less": ("def load(device: str, precision: str)", "def load()", "TypeError: load"),
    "other name": ('name = "mean-color"', 'name = "other"', "its name is 'other', expected the"),
    "other width": ("embed_dim = 3", "embed_dim = 4", r"encode_image\(\) returned \(2, 3\) torch"),
    "no digest": ("= load.identity()", "= None", "its weights_digest is None, expected a text"),
    "size": ("= (32, 32)", "= 32", r"its image_size is 32, expected \(height, width\)"),
    "scale": ("logit_scale = 10.0", "logit_scale = torch.tensor(10.0)", "its logit_scale is tens"),
    "16 bits": ("dim=(2, 3)))", "dim=(2, 3))).half()", "torch.float16 on cpu, expected"),
    "not finite": (
        "dim=(2, 3)))",
        "dim=(2, 3))) / 0",
        r"encode_image\(\) returned values that are",
    ),
    "gradients": ("requires_grad_(False)", "requires_grad_()", "a leaf Variable that requires gr"),
    "no units": (
        "pool_class_features(self.encode_text, task)",
        "2 * pool_class_features(self.encode_text, task)",
        "rows of length",
    ),
    "other size": (
        "resize(self.image_size[::-1])",
        "resize((9, 9))",
        r"preprocess\(\) returned <PI",
    ),
    "other pixels": (
        "pixels.float() / 255 - 0.5",
        "pixels / 255 > 0",
        r"normalize\(\) returned \(2",
    ),
    "no identity": ("hashlib.sha256(b", "1 / 0 and (b", r"identity\(\) failed: ZeroDivisionError"),
    "odd identity": ("lambda: hash", "lambda: 3 or hash", r"identity\(\) returned 3, expected a"),
    "noisy": (
        "dim=(2, 3)))",
        "dim=(2, 3)) + 1000 * torch.rand(3))",
        r"encode_image\(\) returned other features for the same pixels in a second call",
    ),
    "batch": (
        "return self.module(pixels.mean(dim=(2, 3)))",
        "return (lambda rows: rows - rows.mean(0))(pixels.mean(dim=(2, 3)))",
        r"for two images of a batch of four than for the two alone",
    ),
    "sorted": (
        "def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:\n",
        "def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:\n"
        "        prompts = sorted(prompts)\n",
        r"encode_text\(\) returned other features for texts together than alone",
    ),
    "zero": (
        "return self.module(pixels.mean(dim=(2, 3)))",
        "return 0 * self.module(pixels.mean(dim=(2, 3)))",
        r"encode_image\(\) returned equal features for different images",
    ),
    "one text": (
        "def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:\n",
        "def encode_text(self, prompts: Sequence[str], *, cut: bool = False) -> Tensor:\n"
        "        prompts = ['a red bird'] * len(prompts)\n",
        r"encode_text\(\) returned equal features for different texts",
    ),
    "no texts": (
        "return pool_class_features(self.encode_text, task)",
        "return pool_class_features(self.encode_text, Vocabulary(task.classnames, ('a {}',)))",
        r"class_features\(\) returned other features than those of the texts",
    ),
    "changes itself": (
        "return self.module(pixels.mean(dim=(2, 3)))",
        "self.module.weight += 1e-6\n        return self.module(pixels.mean(dim=(2, 3)))",
        r"its encoders change it: fingerprint\(\) differs",
    ),
    "unstable": (
        ".tobytes()).hexdigest()",
        ".tobytes()).hexdigest() + __import__('uuid').uuid4().hex",
        "one text",
    ),
}


def install_wrong(install: Any, shown: str, kind: str) -> str:
    """Install the backbone of the guide with one fault; returns the pattern of its refusal."""
    before, after, message = WRONG[kind]
    assert before in shown
    install("color", shown.replace(before, after))
    return message


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_backbone_is_named(install: Any, shown: str, kind: str) -> None:
    message = install_wrong(install, shown, kind)

    def use() -> None:
        loading.identity("mean-color")
        loading.load("mean-color")

    with pytest.raises(PluginError, match=message) as refused:
        use()
    assert str(refused.value).startswith("backbone 'mean-color' (fsbench-color:color")


@pytest.mark.parametrize("kind", ["no identity", "raises"])
def test_a_wrong_backbone_ends_a_run(install: Any, tmp_path: Path, shown: str, kind: str) -> None:
    message = install_wrong(install, shown, kind)
    ended = fsbench(*FEW, tmp_path / "s")
    assert ended.code == 2, ended
    (error,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: backbone 'mean-color' (fsbench-color:color")
    assert re.search(message, error), error
    assert "Traceback" not in ended.err
    assert not list(Store(tmp_path / "s").records())
