"""Mistyped values are rejected at once; images are returned with their labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench import Augment, ContractError, DatasetCard, Item, Shots
from fewshot_bench.api.backbone import ENCODERS, MATRICES
from fewshot_bench.backbones import Site
from fewshot_bench.runner.fit import Context
from fewshot_bench.runner.preflight import check_items
from fewshot_bench.testing import Bench, toy_backbone
from fewshot_bench.utils.errors import FsbenchError
from tests.support.breakers import Head

CPU = torch.device("cpu")
CARD: dict[str, Any] = {"name": "x", "title": "X", "classnames": ("cat", "dog")}


@pytest.fixture(scope="module")
def train() -> Shots:
    """The support set of a fit on the toy task: four classes, four shots."""
    return Bench(Head()).first.task.train


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Site("image", 0, "q"), "Site.encoder is 'image': did you mean 'vision'?"),
        (lambda: Site("Vision", 0, "q"), "did you mean 'vision'?"),
        (lambda: Site("vision", 0, "query"), "Site.matrix is 'query': did you mean 'q'?"),
        (lambda: Site("vision", 0, "c_proj"), "did you mean 'proj'?"),
        (lambda: Site("vision", 0, "w"), "expected one of q, k, v, o, fc, proj"),
        (lambda: Site("vision", "q", 0), "Site.matrix is 0, expected one of"),
        (lambda: Site("vision", -1, "q"), "Site.layer is -1, expected a whole number from 0"),
        (lambda: Site("vision", 1.0, "q"), "Site.layer is 1.0"),
        (lambda: Site("vision", True, "q"), "Site.layer is True"),
        (lambda: Augment(0.5), "Augment.scale is 0.5, expected (low, high)"),
        (lambda: Augment((0.5, 2)), "both above 0 up to 1"),
        (lambda: Augment((0.9, 0.5)), "Augment.scale"),
        (lambda: Augment((0, 1)), "Augment.scale"),
        (lambda: Augment((math.nan, 1)), "Augment.scale"),
        (lambda: Augment(ratio=1), "Augment.ratio"),
        (lambda: Augment(flip=True), "Augment.flip is True, expected a probability"),
        (lambda: Augment(flip=1.5), "Augment.flip is 1.5"),
        (lambda: Context(1, CPU).rng(""), "expected the name of a stream"),
        (lambda: Context(1, CPU).rng(3), "ctx.rng(3): expected the name of a stream"),
        (lambda: Context(1, CPU, on_progress=print).progress("1", 2), "ctx.progress: done is '1'"),
        (lambda: Context(1, CPU).count_selection(-5, 3), "configurations is -5, expected a whole"),
        (lambda: Context(1, CPU).count_selection(5, 1.5), "labels is 1.5, expected a whole number"),
        (lambda: Context(1, CPU).declare_trained(-3), "parameters is -3, expected a whole number"),
        (lambda: DatasetCard(**CARD | {"classnames": "cat"}), "expected several texts: ('cat',)"),
        (lambda: DatasetCard(**CARD | {"classnames": (1, 2)}), "DatasetCard.classnames has 1"),
        (lambda: DatasetCard(**CARD, custom_templates="a {}."), "DatasetCard.custom_templates"),
        (lambda: DatasetCard(**CARD, custom_templates=("a photo",)), "expected a text with {}"),
        (lambda: DatasetCard(**CARD, counts={"valid": 3}), "did you mean 'val'?"),
        (
            lambda: check_items(DatasetCard(**CARD), {"training": [Item("a", 0, "cat")]}),
            "did you mean 'train'?",
        ),
    ],
)
def test_what_is_mistyped_is_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ContractError) as error:
        make()
    assert reason in str(error.value)


@given(
    st.sampled_from([*ENCODERS, "image"]) | st.text(),
    st.integers(),
    st.sampled_from([*MATRICES, "query"]) | st.text(),
)
def test_a_site_is_one_that_towers_have_or_refused(encoder: Any, layer: int, matrix: str) -> None:
    fits = encoder in ENCODERS and matrix in MATRICES and layer >= 0
    try:
        Site(encoder, layer, matrix)
    except FsbenchError:
        assert not fits
    else:
        assert fits


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_every_documented_site_has_a_matrix(encoder: Any, matrix: str) -> None:
    backbone = toy_backbone("cpu")
    tower: Any = backbone.image_tower() if encoder == "vision" else backbone.text_tower()
    for layer in range(tower.layers):
        assert tower.weight(Site(encoder, layer, matrix)).ndim == 2
    beyond = Site(encoder, tower.layers, matrix)
    with pytest.raises(ContractError, match=f"has {tower.layers} layers, 0 to"):
        tower.weight(beyond)
    with pytest.raises(ContractError, match=f"has {tower.layers} layers, 0 to"):
        tower.with_deltas({beyond: torch.zeros(1)})


def test_an_augmentation_may_be_written_with_lists_and_whole_numbers() -> None:
    assert Augment([0.5, 1], (1, 1), 0) == Augment((0.5, 1.0), (1.0, 1.0), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"size": 0}, "batches: size is 0, expected a whole number from 1"),
        ({"size": 2.5}, "batches: size is 2.5"),
        ({"size": 4, "order": torch.tensor([99])}, "holds 99, and there are 16 images"),
        ({"size": 4, "order": torch.ones(16, dtype=torch.bool)}, "mask.nonzero()"),
        ({"size": 4, "order": torch.tensor([0.5])}, "expected indices of images"),
        ({"size": 4, "order": torch.tensor([[1]])}, "expected indices of images"),
        ({"size": 4, "augment": True}, "augment is True, expected Augment"),
        ({"size": 4, "augment": Augment()}, "rng=ctx.rng('augment')"),
        ({"size": 4, "augment": Augment(), "rng": 1}, "rng=ctx.rng('augment'), not 1"),
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_what_batches_cannot_give(
    train: Shots, arguments: dict[str, Any], reason: str, labels: bool
) -> None:
    with pytest.raises(ContractError) as error:
        next(iter(train.batches(**arguments, labels=labels)))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((0, Augment()), "views: count is 0"),
        ((1, None), "views: augment is None"),
        ((1, Augment(), "augment"), "rng=ctx.rng('augment'), not 'augment'"),
    ],
)
def test_what_views_cannot_give(train: Shots, arguments: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(ContractError) as error:
        train.views(*arguments)
    assert reason in str(error.value)


def test_what_views_cannot_visit(train: Shots) -> None:
    with pytest.raises(ContractError, match="views: order holds 16, and there are 16 images"):
        train.views(1, Augment(), order=torch.tensor([3, 16]))


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 20),
    order=st.none() | st.lists(st.integers(0, 15), max_size=40),
    augmented=st.booleans(),
)
def test_labels_are_those_of_the_images_beside_them(
    train: Shots, size: int, order: list[int] | None, augmented: bool
) -> None:
    places = None if order is None else torch.tensor(order, dtype=torch.int64)
    visited = list(range(16)) if order is None else order

    def passed() -> dict[str, Any]:
        rng = torch.Generator().manual_seed(3)
        drawn = {"augment": Augment(), "rng": rng} if augmented else {}
        return {"order": places, "device": "cpu", **drawn}

    plain = list(train.batches(size, **passed()))
    both = list(train.batches(size, labels=True, **passed()))
    assert len(plain) == len(both) == math.ceil(len(visited) / size)
    for pixels, (same, labels) in zip(plain, both, strict=True):
        assert torch.equal(pixels, same)
        assert len(labels) == len(pixels)
        assert labels.device == pixels.device
    found = [int(label) for _, labels in both for label in labels]
    assert found == [int(train.labels[index]) for index in visited]


def test_queries_have_no_labels_to_ask_for() -> None:
    watched = Bench(Head()).first.view()
    queries: Any = watched._view
    with pytest.raises(TypeError, match="labels"):
        queries.batches(4, labels=True)
