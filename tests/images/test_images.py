"""Pixels equal open_clip's own; crops have the same distribution as torchvision's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from fewshot_bench import Augment, DataMissingError
from fewshot_bench.backbones.embedded import load_tiny
from fewshot_bench.images.augment import Uniforms, draw_crops
from fewshot_bench.images.decode import decode_or_explain, find_unreadable
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.images.user_images import prepare_images
from tests.support.image_sets import Memory, encoded


@pytest.fixture(scope="module")
def backbone() -> Any:
    """The embedded backbone."""
    return load_tiny()


FILES = {
    "rgb.jpg": encoded("RGB", "JPEG", (60, 45)),
    "gray.jpg": encoded("L", "JPEG", (45, 60)),
    "cmyk.jpg": encoded("CMYK", "JPEG", (50, 50)),
    "rgba.png": encoded("RGBA", "PNG", (33, 64)),
    "palette.png": encoded("P", "PNG", (64, 33)),
    "gray-alpha.png": encoded("LA", "PNG", (40, 40)),
    "bits.png": encoded("1", "PNG", (40, 50)),
    "png-inside.jpg": encoded("RGB", "PNG", (31, 37)),
    "rotated.jpg": encoded("RGB", "JPEG", (60, 30), exif=6),
    "dot.png": encoded("RGB", "PNG", (1, 1)),
    "line.png": encoded("RGB", "PNG", (200, 3)),
    "same.png": encoded("RGB", "PNG", (32, 32)),
    "odd.gif": encoded("P", "GIF", (35, 39)),
}


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would read the file with Ghostscript, whatever its name."""
    started, program = tmp_path / "started", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert "no known image format" in str(decode_or_explain(EPS))
    assert not started.exists()


@pytest.mark.parametrize(("size", "usable"), [((1, 1000), True), ((1, 1001), False)])
def test_an_image_whose_resized_sides_fill_the_memory_is_unusable(
    size: tuple[int, int], usable: bool
) -> None:
    found = decode_or_explain(encoded("RGB", "PNG", size))
    expected = "1 x 1001 pixels: expected sides that differ by a factor of at most 1,000"
    assert isinstance(found, Image.Image) if usable else found == expected


def test_batches_follow_the_order(backbone: Any) -> None:
    dataset = Memory(FILES)
    source = ImageSource.of(dataset, dataset.items()["train"], backbone)
    whole = torch.cat(list(source.batches(5, range(len(FILES)))))
    order = [3, 0, 3, 7, 1]
    sizes = [len(batch) for batch in source.batches(2, order)]
    assert sizes == [2, 2, 1]
    assert torch.equal(torch.cat(list(source.batches(2, order))), whole[order])


def test_augmented_batches_depend_on_the_seeds_of_their_passes_alone(backbone: Any) -> None:
    dataset = Memory(FILES)
    source = ImageSource.of(dataset, dataset.items()["train"], backbone)

    def drawn(seed: int) -> torch.Tensor:
        return torch.cat(list(source.batches(4, range(len(FILES)), Augment(), [seed])))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1).shape == (len(FILES), 3, 32, 32)


def test_a_given_file_that_changes_in_use_is_refused(backbone: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.jpg"
    path.write_bytes(FILES["rgb.jpg"])
    source, problems = prepare_images([path], backbone, rotate=False)
    assert problems == {}
    path.write_bytes(FILES["gray.jpg"])
    with pytest.raises(DataMissingError, match="changed while it was in use"):
        next(source.batches(1, [0], Augment(), [1]))


def test_damaged_files_are_named(backbone: Any) -> None:
    files = {"cut.jpg": FILES["rgb.jpg"][:300], "none.png": b"", "good.png": FILES["dot.png"]}
    dataset = Memory(files)
    items = dataset.items()["train"]
    assert list(find_unreadable(dataset, items).bad) == ["cut.jpg", "none.png"]
    source = ImageSource.of(dataset, items, backbone)
    with pytest.raises(DataMissingError, match=r"'cut\.jpg' does not decode"):
        next(source.batches(1, [0]))


@pytest.mark.parametrize("size", [(640, 480), (50, 200), (32, 32), (300, 20), (1, 1), (2, 3)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.5, 1.0)])
def test_crops_are_distributed_as_those_of_torchvision(
    size: tuple[int, int], scale: tuple[float, float]
) -> None:
    count = 6000
    uniforms = Uniforms(count, [0]).of(range(count), [0] * count)
    crops = draw_crops([size] * count, Augment(scale=scale), uniforms)
    boxes = torch.tensor([crop.box for crop in crops])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= size[0]).all()
    assert (boxes[:, 3] <= size[1]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    mirrored = sum(crop.mirrored for crop in crops) / count
    assert abs(mirrored - 0.5) < 0.05
    torch.manual_seed(0)
    blank = torch.empty(3, size[1], size[0])
    params = [
        RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(count)
    ]
    top, left, height, width = torch.tensor(params).double().T
    ours = boxes.double()
    ours_width, ours_height = ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    pairs = {
        "area": (ours_width * ours_height, width * height),
        "aspect": ((ours_width / ours_height).log(), (width / height).log()),
        "left": (ours[:, 0], left),
        "top": (ours[:, 1], top),
    }
    for name, (mine, theirs) in pairs.items():
        spread = max(float(theirs.std()), 1e-6)
        assert abs(float(mine.mean() - theirs.mean())) / spread < 0.15, name
        assert abs(float(mine.std()) - spread) < 0.15 * spread + 0.02, name
