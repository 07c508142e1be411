"""One public data set as data: where it lies, what it should hold, how it is prompted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fewshot_bench import DatasetCard

COOP_GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
RESEARCH = "research use (check the source's terms)"

Layout = Literal["split", "aircraft", "imagenet", "synsets", "numbers"]


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One public data set.

    folders: the data set's folder names below a data root; CoOp's place comes first, then
        CLIP-LoRA's, then torchvision's.
    images: the folders, in the same order, that item ids start from.
    counts: images per role in the published set; a role that it does not have is left out.
    layout: how lists and labels are stored. `split`: a split file of CoOp's schema; `aircraft`:
        the lists of FGVC-Aircraft; `imagenet`: train and val by synset, in folders or archives;
        `synsets` and `numbers`: test images only, in folders named by synset or by class number.
    suites: the suites that the set belongs to.
    """

    name: str
    title: str
    folders: tuple[str, ...]
    images: tuple[str, ...]
    template: str
    classes: int
    counts: Mapping[str, int]
    license: str
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    split_file: str | None = None
    split_id: str = ""
    layout: Layout = "split"
    suites: tuple[str, ...] = ("all",)

    @property
    def split_url(self) -> str:
        """Where CoOp's authors publish the split file."""
        return f"https://drive.google.com/file/d/{self.split_id}" if self.split_id else COOP_GUIDE

    def card(self, name: str = "") -> DatasetCard:
        """What is known without looking at files, under the set's own name or another."""
        return DatasetCard(
            name or self.name,
            self.title,
            (),
            (self.template,),
            expected_counts=self.counts,
            expected_classes=self.classes,
            license=self.license,
            sources=self.sources,
            notes=self.notes,
        )


def counts(train: int, val: int, test: int) -> dict[str, int]:
    """Images per role."""
    return {"train": train, "val": val, "test": test}
