"""The four ImageNet variants that methods fitted on ImageNet are tested on; they have no train."""

from __future__ import annotations

from fsbench_datasets.catalog_entry import COOP_GUIDE, RESEARCH, PublicSet

SUITES = ("imagenet-ood",)
TEMPLATE = "a photo of a {}."
TEST_ONLY = "test images only: fit on imagenet and evaluate here (--transfer)"
OWN_NAMES = "classified among its own 200 names, not among ImageNet's 1000"

IMAGENET_OOD = (
    PublicSet(
        name="imagenet-v2",
        title="ImageNetV2 (matched frequency)",
        folders=("imagenetv2", ""),
        images=(
            "imagenetv2/imagenetv2-matched-frequency-format-val",
            "imagenetv2-matched-frequency-format-val",
            "imagenetv2",
        ),
        layout="numbers",
        template=TEMPLATE,
        classes=1000,
        counts={"train": 0, "test": 10000},
        license=RESEARCH,
        sources=("https://huggingface.co/datasets/vaishaal/ImageNetV2", COOP_GUIDE),
        notes=(TEST_ONLY,),
        suites=SUITES,
    ),
    PublicSet(
        name="imagenet-sketch",
        title="ImageNet-Sketch",
        folders=("imagenet-sketch", ""),
        images=(
            "imagenet-sketch/images",
            "imagenet-sketch/sketch",
            "imagenet-sketch",
            "sketch",
        ),
        layout="synsets",
        template=TEMPLATE,
        classes=1000,
        counts={"train": 0, "test": 50889},
        license=RESEARCH,
        sources=("https://github.com/HaohanWang/ImageNet-Sketch", COOP_GUIDE),
        notes=(TEST_ONLY,),
        suites=SUITES,
    ),
    PublicSet(
        name="imagenet-a",
        title="ImageNet-A",
        folders=("imagenet-adversarial", ""),
        images=("imagenet-adversarial/imagenet-a", "imagenet-a"),
        layout="synsets",
        template=TEMPLATE,
        classes=200,
        counts={"train": 0, "test": 7500},
        license=RESEARCH,
        sources=("https://github.com/hendrycks/natural-adv-examples", COOP_GUIDE),
        notes=(TEST_ONLY, OWN_NAMES),
        suites=SUITES,
    ),
    PublicSet(
        name="imagenet-r",
        title="ImageNet-R",
        folders=("imagenet-rendition", ""),
        images=("imagenet-rendition/imagenet-r", "imagenet-r"),
        layout="synsets",
        template=TEMPLATE,
        classes=200,
        counts={"train": 0, "test": 30000},
        license=RESEARCH,
        sources=("https://github.com/hendrycks/imagenet-r", COOP_GUIDE),
        notes=(TEST_ONLY, OWN_NAMES),
        suites=SUITES,
    ),
)
