"""Methods that train CLIP's own weights, against plain loops over open_clip's module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.clip_svd import ClipSvd
from fsbench_methods.layer_norms import BitFit, LnTuning
from fsbench_methods.prolip import ProLip
from fsbench_methods.two_stage import TwoStage
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench import Augment, Task, Vocabulary
from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.profiling.optimizer import ParameterObserver
from fewshot_bench.training import Learned, StepLearner
from fewshot_bench.training.provisional import EncoderBatch, EncoderModel
from tests.reference import tuned as reference
from tests.reference.toy import (
    CPU,
    context,
    random_backbone,
    random_task,
    relative_gap,
)
from tests.support.lora_cases import recorded, tokens_of

TOLERANCE = 1e-5
MATRICES = ("in_proj_weight", "out_proj.weight", "c_fc.weight", "c_proj.weight")


def is_block_norm(name: str) -> bool:
    return "resblocks" in name and ".ln_" in name


def is_bias(name: str) -> bool:
    return name.endswith("bias")


TUNINGS: dict[str, tuple[StepLearner, Callable[[str], bool]]] = {
    "ln-tuning": (LnTuning(lr=5e-3, iterations=4, batch_size=7), is_block_norm),
    "bitfit": (BitFit(lr=5e-3, iterations=4, batch_size=7), is_bias),
    "clip-svd": (ClipSvd(lr=5e-3, iterations=4, batch_size=7), lambda name: False),
}


def trained_values(
    name: str, module: Any
) -> tuple[reference.Tensors, Callable[[reference.Tensors], reference.Tensors]]:
    """Trained tensors, and a function from them to open_clip parameters."""
    if name == "clip-svd":
        found = [n for n, _ in module.named_parameters() if "resblocks" in n]
        return reference.singular(module, [n for n in found if n.endswith(MATRICES)])
    return reference.values(module, TUNINGS[name][1]), dict


def by_tower(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename open_clip values to tower tensor names; spectra of a tensor's parts are stacked."""
    found: dict[str, Tensor] = {}
    for key, value in values.items():
        name, _, part = key.partition(":")
        name, one = reference.tower_name(name), value[None] if part else value
        found[name] = torch.cat([found[name], one]) if name in found else one
    return found


def started(method: StepLearner, task: Task, backbone: Any) -> dict[str, Tensor]:
    """Trained tensors with their initial values."""
    first = method.initial(task, backbone, context())
    return {name: torch.nn.Parameter(one.clone()) for name, one in first.items()}


def logits_of(model: EncoderModel, learned: Learned, pixels: Tensor) -> Tensor:
    images, classes = model.image_features(pixels, learned), model.class_features(learned)
    return model.hooks.scores(images, classes, model.scale, fitted=True)


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("name", TUNINGS)
def test_loss_and_gradients_equal_the_reference(name: str, chunks: int) -> None:
    method, _ = TUNINGS[name]
    backbone = random_backbone(width=48, layers=3, quick_gelu=True)
    task = random_task(backbone)
    model = method.model(task, backbone, context())
    model = model.within_memory(9, CPU, 2 * chunks if chunks > 1 else 1)
    ours = started(method, task, backbone)
    rng = torch.Generator().manual_seed(4)
    trained, follow = trained_values(name, backbone.module)
    theirs = by_tower(trained)
    assert ours.keys() == theirs.keys()
    for key in ours:
        noise = 0.1 * torch.randn(ours[key].shape, generator=rng)
        assert relative_gap(ours[key], theirs[key]) < TOLERANCE
        ours[key].data += noise
    for key, value in trained.items():
        whole = ours[reference.tower_name(key.partition(":")[0])].detach()
        value.data = (whole[int(key.rpartition(":")[2])] if ":" in key else whole).clone()
    batch, labels = task.train.pixels[::2], task.train.labels[::2]  # type: ignore[attr-defined]
    model.backward(batch, labels, EncoderBatch.cross_entropy, ours, lambda loss: loss)
    tokens = tokens_of(backbone, task)
    expected = reference.logits(backbone.module, follow(trained), batch, tokens)
    F.cross_entropy(expected, labels).backward()
    assert relative_gap(logits_of(model, ours, batch), expected) < TOLERANCE
    gradients = by_tower({key: value.grad for key, value in trained.items()})  # type: ignore[misc]
    for key, gradient in gradients.items():
        assert gradient.abs().max() > 0
        assert relative_gap(ours[key].grad, gradient) < 3 * TOLERANCE, key  # type: ignore[arg-type]


def observed_fit(method: Any, task: Task, backbone: Any) -> tuple[Any, int]:
    """The classifier, and the number of trained values observed at the optimizer."""
    observer = ParameterObserver()
    with observer.watch():
        classifier = method.fit(task, backbone, context())
    return classifier, observer.trained


def assert_same_answers(classifier: Any, module: Any, task: Task, tokens: Tensor) -> None:
    """Assert the reference's predictions, most of which must differ from CLIP's."""
    pixels = task.val.pixels  # type: ignore[union-attr]
    with torch.no_grad():
        expected = reference.logits(module, {}, pixels, tokens)
    assert_same_logits(classifier, expected, task)


def assert_same_logits(classifier: Any, expected: Tensor, task: Task) -> None:
    ours = classifier.logits(task.val)
    assert relative_gap(ours, expected) < 1e-3
    assert torch.equal(ours.argmax(dim=1), expected.argmax(dim=1))


@pytest.mark.parametrize("name", TUNINGS)
def test_a_whole_fit_equals_a_plain_loop(name: str) -> None:
    method, _ = TUNINGS[name]
    backbone = random_backbone()
    task, shots = recorded(backbone)
    classifier, moved = observed_fit(method, task, backbone)
    trained, follow = trained_values(name, backbone.module)
    assert moved == sum(value.numel() for value in trained.values())
    assert moved == sum(value.numel() for value in classifier.tensors().values())
    tokens = tokens_of(backbone, task)
    read = shots.read[: method.iterations * task.shots]
    tuned = reference.fitted(backbone.module, trained, read, tokens, method.lr, follow)
    module = reference.with_weights(backbone.module, tuned)
    assert_same_answers(classifier, module, task, tokens)
    with torch.no_grad():
        pixels = task.val.pixels  # type: ignore[union-attr]
        before = reference.logits(backbone.module, {}, pixels, tokens)
    assert relative_gap(classifier.logits(task.val), before) > 0.01, "nothing was learned"


def test_both_stages_equal_plain_loops() -> None:
    backbone = random_backbone()
    task, shots = recorded(backbone)
    method = TwoStage(iterations=5, lr=5e-3, batch_size=7)
    classifier, moved = observed_fit(method, task, backbone)
    tokens = tokens_of(backbone, task)
    steps, total = int(0.6 * 5 * task.shots), 5 * task.shots
    norms = reference.values(backbone.module, is_block_norm)
    assert moved == sum(x.numel() for x in norms.values()) + len(task.classnames) * 24
    tuned = reference.fitted(backbone.module, norms, shots.read[:steps], tokens, 5e-3)
    module = reference.with_weights(backbone.module, tuned)
    head = reference.head_fitted(module, shots.read[steps:total], tokens, 5e-3)
    with torch.no_grad():
        pixels = task.val.pixels  # type: ignore[union-attr]
        images = F.normalize(module.encode_image(pixels), dim=-1)
        texts = F.normalize(module.encode_text(tokens), dim=-1)
    scale = module.logit_scale.exp().detach()
    assert_same_logits(classifier, scale * images @ F.normalize(head, dim=-1).T, task)
    # Half of the classes are new: the head is used for the known ones.
    names = (*task.classnames[:3], "dog", "cow")
    mixed = classifier.for_classes(Vocabulary(names, task.templates)).logits(task.val)
    assert relative_gap(mixed[:, :3], classifier.logits(task.val)[:, :3]) < TOLERANCE
    fresh = backbone.tokenize([f"a photo of a {name}." for name in ("dog", "cow")])
    with torch.no_grad():
        new = scale * images @ F.normalize(module.encode_text(fresh), dim=-1).T
    assert relative_gap(mixed[:, 3:], new) < 1e-3
    assert relative_gap(scale * images @ texts.T, classifier.logits(task.val)) > 1e-4


# The architecture of RN50, with one block per stage.
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
PROJECTIONS = [("visual.proj", {}), ("visual.attnpool.c_proj.weight", {"vision": RESNET})]


@pytest.mark.parametrize(("name", "architecture"), PROJECTIONS, ids=["vit", "resnet"])
def test_the_projection_equals_a_plain_loop(name: str, architecture: dict[str, Any]) -> None:
    backbone = random_backbone(**architecture)
    start = backbone.module.get_parameter(name)
    task = random_task(backbone)
    method = ProLip(iterations=6, lr=5e-3)
    classifier, moved = observed_fit(method, task, backbone)
    assert moved == start.numel()
    tokens = tokens_of(backbone, task)
    half = Augment(scale=(0.5, 1.0))
    views = [(task.train.view(number, half), task.train.labels) for number in range(6)]  # type: ignore[attr-defined]
    rate, penalty = method.lr, 1 / task.shots
    moved_to = reference.projection_fitted(backbone.module, name, views, tokens, rate, penalty)
    module = reference.with_weights(backbone.module, {name: moved_to})
    assert_same_answers(classifier, module, task, tokens)
    again = method.restore(classifier.tensors(), task, backbone)
    assert torch.equal(again.logits(task.val), classifier.logits(task.val))
    far = relative_gap(moved_to, start)
    assert far > 0.01
    free = ProLip(iterations=6, lr=5e-3, penalty=0.0).fit(task, backbone, context())
    found = free.tensors()["vision.projection"]
    assert relative_gap(found if name == "visual.proj" else found.T, start) > far


def test_the_rate_of_the_projection_needs_no_half_precision() -> None:
    """At 1e-5, a step of Adam in float32 moves an entry by about its rate at most.

    The published optimizer at that rate had no second moments, in half precision.
    """
    method = ProLip()
    assert (method.lr, method.version) == (1e-3, "2")
    backbone = random_backbone()
    task, start = random_task(backbone), backbone.module.visual.proj.detach()
    moved = {}
    for rate in (method.lr, 1e-5):
        fitted = dataclasses.replace(method, lr=rate, iterations=30).fit(task, backbone, context())
        moved[rate] = (fitted.tensors()["vision.projection"] - start).abs().max()
    assert moved[1e-5] <= 30 * 1e-5
    assert moved[1e-3] > 20 * moved[1e-5]


ALL = [*(method for method, _ in TUNINGS.values()), TwoStage(iterations=3, lr=5e-3)]


@pytest.mark.parametrize("method", ALL, ids=lambda one: one.name)
def test_where_memory_is_short_the_same_numbers_come_out(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    plain = method.fit(task, backbone, context()).tensors()
    monkeypatch.setattr("fewshot_bench.training.memory.free_bytes", lambda device: 1000)
    ctx = context()
    spared = method.fit(task, backbone, ctx).tensors()
    assert ctx.notes["recomputed"] == ["text", "vision"]
    assert all(torch.equal(plain[name], spared[name]) for name in plain)


def test_the_untrained_spectrum_is_clip() -> None:
    """Exactly so in predictions; in training, where matrices are not formed, up to rounding."""
    backbone = random_backbone()
    task = random_task(backbone)
    model = ClipSvd().model(task, backbone, context())
    learned = started(ClipSvd(), task, backbone)
    merged, plain = model.merged(learned), model.frozen.parameters()
    for name, value in merged.parameters().items():
        assert torch.equal(value, plain[name]), name
    pixels = task.train.pixels  # type: ignore[attr-defined]
    factored, whole = (model.image_features(pixels, learned, one) for one in (None, merged))
    assert relative_gap(factored, whole) < TOLERANCE
    assert not torch.equal(factored, whole)


def test_no_matrix_is_formed_in_training() -> None:
    backbone = random_backbone(width=48, layers=3, quick_gelu=True)
    task, method = random_task(backbone), ClipSvd()
    model, learned = method.model(task, backbone, context()), started(method, task, backbone)
    pixels, labels = task.train.pixels[:2], task.train.labels[:2]  # type: ignore[attr-defined]
    done = Cost()
    with counting(done), FlopCounterMode(display=False) as counter:
        model.backward(pixels, labels, EncoderBatch.cross_entropy, learned, lambda loss: loss)
    # Rebuilt matrices and their whole gradients would be half of torch's count for so few tokens.
    assert done.flops == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_matrices_are_decomposed_once_for_a_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, calls = random_backbone(), []
    task, plain = random_task(backbone), torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or plain(*a, **k))
    classifier = ClipSvd(iterations=1).fit(task, backbone, context())
    first = len(calls)
    assert first > 0
    ClipSvd(iterations=2).fit(task, backbone, context())
    ClipSvd().restore(classifier.tensors(), task, backbone)
    assert len(calls) == first
    ClipSvd(iterations=1).fit(task, random_backbone(), context())
    assert len(calls) == 2 * first, "another backbone has matrices of its own"
