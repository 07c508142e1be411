"""Steps against the published code's arithmetic: equal numbers, and a fraction of the work."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.clip_lora import ClipLora
from fsbench_methods.coop import CoOp
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import official, subjects
from benchmarks.measure import in_pairs, work_of
from benchmarks.official import parts
from fewshot_bench import Vocabulary
from fewshot_bench.runner.fit import Context
from fewshot_bench.training.provisional import build_prompts
from tests.reference.toy import random_backbone, relative_gap

CPU = torch.device("cpu")
TOLERANCE = 1e-5
NAMES: dict[str, tuple[str, ...]] = {
    "one class": ("cat",),
    "two classes": ("cat", "dog"),
    "prefixes": ("cat", "cat tree", "cat tree house", "cat tree house door"),
    "1 to 20 tokens": tuple(" ".join(["cat"] * length) for length in range(1, 21)),
    "the same": ("dog", "dog"),
    "signs": ("St. Bernard", "U.S.", "a 1998 Ferrari 458-GT (red)", "top & bottom", "日本の犬"),
}
# If all classes have the same prompt, the loss does not depend on the context.
WITHOUT_GRADIENT = ("one class", "the same")
TEMPLATES = {"usual": "a photo of a {}.", "no prefix": "{}", "name first": "{} in the wild."}


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP with OpenAI's activation."""
    return random_backbone(width=48, layers=3, quick_gelu=True)


@pytest.mark.parametrize(
    ("names", "template"),
    [*((names, "usual") for names in NAMES), ("prefixes", "no prefix"), ("signs", "name first")],
)
def test_clip_lora(backbone: Any, names: str, template: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(subjects, "TEMPLATE", TEMPLATES[template])
    monkeypatch.setattr(subjects, "BATCH", 6)
    logits, gradients = subjects.clip_lora(backbone, NAMES[names]).gaps()
    assert logits < TOLERANCE
    # Gradients nearly cancel with random weights: both implementations differ from float64 by about
    # 1e-5 here, and by more with two classes.
    allowed = (10 if names == "two classes" else 3) * TOLERANCE
    assert names in WITHOUT_GRADIENT or gradients < allowed


@pytest.mark.parametrize("choice", [subjects.is_block_norm, subjects.is_bias])
def test_tuned(backbone: Any, choice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "BATCH", 3)
    names = NAMES["prefixes"]
    prompts = Vocabulary(names, (TEMPLATES["usual"],)).prompts(TEMPLATES["usual"])
    step = official.TunedStep(backbone.module, backbone.tokenize(prompts), choice)
    pixels, labels = subjects.batch_of(backbone, len(names))
    classes = F.normalize(backbone.encode_text(prompts), dim=-1)
    expected = backbone.logit_scale * F.normalize(backbone.encode_image(pixels), dim=-1) @ classes.T
    assert relative_gap(step.logits(pixels), expected) < TOLERANCE
    step.backward(pixels, labels)
    trained = {name for name, value in step.module.named_parameters() if value.grad is not None}
    assert trained == {name for name, _ in step.module.named_parameters() if choice(name)}
    subjects.official_tuned(backbone, names, choice=choice)()


@pytest.mark.parametrize("names", NAMES)
def test_coop(backbone: Any, names: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(subjects, "BATCH", 6)
    logits, gradients = subjects.coop(backbone, NAMES[names]).gaps()
    assert logits < TOLERANCE
    allowed = 10 * TOLERANCE if names == "two classes" else TOLERANCE
    assert names in WITHOUT_GRADIENT or gradients < allowed


@pytest.mark.parametrize("names", ["one class", "the same"])
def test_class_features_have_the_right_gradient_where_the_loss_has_none(
    backbone: Any, names: str
) -> None:
    """The loss of a single class is constantly zero, but a random projection is not."""
    classnames, tower = NAMES[names], backbone.text_tower()
    vocabulary = Vocabulary(classnames, ())
    start = CoOp().initial_context(vocabulary, backbone, tower, Context(1, CPU))
    prompts = build_prompts(
        classnames, backbone, tower, tokens=16, position="end", class_specific=False
    )
    ours = start.clone().requires_grad_()
    features = F.normalize(prompts.features(tower, ours), dim=-1)
    theirs = official.CoOpStep(
        official.frozen_copy(backbone.module), backbone.tokenize, classnames, start
    )
    expected = theirs.class_features()
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (features * direction).sum().backward()
    (expected * direction).sum().backward()  # type: ignore[no-untyped-call]
    assert relative_gap(features, expected) < TOLERANCE
    assert relative_gap(ours.grad, theirs.context.grad) < TOLERANCE  # type: ignore[arg-type]


def test_the_official_step_in_parts_does_the_same_work(backbone: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(subjects, "BATCH", 4)
    step = subjects.coop(backbone, NAMES["1 to 20 tokens"])
    counts = []
    for part in (100, 7):
        monkeypatch.setattr(parts, "PART", part)
        with FlopCounterMode(display=False) as counter:
            step.official()
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx(counts[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "tokens", "flops", "times"),
    [(subjects.clip_lora, 0.15, 0.6, 1.1), (subjects.coop, 0.15, 0.12, 3.0)],
    ids=["clip-lora", "coop"],
)
def test_a_step_takes_a_fraction_of_the_work(
    make: Any, tokens: float, flops: float, times: float
) -> None:
    """Savings are counted exactly; CPU time is compared with a wide margin."""
    names = tuple(f"{adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS)
    backbone = random_backbone(width=128, layers=4, quick_gelu=True)
    step = make(backbone, names)
    work = work_of(step.ours)
    assert work.text_tokens < tokens * 77 * len(names)
    with FlopCounterMode(display=False) as counter:
        step.official()
    assert work.flops < flops * counter.get_total_flops()
    assert in_pairs(step.ours, step.official, 3, clock=time.process_time).ratio > times


_ADJECTIVES = ("red", "green", "blue", "old", "new", "small", "large", "wet", "dry", "cold")
_NOUNS = ("cat", "dog", "car", "tree", "house", "bird")


def test_a_vocabulary_is_tokenized_once(backbone: Any, monkeypatch: Any) -> None:
    calls = []
    tokenize = type(backbone).tokenize

    def spy(self: Any, prompts: Any) -> Any:
        calls.append(len(prompts))
        return tokenize(self, prompts)

    monkeypatch.setattr(type(backbone), "tokenize", spy)
    vocabulary = Vocabulary(NAMES["two classes"], (TEMPLATES["usual"],))
    model = ClipLora().model(vocabulary, backbone, Context(1, CPU))  # type: ignore[arg-type]
    adapter = ClipLora().adapter(model, CPU, Context(1, CPU))
    for _ in range(3):
        model.class_features(adapter)
    assert calls == [2]
