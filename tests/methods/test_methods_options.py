"""Options of built-in methods: values out of range, and those without effect, are refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fewshot_bench import UsageError
from fewshot_bench.api.registry import registry

NAN = float("nan")
# Values out of range by option; a list holds several values.
WRONG: dict[str, dict[str, Any]] = {
    "adalora": {"start_rank": 1, "final": 0.95, "orthogonality": -1.0, "rank": 0},
    "bitfit": {"lr": 0.0},
    "clip-adapter": {"ratio": 2.0},
    "clip-lora": {
        "rank": 0,
        "dropout": 1.0,
        "matrices": ["q,k", "", "qq"],
        "encoder": "audio",
        "position": "up",
        "lr": NAN,
        "eta_min": 1.0,
        "iterations": -1,
    },
    "clip-svd": {"lr": 0.0, "weight_decay": -1.0},
    "coop": {
        "context_tokens": 0,
        "position": "start",
        "context_init": "  ",
        "epochs": -1,
        "lr": 0.0,
        "batch_size": 0,
    },
    "dora": {"rank": 0, "matrices": "x", "dropout": 1.0, "lr": -1},
    "gda": {"crop": 0.0},
    "kgcoop": {"weight": -1},
    "linear-probe": {"init": "zero", "c": 0.0, "search_steps": -1},
    "ln-tuning": {"lr": [0.0, 1e-7]},
    "lp++": {"momentum": 1.0},
    "plot++": {"epochs": -1},
    "prograd": {"lr": 0},
    "prolip": {"lr": 0.0, "crop": 0.0, "penalty": -1.0},
    "2sfs": {"lr": 0.0, "share": 1.0, "batch_size": 0},
    "taskres": {"scale": 0.0},
    "ape": {"channels": [0.0, 1.1], "similarity": -0.1, "gamma_scale": 0.0, "init_gamma": -1.0},
    "ape-t": {"channels": 0.0, "similarity": 2.0, "lr": 0.0, "eps": 0.0, "weight_decay": -1.0},
    "tip-adapter": {"views": 0, "crop": 0.0, "beta_scale": 0.05, "init_alpha": -1.0},
    "tip-adapter-f": {"views": 0, "crop": 0.0, "beta_scale": 0.05, "init_alpha": -1.0},
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_with_the_next_step(name: str) -> None:
    kind, said = registry().method_class(name), re.escape(name)
    for field, values in WRONG[name].items():
        for value in values if isinstance(values, list) else [values]:
            with pytest.raises(UsageError, match=rf"^{said}: {field}=.*fsbench show {said}"):
                kind(**{field: value})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("kgcoop", {"context_tokens": 8}),
        ("cocoop", {"context_tokens": 8}),
        ("coop", {"context_tokens": 8, "context_init": "a photo of a"}),
        ("coop", {"init_std": 0.1, "context_init": "a photo of a"}),
        ("prograd", {"context_init": "a photo", "random_init": True}),
        ("prograd", {"init_std": 0.1}),
    ],
    ids=str,
)
def test_options_without_effect_are_refused(name: str, options: dict[str, Any]) -> None:
    field = next(iter(options))
    with pytest.raises(UsageError, match=f"{name}: {field}=.*: expected no "):
        registry().method_class(name)(**options)
