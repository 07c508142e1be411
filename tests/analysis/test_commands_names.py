"""Commands for cells with arbitrary names and values, parsed only by `run`'s options."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.spec import PRECISIONS, RunSpec
from fewshot_bench.cli.run import command as run_command
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from tests.analysis.test_commands import distinct

Identity = tuple[Any, ...]


def model_cells(line: str) -> Iterator[Identity]:
    """Cells requested by a command, from its options only, without loading methods or data."""
    words = shlex.split(line)
    assert words[:2] == ["fsbench", "run"]
    asked = run_command.make_context("run", words[2:]).params
    halves = [(part, "") for part in asked["classes"] if part != "none"]
    evaluations = [
        (dataset, *pair)
        for dataset in asked["datasets"]
        for pair in [*halves, *(("all", target) for target in asked["transfer"] or ())]
        if pair[1] != dataset
    ]
    conditions = [asked[name] for name in ("backbone", "protocol", "val", "prompts", "precision")]
    conditions += [asked["devices"], asked["limit"], asked["templates"], asked["holdout"]]
    for method, evaluation, shots, seed in itertools.product(
        asked["methods"], evaluations, asked["shots"], asked["seeds"]
    ):
        options: dict[str, list[str]] = {}
        for option in asked["options"]:
            name, _, values = option.partition("=")
            owner, _, name = name.rpartition(".")
            if owner == method:
                options[name] = values.split(",")
        split = seed if asked["split_seed"] is None else asked["split_seed"]
        for values in itertools.product(*options.values()):
            chosen = frozenset(zip(options, values, strict=True))
            yield (method, chosen, *evaluation, shots, split, seed, *conditions)


def model_cell(spec: RunSpec) -> Identity:
    """Identity of a specification."""
    chosen = frozenset((name, str(value)) for name, value in spec.overrides.items())
    what = (spec.method, chosen, spec.dataset, spec.classes, spec.target, spec.shots)
    named = (spec.backbone, spec.protocol, spec.val, spec.prompts, spec.precision)
    own = (tuple(spec.data.get("templates", ())), spec.data.get("holdout"))
    return (*what, spec.split_seed, spec.train_seed, *named, (spec.device,), spec.limit, *own)


ODD = st.text("ab'\"$&;|*?<>~#!\\`(){}[]-é→ .:/%", min_size=1, max_size=6)
ANY = ODD | st.text(st.characters(codec=None), min_size=1, max_size=4)
SPECS = st.builds(
    RunSpec,
    method=ANY,
    dataset=ANY,
    shots=st.integers(1, 3),
    split_seed=st.integers(0, 2),
    train_seed=st.integers(0, 2),
    backbone=st.just("tiny") | ODD,
    protocol=st.sampled_from(sorted(SAMPLERS)),
    val=st.sampled_from(sorted(VALIDATION)),
    prompts=st.sampled_from(sorted(TEMPLATE_SETS)),
    precision=st.sampled_from(PRECISIONS),
    device=st.sampled_from(["cpu", "cuda"]),
    limit=st.none() | st.integers(1, 3),
    overrides=st.dictionaries(st.sampled_from(["rank", "lr"]), ODD | st.integers(), max_size=2),
    data=st.fixed_dictionaries(
        {}, optional={"holdout": st.just(0.25), "templates": distinct(ODD).map(list)}
    ),
)
# Few values per field, so that cells have much in common.
VARIED = st.fixed_dictionaries(
    {
        "shots": st.integers(1, 3),
        "split_seed": st.integers(0, 2),
        "train_seed": st.integers(0, 2),
        "overrides": st.sampled_from([{}, {"rank": 1}, {"rank": 2}, {"rank": 1, "lr": 0.5}]),
        "asked": st.sampled_from([("all", ""), ("base", ""), ("new", ""), ("all", "t")]),
        "dataset": st.sampled_from(["one", "two words", "t'"]),
        "method": st.sampled_from(["coop", "it's"]),
    }
)


def varied(spec: RunSpec, values: dict[str, Any]) -> RunSpec:
    classes, target = values["asked"]
    plain = {name: value for name, value in values.items() if name != "asked"}
    return dataclasses.replace(spec, classes=classes, target=target, **plain)


@settings(max_examples=60)
@given(st.lists(SPECS, min_size=1, max_size=2), st.lists(VARIED, max_size=12))
def test_any_names_and_values_are_said_as_they_are_or_named(specs: Any, values: Any) -> None:
    specs = [*specs, *(varied(specs[0], own) for own in values)]
    lines, remarks = commands_of(specs, "my store's")
    said = Counter(cell for line in lines for cell in model_cells(line))
    wanted = {model_cell(spec): spec for spec in specs}
    assert set(said) <= set(wanted)
    assert set(said.values()) <= {1}
    left_out = [spec for cell, spec in wanted.items() if cell not in said]
    # Only own templates combined with other prompts, and texts with an equals sign, a leading or
    # trailing blank, a hidden character, or a backslash at the end of an option.
    assert all(remarks for _ in left_out)
    for spec in left_out:
        if spec.data.get("templates") and spec.prompts != "custom":
            continue
        values = [str(value) for value in spec.overrides.values()]
        texts = [spec.method, spec.dataset, spec.target, *values]
        texts += [spec.backbone, *spec.data.get("templates", ())]
        assert any(t.endswith("\\") for t in values) or any(
            "=" in t or t != t.strip() or not t.isprintable() for t in texts
        )
