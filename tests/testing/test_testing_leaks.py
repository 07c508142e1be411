"""No argument of a method gives access to test labels, item names or files; fits are freed."""

from __future__ import annotations

import copy
import gc
import types
from typing import Any

from fewshot_bench import Item, Task
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.testing import Bench, run_checks
from fewshot_bench.testing.bench import QUERIES, Setting, _files, _view, prepare
from fewshot_bench.testing.toy import ToyDataset, toy_backbone
from tests.breakers import Head

_OUTSIDE = (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type)


def reachable(*roots: object) -> list[Any]:
    """All objects reachable from the roots through attributes and containers."""
    seen: dict[int, Any] = {}
    todo = list(roots)
    while todo:
        value = todo.pop()
        if id(value) not in seen and not isinstance(value, _OUTSIDE):
            seen[id(value)] = value
            todo += gc.get_referents(value)
    return list(seen.values())


def test_task_context_and_queries_lead_nowhere() -> None:
    made = prepare(Setting(), toy_backbone())
    train, val = made.task.train, made.task.val
    task = Task(made.task.classnames, made.task.templates, train._view, val._view)  # type: ignore[attr-defined, union-attr]
    queries = _view(made.queries)
    found = reachable(task, made.context, queries)
    assert not [value for value in found if isinstance(value, Item | ImageSource | ToyDataset)]
    names = {item.id for item in _files("queries", QUERIES)[1]}
    assert len(names) == len(made.labels)
    assert not [value for value in found if isinstance(value, str) and value in names]


def test_the_walk_finds_what_is_there() -> None:
    made = prepare(Setting(), toy_backbone())
    assert any(isinstance(value, Item) for value in reachable([made.queries]))


def test_a_batch_iterator_leads_nowhere() -> None:
    made = prepare(Setting(), toy_backbone())
    batches = _view(made.queries).batches(2)
    next(batches)
    found = reachable(batches)
    assert not [value for value in found if isinstance(value, Item | ImageSource | ToyDataset)]


def test_a_view_is_no_key_to_anything() -> None:
    made = prepare(Setting(), toy_backbone())
    queries = _view(made.queries)
    assert not hasattr(queries, "__weakref__")
    assert not hasattr(queries, "__dict__")
    assert [type(value) for value in gc.get_referents(queries) if not isinstance(value, type)] == [
        int
    ]


def backbones() -> int:
    """The number of backbones in memory."""
    gc.collect()
    return sum(type(value) is OpenClipBackbone for value in gc.get_objects())


def test_checks_keep_no_backbone_in_memory() -> None:
    before = backbones()
    run_checks(Head())
    assert backbones() <= before


def test_a_task_and_its_copies_can_be_read_without_their_bench() -> None:
    train = copy.deepcopy(Bench(Head()).first.task.train)
    gc.collect()
    assert train.features.shape[0] == len(train.labels) == 16
