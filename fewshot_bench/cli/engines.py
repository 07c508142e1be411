"""Options of `fsbench run` that say where and how cells are computed, and the engine for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.cli.options import NAMES
from fewshot_bench.plugins.trackers import switch as trackers
from fewshot_bench.utils import determinism, offline
from fewshot_bench.utils.errors import UsageError, unknown

if TYPE_CHECKING:
    from fewshot_bench.engines.base import Before, Engine, Settings
    from fewshot_bench.engines.conditions import Conditions
    from fewshot_bench.store.store import Store

ENGINES = ("local", "slurm", "ray")
_SLURM = "Slurm: "
_OPTIONS = (
    click.option(
        "--engine", default="local", show_default=True, help="What runs cells: local, slurm, ray."
    ),
    click.option(
        "--devices",
        "--device",
        type=NAMES,
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, or a list such as cuda:0,cuda:1.",
    ),
    click.option(
        "--slots-per-device",
        "--jobs",
        "jobs",
        type=click.IntRange(1),
        help="Worker processes on each device (default: by the backbone).",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads of each worker."),
    click.option(
        "--together",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Fit up to N seeds in one pass, where the method can; equal up to rounding.",
    ),
    click.option(
        "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that a cell may take."
    ),
    click.option(
        "--hang-after",
        type=click.FloatRange(1),
        help="Seconds without a sign of life after which a worker is ended (default: 600).",
    ),
    click.option(
        "--lease",
        type=click.FloatRange(3),
        help="Seconds after which the claims of a machine that is gone end (default: 60).",
    ),
    click.option(
        "--deterministic", is_flag=True, help="Equal bits in every run, also where that is slower."
    ),
    click.option("--array", type=click.IntRange(1), help="Slurm and Ray: how many workers."),
    click.option("--gpus", default="", help="Slurm and Ray: GPUs of each worker."),
    click.option("--partition", default="", help=f"{_SLURM}partition."),
    click.option("--time", default="", help=f"{_SLURM}time limit of a worker, such as 4:00:00."),
    click.option("--cpus", type=click.IntRange(1), help="Slurm and Ray: cores of each worker."),
    click.option("--mem", default="", help=f"{_SLURM}memory of each worker, such as 32G."),
    click.option("--account", default="", help=f"{_SLURM}account."),
    click.option("--qos", default="", help=f"{_SLURM}quality of service."),
    click.option("--constraint", default="", help=f"{_SLURM}features that a node must have."),
    click.option(
        "--sbatch", multiple=True, metavar="--NAME=VALUE", help=f"{_SLURM}any other directive."
    ),
    click.option("--ray-address", default="", help="Ray: address of a running cluster."),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add all of them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True)
class Engines:
    """The values of these options."""

    engine: str = "local"
    device_names: tuple[str, ...] = ("auto",)
    jobs: int | None = None
    threads: int | None = None
    together: int = 1
    timeout: float | None = None
    hang_after: float | None = None
    lease: float | None = None
    deterministic: bool = False
    array: int | None = None
    gpus: str = ""
    partition: str = ""
    time: str = ""
    cpus: int | None = None
    mem: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    sbatch: tuple[str, ...] = ()
    ray_address: str = ""

    @classmethod
    def take(cls, values: dict[str, Any]) -> Engines:
        """Take the engine's options out of all options of a command."""
        values["device_names"] = values.pop("devices")
        own = {field.name: values.pop(field.name) for field in dataclasses.fields(cls)}
        chosen = cls(**own)
        chosen.check()
        return chosen

    def check(self) -> None:
        """UsageError for an engine that is not known, or options of another one."""
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES, "fsbench run --help")
        if self.engine == "ray" and offline.is_on():
            raise UsageError("--engine ray talks over the network, which --offline forbids")
        slurm = ("partition", "time", "mem", "account", "qos", "constraint", "sbatch")
        for names, engines in (
            (slurm, ("slurm",)),
            (("array", "gpus", "cpus"), ("slurm", "ray")),
            (("ray_address",), ("ray",)),
        ):
            given = [name for name in names if getattr(self, name)]
            if given and self.engine not in engines:
                raise UsageError(
                    f"--{given[0].replace('_', '-')} is an option of --engine "
                    f"{' or '.join(engines)}, and the engine is {self.engine}"
                )

    def devices(self) -> tuple[str, ...]:
        """The devices, `auto` resolved; UsageError for what is no device or not there."""
        names = self.device_names
        if names == ("auto",):
            return (self._automatic(),)
        for name in names:
            kind, colon, index = name.partition(":")
            if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not index.isdigit())):
                raise UsageError(f"device '{name}': expected auto, cpu, cuda or cuda:N")
        if len(set(names)) != len(names):
            raise UsageError(f"devices {','.join(names)}: one stands there twice")
        if len({name.partition(":")[0] for name in names}) > 1:
            raise UsageError(
                f"devices {','.join(names)}: results of one run come from one kind of device; "
                "give cpu and cuda in two runs"
            )
        if len(names) > 1 and "cuda" in names:
            raise UsageError(f"devices {','.join(names)}: name each one, such as cuda:0,cuda:1")
        if self.engine == "local":
            _check_present(names)
        return names

    def _automatic(self) -> str:
        if self.engine != "local":
            # The machine at hand may be a login node; what workers ask for decides.
            return "cuda" if self._asks_gpus() else "cpu"
        from fewshot_bench.api.defaults import cuda_is_there

        return "cuda" if cuda_is_there() else "cpu"

    def _asks_gpus(self) -> bool:
        """Whether workers get GPUs, by `--gpus` or another directive of Slurm."""
        found = self.gpus.split(",")
        for text in self.sbatch:
            name, _, value = text.lstrip("-").partition("=")
            if name.startswith("gpus"):
                found += value.split(",")
            elif name == "gres" or name.startswith("tres-per"):
                found += [part for part in value.split(",") if "gpu" in part]
        return any(map(_is_some, found))

    def settings(self, conditions: Conditions, force: bool, code: str = "") -> Settings:
        """How cells are run."""
        from fewshot_bench.engines.base import Settings
        from fewshot_bench.engines.local import slots

        if self.engine == "local":
            devices = len(conditions.devices)
            count, threads = slots(conditions.backbone, conditions.device, self.jobs, devices)
        else:
            # Threads as on this machine unless told otherwise: they can change the last digits.
            count, threads = self.jobs or 1, slots(conditions.backbone, "cpu", 1)[1]
        given = {"timeout": self.timeout, "hang": self.hang_after, "lease": self.lease}
        return Settings(
            devices=conditions.devices,
            slots=count,
            threads=self.threads or threads,
            force=force,
            together=self.together,
            deterministic=self.deterministic or determinism.asked(),
            offline=offline.is_on(),
            track=",".join(trackers.asked()),
            code=code,
            **{name: value for name, value in given.items() if value is not None},
        )

    def build(self, store: Store, settings: Settings, before: Before) -> Engine:
        """The engine that was asked for."""
        if self.engine == "local":
            from fewshot_bench.engines.local import LocalEngine

            return LocalEngine(store, settings, before)
        from fewshot_bench.engines.distributed import ClusterEngine

        system = self._system(store)
        most = self.array or 1
        return ClusterEngine(store, settings, system, most, before, _say)

    def _system(self, store: Store) -> Any:
        if self.engine == "slurm":
            from fewshot_bench.plugins.cluster.slurm import Slurm

            request = self._request()
            request.directives()
            return Slurm(store, request)
        from fewshot_bench.plugins.cluster.ray import Ray

        try:
            gpus = float(self.gpus or 0)
        except ValueError:
            raise UsageError(f"--gpus '{self.gpus}': Ray takes a number") from None
        return Ray(store, gpus, float(self.cpus or self.threads or 1), self.ray_address)

    def _request(self) -> Any:
        from fewshot_bench.plugins.cluster.slurm import Request

        return Request(
            partition=self.partition,
            gpus=self.gpus,
            time=self.time,
            cpus=self.cpus,
            memory=self.mem,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            more=self.sbatch,
        )

    def describe(self, store: Store, cells: int, say: Callable[[str], None]) -> None:
        """For --dry-run: the script that Slurm would be given."""
        if self.engine == "slurm" and cells:
            from fewshot_bench.engines.job import FOLDER
            from fewshot_bench.plugins.cluster.slurm import script

            folder: Path = store.path / FOLDER / "NAME"
            workers = min(self.array or 1, cells)
            say(script(folder, store.path, "NAME", workers, self._request()))


def _say(text: str) -> None:
    click.echo(text, err=True)


def _is_some(asked: str) -> bool:
    """Whether a number of GPUs such as `2`, `0.5` or `a100:2` is not zero."""
    return asked.rpartition(":")[2].strip("0. ") != ""


def _check_present(names: tuple[str, ...]) -> None:
    if names[0] == "cpu":
        return
    import torch

    count = torch.cuda.device_count()
    for name in names:
        if int(name.partition(":")[2] or 0) >= count:
            raise UsageError(
                f"device '{name}': this machine has {count} CUDA devices; use --devices cpu"
            )
