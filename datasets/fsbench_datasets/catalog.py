"""The public few-shot sets as data: where they lie, what they should hold, how they are prompted.

Sizes were counted from the published split files; folders and prompts are those of CoOp, CLIP-LoRA
and torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COOP_GUIDE = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
RESEARCH = "research use (check the source's terms)"
OWN_TEST = "the test images are CoOp's own 50/20/30 re-split, not the official test set"
OFFICIAL_TEST = "official test set; validation images are a fifth of the official training set"


@dataclass(frozen=True, slots=True)
class PublicSet:
    """One public data set.

    `folders` are the data set's folder names below a data root and `images` the folders that a
    split's paths start from; CoOp's place comes first, then CLIP-LoRA's, then torchvision's.
    `split_file` is None for a set that is published with lists of another kind.
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

    @property
    def split_url(self) -> str:
        """Where CoOp's authors publish the split file."""
        return f"https://drive.google.com/file/d/{self.split_id}" if self.split_id else COOP_GUIDE


def _counts(train: int, val: int, test: int) -> dict[str, int]:
    return {"train": train, "val": val, "test": test}


# In the order of the CoOp paper.
PUBLIC_SETS = (
    PublicSet(
        name="caltech101",
        title="Caltech101",
        folders=("caltech-101", "Caltech101", "caltech101"),
        images=(
            "caltech-101/101_ObjectCategories",
            "Caltech101/101_ObjectCategories",
            "caltech101/101_ObjectCategories",
        ),
        split_file="split_zhou_Caltech101.json",
        split_id="1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        template="a photo of a {}.",
        classes=100,
        counts=_counts(4128, 1649, 2465),
        license="CC BY 4.0",
        sources=("https://data.caltech.edu/records/mzrjq-6wc02", COOP_GUIDE),
        notes=(OWN_TEST, "without BACKGROUND_Google and Faces_easy; some images are gray"),
    ),
    PublicSet(
        name="oxford_pets",
        title="Oxford-IIIT Pets",
        folders=("oxford_pets", "OxfordPets", "oxford-iiit-pet"),
        images=("oxford_pets/images", "OxfordPets/images", "oxford-iiit-pet/images"),
        split_file="split_zhou_OxfordPets.json",
        split_id="1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        template="a photo of a {}, a type of pet.",
        classes=37,
        counts=_counts(2944, 736, 3669),
        license="CC BY-SA 4.0",
        sources=("https://www.robots.ox.ac.uk/~vgg/data/pets/", COOP_GUIDE),
        notes=(OFFICIAL_TEST,),
    ),
    PublicSet(
        name="stanford_cars",
        title="Stanford Cars",
        folders=("stanford_cars", "StanfordCars"),
        images=("stanford_cars", "StanfordCars"),
        split_file="split_zhou_StanfordCars.json",
        split_id="1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        template="a photo of a {}.",
        classes=196,
        counts=_counts(6509, 1635, 8041),
        license=RESEARCH,
        sources=(COOP_GUIDE,),
        notes=(OFFICIAL_TEST, "the authors' own download address is gone"),
    ),
    PublicSet(
        name="oxford_flowers",
        title="Oxford Flowers 102",
        folders=("oxford_flowers", "Flower102", "flowers-102"),
        images=("oxford_flowers/jpg", "Flower102/jpg", "flowers-102/jpg"),
        split_file="split_zhou_OxfordFlowers.json",
        split_id="1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        template="a photo of a {}, a type of flower.",
        classes=102,
        counts=_counts(4093, 1633, 2463),
        license=RESEARCH,
        sources=("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/", COOP_GUIDE),
        notes=(OWN_TEST,),
    ),
    PublicSet(
        name="food101",
        title="Food-101",
        folders=("food-101", "Food101"),
        images=("food-101/images", "Food101/images"),
        split_file="split_zhou_Food101.json",
        split_id="1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        template="a photo of {}, a type of food.",
        classes=101,
        counts=_counts(50500, 20200, 30300),
        license="images belong to Foodspotting; scientific fair use only",
        sources=("https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", COOP_GUIDE),
        notes=(OWN_TEST,),
    ),
    PublicSet(
        name="sun397",
        title="SUN397",
        folders=("sun397", "SUN397"),
        images=("sun397/SUN397", "SUN397/SUN397", "SUN397"),
        split_file="split_zhou_SUN397.json",
        split_id="1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        template="a photo of a {}.",
        classes=397,
        counts=_counts(15880, 3970, 19850),
        license=RESEARCH,
        sources=("https://vision.princeton.edu/projects/2010/SUN/", COOP_GUIDE),
        notes=(OFFICIAL_TEST,),
    ),
    PublicSet(
        name="dtd",
        title="Describable Textures",
        folders=("dtd", "DTD", "dtd/dtd"),
        images=("dtd/images", "DTD/images", "dtd/dtd/images"),
        split_file="split_zhou_DescribableTextures.json",
        split_id="1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        template="{} texture.",
        classes=47,
        counts=_counts(2820, 1128, 1692),
        license=RESEARCH,
        sources=("https://www.robots.ox.ac.uk/~vgg/data/dtd/", COOP_GUIDE),
        notes=(OWN_TEST,),
    ),
    PublicSet(
        name="eurosat",
        title="EuroSAT",
        folders=("eurosat",),
        images=("eurosat/2750", "eurosat/EuroSAT_RGB"),
        split_file="split_zhou_EuroSAT.json",
        split_id="1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        template="a centered satellite photo of {}.",
        classes=10,
        counts=_counts(13500, 5400, 8100),
        license="MIT",
        sources=("https://github.com/phelber/EuroSAT", COOP_GUIDE),
        notes=(OWN_TEST,),
    ),
    PublicSet(
        name="ucf101",
        title="UCF101 (middle frames)",
        folders=("ucf101", "UCF101"),
        images=("ucf101/UCF-101-midframes", "UCF101/UCF-101-midframes"),
        split_file="split_zhou_UCF101.json",
        split_id="1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        template="a photo of a person doing {}.",
        classes=101,
        counts=_counts(7639, 1898, 3783),
        license=RESEARCH,
        sources=(COOP_GUIDE, "https://www.crcv.ucf.edu/data/UCF101.php"),
        notes=("official split 01; the middle frame of each video, as CoOp publishes them",),
    ),
)


def public_set(name: str) -> PublicSet:
    """The entry of a catalog name."""
    return next(entry for entry in PUBLIC_SETS if entry.name == name)


def by_split_file(file_name: str) -> PublicSet | None:
    """The entry whose published split file has this name."""
    return next((entry for entry in PUBLIC_SETS if entry.split_file == file_name), None)
