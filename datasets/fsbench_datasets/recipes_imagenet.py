"""What `fsbench data prepare` fetches for ImageNet and its four variants, as data."""

from __future__ import annotations

from fewshot_bench import Recipe, RemoteFile

DRIVE = "https://drive.google.com/file/d/"
GB = 10**9

IMAGENET_RECIPES = {
    "imagenet": Recipe(
        tuple(
            RemoteFile(name, f"imagenet/{name}", alternatives=alternatives, md5=md5, size=size)
            for name, md5, size, alternatives in (
                (
                    "ILSVRC2012_img_train.tar",
                    "1d675b47d978889d74fa0da5fadfb00e",
                    147_897_477_120,
                    ("imagenet/images/train", "imagenet/train"),
                ),
                (
                    "ILSVRC2012_img_val.tar",
                    "29b22e2961454d5413ddabcf34fc5622",
                    6_744_924_160,
                    ("imagenet/images/val", "imagenet/val"),
                ),
                (
                    "ILSVRC2012_devkit_t12.tar.gz",
                    "fa75699e90414af021442c21a62c3abf",
                    2_568_145,
                    ("imagenet/images/val", "imagenet/val"),
                ),
            )
        ),
        by_hand=(
            "sign up at https://image-net.org/signup and accept the terms (non-commercial use)",
            "on https://image-net.org/challenges/LSVRC/2012/2012-downloads.php download the "
            "training images (138 GB), the validation images (6.3 GB) and the development kit "
            "(task 1 & 2)",
            "put them, without unpacking, at imagenet/ILSVRC2012_img_train.tar, "
            "imagenet/ILSVRC2012_img_val.tar and imagenet/ILSVRC2012_devkit_t12.tar.gz",
            "or link folders that you have unpacked: imagenet/images/train and "
            "imagenet/images/val, each with one folder per class (n01440764, ...)",
        ),
    ),
    "imagenet-v2": Recipe(
        (
            RemoteFile(
                "imagenetv2-matched-frequency.tar.gz",
                "imagenetv2",
                (
                    "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/"
                    "imagenetv2-matched-frequency.tar.gz",
                ),
                provides=("imagenetv2/imagenetv2-matched-frequency-format-val",),
                alternatives=("imagenetv2-matched-frequency-format-val",),
                sha256="f0c37fdf925916b19ea1323cd9a2208cdb6959ba2c32eef2a7fc393835c9ca7c",
                size=1_264_079_360,
                unpack=True,
                max_unpacked=5 * GB,
            ),
        )
    ),
    "imagenet-sketch": Recipe(
        (
            RemoteFile(
                "ImageNet-Sketch.zip",
                "imagenet-sketch/images",
                (
                    "https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/"
                    "ImageNet-Sketch.zip",
                    f"{DRIVE}1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA",
                ),
                alternatives=("imagenet-sketch/sketch", "sketch"),
                sha256="4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
                size=7_593_573_012,
                unpack=True,
                strip="sketch",
                max_unpacked=20 * GB,
            ),
        ),
        by_hand=(
            "if both sources refuse: in a browser, open "
            f"{DRIVE}1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA/view and save ImageNet-Sketch.zip at "
            "downloads/imagenet-sketch/ImageNet-Sketch.zip",
        ),
    ),
    "imagenet-a": Recipe(
        (
            RemoteFile(
                "imagenet-a.tar",
                "imagenet-adversarial",
                ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",),
                provides=("imagenet-adversarial/imagenet-a",),
                alternatives=("imagenet-a",),
                sha256="3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e",
                md5="c3e55429088dc681f30d81f4726b6595",
                size=687_552_512,
                unpack=True,
                max_unpacked=3 * GB,
            ),
        )
    ),
    "imagenet-r": Recipe(
        (
            RemoteFile(
                "imagenet-r.tar",
                "imagenet-rendition",
                ("https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",),
                provides=("imagenet-rendition/imagenet-r",),
                alternatives=("imagenet-r",),
                sha256="18c6bf493b39a0d975d48e587437f562caab9c52ae6327dcfa9dd8eb54aa1b52",
                md5="a61312130a589d0ca1a8fca1f2bd3337",
                size=2_191_079_936,
                unpack=True,
                max_unpacked=8 * GB,
            ),
        )
    ),
}
