"""`fsbench export`: programs give the model's answers, or are not written."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor

import fewshot_bench as fb
from fewshot_bench.api.keeping import restore
from fewshot_bench.backbones import loading
from fewshot_bench.images.pixel_program import PixelView, trace
from fewshot_bench.plugins.models.export import steps_of
from fewshot_bench.plugins.models.export_formats import FORMATS
from fewshot_bench.store.kept_models import config_of, write_model
from fewshot_bench.utils.errors import NotApplicableError
from tests.reference.toy import context, random_backbone, random_task
from tests.support.families import RESNET, short
from tests.support.helpers import REPOSITORY, fsbench, image_folder, save_image
from tests.support.preparing import largest_file

CLASSES = ("cat", "dog", "cow")
HEADS = (
    "linear-probe",
    "tip-adapter",
    "proker",
    "clip-adapter",
    "lp++",
    "cocoop",
    "clip-lora",
    "dora",
    "2sfs",
    "clip-svd",
    "full-ft",
    "maple",
    "mma",
    "mmrl",
    "plot++",
    "tcp",
    "vpt-deep",
)
# Its rounds are traced one by one.
FEWER: dict[str, dict[str, Any]] = {"plot++": {"max_iter": 2}}
SHAPE = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"width": 16, "heads": 2, "layers": 1},
}


def restored(name: str, backbone: Any, fitted_on: Any = None) -> Any:
    """Restore a quickly fitted classifier from its tensors, possibly on another backbone."""
    method = dataclasses.replace(short(name), **FEWER.get(name, {}))
    first = fitted_on or backbone
    task = random_task(first, classnames=CLASSES, shots=1, val=1)
    tensors = method.fit(task, first, context()).tensors()
    return restore(method, tensors, task, backbone)


def pixels(backbone: Any, count: int) -> Tensor:
    drawn = torch.Generator().manual_seed(count)
    shape = (count, 3, *backbone.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)


def logits(classifier: Any, backbone: Any, batch: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = classifier.logits(PixelView(backbone, backbone.normalize(batch)))
    return found


@pytest.fixture(scope="module")
def backbone() -> Any:
    return random_backbone(layers=1)


def assert_answers(ask: Any, classifier: Any, backbone: Any, tolerance: float = 1e-4) -> None:
    for count in (1, 2, 30):
        batch = pixels(backbone, count)
        expected, found = logits(classifier, backbone, batch), ask(batch)
        assert found.shape == (count, len(CLASSES))
        assert found.dtype == torch.float32
        gap = float((found - expected).abs().max())
        assert gap <= tolerance * max(1.0, float(expected.abs().median())), count


HAS_ONNX = None not in map(find_spec, ("onnx", "onnxruntime", "onnxscript"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the extra export")
KINDS = [pytest.param(kind, marks=needs_onnx if kind == "onnx" else ()) for kind in FORMATS]


@pytest.mark.parametrize("name", HEADS)
def test_every_kind_of_head_is_traced(name: str, backbone: Any) -> None:
    classifier = restored(name, backbone)
    assert_answers(trace(classifier, backbone).module(), classifier, backbone)


@needs_onnx
@pytest.mark.parametrize("name", ["tip-adapter", "mmrl", "plot++"])
def test_shapes_that_follow_from_the_images_in_onnx(
    name: str, backbone: Any, tmp_path: Path
) -> None:
    classifier = restored(name, backbone)
    ask = FORMATS["onnx"].write(trace(classifier, backbone), tmp_path / "model.onnx")
    assert_answers(lambda batch: ask(batch.numpy()), classifier, backbone)


@needs_onnx
def test_merged_updates_in_half_precision_in_onnx(backbone: Any, tmp_path: Path) -> None:
    half = random_backbone(layers=1, precision="fp16")
    classifier = restored("clip-lora", half, backbone)
    ask = FORMATS["onnx"].write(trace(classifier, half), tmp_path / "model.onnx")
    full = restored("clip-lora", backbone)
    assert_answers(lambda batch: ask(batch.numpy()), full, backbone, tolerance=2e-2)


def test_a_resnet_is_traced() -> None:
    backbone = random_backbone(vision=RESNET)
    classifier = restored("zero-shot", backbone)
    assert_answers(trace(classifier, backbone).module(), classifier, backbone)


@dataclass(frozen=True)
class Odd:
    """A classifier with an operation that cannot be exported."""

    how: str

    def logits(self, queries: Any) -> Tensor:
        if self.how == "loops":
            return torch.stack([row.sum()[None] for row in queries.features])
        if self.how == "views":
            return queries.views(2, fb.Augment())[0]
        if self.how == "order":
            return next(queries.batches(4, order=torch.arange(2)))
        return torch.as_tensor(queries.features.numpy())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("loops", "for one number of images"),
        ("views", "augmented views"),
        ("order", "an order of its own"),
        ("numpy", "torch.export cannot follow its code"),
    ],
)
def test_what_is_no_program_says_why(how: str, reason: str, backbone: Any) -> None:
    with pytest.raises(NotApplicableError, match=reason) as caught:
        trace(Odd(how), backbone)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("kept"))


def made_model(folder: Path, **preprocessing: str) -> Path:
    """A kept model of zero-shot CLIP on a small random checkpoint."""
    weights = folder / "weights"
    weights.mkdir()
    half = [0.5, 0.5, 0.5]
    config = {"model_cfg": SHAPE, "preprocess_cfg": {"mean": half, "std": half, **preprocessing}}
    (weights / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**SHAPE).state_dict(), weights / "open_clip_model.safetensors")
    backbone = loading.load(f"local-dir:{weights}")
    vocabulary = fb.Vocabulary(CLASSES, ("a photo of a {}.",))
    about = config_of(
        "zero-shot", short("zero-shot"), backbone, vocabulary, temperature=2.0, reject=0.4
    )
    write_model(folder / "model", about, {}, "")
    return folder / "model"


RECIPE = re.search(
    r"^def pixels.*?transpose\(2, 0, 1\)$",
    (REPOSITORY / "docs" / "how-to" / "export.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
assert RECIPE is not None
RUN = f"""
import json, sys
import numpy as np
from PIL import Image, ImageOps
kind, *names = sys.argv[1:]
{RECIPE[0]}
"""
RUN += """
about = json.load(open(f"{kind}/program.json"))
batch = np.stack([pixels(name) for name in names])
file = f"{kind}/{about['program']}"
if kind == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(file)
    logits, = session.run(["logits"], {"pixels": batch})
else:
    import torch
    logits = torch.export.load(file).module()(torch.from_numpy(batch)).numpy()
scaled = logits / about["temperature"]
shares = np.exp(scaled - scaled.max(1, keepdims=True))
shares /= shares.sum(1, keepdims=True)
assert "fewshot_bench" not in sys.modules
json.dump([shares.tolist(), about], sys.stdout)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_runs_without_the_package(model: Path, tmp_path: Path, kind: str) -> None:
    photos = sorted((image_folder(tmp_path / "photos", train=2, test=2) / "test").rglob("*.jpg"))
    done = fsbench("export", model, "--format", kind, "-O", tmp_path / kind)
    assert done.code == 0, done.err
    assert "compared on 64 images" in done.out
    assert "0 predictions differ" in done.out
    alone = [sys.executable, "-c", RUN, kind, *map(str, photos)]
    answer = subprocess.run(alone, capture_output=True, text=True, check=True, cwd=tmp_path)
    expected = fb.load_model(model, device="cpu").probabilities(photos)
    shares, about = json.loads(answer.stdout)
    assert np.abs(np.array(shares) - expected.numpy()).max() < 1e-5
    assert about["classes"] == list(CLASSES)
    assert (about["temperature"], about["reject"]) == (2.0, 0.4)
    assert about["parity"]["gap"] <= about["parity"]["tolerance"] * about["parity"]["scale"]
    files = sorted(path.name for path in (tmp_path / kind).iterdir())
    assert files == [FORMATS[kind].file, "program.json"]


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_the_recipe_makes_the_pixels_of_the_model(tmp_path: Path, mode: str) -> None:
    kept = fb.load_model(made_model(tmp_path, resize_mode=mode), device="cpu")
    about = {"preprocessing": {"exif": "ignore", "steps": steps_of(kept)}}
    names: dict[str, Any] = {"about": about, "Image": Image, "ImageOps": ImageOps, "np": np}
    assert RECIPE is not None
    exec(RECIPE[0], names)
    for number, size in enumerate([(40, 32), (20, 90), (16, 16), (9, 7)]):
        save_image(tmp_path / f"{number}.png", number, size)
        found = names["pixels"](tmp_path / f"{number}.png")
        expected = kept.backbone.preprocess(Image.open(tmp_path / f"{number}.png"))
        assert np.array_equal(found, np.asarray(expected).transpose(2, 0, 1)), size


def test_steps_without_a_recipe_are_a_warning(tmp_path: Path) -> None:
    kept = made_model(tmp_path, resize_mode="longest")
    done = fsbench("export", kept, "--format", "torch", "-O", tmp_path / "out")
    assert done.code == 0, done.err
    assert "warning: the preprocessing has steps that program.json can only name: 'Res" in done.err


@pytest.mark.parametrize("ours", [True, False])
def test_files_of_the_other_format_are_removed(model: Path, tmp_path: Path, ours: bool) -> None:
    """Unless another program wrote the program.json there."""
    output = tmp_path / "out"
    output.mkdir()
    about = {"program": "model.onnx", "kind": "onnx", "made_by": {"fewshot_bench": "0"}}
    (output / "program.json").write_text(json.dumps(about if ours else {}))
    for name in ("model.onnx", "model.onnx.data", "mine.txt"):
        (output / name).write_text("earlier")
    given = tmp_path / "one.png"
    Image.new("L", (9, 30), 77).save(given)
    done = fsbench("export", model, "--format", "torch", "-O", output, "--images", given)
    assert done.code == 0, done.err
    others = [] if ours else ["model.onnx", "model.onnx.data"]
    expected = sorted(["mine.txt", "model.pt2", "program.json", *others])
    assert sorted(path.name for path in output.iterdir()) == expected
    assert json.loads((output / "program.json").read_text())["parity"]["images"] == 1


def test_a_full_disk_is_one_line(model: Path, tmp_path: Path) -> None:
    """The program is larger than any file may be."""
    with largest_file(2000):
        done = fsbench("export", model, "--format", "torch", "-O", tmp_path / "out")
    assert done.code == 2, done
    assert done.err.startswith(f"error: cannot write '{tmp_path / 'out'}': File too large")
    assert not list(tmp_path.iterdir())


def test_a_gap_above_the_tolerance_writes_nothing(model: Path, tmp_path: Path) -> None:
    photos = image_folder(tmp_path / "photos")
    output = tmp_path / "out" / "program"
    given = ("--images", photos / "test", "--precision", "fp16", "--tolerance", "1e-9")
    done = fsbench("export", model, "--format", "torch", "-O", output, *given)
    assert done.code == 2
    assert "answers otherwise on 12 images (given)" in done.err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("which", ["folder", "file", "image", "pattern"])
def test_wrong_places_are_one_line(model: Path, which: str, tmp_path: Path) -> None:
    output, more, complaint = tmp_path / "out", [], "holds no program; choose another --output"
    if which == "folder":
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    elif which == "file":
        output.write_text("mine")
        complaint = "is a file"
    elif which == "image":
        (tmp_path / "bad.jpg").write_bytes(b"no image")
        more, complaint = ["--images", tmp_path / "bad.jpg"], "bad.jpg"
    else:
        more, complaint = ["--images", tmp_path / "*.none"], "matches no file"
    before = sorted(tmp_path.rglob("*"))
    done = fsbench("export", model, "--format", "torch", "-O", output, *more)
    assert done.code in (2, 3)
    assert complaint in done.err
    assert done.err.strip().count("\n") == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_extra_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = fsbench("export", model, "--format", "onnx", "-O", tmp_path / "out")
    assert done.code == 2
    assert "pip install 'fewshot-bench[export]'" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_on_cuda(model: Path, kind: str, tmp_path: Path) -> None:
    done = fsbench("export", model, "--format", kind, "-O", tmp_path / "out", "--device", "cuda")
    assert done.code == 0, done.err


def test_an_old_torch_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewshot_bench.plugins.models.export_formats.version", lambda _: "2.8.1+x")
    done = fsbench("export", model, "--format", "torch", "-O", tmp_path / "program")
    assert done.code == 2
    assert done.err.startswith("error: export needs torch 2.9 or newer, and 2.8.1+x is installed")
    assert not (tmp_path / "program").exists()
