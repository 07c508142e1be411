"""Answers of one fit are independent of each other, of names, and of a killed worker."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench import DatasetCard, Item
from fewshot_bench.api.dataset import customize
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.runner.examiner import LabelSpace, adapt_classifier
from fewshot_bench.runner.run import run_group, run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import NotApplicableError
from tests.support import plugin_transfer
from tests.support.helpers import cells, install_methods, record_files


@pytest.fixture
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("transferring")
    install_methods(folder, plugin_transfer.MODULE, "plugin_transfer.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        registry.cache_clear()
        yield
    registry.cache_clear()
    sys.modules.pop(plugin_transfer.MODULE, None)


def halves(how: str) -> list[Any]:
    return cells("keeping", options=[f"how={how}"], classes=("base", "new"))


@pytest.mark.usefixtures("keeping")
def test_an_answer_leaves_nothing_for_the_next_one() -> None:
    together = list(run_group(halves("keep"), Session()))
    alone = [run_one(spec, Session()) for spec in halves("keep")]
    for one, other in zip(together, alone, strict=True):
        assert one.record.status == "done", one.record.error
        assert one.record.notes == other.record.notes == {"answers": 1}
        assert torch.equal(one.logits, other.logits)  # type: ignore[arg-type]


@pytest.mark.usefixtures("keeping")
def test_a_refusal_that_changed_the_backbone_spoils_no_other_cell() -> None:
    session = Session()
    states = [outcome.record.status for outcome in run_group(halves("refuse"), session)]
    assert states == ["done", "inapplicable"]
    assert run_one(cells("zero-shot")[0], session).record.status == "done"


@pytest.mark.usefixtures("keeping")
def test_a_killed_answer_costs_no_other_record(tmp_path: Path) -> None:
    base, new = halves("kill")
    store = Store(tmp_path)
    store.create()
    with LocalEngine(store, Settings(threads=1)) as engine:
        states = {r.spec.classes: r.status for r in engine.run([base, new], lambda *_: None)}
    assert states == {"base": "done", "new": "failed"}
    before = record_files(tmp_path)
    with LocalEngine(store, Settings(threads=1)) as engine:
        states = {r.spec.classes: r.status for r in engine.run([base, new], lambda *_: None)}
    assert states == {"base": "done", "new": "failed"}
    kept = base.key()
    after = record_files(tmp_path)
    assert {n: f for n, f in after.items() if n.startswith(kept)} == {
        n: f for n, f in before.items() if n.startswith(kept)
    }


def card(*names: str, ids: tuple[str, ...] = ()) -> DatasetCard:
    return DatasetCard("set", "Set", names, class_ids=ids)


class Silent:
    """A classifier without `for_classes`."""

    def logits(self, queries: Any) -> torch.Tensor:
        raise AssertionError

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


def test_names_say_nothing_about_which_class_it_is() -> None:
    @dataclasses.dataclass
    class Plain:
        def card(self) -> DatasetCard:
            return card("red", "green")

        def items(self) -> dict[str, tuple[Item, ...]]:
            return {"train": (), "test": ()}

        def read(self, item: Item) -> bytes:
            raise AssertionError

    swapped = customize(Plain(), {"red": "green", "green": "red"}, None).card()
    fitted = LabelSpace.of(swapped, "simple", "all")
    _, columns = adapt_classifier(
        Silent(), fitted, LabelSpace.of(card("red", "green"), "simple", "all")
    )
    assert columns is not None
    assert columns.tolist() == [0, 1]


def test_classes_that_cannot_be_told_apart_are_no_columns() -> None:
    fitted = LabelSpace.of(card("crane", "crane", "dog"), "simple", "all")
    with pytest.raises(NotApplicableError):
        adapt_classifier(Silent(), fitted, LabelSpace.of(card("crane", "crane"), "simple", "all"))
    told = LabelSpace.of(
        card("crane", "crane", "dog", ids=("bird", "machine", "dog")), "simple", "all"
    )
    asked = LabelSpace.of(card("dog", "crane", ids=("dog", "machine")), "simple", "all")
    _, columns = adapt_classifier(Silent(), told, asked)
    assert columns is not None
    assert columns.tolist() == [2, 1]
