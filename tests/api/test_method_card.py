"""Cards of methods, as authors write them and `fsbench show` prints them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench import ContractError, MethodCard
from tests.helpers import fsbench

METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import MethodCard
from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Carded(ZeroShot):
    """A method with a card."""

    name: ClassVar[str] = "carded"
    card: ClassVar[MethodCard] = MethodCard(
        "closed form",
        at_test="the split of the query",
        official={"alpha": "1.0 on Flowers, else 0.5"},
        deviations=("the last epoch instead of the best",),
    )
'''


def test_show_prints_the_card(tmp_path: Path) -> None:
    file = tmp_path / "carded.py"
    file.write_text(METHOD)
    output = fsbench("show", f"{file}:Carded").out
    assert "schedule: closed form" in output
    assert "knowledge of classes: templates" in output
    assert "knowledge at test time: the split of the query" in output
    assert "chosen per data set by the official code: alpha: 1.0 on Flowers, else 0.5" in output
    assert "differs from the official code: the last epoch instead of the best" in output


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": 3},
        {"schedule": "coop", "text": "class name"},
        {"schedule": "coop", "deviations": "one text"},
        {"schedule": "coop", "official": {"lr": 2}},
    ],
)
def test_a_card_of_another_kind_is_refused_where_it_is_written(wrong) -> None:
    with pytest.raises(ContractError, match="MethodCard"):
        MethodCard(**wrong)
