"""The `coop` protocol draws the published picks of the nine public sets.

`data/coop_lists.json.xz` holds train and val lists of the published split files, in their order.
"""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench import Split
from fewshot_bench.splits.draw import draw
from fewshot_bench.splits.published import (
    Lists,
    compare_lists,
    published_splits,
    verify_file,
    verify_picks,
)
from tests.support.split_trees import real_pools

NAMES = sorted(published_splits())


def pick(
    name: str, shots: int = 16, seed: int = 1, val: str = "min4", protocol: str = "coop"
) -> Split:
    return draw(name, "", real_pools(name), protocol=protocol, shots=shots, seed=seed, val=val)


@pytest.mark.parametrize("name", NAMES)
def test_all_published_settings_are_reproduced(name: str) -> None:
    settings = [tuple(map(int, key.split("/"))) for key in published_splits()[name].picks]
    assert len(settings) == 15
    wrong = [s for s in settings if verify_picks(pick(name, *s), name) is not True]
    assert wrong == []


def test_nine_sets_are_published() -> None:
    assert len(NAMES) == 9


def test_another_val_policy_is_judged_by_train_picks() -> None:
    for policy in ("none", "shots", "full"):
        assert verify_picks(pick("dtd", val=policy), "dtd") is True


def test_changed_picks_are_not_verified() -> None:
    split = pick("dtd")
    turned = dataclasses.replace(split, train=tuple(reversed(split.train)))
    other_val = dataclasses.replace(split, val=tuple(reversed(split.val)))
    assert verify_picks(turned, "dtd") is False
    assert verify_picks(other_val, "dtd") is False


def test_nothing_is_published_for_other_settings() -> None:
    assert verify_picks(pick("dtd", seed=4), "dtd") is None
    assert verify_picks(pick("dtd", shots=3), "dtd") is None
    assert verify_picks(pick("dtd", protocol="clip-lora"), "dtd") is None
    assert verify_picks(pick("dtd"), "digits") is None


def test_a_changed_split_is_told_from_the_published_one() -> None:
    assert compare_lists(real_pools("dtd"), "dtd") is Lists.OTHER
    assert compare_lists(real_pools("dtd"), "digits") is Lists.UNKNOWN
    assert verify_file(b"{}", "dtd") is False
    assert verify_file(b"{}", "digits") is None


def test_train_overlap_of_the_two_papers() -> None:
    """Shares of CoOp's 16-shot picks also drawn by CLIP-LoRA, seed 1, from the authors' code."""
    for name, share in {"caltech101": 0.56, "dtd": 0.27, "eurosat": 0.01, "sun397": 0.40}.items():
        mine, theirs = pick(name), pick(name, protocol="clip-lora")
        overlap = len(set(mine.train) & set(theirs.train)) / len(mine.train)
        assert overlap == pytest.approx(share, abs=0.006)
