"""Trained parameters that cards state equal those that an optimizer is seen to train."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fewshot_bench.api.method_card import Sizes, card_of
from fewshot_bench.api.registry import registry
from fewshot_bench.profiling.optimizer import ParameterObserver
from fewshot_bench.runner.fit import Context
from tests.reference.toy import CPU, SIZE, random_backbone, random_shots, random_task
from tests.support.helpers import fsbench

# Towers of unequal width, with more blocks than any method's tokens or adapters reach.
VISION = {"image_size": SIZE, "patch_size": 8, "width": 32, "head_width": 16, "layers": 10}
SIZES = Sizes(3, 2, features=24, vision=32, text=16, layers=10, patch=8, patches=4)
BUILT_IN = [name for name, entry in registry().methods.entries.items() if entry.is_built_in]
# Options that shorten a fit and change no shape.
SHORT = {"epochs": 2, "iterations": 1, "every": 1, "search_steps": 0}


def short(name: str) -> Any:
    """The method with its default options, but few steps."""
    method = registry().method_class(name)()
    known = {field.name for field in dataclasses.fields(method)}
    return dataclasses.replace(method, **{k: v for k, v in SHORT.items() if k in known})


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_a_card_states_is_trained(name: str) -> None:
    backbone = random_backbone(width=SIZES.text, layers=SIZES.layers, vision=VISION)
    names = ("cat", "dog", "owl")
    task = random_task(backbone, classnames=names, shots=SIZES.shots, val=0)
    context, observer = Context(3, CPU), ParameterObserver()
    method = short(name)
    card = card_of(method)
    assert card is not None
    with observer.watch():
        fitted: Any = method.fit(task, backbone, context)
        if card.sees == "views":
            # What is tuned for a query is forgotten after it: parameters of one are counted.
            fitted.logits(random_shots(backbone, 1, 1, seed=5))
    observer.declared = context.declared
    assert card.trained is not None
    assert observer.trained == card.trained(SIZES)


# At ViT-B/16 with 100 classes, as papers state them.
PUBLISHED = {
    "clip-lora": 184_320,
    "cocoop": 35_360,
    "coop": 8_192,
    "ivlp": 46_080,
    "kgcoop": 2_048,
    "maple": 3_555_072,
    "mma": 674_560,
    "mmrl": 4_992_256,
    "plot++": 14_336,
    "tcp": 331_904,
    "vpt-deep": 73_728,
}


def test_the_list_has_the_facts_of_every_method() -> None:
    lines = fsbench("list", "methods").out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.split()[0] in BUILT_IN}
    assert [*rows] == sorted(BUILT_IN)
    assert rows["coop"].split("  ")[-2:] == ["8,192", "minutes"]
    assert "Zanella and Ben Ayed, CVPR Workshops 2024" in rows["clip-lora"]
    for name, count in PUBLISHED.items():
        assert f" {count:,} " in rows[name]
    assert not [line for line in rows.values() if " - " in line]
