"""A session: backbones, decoded images and features that cells share in one process.

`Session.resolve` turns a specification into a `Cell`, which all later steps use.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.api.method import Method
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.backbones import loading
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.runner.cell_log import HIDDEN, LEFT, SEEN, CellLog, read_verbosity
from fewshot_bench.runner.examiner import CellLists, Examination, Examiner, ImageList
from fewshot_bench.runner.verdict import Answered
from fewshot_bench.utils import determinism
from fewshot_bench.utils.errors import PluginError
from fewshot_bench.utils.step_kind import read_kind

SOURCES_KEPT = 6


@dataclass(frozen=True)
class Cell:
    """A resolved cell: its method, label spaces and image lists.

    below: what the method that it is on top of has answered.
    """

    spec: RunSpec
    method: Method
    lists: CellLists
    below: Answered | None = None

    @property
    def inapplicable(self) -> str:
        """The reason, if known before a fit, why a method cannot classify the evaluated classes.

        Empty if it can, or if this depends on its classifier.
        """
        reason = str(getattr(self.method, "tied_to_classes", ""))
        fitted, evaluated = self.lists.fitted, self.lists.evaluated
        if not reason or (self.spec.classes != "new" and not self.spec.target):
            return ""
        if not evaluated.is_subset_of(fitted):
            return reason
        if evaluated.is_answered_by(fitted):
            return ""
        target = self.spec.target
        return f"the prompts of {target} differ from those it was fitted under, and {reason}"


class Session:
    """State that cells share in a process. examiner: holds the data; by default in this process.

    hear: called with a cell and the lines that its code prints, when they come.
    """

    hear: Callable[[RunSpec, str], None] | None = None

    def __init__(
        self,
        cache: Path | None = None,
        device: str = "cpu",
        examiner: Examination | None = None,
        models: Path | None = None,
        *,
        foreground: bool = False,
        raises: bool = False,
    ) -> None:
        """models: the store that keeps the models of cells; None to keep none.

        foreground: this process is the user's own: output of methods is seen at once, and their
        child processes are left alone. raises: an error of a cell is raised at once, in place of a
        failed record, and its streams are left alone, too.
        """
        determinism.apply()
        self.features = FeatureCache(cache)
        self.device = device
        self.models = models
        self.foreground = foreground
        self.raises = raises
        self.step = read_kind()
        self.verbosity = read_verbosity()
        self.examiner: Examination = examiner or Examiner()
        self._backbones: dict[tuple[str, str], tuple[LoadedBackbone, str]] = {}
        self._sources: dict[tuple[str, tuple[int, ...], str, str], ImageSource] = {}

    def start_log(self, spec: RunSpec) -> CellLog:
        """A new log of a cell."""
        hear = None if self.hear is None else functools.partial(self.hear, spec)
        place = LEFT if self.raises else SEEN if self.foreground else HIDDEN
        return CellLog(hear, self.verbosity, place)

    def resolve(self, spec: RunSpec) -> Cell:
        """Resolve a specification; UsageError or DataMissingError if that is impossible."""
        method = registry().method_class(spec.method)(**open_files(spec.options))
        import_stated(spec.method, getattr(method, "imports", ()))
        return Cell(spec, method, self.examiner.cell(spec))

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
        """Drop the backbone if a method left it changed; the next cell loads it anew."""
        try:
            same = all(loaded.fingerprint() == then for loaded, then in self._backbones.values())
        except Exception:
            # No fingerprint can be computed any more.
            same = False
        if not same:
            self._backbones.clear()
            self._sources.clear()

    def source(self, images: ImageList, spec: RunSpec) -> ImageSource:
        """Decoded images of a list, shared by the cells that use the same list."""
        backbone, _ = self.backbone(spec)
        # The same images are queries of one fit and, labeled, validation images of another.
        key = (images.handle, images.labels, spec.exif, spec.augment)
        if key not in self._sources:
            while len(self._sources) >= SOURCES_KEPT:
                self._sources.pop(next(iter(self._sources)))
            files = self.examiner.files(images)
            self._sources[key] = ImageSource(
                files,
                images.count,
                backbone,
                images.labels,
                mirrored=images.mirrored,
                rotate=spec.exif == "rotate",
                by_torch=spec.augment == "device",
            )
        return self._sources[key]


def import_stated(method: str, modules: Any) -> None:
    """Import the modules that a fit needs, so that no cell is billed for the import."""
    if not isinstance(modules, tuple) or not all(isinstance(name, str) for name in modules):
        raise PluginError(
            f"method '{method}' has imports={modules!r:.80}, expected a tuple of names of modules, "
            "such as ('sklearn.linear_model',)"
        )
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise PluginError(
                f"method '{method}' states in `imports` that it needs '{name}', which cannot be "
                f"imported: {error}; install it"
            ) from error
