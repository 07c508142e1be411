"""Where CoOp's split files come from: a mirror pinned by commit, then the authors' own copies."""

from __future__ import annotations

from fewshot_bench import RemoteFile
from fsbench_datasets.recipes_imagenet import DRIVE

# The seven split files of this repository have the sizes of the published ones, to the byte.
SPLIT_MIRROR = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
    "c7e7e68ae4eeadfab98e7886b2d6c9cf48a7ceb5/splits/"
)


def _split(
    folder: str,
    name: str,
    drive_id: str,
    sha256: str,
    size: int,
    *others: str,
    mirrored: bool = True,
) -> RemoteFile:
    """A split file of CoOp; `others` are folders where CLIP-LoRA or torchvision put the set."""
    mirrors = (f"{SPLIT_MIRROR}{name}",) if mirrored else ()
    return RemoteFile(
        name,
        f"{folder}/{name}",
        (*mirrors, f"{DRIVE}{drive_id}"),
        alternatives=(*(f"{folder}/{name}" for folder in (*others, "splits")), name),
        sha256=sha256,
        size=size,
        split=True,
    )


SPLIT_FILES = {
    "caltech101": _split(
        "caltech-101",
        "split_zhou_Caltech101.json",
        "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN",
        "52ce83205ff8ff8a1a18119aad6376120ae35c36e783a984bc560cbf10e73fa5",
        809_184,
        "Caltech101",
        "caltech101",
    ),
    "oxford_pets": _split(
        "oxford_pets",
        "split_zhou_OxfordPets.json",
        "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs",
        "d7f3ffe65b3919f95132e51422894ae18686b83c331fd8c0adcdc3dc2de6301e",
        724_217,
        "OxfordPets",
        "oxford-iiit-pet",
    ),
    "stanford_cars": _split(
        "stanford_cars",
        "split_zhou_StanfordCars.json",
        "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT",
        "40acee7aa65c8e4727a32d90e884b7c3f8960b523422317e163f7af65432959d",
        1_855_652,
        "StanfordCars",
    ),
    "oxford_flowers": _split(
        "oxford_flowers",
        "split_zhou_OxfordFlowers.json",
        "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT",
        "2f50c42fc1a17ca13c271cb4269b1347bdb43d2be672e34f74a4e4cbfbcca794",
        771_139,
        "Flower102",
        "flowers-102",
    ),
    "food101": _split(
        "food-101",
        "split_zhou_Food101.json",
        "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl",
        "7c3d456c4f348255e1a363e0ea5118318936488f3ec20d83758e0ee67cb9037c",
        10_203_303,
        "Food101",
        mirrored=False,
    ),
    "sun397": _split(
        "sun397",
        "split_zhou_SUN397.json",
        "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq",
        "9847f9ef611008073ac42adee6614bbb83f877cfbcfbd3115fc8284e0c8c1c47",
        4_744_862,
        "SUN397",
        mirrored=False,
    ),
    "dtd": _split(
        "dtd",
        "split_zhou_DescribableTextures.json",
        "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x",
        "f26ebeccd2b58e68d70f07a0dc39fe49bf7b69024bac34396b954dfd87969c38",
        563_702,
        "DTD",
        "dtd/dtd",
    ),
    "eurosat": _split(
        "eurosat",
        "split_zhou_EuroSAT.json",
        "1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o",
        "541503a77d0b26b735d85ec7a3e672804fe0aa466c2e5f07da772cc6c0af8ad2",
        3_006_492,
    ),
    "ucf101": _split(
        "ucf101",
        "split_zhou_UCF101.json",
        "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y",
        "d78cb834f7c5792ceaff2c5ee2d7c76a9e4086e48a3a6b01232989d29cbefdd8",
        1_557_485,
        "UCF101",
    ),
}
