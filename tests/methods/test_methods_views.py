"""MTA, ZERO and TPT against their mathematics, and the accidents of their official codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods import tpt
from fsbench_methods.mta import Mta, MtaClassifier
from fsbench_methods.query_views import BLOCK, CROPS, by_entropy, in_blocks
from fsbench_methods.tpt import MIXED, Tpt
from fsbench_methods.zero import Zero, ZeroClassifier
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from fewshot_bench import Augment, UsageError
from fewshot_bench.api.method_card import FitSetting
from tests.reference import views as reference
from tests.reference.coop import prompt_embeddings
from tests.reference.encoders import embedded_text_features
from tests.reference.toy import (
    CLASSNAMES,
    _tokenizer,
    context,
    random_backbone,
    random_shots,
    random_task,
)

SCALE, CLASSES, WIDTH, VIEWS = 100.0, 12, 48, 64
METHODS = (Mta(views=12), Zero(views=12), Tpt(views=12, keep=0.2))


class Scaled:
    """A backbone of which only the logit scale is asked."""

    logit_scale = SCALE


BACKBONE: Any = Scaled()


def draw(queries: int = 24, noise: float = 0.11) -> tuple[Tensor, Tensor]:
    """Unit features of views (queries, VIEWS, WIDTH) and of classes (CLASSES, WIDTH)."""
    rng = torch.Generator().manual_seed(3)
    text = F.normalize(torch.randn(CLASSES, WIDTH, generator=rng), dim=-1)
    shift = F.normalize(torch.randn(WIDTH, generator=rng), dim=-1)
    own = 0.3 * text[torch.arange(queries) % CLASSES] + 0.7 * shift
    views = own[:, None] + noise * torch.randn(queries, VIEWS, WIDTH, generator=rng)
    return F.normalize(views, dim=-1), text


def mta(text: Tensor, views: int = VIEWS) -> MtaClassifier:
    return MtaClassifier(text, BACKBONE, views, 4.0, 0.2)


def zero(text: Tensor, keep: float = 0.3, views: int = VIEWS) -> ZeroClassifier:
    return ZeroClassifier(text, BACKBONE, views, keep)


def test_mta_equals_plain_loops() -> None:
    views, text = draw()
    ours = mta(text).answer(views)
    modes = torch.stack([reference.mta_mode(one, text, SCALE) for one in views])
    assert (ours - SCALE * modes @ text.T).abs().max() < 1e-3
    assert (modes - views[:, 0]).norm(dim=1).min() > 0.05
    # The floor of bandwidths is no part of an ordinary answer.
    assert torch.equal(modes[0], reference.mta_mode(views[0], text, SCALE, floor=0.0))


def test_mta_with_equal_views_is_zero_shot_where_the_official_floor_gives_no_number() -> None:
    views, text = draw()
    equal = views[:, :1].expand(-1, VIEWS, -1)
    assert (mta(text).answer(equal) - SCALE * equal[:, 0] @ text.T).abs().max() < 1e-3
    assert reference.mta_mode(equal[0], text, SCALE, floor=0.0).isnan().all()
    assert reference.mta_mode(equal[0], text, SCALE).isfinite().all()
    # Nor do two heaps of equal views, of which one is far from the plain one.
    heaps = torch.cat([equal[:, :40], views[:, 1:2].expand(-1, 24, -1)], dim=1)
    assert mta(text).answer(heaps).isfinite().all()


def test_zero_counts_votes_and_breaks_ties_as_plain_loops() -> None:
    views, text = draw(queries=200, noise=0.25)
    answers = zero(text).answer(views)
    votes = torch.stack([reference.zero_shares(one, text, SCALE) for one in views])
    expected = [reference.zero_class(one, text, SCALE) for one in views]
    assert answers.argmax(1).tolist() == expected
    tied = (votes == votes.amax(1, keepdim=True)).sum(1) > 1
    assert 5 < tied.sum() < 100
    assert [*map(int, votes[tied].argmax(1))] != [
        label for label, equal in zip(expected, tied, strict=True) if equal
    ]
    # Votes are whole: what is added to them decides between equal ones alone.
    added = 20 * answers.exp() - votes
    assert -1e-4 < float(added.min()) < float(added.max()) < 1 + 1e-4
    torch.testing.assert_close(answers.exp().sum(1), torch.ones(200))


@pytest.mark.parametrize("keep", [0.01, 1 / VIEWS])
def test_zero_with_one_kept_view_answers_as_that_view(keep: float) -> None:
    views, text = draw(queries=60, noise=0.25)
    logits = SCALE * views @ text.T
    first = by_entropy(logits)[:, :1]
    certain = logits.gather(1, first[..., None].expand(-1, -1, CLASSES))[:, 0].argmax(1)
    assert torch.equal(zero(text, keep).answer(views).argmax(1), certain)
    assert not torch.equal(zero(text, 1.0).answer(views).argmax(1), certain)


def test_zero_is_an_epsilon_in_the_official_code_and_in_half_precision_it_shares_votes() -> None:
    views, text = draw(queries=40, noise=0.25)
    # Class prompts of a CLIP are much alike.
    text = F.normalize(text + 20 * text[:1].roll(1, 1), dim=-1)

    def shares(kind: torch.dtype) -> Tensor:
        epsilon = torch.finfo(kind).eps
        each = [reference.zero_shares(one, text, SCALE, epsilon) for one in views]
        return torch.stack(each)

    votes = torch.stack([reference.zero_shares(one, text, SCALE) for one in views])
    torch.testing.assert_close(shares(torch.float32), votes, atol=1e-3, rtol=0)
    halves = (shares(torch.float16) - votes).abs().amax(1)
    assert (halves > 0.1).float().mean() > 0.5
    close = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.201, 0.0], [0.2, 0.0]])
    share = reference.zero_shares(close[0].expand(4, -1), close[1], 100.0, 2**-10)
    assert round(float(share[0]), 2) == 0.74


def test_certain_views_have_finite_logarithms() -> None:
    views, text = draw(queries=4, noise=0.01)
    certain = replace(zero(text), backbone=type("Sharp", (), {"logit_scale": 1e4})())
    assert certain.answer(views).isfinite().all()
    assert replace(mta(text), backbone=certain.backbone).answer(views).isfinite().all()


def tuned(method: Tpt, views: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Tensor]:
    """The classifier of a random text tower, and its answers to queries with these views."""
    backbone = random_backbone()
    classifier = method.fit(random_task(backbone), backbone, context())
    monkeypatch.setattr(tpt, "in_blocks", lambda *_: iter(views.split(2)))
    with torch.no_grad():
        return classifier, classifier.logits(None)  # type: ignore[arg-type]


def queries_of(count: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    width = random_backbone().embed_dim
    noise = 0.3 * torch.randn(count, 20, width, generator=rng)
    return F.normalize(torch.randn(count, 1, width, generator=rng) + noise, dim=-1)


def encode(own: Tensor) -> Tensor:
    """Raw class features of a context, of full prompts."""
    module = random_backbone().module
    embedded = prompt_embeddings(module, _tokenizer(), CLASSNAMES, own, "end")
    return embedded_text_features(module, *embedded)


@pytest.mark.parametrize("steps", [1, 3])
def test_tpt_equals_a_plain_loop(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    views = queries_of(5)
    classifier, ours = tuned(Tpt(steps=steps), views, monkeypatch)
    scale = classifier.model.scale
    expected, _ = reference.tpt_logits(encode, classifier.context, views, scale, steps=steps)
    assert (ours - expected).abs().max() < 1e-4
    plain = scale * views[:, 0] @ classifier.model.class_features(classifier.context).T
    assert (ours - plain).abs().max() > 0.5
    # Nothing is left of a query when the next one comes.
    _, alone = tuned(Tpt(steps=steps), views[3:4], monkeypatch)
    assert torch.equal(alone, ours[3:4])


def test_recomputed_blocks_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    views = queries_of(3)
    _, expected = tuned(Tpt(), views, monkeypatch)
    monkeypatch.setattr(tpt, "TOKENS", 1)
    classifier, ours = tuned(Tpt(), views, monkeypatch)
    assert classifier.model.recompute
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_running_loss_scaler_leaves_queries_without_a_step() -> None:
    views, start = queries_of(9), torch.randn(4, 32, generator=torch.Generator().manual_seed(1))

    def answers(order: list[int], growth: int) -> tuple[Tensor, list[int]]:
        how = {"growth": growth, "factor": 2.0**18}
        rows, skipped = reference.tpt_logits(encode, start, views[order], 100.0, **how)
        return rows[torch.tensor(order).argsort()], [order[place] for place in skipped]

    forward, backward = [*range(9)], [*reversed(range(9))]
    with_scaler, skipped = answers(forward, 1)
    assert skipped
    moved, others = answers(backward, 1)
    assert skipped != others
    assert (with_scaler - moved).abs().max() > 0.1
    without, none = answers(forward, 0)
    assert not none
    assert torch.equal(without, answers(backward, 0)[0])


def test_a_first_step_moves_every_coordinate_by_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: seen.append(optimizer))
    method = Tpt(weight_decay=0.0)
    classifier, _ = tuned(method, queries_of(2), monkeypatch)
    hook.remove()
    assert len(seen) == 2
    for optimizer in seen:
        (moved,) = optimizer.param_groups[0]["params"]
        steps = (moved.detach() - classifier.context).abs()
        assert (steps - method.lr).abs().quantile(0.02) < 1e-4
        assert float(steps.max()) < 1.01 * method.lr


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_answers_follow_permuted_queries_and_classes(method: Any) -> None:
    backbone = random_backbone()
    queries = random_shots(backbone, len(CLASSNAMES), 2, seed=5)

    def ask(names: tuple[str, ...], order: Tensor) -> Tensor:
        task = random_task(backbone, classnames=names)
        part = replace(queries, pixels=queries.pixels[order], labels=queries.labels[order])
        with torch.no_grad():
            return method.fit(task, backbone, context()).logits(part)

    usual = torch.arange(len(queries))
    answers = ask(CLASSNAMES, usual)
    assert answers.shape == (len(queries), len(CLASSNAMES))
    other = ask(CLASSNAMES[::-1], usual).flip(1)
    torch.testing.assert_close(other, answers, atol=2e-2, rtol=0)
    one = ask(CLASSNAMES[:1], usual)
    assert one.shape == (len(queries), 1)
    assert one.isfinite().all()
    twice = ask(CLASSNAMES, usual[:1].expand(3))
    assert twice.isfinite().all()


def test_blocks_hold_the_plain_view_and_then_the_own_ones() -> None:
    backbone = random_backbone()
    queries = random_shots(backbone, 1, BLOCK + 6, seed=5)
    blocks = [*in_blocks(queries, 4)]
    assert [len(block) for block in blocks] == [BLOCK, 6]
    whole = torch.cat(blocks)
    assert torch.equal(whole[:, 0], queries.features)
    assert torch.equal(whole[:, 1:], queries.views(3, CROPS).transpose(0, 1))
    assert Augment(interpolation="bilinear") == CROPS


def test_published_values_mix_the_crops_of_ten_data_sets() -> None:
    for name in (*MIXED, "imagenet", "imagenet-r"):
        found = Tpt().card.published_in(FitSetting(name, 16, False))
        assert found == ({"augmix": True} if name in MIXED else {})
    assert Tpt(augmix=True).augment == replace(CROPS, augmix=True)
    assert Tpt().augment == CROPS
    assert Tpt(views=16).card.views_per_query == 16
    assert len(MIXED) == 10


@pytest.mark.parametrize("kind", [Mta, Zero, Tpt])
def test_a_query_needs_more_than_its_plain_view(kind: Any) -> None:
    with pytest.raises(UsageError, match=r"views=1.*at least 2"):
        kind(views=1)
