"""`--holdout`: impossible shares are rejected with one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.helpers import fsbench, save_image


@pytest.mark.parametrize("share", ["1.5", "1", "0.9", "0.8", "0", "-1", "nan"])
def test_one_text_for_every_share_that_cannot_be(tmp_path: Path, share: str) -> None:
    for name in ("cat", "dog"):
        for index in range(12):
            save_image(tmp_path / "pets" / name / f"{index}.png", index)
    words = ("run", "-m", "zero-shot", "-d", f"folder:{tmp_path / 'pets'}", "--shots", "1")
    done = fsbench(*words, "--holdout", share, "--store", tmp_path / "s", "--dry-run")
    assert done.code == 2
    assert f"--holdout {float(share)}: expected a share above 0 and below 0.8 (" in done.err
