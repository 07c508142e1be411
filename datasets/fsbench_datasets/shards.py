"""`wds:PATTERN`: images in tar shards of the webdataset convention, read at their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from fewshot_bench import SIMPLE_TEMPLATES, DataMissingError, Stamp, UsageError, file_stamp
from fsbench_datasets.labels import Row, check_text, label_rows
from fsbench_datasets.own_set import Listing, OwnSet
from fsbench_datasets.pools import ROLE_NAMES, check_holdout, complete
from fsbench_datasets.shard_patterns import Shard, canonical, find_shards, title_of
from fsbench_datasets.shard_samples import Sample, shard_samples
from fsbench_datasets.split_file import lines_of
from fsbench_datasets.tar_files import read_member

CLASSNAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"


@dataclass(frozen=True)
class Shards:
    """The samples of some tar archives; ids are `shard/key.extension`."""

    name: str
    argument: str

    def listing(self) -> Listing:
        """All samples, shard by shard; the archives are walked once, without the images."""
        samples = self._samples
        rows = [
            Row(id, sample.label, sample.classname, shard.role, f"{shard.path}, {sample.key}")
            for id, (shard, sample) in samples.items()
        ]
        classnames = self._beside(CLASSNAMES)
        return Listing(
            label_rows(self.name, rows, classnames),
            lines_of(sample.image.size for _, sample in samples.values()),
            self._templates(),
            notes=(f"{len(self._shards)} shards",),
            folder=str(self._base),
        )

    def read(self, id: str) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        shard, sample = self._find(id)
        return read_member(shard.path, sample.image)

    def stamp(self, id: str) -> Stamp | None:
        """The stamp of the image: of its shard, and its place in it."""
        shard, sample = self._find(id)
        whole = file_stamp(shard.path)
        if whole is None:
            return None
        image = sample.image
        return Stamp(image.size, whole.changed, f"{whole.token}:{image.offset}:{image.size}")

    @cached_property
    def _found(self) -> tuple[Path, tuple[Shard, ...]]:
        return find_shards(self.name, self.argument)

    @property
    def _base(self) -> Path:
        return self._found[0]

    @property
    def _shards(self) -> tuple[Shard, ...]:
        return self._found[1]

    @cached_property
    def _samples(self) -> dict[str, tuple[Shard, Sample]]:
        """Id to shard and sample, in the order of the shards and of their members."""
        _refuse_other_kinds(self.name, self._beside(TYPE))
        return {
            f"{shard.name}/{sample.image_name}": (shard, sample)
            for shard in self._shards
            for sample in shard_samples(self.name, shard.path)
        }

    def _find(self, id: str) -> tuple[Shard, Sample]:
        found = self._samples.get(id)
        if found is None:
            raise FileNotFoundError(f"{self.name} has no image '{id}'")
        return found

    def _templates(self) -> tuple[str, ...]:
        lines = self._beside(TEMPLATES)
        if lines is None:
            return SIMPLE_TEMPLATES
        # clip-benchmark marks the class name by {c}.
        templates = tuple(line.replace("{c}", "{}") for line in lines)
        for line, template in zip(lines, templates, strict=True):
            if template.count("{}") != 1:
                raise UsageError(
                    f"{self.name}: template '{line}' in {TEMPLATES}: expected {{}} or {{c}} once"
                )
        return templates

    def _beside(self, file_name: str) -> list[str] | None:
        """The lines of a text file that lies with the shards; None when there is none."""
        folders = [self._base, *(shard.path.parent for shard in self._shards)]
        if self._base.name.casefold() in ROLE_NAMES:
            folders.append(self._base.parent)
        for folder in dict.fromkeys(folders):
            if (folder / file_name).is_file():
                return _lines(self.name, folder / file_name)
        return None


def open_shards(argument: str, holdout: float | None = None) -> OwnSet:
    """The data set for `wds:PATTERN`."""
    argument = canonical(argument)
    name = f"wds:{argument}"
    check_holdout(name, holdout)
    return OwnSet(
        name, title_of(argument), Shards(name, argument), partial(complete, name, holdout=holdout)
    )


def _lines(name: str, path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataMissingError(f"{name}: {path} cannot be read: {error}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    return [
        check_text(name, line.strip(), "line", f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
    ]


def _refuse_other_kinds(name: str, kind: Sequence[str] | None) -> None:
    if kind and kind[0] in ("retrieval", "multilabel"):
        raise UsageError(f"{name} is a {kind[0]} set ({TYPE}): expected images with one class each")
