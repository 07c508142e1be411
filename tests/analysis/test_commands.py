"""Printed commands: `run` accepts them, and they describe exactly the cells."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.api.dataset import TEMPLATE_SETS
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import AUTO, PRECISIONS, RunSpec, settle_exif
from fewshot_bench.cli.engines import split_values
from fewshot_bench.cli.run import command as run_command
from fewshot_bench.engines.asking import ask
from fewshot_bench.runner.own_data import read_own_data
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import make, run_compare, save
from tests.support.helpers import fsbench
from tests.support.own_sets import picture

# Another value for every field that a command sets; the others follow from data, weights and code.
OTHER: dict[str, Any] = {
    "method": "other",
    "dataset": "pets",
    "shots": 2,
    "split_seed": 7,
    "train_seed": 7,
    "backbone": "ViT-B-16/openai",
    "protocol": "nested",
    "val": "none",
    "prompts": "simple",
    "precision": "bf16",
    "device": "cuda",
    "limit": 40,
    "overrides": {"rank": 2},
    "classes": "base",
    "target": "pets",
    "data": {"holdout": 0.25},
    "exif": "rotate",
    "published": True,
    "augment": "device",
    "queries": "all",
    "views": 64,
    "bystanders": "new",
    "texts": "waffle",
    "pooling": "mean",
}
FOLLOWS = {"options", "inner", "method_version", "revision", "target_revision", "weights", "picks"}


def cells_of(line: str) -> list[RunSpec]:
    """The cells that an `fsbench run` line would compute on this installation."""
    values = run_command.make_context("run", shlex.split(line)[2:]).params
    return expand(ask(*split_values(values))).cells


def distinct(values: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunSpec)])
def test_every_field_of_a_cell_is_in_the_commands(field: str) -> None:
    """A new field must be added to `Matrix` of signature/line.py, and here."""
    assert (field in OTHER) != (field in FOLLOWS)
    if field in OTHER:
        spec = make().spec
        other = dataclasses.replace(spec, **{field: OTHER[field]})
        assert commands_of([spec])[0] != commands_of([other])[0]


def test_every_part_of_own_data_is_in_the_commands() -> None:
    """Each part is an option of `read_own_data`, except for the result of --skip-damaged."""
    values = {"classnames": ["a"], "templates": ["a {}"], "holdout": 0.25}
    assert set(inspect.signature(read_own_data).parameters) == set(values)
    skipped = {"skipped": {"dtd": ["a"]}}
    ((line,), _) = commands_of([make(data=values | skipped).spec])
    assert all(f" --{name} " in line for name in values)
    assert "--skip-damaged" in line


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose path needs shell quoting, with a file of class names beside it."""
    root = tmp_path_factory.mktemp("own") / "it's $HOME & more"
    for label, name in enumerate(("a", "b", "c")):
        (root / name).mkdir(parents=True)
        for number in range(30):
            (root / name / f"{number}.png").write_bytes(picture(30 * label + number))
    (root.parent / "names.json").write_text(json.dumps(["x y", "z", "é"]), encoding="utf-8")
    return root


ASKED: list[dict[str, Any]] = [
    {},
    {"classes": ("base", "new")},
    {"classes": ("all", "new")},
    {"transfer": ("letters",)},
    {"transfer": ("letters", "digits"), "classes": ("none",)},
]
OWN: list[dict[str, Any]] = [
    {},
    {"holdout": 0.25},
    {"templates": ["it's a {}."], "holdout": 0.5},
    {"classnames": ["x y", "z", "é"]},
]
REQUESTS = st.fixed_dictionaries(
    {
        "methods": st.sampled_from([("zero-shot",), ("clip-lora", "zero-shot"), ("coop",)]),
        "options": st.sampled_from([(), ("rank=1,2", "matrices=q,qv"), ("lr=1e-5,0.001",)]),
        "datasets": st.sampled_from([("digits",), ("digits", "letters"), ("OWN",)]),
        "shots": distinct(st.sampled_from([1, 2, 4])),
        "seeds": distinct(st.integers(0, 4)),
        "split_seed": st.none() | st.integers(0, 2),
        "protocol": st.sampled_from(["fair", "clip-lora-paper", "nested"]),
        "val": st.sampled_from([None, "none", "shots"]),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "limit": st.none() | st.just(40),
        "asked": st.sampled_from(ASKED),
        "data": st.sampled_from(OWN),
    }
)


def cells(wanted: dict[str, Any], folder: Path) -> list[RunSpec]:
    """Cells of a request; empty if `run` rejects it."""
    values = {key: value for key, value in wanted.items() if key not in ("asked", "data")}
    if values["datasets"] == ("OWN",):
        values |= {"datasets": (f"folder:{folder}",), "data": wanted["data"]}
    try:
        return expand(Request(**values, **wanted["asked"])).cells
    except UsageError:
        return []


def identity(spec: RunSpec) -> str:
    """Key of a specification without the facts that a run adds."""
    plain = dataclasses.replace(spec, revision="", target_revision="", picks="")
    return plain.key()


def missing(records: list[Record]) -> tuple[list[str], set[str]]:
    """Commands of a table, and the cells that the table expects but the records lack."""
    table = build(records, Options(allow_mixed=True))
    expected = set()
    for cell in table.cells.values():
        group = cell.group
        for seed in () if group.derived or not cell.expected else cell.missing_seeds:
            spec = dataclasses.replace(
                cell.row.spec,
                dataset=group.dataset,
                target=group.target,
                classes=group.scope if group.scope in ("base", "new") else "all",
                shots=cell.shots,
                split_seed=seed.split,
                train_seed=seed.train,
                data=cell.own_data,
                exif=settle_exif(AUTO, group.dataset, group.target),
            )
            # Own templates replace custom prompts: a command cannot request both.
            if spec.prompts == "custom" or "templates" not in spec.data:
                expected.add(identity(spec))
    return list(table.commands), expected


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=1, max_size=3), st.data())
def test_the_commands_of_any_store_say_exactly_what_is_missing(
    own_folder: Path, wanted: Any, data: Any
) -> None:
    specs = {spec.key(): spec for values in wanted for spec in cells(values, own_folder)}
    if not specs:
        return
    gone = data.draw(st.sets(st.sampled_from(sorted(specs)), max_size=min(8, len(specs) - 1)))
    records = [Record(spec, "done") for key, spec in specs.items() if key not in gone]
    lines, expected = missing(records)
    names = shlex.join(["--classnames", str(own_folder.parent / "names.json")])
    said = [line.replace("--classnames FILE", names) for line in lines]
    again = Counter(identity(cell) for line in said for cell in cells_of(line))
    assert set(again) == expected
    assert set(again.values()) <= {1}


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(st.lists(REQUESTS, min_size=1, max_size=2), st.data())
def test_the_commands_of_cells_compute_exactly_these(
    own_folder: Path, wanted: Any, data: Any
) -> None:
    every = [spec for values in wanted for spec in cells(values, own_folder)]
    # Own templates replace custom prompts: a command cannot request both.
    said = [spec for spec in every if spec.prompts == "custom" or "templates" not in spec.data]
    specs = {spec.key(): spec for spec in said}
    if not specs:
        return
    gone = data.draw(st.sets(st.sampled_from(sorted(specs)), max_size=min(3, len(specs) - 1)))
    kept = [spec for key, spec in specs.items() if key not in gone]
    names = shlex.join(["--classnames", str(own_folder.parent / "names.json")])
    lines = [line.replace("--classnames FILE", names) for line in commands_of(kept)[0]]
    again = Counter(identity(cell) for line in lines for cell in cells_of(line))
    assert set(again) == set(map(identity, kept))
    assert set(again.values()) <= {1}


def test_crossed_seeds_are_run_as_they_are_printed(tmp_path: Path) -> None:
    """After running the command, nothing is missing."""
    shared: dict[str, Any] = {"datasets": ("digits",), "shots": (1,), "limit": 20}
    wanted = [
        Request(("tip-adapter",), seeds=(1, 2), split_seed=1, **shared),
        Request(("zero-shot",), seeds=(1,), **shared),
    ]
    cells = [cell for request in wanted for cell in expand(request).cells]
    code = {cell.method: {"code": registry().code(cell.method)} for cell in cells}
    store = save(
        tmp_path / "store",
        [Record(c, "done", metrics={"top1": 5.0}, environment=code[c.method]) for c in cells],
    )
    (line,) = to_run(store)
    assert "--seeds 2 --split-seed 1 " in line
    done = fsbench(*shlex.split(line)[1:])
    assert done.code == 0, done.err
    assert " 0 done already" in done.out
    assert to_run(store) == []


def to_run(store: Path) -> list[str]:
    """Commands printed by `compare`."""
    shown = json.loads(fsbench("compare", "--store", str(store), "--format", "json").out)
    return list(shown["meta"]["missing_commands"])


def test_transfers_alone_are_one_command() -> None:
    """A fit is not evaluated again on its own data set, which may not even be in the store."""
    plain = [make(name, "digits", backbone="tiny") for name in ("coop", "zero-shot")]
    transfer = make("coop", "digits", backbone="tiny", target="letters")
    (line,) = build([*plain, transfer]).commands
    assert "--transfer letters --classes none" in line
    assert [cell.target for cell in cells_of(line)] == ["letters"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--classes", "none"), "leaves nothing to evaluate: add --transfer"),
        (("--classes", "none,base"), "leaves nothing to evaluate"),
        (("--classes", "none,all", "--transfer", "letters"), "leave --classes out"),
    ],
)
def test_nothing_to_evaluate_is_refused(words: tuple[str, ...], said: str) -> None:
    shown = fsbench("run", "-m", "zero-shot", "-d", "digits", *words, "--dry-run")
    assert shown.code == 2
    assert said in shown.err


def test_what_no_command_can_say_is_a_note(tmp_path: Path) -> None:
    records = [make("a=b"), make("coop", seed=2), make("coop", seed=3)]
    shown = run_compare("--store", save(tmp_path / "store", records))
    assert "no command can express the name 'a=b'" in shown.output
    assert "--method a" not in shown.output
    assert "--method coop" in shown.output


# Names and values of any kind: what `run` understands of commands, without methods or data.
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
