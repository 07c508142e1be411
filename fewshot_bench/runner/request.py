"""Expands a `Request` into a `Plan` of cells (`RunSpec`s).

`expand` is the entry point. Every name, option and pool is checked here, before anything trains.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.defaults import backbone_for
from fewshot_bench.api.items import label_counts
from fewshot_bench.api.method_card import FitSetting
from fewshot_bench.api.method_code import is_meant
from fewshot_bench.api.method_rules import EVERY
from fewshot_bench.api.option_files import look_in
from fewshot_bench.api.options import LOCAL
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import (
    ALL_SHOTS,
    ALONE,
    AUTO,
    BY_TEMPLATES,
    CLASSES,
    CONDITIONS,
    DEFAULT_STORE,
    IMPORTED,
    LONGEST_NUMBER,
    NO_CLASSES,
    PRESETS,
    TOY,
    TOY_TEXT,
    AllShots,
    RunSpec,
    method_label,
    settle_exif,
)
from fewshot_bench.runner.need import (
    check_texts,
    choose_runnable,
    conditions_of,
    find_lack,
    reads_texts,
    settle_texts,
    tell_left_out,
)
from fewshot_bench.runner.variants import (
    Configured,
    Option,
    PublishedVariants,
    Variant,
    expand_methods,
    find_inner,
)
from fewshot_bench.splits.draw import check_train, class_half
from fewshot_bench.splits.imported import check_val, load_imported
from fewshot_bench.splits.sampling import SAMPLERS, VALIDATION
from fewshot_bench.store.kept_methods import find_named
from fewshot_bench.utils.errors import (
    DataMissingError,
    PluginError,
    UsageError,
    explain_denial,
    unknown,
)
from fewshot_bench.utils.text import counted, printable

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Request:
    """A request for a run: a value of each option in `RUN_OPTIONS`, which says what it means.

    data: own class names, templates and held-out share, as in cells. others: conditions that
    planning does not read, by name. engine_options, plugin_options: options that the engine and
    that plug-ins declare, by key. partial: leave out data sets that cannot be planned; otherwise
    they are an error. `engines.asking.ask` makes one from the values of a call.
    """

    methods: tuple[str | Configured, ...]
    datasets: tuple[str, ...]
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    seeds: tuple[int, ...] = (1, 2, 3)
    split_seed: int | None = None
    options: tuple[Option, ...] = ()
    backbone: str = AUTO
    precision: str = "fp32"
    protocol: str = "fair"
    val: str | None = None
    prompts: str | None = None
    limit: int | None = None
    classes: tuple[str, ...] = ("all",)
    transfer: tuple[str, ...] = ()
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    keep_split: str = "store"
    exif: str = AUTO
    published: bool = False
    augment: str = "host"
    queries: str = ALONE
    views: int = 1
    bystanders: str = "none"
    texts: str = BY_TEMPLATES
    pooling: str | None = None
    skip_damaged: bool = False
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    partial: bool = False
    store: Path = Path(DEFAULT_STORE)
    engine: str = LOCAL
    devices: tuple[str, ...] = ("cpu",)
    jobs: int | None = None
    threads: int | None = None
    timeout: float | None = None
    hang_after: float | None = None
    lease: float | None = None
    feature_budget: int | None = None
    step: str = "auto"
    deterministic: bool = False
    keep_logits: str | None = None
    keep_models: bool = False
    dry_run: bool = False
    force: bool = False
    retry_failed: bool = False
    keep_stale: bool = False
    traceback: bool = False
    verbose: int = 0
    engine_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plugin_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def device(self) -> str:
        """The kind of its devices, as in cells."""
        return self.devices[0].partition(":")[0]

    def conditions(self) -> dict[str, Any]:
        """The requested conditions, by name."""
        own = {name: getattr(self, name) for name in CONDITIONS if hasattr(self, name)}
        return own | dict(self.others)

    def summary(self) -> str:
        """The first line of a run: `backbone tiny (a toy: ...), device cpu, precision fp32`."""
        toy = f" ({TOY_TEXT})" if self.backbone == TOY else ""
        devices = ", ".join(self.devices)
        return printable(
            f"backbone {self.backbone}{toy}, device {devices}, precision {self.precision}"
        )


@dataclasses.dataclass
class Plan:
    """Cells in the order in which they run.

    datasets: data sets to fit or evaluate on. problems: reasons by data set that cannot be used.
    left_out: reasons by broken method or data set of "all" or a suite, and by data set that a
    `partial` request leaves out. keep_split: where splits
    made by data sets are kept: in the `store`, or beside the `data`. lacking: methods of "all" or a
    suite that need more than the run allows, and what.
    """

    cells: list[RunSpec]
    datasets: dict[str, Dataset]
    problems: dict[str, str]
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    keep_split: str = "store"
    lacking: dict[str, str] = dataclasses.field(default_factory=dict)


def expand(request: Request) -> Plan:
    """Plan every cell of the request. UsageError for unknown names or values."""
    from fewshot_bench.images.decode import with_skipped

    plugins = registry()
    look_in(request.store.absolute())
    plan = Plan([], {}, {}, keep_split=request.keep_split)
    methods = [_in_store(method, request.store) for method in request.methods]
    variants = expand_methods(methods, request.options, plugins, plan.left_out)
    inner = {
        (v.method, str(v.options.get("on"))): find_inner(v, plugins, request.store)
        for v in variants
    }
    names = plugins.expand_datasets(request.datasets)
    targets = plugins.expand_datasets(request.transfer)
    sampling, val, prompts = _protocol(request)
    _check_request(request)
    request = dataclasses.replace(request, **settle_texts(request.texts, request.pooling))
    # The methods of `all` and of suites are registered, and not asked for by their names.
    asked = (method if isinstance(method, str) else method.method for method in request.methods)
    named = {method.partition("[")[0] for method in asked}
    named |= {variant.method for variant in variants} - {*plugins.methods.entries}
    variants = choose_runnable(variants, request.conditions(), named, plan.lacking)
    if plan.lacking and not variants:
        raise UsageError(f"nothing is left to run: {'; '.join(tell_left_out(plan.lacking))}")
    if "templates" in request.data and prompts != "custom":
        raise UsageError("--templates replace the custom prompts; leave --prompts out")
    if len(names) > 1 and "classnames" in request.data:
        raise UsageError(f"--classnames belong to one data set, and {len(names)} are asked for")
    sources = _open_all(
        names,
        request.datasets,
        plan,
        lambda name: _open_source(name, request, val),
        request.partial,
    )
    evaluated = _open_all(targets, request.transfer, plan, lambda name: _open_target(name, request))
    if plan.left_out and not (request.partial or (variants and (sources or plan.problems))):
        raise PluginError(f"nothing is left to run: {'; '.join(plan.left_out.values())}")
    if any(reads_texts(variant, request.conditions()) for variant in variants):
        check_texts(request.texts, plan.datasets)
    backbone = backbone_for(request.backbone, names, targets)
    weights = weights_of(backbone)
    picks: dict[tuple[str, int, int], str] = {}
    split_seeds = request.seeds if request.split_seed is None else (request.split_seed,)
    for name, shots, seed in product(sources, request.shots, split_seeds):
        if sampling == IMPORTED:
            imported = load_imported(request.store, name, shots, seed, plan.datasets[name].items())
            check_val(imported, val)
            picks[name, shots, seed] = imported.digest
    choose = PublishedVariants(plugins).of if request.published else lambda variant, _: variant
    # Prompts and texts that the user named win over those of a method's authors.
    free = not (request.prompts or "templates" in request.data or request.texts != BY_TEMPLATES)
    # Cells that share a fit are adjacent, and methods vary fastest: they share a support set.
    for name, shots, seed, variant in product(sources, request.shots, request.seeds, variants):
        split_seed = seed if request.split_seed is None else request.split_seed
        whole = choose(variant, FitSetting(name, shots, base_to_new=False))
        cell = RunSpec(
            method=variant.method,
            dataset=name,
            shots=shots,
            split_seed=split_seed,
            train_seed=seed,
            backbone=backbone,
            protocol=sampling,
            val=val,
            prompts=(free and whole.prompts) or prompts,
            precision=request.precision,
            device=request.device,
            limit=request.limit,
            options=whole.options,
            overrides=whole.overrides,
            revision=sources[name],
            weights=weights,
            method_version=variant.version,
            data=with_skipped(request.data, plan.datasets, name),
            exif=settle_exif(request.exif, name),
            published=request.published,
            augment=request.augment,
            picks=picks.get((name, shots, split_seed), ""),
            **{**request.others, **conditions_of(whole, request.conditions())},
        )
        half = choose(variant, FitSetting(name, shots, base_to_new=True))
        plan.cells += [
            cell
            if part == cell.classes
            else dataclasses.replace(
                cell,
                classes=part,
                prompts=(free and half.prompts) or prompts,
                options=half.options,
                overrides=half.overrides,
            )
            for part in request.classes
            if part != NO_CLASSES
        ]
        plan.cells += [
            dataclasses.replace(
                cell,
                target=target,
                target_revision=revision,
                exif=settle_exif(request.exif, name, target),
                data=with_skipped(request.data, plan.datasets, name, target),
            )
            for target, revision in evaluated.items()
            if target != name
        ]
    plan.cells = [
        _put_on(cell, inner[cell.method, str(cell.options.get("on"))], choose, request)
        for cell in plan.cells
    ]
    return plan


def _put_on(
    cell: RunSpec,
    inner: Variant | None,
    choose: Callable[[Variant, FitSetting], Variant],
    request: Request,
) -> RunSpec:
    """The cell on top of another method, which answers for the same queries, each alone.

    It holds what one of the two needs.
    """
    if inner is None:
        return cell
    inner = choose(inner, FitSetting(cell.dataset, cell.shots, cell.classes != "all"))
    if lack := find_lack(inner, request.conditions()):
        method = f"{cell.label}: method '{inner.method}'"
        raise UsageError(f"{method} {lack} (docs/reference/protocols.md)")
    needed = conditions_of(inner, request.conditions()) | {"bystanders": cell.bystanders}
    fields = needed | {"options": dict(inner.options), "overrides": dict(inner.overrides)}
    fields |= {"method": inner.method, "method_version": inner.version}
    own = {name: getattr(cell, name) for name in needed if name != "queries"}
    more = {name: needed[name] for name in own if own[name] == CONDITIONS[name].default}
    # However it was spelled, such as by a file.
    on = {"on": method_label(inner.method, inner.overrides)}
    more |= {name: {**getattr(cell, name), **on} for name in ("options", "overrides")}
    return dataclasses.replace(cell, inner=fields, **more)


def _in_store(method: str | Configured, store: Path) -> str | Configured:
    """The reference of a method of a file whose code the store has, for its name.

    `trans` is the version that was run last, `trans@3fa9` the one whose digest starts so. Any other
    method unchanged.
    """
    if not isinstance(method, str) or is_meant(method):
        return method
    methods = registry().methods
    name, bracket, options = method.partition("[")
    if name in methods.entries or name in (EVERY, *methods.suites()):
        return method
    found = find_named(store, name)
    return f"{found.reference}{bracket}{options}" if found else method


def _open_all(
    names: Iterable[str],
    asked: Sequence[str],
    plan: Plan,
    open_it: Callable[[str], tuple[Dataset, str]],
    partial: bool = False,
) -> dict[str, str]:
    """Open data sets; returns canonical name to revision. Missing data becomes a problem.

    A broken data set is left out, but raises PluginError if it was `asked` for by its own name.
    One that cannot be planned raises UsageError. A `partial` request leaves out both.
    """
    revisions = {}
    for name in names:
        try:
            with registry().blaming(name):
                dataset, revision = open_it(name)
        except (PluginError, UsageError) as error:
            if not partial and (name in asked or isinstance(error, UsageError)):
                raise
            plan.left_out[name] = str(error)
            continue
        except DataMissingError as error:
            plan.problems[name] = str(error)
            continue
        except PermissionError as error:
            (plan.left_out if partial else plan.problems)[name] = explain_denial(error)
            continue
        own = canonical(name, dataset)
        plan.datasets.setdefault(own, dataset)
        revisions[own] = revision
    return revisions


def canonical(name: str, dataset: Dataset) -> str:
    """One name per data set, however its path was written (`folder:a/` is `folder:a`)."""
    own = dataset.card().name
    return own if ":" in name and own.partition(":")[0] == name.partition(":")[0] else name


def _open(name: str, data: Mapping[str, Any], request: Request) -> Dataset:
    """A data set with test images; with --skip-damaged, without its damaged images."""

    def open_it(said: Mapping[str, Any]) -> Dataset:
        dataset: Dataset = registry().dataset(name, said, request.store)
        return dataset

    if request.skip_damaged:
        from fewshot_bench.images.decode import open_usable

        dataset = open_usable(open_it, name, data)
    else:
        dataset = open_it(data)
    if not dataset.items().get("test"):
        raise DataMissingError(
            f"{name}: its test pool is empty, as where a class has copies of one picture alone; "
            f"fsbench show {shlex.quote(name)}"
        )
    return dataset


def _open_source(name: str, request: Request, val: str) -> tuple[Dataset, str]:
    """A data set to fit on, checked, and its revision."""
    from fewshot_bench.runner.preflight import revision_of

    dataset = _open(name, request.data, request)
    pools = dataset.items()
    if not pools.get("train"):
        raise UsageError(
            f"{name} has no train images, it can only be evaluated on: fit on another data set and "
            f"add --transfer {shlex.quote(name)}"
        )
    check_train(name, pools, val)
    classes, tested = len(dataset.card().classnames), set(label_counts(pools["test"]))
    for half in (part for part in ("base", "new") if part in request.classes):
        labels = class_half(classes, half)
        if len(labels) < 2:
            raise UsageError(
                f"{name} has {counted(classes, 'class', 'classes')}, {len(labels)} of them in the "
                f"half '{half}': expected at least 2 to tell apart; leave {half} out of --classes"
            )
        if tested.isdisjoint(labels):
            raise UsageError(
                f"{name} has no test images of the {len(labels)} classes in the half '{half}': "
                f"expected some to evaluate on; leave {half} out of --classes"
            )
    return dataset, revision_of(name, dataset)


def _open_target(name: str, request: Request) -> tuple[Dataset, str]:
    """A data set to evaluate on, checked, and its revision."""
    from fewshot_bench.runner.preflight import revision_of

    dataset = _open(name, {}, request)
    return dataset, revision_of(name, dataset)


def weights_of(backbone: str) -> str:
    """Identity of a backbone's weights, as stored in specifications."""
    from fewshot_bench.backbones import loading

    loading.check(backbone)
    return loading.identity(backbone)


def _protocol(request: Request) -> tuple[str, str, str]:
    if request.protocol in PRESETS:
        sampling, val, prompts = PRESETS[request.protocol]
    elif request.protocol == IMPORTED:
        sampling, val, prompts = IMPORTED, "min4", "custom"
    elif request.protocol in SAMPLERS:
        sampling, val, prompts = request.protocol, SAMPLERS[request.protocol].val, "custom"
    else:
        names = [*PRESETS, *SAMPLERS, IMPORTED]
        raise unknown("protocol", request.protocol, names, "see docs/reference/protocols.md")
    return sampling, request.val or val, request.prompts or prompts


def _check_request(request: Request) -> None:
    for name, value in request.conditions().items():
        about = CONDITIONS[name]
        words = tuple(VALIDATION) if name == "val" else about.words
        if words and value not in (*words, about.option_default):
            raise unknown(about.title, value, words, "fsbench run --help")
        if name in (*request.others, "views") and (problem := about.problem(value)):
            raise UsageError(f"{name} {value!r:.60}: {problem} (fsbench run --help)")
    if min(request.shots, default=0) < 1:
        hint = "; CLIP without images is the method zero-shot" if 0 in request.shots else ""
        raise UsageError(f"shots {list(request.shots)}: expected whole numbers from 1{hint}")
    seeds = [*request.seeds, *([] if request.split_seed is None else [request.split_seed])]
    if not request.seeds or min(seeds) < 0:
        raise UsageError(f"seeds {seeds}: expected whole numbers from 0")
    finite = [shots for shots in request.shots if not isinstance(shots, AllShots)]
    largest = max([*finite, *seeds, request.limit or 0])
    if largest >= ALL_SHOTS:
        most = f"of at most {LONGEST_NUMBER} digits"
        raise UsageError(f"{largest}: expected shots, seeds and a limit {most}")
    if request.limit is not None and request.limit < 1:
        raise UsageError(f"limit {request.limit}: expected at least 1 test image")
    for part in request.classes:
        if part not in (*CLASSES, NO_CLASSES):
            raise unknown("part of the classes", part, CLASSES, "--classes base,new")
    if request.transfer and request.classes not in (("all",), (NO_CLASSES,)):
        raise UsageError(
            "--transfer evaluates a fit on all classes; leave --classes out, or run the two apart"
        )
    if request.bystanders != CONDITIONS["bystanders"].default:
        mixed = f"--bystanders {request.bystanders} mixes queries of the new half"
        if request.classes != ("base",):
            raise UsageError(f"{mixed} into those of the base half: add --classes base")
        if request.queries == ALONE:
            raise UsageError(f"{mixed} in, and each query is alone: add --queries all")
    if NO_CLASSES in request.classes and not request.transfer:
        raise UsageError(
            "--classes none leaves nothing to evaluate: add --transfer, or say all, base or new"
        )
    for name in ("shots", "seeds", "classes"):
        values = getattr(request, name)
        if len(set(values)) != len(values):
            raise UsageError(f"{name} {list(values)}: a value stands there twice")
