"""`fsbench adapt --negatives`: images of none of the classes set the rejection, and measure it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.plugins.models import adapt as adapting
from fewshot_bench.plugins.models.learned import Learned
from fewshot_bench.plugins.models.rejection import describe, measure
from fewshot_bench.store.kept_models import CARD, read_config
from tests.support.helpers import fsbench, save_image


def learned(right: list[float], wrong: int = 0) -> Learned:
    """Answers of two classes with these probabilities of the class 0, the first of them right."""
    shares = np.array([*right, *[0.8] * wrong], dtype=np.float32)
    labels = np.array([0] * len(right) + [1] * wrong)
    each = np.stack([shares, 1 - shares], axis=1)[None]
    count = len(labels)
    return Learned(tuple(map(str, range(count))), labels, np.arange(count), ("a", "b"), each)


def test_the_limit_divides_best_and_is_measured_by_the_other_half() -> None:
    others = np.array([0.55] * 30)
    limit, stated = measure(learned([0.9] * 30, wrong=5), others, np.arange(30), None)
    assert limit == pytest.approx(0.725)
    assert (stated["caught"], stated["kept"], stated["negatives"]) == (1.0, 1.0, 30.0)
    assert stated["caught_low"] < 0.9 < stated["caught_high"] == 1.0


def test_without_any_difference_nothing_is_gained_by_chance() -> None:
    """The shares add up to one, as they do for a coin."""
    rng = np.random.default_rng(1)
    sums = []
    for _ in range(60):
        right, others = rng.uniform(0.5, 1, (2, 40))
        _, stated = measure(learned(right.tolist()), others, np.arange(40), None)
        sums.append(stated["caught"] + stated["kept"])
    assert abs(np.mean(sums) - 1) < 0.04


def test_a_share_to_keep_is_kept_whatever_it_catches() -> None:
    right = np.linspace(0.6, 0.99, 100)
    limit, stated = measure(learned(right.tolist()), np.full(20, 0.7), np.arange(20), 0.9)
    assert limit == pytest.approx(np.quantile(right, 0.1, method="lower"))
    assert stated["kept"] == pytest.approx(0.9, abs=0.06)
    assert stated["caught"] == 0


def test_copies_are_on_one_side() -> None:
    """Were they on both, each would be measured by a limit that it set."""
    rng = np.random.default_rng(2)
    values = np.repeat(rng.uniform(0.5, 1, 15), 2)
    _, stated = measure(learned([0.75] * 40), values, np.repeat(np.arange(15) * 2, 2), None)
    _, alone = measure(learned([0.75] * 40), values[::2], np.arange(15), None)
    assert stated["caught_high"] - stated["caught_low"] == pytest.approx(
        alone["caught_high"] - alone["caught_low"], abs=0.1
    )


def test_without_right_answers_there_is_no_limit() -> None:
    assert measure(learned([], wrong=5), np.full(10, 0.6), np.arange(10), None) == (None, {})


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(adapting, "REPEATS", 1)
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        for index in range(8):
            save_image(tmp_path / f"photos/{name}/{index}.png", hash(color) % 999 + index)
            plain = Image.new("RGB", (40, 32), color)
            path = tmp_path / f"photos/{name}/{index}.png"
            Image.blend(Image.open(path), plain, 0.7).save(path)
    return tmp_path / "photos"


def adapt(photos: Path, *more: object) -> tuple[int, str, str]:
    asked = ("-d", photos, "-O", photos.parent / "m", "-m", "gda", "--backbone", "tiny", "--force")
    done = fsbench("adapt", *asked, "--device", "cpu", *more)
    return done.code, done.out, done.err


def test_adapt_states_what_is_caught(photos: Path) -> None:
    """Copies of training images, and files that cannot be read, are named and left out."""
    other = photos.parent / "other"
    for index in range(10):
        save_image(other / f"deep/{index}.png", 5000 + index)
    shutil.copy(photos / "red/0.png", other / "copy.png")
    (other / "broken.png").write_bytes(b"no image")
    code, out, err = adapt(photos, "--negatives", other)
    assert code == 0, err
    config = read_config(photos.parent / "m")
    stated = config.accuracy
    assert stated["negatives"] == 10
    assert config.reject is not None
    assert describe(config) in out
    assert f"{100 * stated['caught']:.0f} % (" in describe(config)
    assert "--negatives: 10 images; left out as copies of images of classes: 'copy.png'" in out
    card = (photos.parent / "m" / CARD).read_text()
    assert "others are caught" in card
    assert str(photos.parent) not in card


def test_too_few_are_refused_before_anything_is_fitted(photos: Path) -> None:
    save_image(photos.parent / "other/1.png", 1)
    code, _, err = adapt(photos, "--negatives", photos.parent / "other")
    assert code == 2
    assert f"expected 10 or more in {photos.parent / 'other'}" in err
    code, _, err = adapt(photos, "--negatives", photos.parent / "none")
    assert code == 2
    assert f"{photos.parent / 'none'}: expected a folder of images of no class" in err
