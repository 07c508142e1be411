"""From a request to an ordered list of cells, checked before anything trains."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.dataset import TEMPLATE_SETS
from fewshot_bench.errors import (
    DataMissingError,
    PluginError,
    UsageError,
    unknown,
)
from fewshot_bench.method import (
    Hyperparameter,
    configuration,
    find_parameter,
    hyperparameters,
    parse_value,
)
from fewshot_bench.preflight import check_items
from fewshot_bench.registry import Registry, registry
from fewshot_bench.spec import PRECISIONS, PROTOCOLS, VALIDATION, RunSpec
from fewshot_bench.splits import check_shots

if TYPE_CHECKING:
    from fewshot_bench.dataset import Dataset
    from fewshot_bench.store import Store

# A preset fixes the sampling protocol, the validation policy and the prompts at once.
PRESETS: Mapping[str, tuple[str, str, str]] = {
    "fair": ("coop", "min4", "custom"),
    "clip-lora-paper": ("clip-lora", "none", "simple"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What a person asked for; lists span the matrix. None means: as the protocol says."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    split_seed: int | None = None
    options: tuple[str, ...] = ()
    backbone: str = "tiny"
    device: str = "cpu"
    precision: str = "fp32"
    protocol: str = "fair"
    val: str | None = None
    prompts: str | None = None
    limit: int | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with one set of hyper-parameters."""

    method: str
    options: Mapping[str, Any]
    overrides: Mapping[str, Any]
    version: str


@dataclasses.dataclass
class Plan:
    """Cells in the order in which they run; `problems` says which data sets cannot, and why."""

    cells: list[RunSpec]
    datasets: dict[str, Dataset]
    problems: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Resume:
    """Which cells of a plan are left, which are there, and which failed before."""

    todo: list[RunSpec]
    done: list[RunSpec]
    failed: list[RunSpec]


def expand(request: Request) -> Plan:
    """Every cell of the request. UsageError for any name or value that is not known."""
    known = registry()
    variants = _variants(request, known)
    names = known.expand_datasets(request.datasets)
    sampling, val, prompts = _protocol(request)
    _check_numbers(request)
    plan = Plan([], {}, {})
    revisions = {}
    for name in names:
        try:
            dataset = known.dataset(name)
            name = _canonical(name, dataset)
            revisions[name] = _revision(name, dataset, request.shots, val)
            plan.datasets[name] = dataset
        except DataMissingError as error:
            plan.problems[name] = str(error)
    weights = _weights(request.backbone)
    # Methods vary fastest, so that cells that share a support set follow one another.
    matrix = itertools.product(plan.datasets, request.shots, request.seeds, variants)
    for name, shots, seed, variant in matrix:
        plan.cells.append(
            RunSpec(
                method=variant.method,
                dataset=name,
                shots=shots,
                split_seed=seed if request.split_seed is None else request.split_seed,
                train_seed=seed,
                backbone=request.backbone,
                protocol=sampling,
                val=val,
                prompts=prompts,
                precision=request.precision,
                device=request.device.partition(":")[0],
                limit=request.limit,
                options=variant.options,
                overrides=variant.overrides,
                revision=revisions[name],
                weights=weights,
                method_version=variant.version,
            )
        )
    return plan


def _canonical(name: str, dataset: Dataset) -> str:
    """One name per data set, however its path was written (`folder:a/` is `folder:a`)."""
    own = dataset.card().name
    return own if ":" in name and own.partition(":")[0] == name.partition(":")[0] else name


def _revision(name: str, dataset: Dataset, shots: Sequence[int], val: str) -> str:
    from fewshot_bench.task import digest_of

    pools = dataset.items()
    for count in shots:
        check_shots(name, pools, count)
    for role in ("train", "test"):
        if not pools.get(role):
            raise DataMissingError(f"{name}: its {role} pool is empty; fsbench show {name}")
    if val != "none" and not pools.get("val"):
        raise UsageError(f"{name} has no validation images; use --val none")
    card = dataset.card()
    check_items(name, card.classnames, pools)
    lists = digest_of((role, pools.get(role, ())) for role in ("train", "val", "test"))
    return f"{card.revision}:{lists[:16]}" if card.revision else lists[:16]


def _weights(backbone: str) -> str:
    from fewshot_bench.backbones import loading

    loading.check(backbone)
    return loading.identity(backbone)


def _protocol(request: Request) -> tuple[str, str, str]:
    if request.protocol in PRESETS:
        sampling, val, prompts = PRESETS[request.protocol]
    elif request.protocol in PROTOCOLS:
        sampling, val, prompts = request.protocol, "min4", "custom"
    else:
        raise unknown("protocol", request.protocol, [*PRESETS, *PROTOCOLS], "see docs/protocols.md")
    return sampling, request.val or val, request.prompts or prompts


def _check_numbers(request: Request) -> None:
    for name, value, allowed in (
        ("precision", request.precision, PRECISIONS),
        ("validation policy", request.val, VALIDATION),
        ("prompt set", request.prompts, TEMPLATE_SETS),
    ):
        if value is not None and value not in allowed:
            raise unknown(name, value, allowed, "fsbench run --help")
    if min(request.shots, default=0) < 1:
        raise UsageError(f"shots {list(request.shots)}: expected whole numbers from 1")
    if min(request.seeds, default=-1) < 0:
        raise UsageError(f"seeds {list(request.seeds)}: expected whole numbers from 0")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit {request.limit}: expected at least 1 test image")
    for name, values in (("shots", request.shots), ("seeds", request.seeds)):
        if len(set(values)) != len(values):
            raise UsageError(f"{name} {list(values)}: a value stands there twice")


def _variants(request: Request, known: Registry) -> list[Variant]:
    names = _method_names(request.methods, known)
    settings = [_setting(option) for option in request.options]
    used: set[int] = set()
    variants = []
    for name in names:
        cls = known.method_class(name)
        chosen: dict[str, list[Any]] = {}
        for index, (owner, parameter, texts) in enumerate(settings):
            if owner not in ("", name) or (owner == "" and not _has(cls, parameter)):
                continue
            used.add(index)
            field = find_parameter(name, cls, parameter)
            chosen[field.name] = [parse_value(name, field, text) for text in texts]
        variants += [
            _variant(name, cls, dict(zip(chosen, values, strict=True)))
            for values in itertools.product(*chosen.values())
        ]
    for index, (owner, parameter, _) in enumerate(settings):
        if index not in used:
            _refuse_setting(owner, parameter, names, known)
    return list({(v.method, repr(sorted(v.options.items()))): v for v in variants}.values())


def _method_names(requested: Iterable[str], known: Registry) -> list[str]:
    names: list[str] = []
    for name in requested:
        names += known.methods.names() if name == "all" else [known.methods.find(name).name]
    return list(dict.fromkeys(names))


def _setting(option: str) -> tuple[str, str, list[str]]:
    """`[method.]name=value[,value]` in its parts."""
    name, equals, value = option.partition("=")
    if not equals or not name.strip():
        raise UsageError(
            f"option '{option}': expected name=value, for example -o rank=4 or -o clip-lora.rank=4"
        )
    owner, dot, parameter = name.strip().rpartition(".")
    texts = [text.strip() for text in value.split(",")] if "," in value else [value]
    return (owner if dot else "", parameter, texts)


def _has(cls: type, parameter: str) -> bool:
    return parameter.replace("-", "_") in {field.name for field in hyperparameters(cls)}


def _refuse_setting(owner: str, parameter: str, names: list[str], known: Registry) -> None:
    if owner:
        raise UsageError(
            f"option {owner}.{parameter}: method '{owner}' is not among those that run "
            f"({', '.join(names)})"
        )
    if len(names) == 1:
        find_parameter(names[0], known.method_class(names[0]), parameter)
    every = {field.name for name in names for field in hyperparameters(known.method_class(name))}
    raise unknown(
        f"hyper-parameter of {', '.join(names)}", parameter, every, f"fsbench show {names[0]}"
    )


def _variant(name: str, cls: type, chosen: Mapping[str, Any]) -> Variant:
    fields = hyperparameters(cls)
    options = configuration(cls(**chosen))
    for field in fields:
        options[field.name] = _plain_option(name, field, options[field.name])
    defaults = {field.name: field.default for field in fields}
    overrides = {key: value for key, value in chosen.items() if value != defaults[key]}
    return Variant(name, options, overrides, str(getattr(cls, "version", "1")))


def _plain_option(method: str, field: Hyperparameter, value: Any) -> Any:
    """A value as it stands in the record, so that 1 and 1.0 of a float are one configuration."""
    if field.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    if finite and isinstance(value, str | int | float | bool | type(None)):
        return value
    raise PluginError(
        f"method '{method}': hyper-parameter {field.name} is {value!r}, expected a number, a "
        "string, a boolean or None; its author should use one of these types"
    )


def resume(plan: Plan, store: Store, *, force: bool, retry_failed: bool) -> Resume:
    """Divide the cells by what the store holds."""
    state = Resume([], [], [])
    for cell in plan.cells:
        record = None if force else store.get(cell.key())
        if record is None or (record.status == "failed" and retry_failed):
            state.todo.append(cell)
        elif record.status == "failed":
            state.failed.append(cell)
        else:
            state.done.append(cell)
    return state
