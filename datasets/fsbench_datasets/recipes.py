"""What `fsbench data prepare` fetches for the public sets, as data.

Addresses and MD5 are those of torchvision's downloaders (the MD5 of FGVC-Aircraft: of the one in
R), SHA-256 and sizes those recorded with TensorFlow Datasets. A mirror is listed only where its
file has a digest to be held against.
"""

from __future__ import annotations

from fewshot_bench import Recipe, RemoteFile
from fsbench_datasets.recipes_imagenet import DRIVE, GB, IMAGENET_RECIPES
from fsbench_datasets.split_sources import SPLIT_FILES

OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
# Where the addresses of OXFORD redirect to.
OXFORD_FILES = "https://thor.robots.ox.ac.uk"


_RECIPES = {
    **IMAGENET_RECIPES,
    "caltech101": Recipe(
        (
            SPLIT_FILES["caltech101"],
            RemoteFile(
                "caltech-101.zip",
                "caltech-101",
                ("https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",),
                provides=("caltech-101/101_ObjectCategories",),
                alternatives=(
                    "Caltech101/101_ObjectCategories",
                    "caltech101/101_ObjectCategories",
                ),
                sha256="331234750fc7f77520e50d9565e8b6907b03565e30320da1401130db08c61f91",
                md5="3138e1922a9193bfa496528edbbc45d0",
                size=137_414_764,
                unpack=True,
                strip="caltech-101",
                inner=("caltech-101/101_ObjectCategories.tar.gz",),
                max_unpacked=2 * GB,
            ),
        )
    ),
    "oxford_pets": Recipe(
        (
            SPLIT_FILES["oxford_pets"],
            RemoteFile(
                "images.tar.gz",
                "oxford_pets",
                (f"{OXFORD}/pets/data/images.tar.gz", f"{OXFORD_FILES}/pets/images.tar.gz"),
                provides=("oxford_pets/images",),
                alternatives=("OxfordPets/images", "oxford-iiit-pet/images"),
                sha256="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                md5="5c4f3ee8e5d25df40f4fd59a7f44e54c",
                size=791_918_971,
                unpack=True,
                max_unpacked=4 * GB,
            ),
        )
    ),
    "stanford_cars": Recipe(
        (
            SPLIT_FILES["stanford_cars"],
            RemoteFile(
                "cars_train.tgz",
                "stanford_cars",
                provides=("stanford_cars/cars_train",),
                alternatives=("StanfordCars/cars_train",),
                sha256="512b227b30e2f0a8aab9e09485786ab4479582073a144998da74d64b801fd288",
                size=979_269_282,
                unpack=True,
                max_unpacked=4 * GB,
            ),
            RemoteFile(
                "cars_test.tgz",
                "stanford_cars",
                provides=("stanford_cars/cars_test",),
                alternatives=("StanfordCars/cars_test",),
                sha256="bffea656d6f425cba3c91c6d83336e4c5f86c6cffd8975b0f375d3a10da8e243",
                size=977_350_468,
                unpack=True,
                max_unpacked=4 * GB,
            ),
        ),
        by_hand=(
            "the authors' archives (cars_train.tgz, cars_test.tgz at ai.stanford.edu) are gone: "
            "download https://www.kaggle.com/datasets/rickyyyyyyy/torchvision-stanford-cars (with "
            "a Kaggle account) or stanford_cars.tar.gz from "
            "https://huggingface.co/datasets/koorye/Stanford-Cars (without one)",
            "unpack it so that stanford_cars/cars_train/00001.jpg (8,144 images) and "
            "stanford_cars/cars_test/00001.jpg (8,041 images) exist; if a folder of the same name "
            "lies inside (cars_train/cars_train/), move its images up",
            "or, if you have the authors' archives, put them at "
            "downloads/stanford_cars/cars_train.tgz and downloads/stanford_cars/cars_test.tgz: "
            "they are checked and unpacked",
        ),
    ),
    "oxford_flowers": Recipe(
        (
            SPLIT_FILES["oxford_flowers"],
            RemoteFile(
                "102flowers.tgz",
                "oxford_flowers",
                (
                    f"{OXFORD}/flowers/102/102flowers.tgz",
                    f"{OXFORD_FILES}/flowers/102/102flowers.tgz",
                ),
                provides=("oxford_flowers/jpg",),
                alternatives=("Flower102/jpg", "flowers-102/jpg"),
                sha256="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                md5="52808999861908f626f3c1f4e79d11fa",
                size=344_862_509,
                unpack=True,
                max_unpacked=2 * GB,
            ),
        )
    ),
    "food101": Recipe(
        (
            SPLIT_FILES["food101"],
            RemoteFile(
                "food-101.tar.gz",
                "food-101",
                (
                    "https://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                ),
                provides=("food-101/images",),
                alternatives=("Food101/images",),
                sha256="d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
                md5="85eeb15f3717b99a5da872d97d918f87",
                size=4_996_278_331,
                unpack=True,
                strip="food-101",
                max_unpacked=15 * GB,
            ),
        )
    ),
    "fgvc_aircraft": Recipe(
        (
            RemoteFile(
                "fgvc-aircraft-2013b.tar.gz",
                "fgvc_aircraft",
                (f"{OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",),
                provides=("fgvc_aircraft/images", "fgvc_aircraft/variants.txt"),
                alternatives=("fgvc-aircraft-2013b/data/images",),
                md5="d4acdd33327262359767eeaa97a4f732",
                size=2_753_340_328,
                unpack=True,
                strip="fgvc-aircraft-2013b/data",
                max_unpacked=10 * GB,
            ),
        )
    ),
    "sun397": Recipe(
        (
            SPLIT_FILES["sun397"],
            RemoteFile(
                "SUN397.tar.gz",
                "sun397",
                (
                    "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                    "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                    "https://huggingface.co/zhengli97/SUN397_Dataset/resolve/main/SUN397.tar.gz",
                ),
                provides=("sun397/SUN397",),
                alternatives=("SUN397/SUN397", "SUN397/a"),
                sha256="f404130965a7ad77bed5ececc71e720ab50f3cc1e1bb257257610d38f3b928ec",
                md5="8ca2778205c41d23104230ba66911c7a",
                size=39_077_296_924,
                unpack=True,
                max_unpacked=80 * GB,
            ),
        )
    ),
    "dtd": Recipe(
        (
            SPLIT_FILES["dtd"],
            RemoteFile(
                "dtd-r1.0.1.tar.gz",
                "dtd",
                (
                    f"{OXFORD}/dtd/download/dtd-r1.0.1.tar.gz",
                    f"{OXFORD_FILES}/dtd/dtd-r1.0.1.tar.gz",
                ),
                provides=("dtd/images",),
                alternatives=("DTD/images", "dtd/dtd/images"),
                sha256="e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
                md5="fff73e5086ae6bdbea199a49dfb8a4c1",
                size=625_239_812,
                unpack=True,
                strip="dtd",
                max_unpacked=3 * GB,
            ),
        )
    ),
    "eurosat": Recipe(
        (
            SPLIT_FILES["eurosat"],
            RemoteFile(
                "EuroSAT.zip",
                "eurosat",
                (
                    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                    "https://madm.dfki.de/files/sentinel/EuroSAT.zip",
                ),
                provides=("eurosat/2750",),
                alternatives=("eurosat/EuroSAT_RGB", "EuroSAT_RGB"),
                sha256="8ebea626349354c5328b142b96d0430e647051f26efc2dc974c843f25ecf70bd",
                md5="c8fa014336c82ac7804f0398fcb19387",
                size=94_280_567,
                unpack=True,
                max_unpacked=GB,
            ),
        )
    ),
    "ucf101": Recipe(
        (
            SPLIT_FILES["ucf101"],
            RemoteFile(
                "UCF-101-midframes.zip",
                "ucf101",
                (f"{DRIVE}10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O",),
                provides=("ucf101/UCF-101-midframes",),
                alternatives=("UCF101/UCF-101-midframes",),
                unpack=True,
                max_unpacked=5 * GB,
            ),
        ),
        by_hand=(
            "Google Drive may refuse programs: in a browser, open "
            f"{DRIVE}10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O/view and save UCF-101-midframes.zip at "
            "downloads/ucf101/UCF-101-midframes.zip",
        ),
    ),
}


def recipe_of(name: str) -> Recipe:
    """What a public set needs, by its name in the catalog."""
    return _RECIPES[name]
