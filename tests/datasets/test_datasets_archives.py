"""Archives that cannot be read whole: joined by `cat`, so that some would be lost, or locked."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench import DataMissingError
from fewshot_bench.api.registry import registry
from tests.support.helpers import forbid
from tests.support.own_sets import samples, write_shard
from tests.support.preparing import below, images, open_shop, tar


def test_joined_shards_are_refused(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "parts" / "a.tar", samples(8))
    two = write_shard(tmp_path / "parts" / "b.tar", samples(8, 8))
    (tmp_path / "x.tar").write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(
        DataMissingError, match=r"data follows the mark of its end, at byte \d+ .*ig"
    ):
        registry().dataset(f"wds:{tmp_path / 'x.tar'}", {"classnames": ["a", "b"]}).items()


def test_zeros_after_the_end_are_fine(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "x.tar", samples(8))
    with shard.open("ab") as file:
        file.write(bytes(100_000))
    pools = registry().dataset(f"wds:{shard}", {"classnames": ["a", "b"]}).items()
    assert sum(map(len, pools.values())) == 8


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_joined_downloads_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    joined = tar(images(), mode) + tar(below("more", images()), mode)
    with open_shop(tmp_path, monkeypatch) as shop:
        shop.sell([shop.archive(joined)])
        result = shop.prepare()
        assert result.code == 3
        assert "data follows the mark of its end" in result.out
        assert not shop.tree()


def test_a_shard_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_shard(tmp_path / "x.tar", samples(8))
    forbid(monkeypatch, shard, "open")
    with pytest.raises(DataMissingError, match=r"Permission denied.*; give yourself the right to"):
        registry().dataset(f"wds:{shard}").items()
