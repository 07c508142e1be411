"""Values of a call to a `Request`: `read_request` takes them, `settle` resolves `auto`.

The command line and the library both do it here, so that one call means one run in both. Unknown
and unusable values are refused before anything is planned.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.defaults import backbone_for, check_device, cuda_is_there, precision_for
from fewshot_bench.api.options import Option, is_given, values_of
from fewshot_bench.api.registry import Entry, registry
from fewshot_bench.api.run_options import RUN_OPTIONS, names_of
from fewshot_bench.api.spec import AUTO, PRECISIONS
from fewshot_bench.engines.choice import ChosenEngine
from fewshot_bench.runner.own_data import read_own_data
from fewshot_bench.runner.request import Request
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import option_name

_FIELDS = frozenset(field.name for field in dataclasses.fields(Request))


def ask(values: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> Request:
    """The request for the values of a call, ready to plan: `read_request`, then `settle`."""
    return settle(read_request(values, declared))


def read_request(values: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> Request:
    """The request for values of `RUN_OPTIONS` by name; those left out or None have their defaults.

    declared: values of options that engines and plug-ins declare, by `Option.key`. UsageError for
    an unknown engine, options of another engine, and values that cannot be read.
    """
    given = {key: value for key, value in (declared or {}).items() if is_given(value)}
    asked = {name: row.default for name, row in RUN_OPTIONS.items()}
    asked |= {name: value for name, value in values.items() if value is not None}
    entry, shared = registry().engines.find(asked["engine"]), options_of_all_engines()
    _refuse_foreign(entry, given, {option.key for option in shared})
    others = [name for name in names_of("condition") if name not in _FIELDS]
    return Request(
        **{name: value for name, value in asked.items() if name in _FIELDS},
        data=read_own_data(asked["classnames"], asked["templates"], asked["holdout"]),
        others={name: asked[name] for name in others},
        engine_options=values_of(entry.options, given),
        plugin_options=values_of(shared, given),
    )


def settle(request: Request) -> Request:
    """The request with `auto` resolved: backbone, devices, precision. Needed before planning.

    UsageError for an unknown precision or backbone, and an invalid or absent device.
    """
    if request.precision not in (AUTO, *PRECISIONS):
        raise unknown("precision", request.precision, (AUTO, *PRECISIONS), "fsbench run --help")
    backbone = backbone_for(request.backbone, request.datasets, request.transfer)
    here = ChosenEngine(request).here
    _check_names(request.devices)
    devices = request.devices
    if devices == (AUTO,):
        devices = (_usual_device(request),)
    elif here:
        for name in devices:
            check_device(name, here=True)
    precision = precision_for(request.precision, devices, here=here)
    return dataclasses.replace(request, backbone=backbone, devices=devices, precision=precision)


def precision_in(store: Path, backbone: str, precision: str) -> str:
    """`precision` itself; for `auto`, that of most of the backbone's records in a store."""
    if precision != AUTO:
        return precision
    from fewshot_bench.store.store import Store

    specs = [record.spec for record in Store(store).records()] if store.is_dir() else []
    counts = Counter(spec.precision for spec in specs if spec.backbone == backbone)
    return max(PRECISIONS, key=lambda name: counts[name])


def options_of_all_engines() -> list[Option]:
    """The options that plug-ins registered for all engines."""
    return [option for entry in registry().options.entries.values() for option in entry.options]


def _usual_device(request: Request) -> str:
    engine = ChosenEngine(request)
    if engine.here:
        return "cuda" if cuda_is_there() else "cpu"
    # This machine may be a login node: decide by the GPUs requested for workers.
    asks = (
        option.asks_gpus is not None and option.asks_gpus(request.engine_options[option.key])
        for option in engine.entry.options
    )
    return "cuda" if any(asks) else "cpu"


def _check_names(names: tuple[str, ...]) -> None:
    """UsageError unless the devices are `auto`, or valid ones that go together."""
    if names == (AUTO,):
        return
    for name in names:
        check_device(name, here=False)
    if len(set(names)) != len(names):
        raise UsageError(f"devices {','.join(names)}: one stands there twice")
    if len({name.partition(":")[0] for name in names}) > 1:
        raise UsageError(
            f"devices {','.join(names)}: results of one run come from one kind of device; "
            "give cpu and cuda in two runs"
        )
    if len(names) > 1 and "cuda" in names:
        raise UsageError(f"devices {','.join(names)}: name each one, such as cuda:0,cuda:1")


def _refuse_foreign(entry: Entry, given: Iterable[str], shared: set[str]) -> None:
    """UsageError for an option of another engine, or an unknown one."""
    own = {option.key for option in entry.options} | shared
    for key in given:
        if key in own:
            continue
        registry().options.refuse_conflict(key.replace("_", "-"))
        engines = registry().engines.entries.values()
        owners = [e.name for e in engines if any(option.key == key for option in e.options)]
        name = option_name(key)
        if owners:
            raise UsageError(
                f"{name} is an option of --engine {' or '.join(owners)}, and the engine is "
                f"{entry.name}"
            )
        raise unknown("option", name, map(option_name, own), f"fsbench show {entry.name}")
