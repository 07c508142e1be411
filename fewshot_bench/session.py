"""What cells share in one process: backbones, data sets, decoded images and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewshot_bench import determinism
from fewshot_bench.backbones import loading
from fewshot_bench.backbones.protocol import LoadedBackbone
from fewshot_bench.dataset import Dataset
from fewshot_bench.errors import DataMissingError
from fewshot_bench.feature_store import FeatureStore
from fewshot_bench.images import ImageSource
from fewshot_bench.registry import registry
from fewshot_bench.sampling import Picks
from fewshot_bench.spec import IMPORTED, RunSpec, canonical_json
from fewshot_bench.task import Item

SOURCES_KEPT = 6
DATASETS_KEPT = 32


class Session:
    """One process's loaded things. `store` is the folder of the results, with imported splits."""

    def __init__(
        self, cache: Path | None = None, device: str = "cpu", store: Path | None = None
    ) -> None:
        determinism.apply()
        self.features = FeatureStore(cache)
        self.device = device
        self.store = store
        self.tainted = False
        self._backbones: dict[tuple[str, str], tuple[LoadedBackbone, str]] = {}
        self._datasets: dict[tuple[str, str], Dataset] = {}
        self._sources: dict[Any, ImageSource] = {}

    def distrust(self) -> None:
        """Remember that a plug-in left this process in a state that cannot be undone."""
        self.tainted = True

    def backbone(self, spec: RunSpec) -> tuple[LoadedBackbone, str]:
        """The backbone of a cell and its fingerprint when it was loaded."""
        key = (spec.backbone, spec.precision)
        if key not in self._backbones:
            self._sources.clear()
            self._backbones.clear()
            loaded = loading.load(spec.backbone, self.device, spec.precision)
            self._backbones[key] = (loaded, loaded.fingerprint())
        return self._backbones[key]

    def drop_changed_backbone(self) -> None:
        """Forget a backbone that a method has left changed; the next cell loads it anew."""
        if any(loaded.fingerprint() != found for loaded, found in self._backbones.values()):
            self._backbones.clear()
            self._sources.clear()

    def dataset(self, spec: RunSpec) -> Dataset:
        """The data set that a cell is fitted on, opened once."""
        return self._open(spec.dataset, spec.data)

    def target(self, spec: RunSpec) -> Dataset:
        """The data set that a cell is evaluated on; own prompts apply to every target."""
        if not spec.target:
            return self.dataset(spec)
        prompts = {name: value for name, value in spec.data.items() if name == "templates"}
        return self._open(spec.target, prompts)

    def _open(self, name: str, data: Any) -> Dataset:
        key = (name, canonical_json(dict(data)))
        if key not in self._datasets:
            while len(self._datasets) >= DATASETS_KEPT:
                self._datasets.pop(next(iter(self._datasets)))
            self._datasets[key] = registry().dataset(name, data, self.store)
        return self._datasets[key]

    def imported(self, spec: RunSpec) -> Picks | None:
        """The imported picks of a cell; None unless its protocol is `imported`."""
        if spec.protocol != IMPORTED or self.store is None:
            return None
        from fewshot_bench.split_files.imported import load_imported

        pools = self.dataset(spec).items()
        picks = load_imported(self.store, spec.dataset, spec.shots, spec.split_seed, pools)
        if picks.digest != spec.picks:
            raise DataMissingError(
                f"the picks imported for {spec.dataset}, {spec.shots}-shot, seed {spec.split_seed} "
                f"have the digest {picks.digest[:12]}, this cell was planned with "
                f"{spec.picks[:12]}: run the command again"
            )
        return picks.train, () if spec.val == "none" else picks.val

    def source(self, dataset: Dataset, items: tuple[Item, ...], spec: RunSpec) -> ImageSource:
        """Decoded images of `items`, shared by the cells that use the same ones."""
        backbone, _ = self.backbone(spec)
        key = (id(dataset), items)
        if key not in self._sources:
            while len(self._sources) >= SOURCES_KEPT:
                self._sources.pop(next(iter(self._sources)))
            self._sources[key] = ImageSource(dataset, items, backbone)
        return self._sources[key]
