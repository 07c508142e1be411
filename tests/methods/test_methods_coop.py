"""CoOp against its mathematics: logits, gradients, prompts and schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fsbench_methods.coop import CoOp

from fewshot_bench import Augment, Task, UsageError
from fewshot_bench.training import epoch_views, minibatches, steps_per_epoch
from fewshot_bench.training.provisional import views_in_turn
from tests.reference import coop as reference
from tests.reference.toy import CPU, context, random_backbone, random_task, relative_gap

TOLERANCE = 1e-5


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True], ids=["shared", "per-class"])
@pytest.mark.parametrize("tokens", [16, 5, 1])
def test_loss_and_gradient_equal_the_reference(
    position: Any, class_specific: bool, tokens: int
) -> None:
    backbone = random_backbone(width=32, layers=2)
    task = random_task(backbone)
    method = CoOp(position=position, class_specific=class_specific, context_tokens=tokens)
    tower = backbone.text_tower()
    start = method.initial_context(task, backbone, tower, context())
    ours = start.clone().requires_grad_()
    theirs = start.clone().requires_grad_()
    features, labels = task.train.features[::2], task.train.labels[::2]
    model = method.model(task, backbone, tower, tokens, context())
    batch = model.batch(ours, features, labels)
    loss = batch.cross_entropy()
    loss.backward()
    expected, logits = reference.loss(
        backbone.module, backbone.tokenizer, task.classnames, theirs, position, features, labels
    )
    expected.backward()
    assert relative_gap(batch.logits, logits) < TOLERANCE
    assert relative_gap(loss, expected) < TOLERANCE
    assert ours.grad is not None
    assert theirs.grad is not None
    assert relative_gap(ours.grad, theirs.grad) < TOLERANCE


def test_words_start_the_context_as_the_prompt_that_they_spell() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    method = CoOp(context_init="a_photo of a")
    tower = backbone.text_tower()
    start = method.initial_context(task, backbone, tower, context())
    assert start.shape == (4, 32)
    model = method.model(task, backbone, tower, 4, context())
    assert relative_gap(model.class_features(start), backbone.class_features(task)) < TOLERANCE


def test_a_random_context_has_the_documented_spread() -> None:
    backbone = random_backbone()
    method = CoOp(class_specific=True)
    task = random_task(backbone, classnames=tuple(map(str, range(50))), shots=1, val=0)
    start = method.initial_context(task, backbone, backbone.text_tower(), context())
    assert start.shape == (50, 16, 32)
    assert float(start.std()) == pytest.approx(0.02, rel=0.03)


def test_epochs_follow_the_shots() -> None:
    lengths = {shots: CoOp().epochs_for(shots) for shots in (1, 2, 4, 8, 16)}
    assert lengths == {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}
    assert CoOp(epochs=7).epochs_for(16) == 7


def test_views_are_spread_over_the_shots() -> None:
    views = {shots: CoOp(class_views=64).views_for(shots) for shots in (1, 2, 4, 8, 16, 100)}
    assert views == {1: 50, 2: 32, 4: 16, 8: 8, 16: 4, 100: 1}
    assert CoOp().views_for(4) == 100
    assert CoOp(epochs=3, class_views=64).views_for(1) == 3


def test_a_short_last_batch_is_dropped_only_beside_a_full_one() -> None:
    rng = torch.Generator().manual_seed(0)
    for count, sizes in ((70, [32, 32]), (64, [32, 32]), (31, [31]), (1, [1])):
        batches = minibatches(count, 32, rng, CPU, drop_last=True)
        assert [len(batch) for batch in batches] == sizes
        assert steps_per_epoch(count, 32, drop_last=True) == len(sizes)


@pytest.mark.parametrize("class_views", [0, 6], ids=["all", "in turn"])
def test_a_whole_fit_equals_plain_training_on_the_same_views(class_views: int) -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    method = CoOp(epochs=4, batch_size=8, context_tokens=3, lr=0.1, class_views=class_views)
    classifier = method.fit(task, backbone, context())
    ctx = context()
    tower = backbone.text_tower()
    plain = method.initial_context(task, backbone, tower, ctx).requires_grad_()
    optimizer = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=5e-4)
    order = ctx.rng("order")
    views = task.train.views(4, Augment())
    if class_views:
        drawn = views_in_turn(task.train, 4, Augment(), ctx.rng("augment"), 2)
        views = torch.stack(list(drawn))
    for features, rate in zip(views, reference.dassl_rates(0.1, 1e-5, 4), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        for index in torch.randperm(18, generator=order).split(8)[:2]:
            loss, _ = reference.loss(
                backbone.module,
                backbone.tokenizer,
                task.classnames,
                plain,
                "end",
                features[index],
                task.train.labels[index],
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    moved = plain.detach() - method.initial_context(task, backbone, tower, context())
    assert moved.abs().max() > 0.01
    assert relative_gap(classifier.tensors()["context"], plain.detach()) < 1e-4


def test_where_memory_is_short_the_same_numbers_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone()
    task, method = random_task(backbone), CoOp(epochs=3, lr=0.1)
    plain = method.fit(task, backbone, context()).tensors()["context"]
    monkeypatch.setattr("fewshot_bench.training.memory.free_bytes", lambda device: 1000)
    ctx = context()
    spared = method.fit(task, backbone, ctx).tensors()["context"]
    assert ctx.notes["recomputed"] == ["text"]
    assert torch.equal(plain, spared)


def test_views_are_asked_for_in_bounded_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot_bench.training.batches.VIEW_BYTES", 4 * 24 * 18 * 3)
    task = random_task(random_backbone())
    views = list(epoch_views(task.train, 7, Augment(), 24, start=2))
    assert torch.equal(torch.stack(views), task.train.views(7, Augment(), start=2))
    assert [view.shape for view in views] == [(18, 24)] * 7
    assert not torch.equal(views[0], views[3])


def test_few_views_are_taken_in_turn() -> None:
    task = random_task(random_backbone())
    rng = torch.Generator().manual_seed(0)
    fixed = task.train.views(3, Augment())
    taken = torch.stack(list(views_in_turn(task.train, 7, Augment(), rng, 3)))
    assert taken.shape == (7, 18, 24)
    for start in (0, 3):
        round_ = taken[start : start + 3]
        turns = (round_[:, None] == fixed[None]).all(dim=-1).float().argmax(dim=1)
        assert (turns.sort(dim=0).values == torch.arange(3)[:, None]).all()
        assert len(set(map(tuple, turns.T.tolist()))) > 2, "every image has an order of its own"
    assert not torch.equal(taken[:3], taken[3:6])


def test_a_name_too_long_for_the_context_is_refused() -> None:
    backbone = random_backbone()
    task = random_task(backbone)
    long = Task(("word " * 65, "cat"), task.templates, task.train)
    with pytest.raises(UsageError, match="shorten"):
        CoOp(epochs=1).fit(long, backbone, context())


def test_views_in_turn_are_the_same_where_only_some_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    task = random_task(random_backbone())
    every, some = (torch.Generator().manual_seed(0) for _ in range(2))
    whole = list(views_in_turn(task.train, 7, Augment(), every, 5, 24))
    monkeypatch.setattr("fewshot_bench.training.batches.VIEW_BYTES", 4 * 24 * 18 * 2)
    asked, views = [], task.train.views

    def counted(count: int, *rest: object, **more: object) -> torch.Tensor:
        asked.append(count)
        return views(count, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(task.train, "views", counted, raising=False)
    parts = list(views_in_turn(task.train, 7, Augment(), some, 5, 24))
    assert torch.equal(torch.stack(parts), torch.stack(whole))
    assert max(asked) == 2
    assert torch.equal(every.get_state(), some.get_state())
