"""Backbone, device and precision of a run, with `auto` resolved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api.defaults import backbone_for, precision_for
from fewshot_bench.api.spec import AUTO, PRECISIONS, TOY, TOY_TEXT
from fewshot_bench.utils.errors import unknown
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from fewshot_bench.engines.choice import EngineChoice


@dataclass(frozen=True)
class Conditions:
    """The backbone, the devices and the precision, as records hold them."""

    backbone: str
    devices: tuple[str, ...]
    precision: str

    @property
    def device(self) -> str:
        """The kind of device, as cells have it."""
        return self.devices[0].partition(":")[0]

    def text(self) -> str:
        """The first line of a run."""
        devices = ", ".join(self.devices)
        toy = f" ({TOY_TEXT})" if self.backbone == TOY else ""
        return printable(
            f"backbone {self.backbone}{toy}, device {devices}, precision {self.precision}"
        )


def conditions_of(
    engines: EngineChoice,
    backbone: str,
    precision: str,
    datasets: Iterable[str],
    targets: Iterable[str] = (),
) -> Conditions:
    """Resolve `auto`; every command that plans cells does so here, before it makes the plan."""
    if precision not in (AUTO, *PRECISIONS):
        raise unknown("precision", precision, (AUTO, *PRECISIONS), "fsbench run --help")
    chosen = backbone_for(backbone, datasets, targets)
    devices = engines.devices()
    here = engines.here
    return Conditions(chosen, devices, precision_for(precision, devices, here=here))


def take_conditions(engines: EngineChoice, values: dict[str, Any]) -> Conditions:
    """Take what belongs to them out of the options of `fsbench run`, and resolve it."""
    backbone, precision = values.pop("backbone"), values.pop("precision")
    return conditions_of(
        engines, backbone, precision, values["dataset"], values.get("transfer") or ()
    )


def conditions_of_paper(
    engines: EngineChoice, backbone: str, precision: str, paper: str
) -> Conditions:
    """On CUDA the precision of the paper, unless another one is named."""
    on_cuda = precision == AUTO and not engines.devices()[0].startswith("cpu")
    return conditions_of(engines, backbone, paper if on_cuda else precision, ())


def precision_in(store: Path, backbone: str, precision: str) -> str:
    """A name as it is; for `auto` that of most records of the backbone in a store."""
    if precision != AUTO:
        return precision
    from fewshot_bench.store.store import Store

    specs = [record.spec for record in Store(store).records()] if store.is_dir() else []
    counts = Counter(spec.precision for spec in specs if spec.backbone == backbone)
    return max(PRECISIONS, key=lambda name: counts[name])
