"""Every method with all edge cases at once: ResNet, bf16, one shot, no validation, two classes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.prolip import ProLip
from safetensors.torch import save_file

from fewshot_bench import Streaming
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.runner.evaluate import begin
from fewshot_bench.runner.fit import Context
from fewshot_bench.utils.errors import UnsupportedBackboneError
from fewshot_bench.utils.rng import isolate
from tests.reference.toy import CPU, random_backbone, random_task
from tests.support.families import MODEL, RESNET, WEIGHTS, backbone_of, configure, short
from tests.support.helpers import fsbench

ON_PIXELS = ("adalora", "clip-lora", "dora")
# DEEP: suite of methods inside the encoders; TEXT: a member that acts only in the text encoder.
DEEP, TEXT = "deep", "tcp"


def methods() -> list[str]:
    """Built-in methods that use images only as features."""
    known = registry().methods
    ours = [name for name in known.names() if known.find(name).origin.startswith("fewshot")]
    inside = {name for name in ours if DEEP in known.find(name).suites} - {TEXT}
    return [name for name in ours if name not in ON_PIXELS and name not in inside]


@functools.cache
def resnet(precision: str) -> OpenClipBackbone:
    """A random CLIP with a ModifiedResNet."""
    return random_backbone(vision=RESNET, quick_gelu=True, precision=precision)


def answer(fitted: Any, images: Any) -> torch.Tensor:
    """Logits of images, as one stream where the classifier answers streams."""
    answers = begin(fitted, "stream" if isinstance(fitted, Streaming) else "alone")
    return answers(images)


@pytest.mark.parametrize("name", methods())
def test_one_shot_of_two_classes_without_validation(name: str) -> None:
    backbone = resnet("bf16")
    task = random_task(backbone, classnames=("cat", "dog"), shots=1, val=0)
    method = short(name)
    fitted = method.fit(task, backbone, Context(3, CPU, precision="bf16"))
    with torch.no_grad():
        logits = answer(fitted, task.train)
    assert logits.shape == (2, 2)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    tied = getattr(method, "tied_to_classes", "")
    assert bool(tied) != hasattr(fitted, "for_classes"), "base-to-new, or the reason why not"
    if tied:
        return
    new = random_task(backbone, classnames=("blue car", "bird", "U.S."), shots=1, val=0)
    with torch.no_grad():
        others = answer(fitted.for_classes(new), new.train)
    assert others.shape == (3, 3)
    assert others.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("plot++", {"epochs": 2}, 4),
        ("cross-modal", {"iterations": 5}, 30),
        ("wise-ft", {"iterations": 5}, 30),
        ("linear-probe", {"search_steps": 2}, 10),
        ("2sfs", {"iterations": 3}, 3),
    ],
)
def test_progress_counts_the_steps_of_all_stages_and_settings(
    name: str, options: dict[str, Any], steps: int
) -> None:
    told: list[tuple[int, int]] = []
    ctx = Context(3, CPU, on_progress=lambda *step: told.append(step))
    backbone = random_backbone()
    task = random_task(backbone, classnames=("cat", "dog"), shots=1, val=1)
    registry().method_class(name)(**options).fit(task, backbone, ctx)
    assert {total for _, total in told} == {steps}
    done = [step for step, _ in told if step]
    assert done == list(range(1, len(done) + 1))
    assert steps - 1 <= len(done) <= steps


def test_a_method_on_pixels_names_the_way_out() -> None:
    backbone = resnet("fp32")
    with pytest.raises(UnsupportedBackboneError, match="a method that runs on frozen features"):
        ClipLora(iterations=1).fit(random_task(backbone), backbone, Context(3, CPU))


def test_a_backbone_without_the_part_that_a_method_needs_is_not_applicable(tmp_path: Path) -> None:
    folder = tmp_path / "resnet"
    shape = MODEL | {"vision_cfg": RESNET}
    name = configure(folder, **shape)
    with isolate(0):
        save_file(open_clip.CLIP(**shape).state_dict(), folder / WEIGHTS)
    store = ("--store", tmp_path / "store")
    few = ("-m", "clip-lora,zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1")
    ran = fsbench("run", *few, "--backbone", name, "--limit", "2", "--device", "cpu", *store)
    assert ran.code == 0, ran.out
    assert "no plain CLIP vision transformer" in ran.out
    assert "failed" not in ran.out
    shown = fsbench("compare", *store)
    assert "* n/a clip-lora: " in shown.out
    # A request that gives no number at all is wrong usage, also when it is repeated.
    alone = ("-m", "clip-lora", *few[2:], "--backbone", name, "--limit", "2", "--device", "cpu")
    ran = fsbench("run", *alone, *store)
    assert ran.code == 2
    assert f"all cells are n/a, there is no result: clip-lora: {name} has no plain" in ran.err


@pytest.mark.parametrize("family", ["siglip", "eva02", "mobileclip"])
def test_prolip_needs_an_image_encoder_that_ends_in_a_projection(family: str) -> None:
    backbone = backbone_of(family)
    with pytest.raises(UnsupportedBackboneError, match="ends in no projection"):
        ProLip(iterations=1).fit(random_task(backbone, val=0), backbone, Context(3, CPU))
