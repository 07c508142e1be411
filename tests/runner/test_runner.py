"""Running one cell: its record, and methods that break the contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.runner.examiner import Outcome
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.support.helpers import METHODS, cells, fsbench, quick


@pytest.fixture(scope="module")
def session() -> Session:
    """A session shared by well-behaved methods."""
    return Session()


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    yield
    torch.set_grad_enabled(grad)
    torch.set_default_dtype(dtype)


def good(outcome: Outcome) -> torch.Tensor:
    """Logits of a cell; assert that it is done."""
    assert outcome.record.status == "done", outcome.record.error
    assert outcome.logits is not None
    return outcome.logits


def test_every_method_gives_the_same_logits_in_another_session(session: Session) -> None:
    specs = cells(*METHODS, options=quick(METHODS))
    first = [run_one(spec, session) for spec in specs]
    again = Session()
    # Run in another order: results must not depend on earlier cells.
    second = [run_one(spec, again) for spec in reversed(specs)][::-1]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(good(one), good(other)), one.record.spec.method
        assert one.record.metrics == other.record.metrics


def test_logits_are_in_the_order_of_the_split(session: Session) -> None:
    (spec,) = cells("zero-shot")
    outcome = run_one(spec, session)
    from fewshot_bench.splits.draw import split_of

    dataset = registry().dataset(spec.dataset)
    split = split_of(spec, {spec.dataset: dataset})
    assert outcome.ids == [item.id for item in split.test]
    assert outcome.answers is not None
    assert outcome.answers.labels.tolist() == [item.label for item in split.test]
    backbone, _ = session.backbone(spec)
    source = ImageSource.of(dataset, split.test, backbone)
    pixels = next(source.batches(100, range(len(source))))
    card = dataset.card()
    features = torch.nn.functional.normalize(backbone.encode_image(pixels), dim=-1)
    prompts = [card.templates("custom")[0].replace("{}", name) for name in card.classnames]
    text = torch.nn.functional.normalize(backbone.encode_text(prompts), dim=-1)
    expected = backbone.logit_scale * features @ text.T
    if len(card.templates("custom")) == 1:
        torch.testing.assert_close(good(outcome), expected, rtol=1e-4, atol=1e-3)
    top1 = 100 * float(
        (good(outcome).argmax(1) == torch.tensor(outcome.answers.labels)).float().mean()
    )
    assert outcome.record.metrics["top1"] == pytest.approx(top1, abs=1e-4)


@pytest.mark.parametrize(
    ("how", "kind", "part"),
    [
        ("shape", "ContractError", "expected (40, 10)"),
        ("nan", "ContractError", "1 of 40 rows"),
        ("list", "ContractError", "returned list, expected a tensor"),
        ("raise", "RuntimeError", "no idea"),
        ("exit", "SystemExit", "3"),
    ],
)
def test_bad_logits_fail_the_cell(
    methods: Any, session: Session, how: str, kind: str, part: str
) -> None:
    record = run_one(cells("bad-logits", options=[f"how={how}"])[0], session).record
    assert (record.status, record.metrics) == ("failed", {})
    assert record.error is not None
    assert record.error["type"] == kind
    assert part in record.error["message"]
    assert "Traceback" in record.error["traceback"]


@pytest.mark.parametrize(
    ("how", "kind", "part"),
    [
        ("raise", "RuntimeError", "no idea"),
        ("exit", "SystemExit", "3"),
        ("none", "ContractError", "returned NoneType without logits()"),
        ("options", "ContractError", "bad-fit.fit changed how from 'options' to 'sleep'"),
    ],
)
def test_bad_fit_fails_the_cell(
    methods: Any, session: Session, how: str, kind: str, part: str
) -> None:
    record = run_one(cells("bad-fit", options=[f"how={how}"])[0], session).record
    assert record.error is not None
    assert record.error["type"] == kind
    assert part in record.error["message"]


CHANGES = ("weights", "hook", "train", "tokenizer", "steps")


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_backbone_fails_the_cell_and_not_the_next(
    methods: Any, session: Session, how: str
) -> None:
    vandal, after = *cells("vandal", options=[f"how={how}"]), *cells("zero-shot")
    clean = good(run_one(after, session))
    own = Session()
    outcome = run_one(vandal, own)
    following = run_one(after, own)
    assert torch.equal(good(following), clean)
    assert outcome.record.error is not None, "not noticed"
    assert outcome.record.error["type"] == "ContractError"
    assert "left the backbone changed" in outcome.record.error["message"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_changed_tower_fails_the_cell(methods: Any, precision: str) -> None:
    session = Session()
    (vandal,) = cells("vandal", options=["how=tower"], precision=precision)
    outcome = run_one(vandal, session)
    assert outcome.record.error is not None, "not noticed"
    assert outcome.record.error["type"] == "ContractError"


@pytest.mark.parametrize("how", ["features", "views"])
def test_writing_into_what_is_handed_out_reaches_nobody_else(
    methods: Any, session: Session, how: str
) -> None:
    (vandal,), after = cells("vandal", options=[f"how={how}"]), cells("viewer", "zero-shot")
    clean = [good(run_one(spec, session)) for spec in after]
    own = Session()
    run_one(vandal, own)
    for spec, expected in zip(after, clean, strict=True):
        assert torch.equal(good(run_one(spec, own)), expected), spec.method


@pytest.mark.parametrize("how", ["grad_mode", "dtype"])
def test_a_changed_global_of_torch_reaches_nobody_else(
    methods: Any, session: Session, how: str
) -> None:
    (vandal,), (after,) = (
        cells("vandal", options=[f"how={how}"]),
        cells("coop", options=quick(("coop",))),
    )
    clean = good(run_one(after, session))
    own = Session()
    run_one(vandal, own)
    assert torch.equal(good(run_one(after, own)), clean)


def test_position_in_the_list_of_queries_says_nothing(methods: Any, session: Session) -> None:
    record = run_one(cells("positions", limit=None)[0], session).record
    assert record.metrics["n"] > 500
    assert 5 < record.metrics["top1"] < 15


PROBABILITIES = """
from dataclasses import dataclass
from typing import ClassVar

from fewshot_bench import Images


@dataclass(frozen=True)
class Answering:
    rows: object
    logarithms: bool

    def logits(self, queries):
        found = (queries.features @ self.rows.T).softmax(dim=-1)
        return found.log() if self.logarithms else found

    def tensors(self):
        return {"rows": self.rows}


@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    logarithms: bool = False

    def fit(self, task, backbone, ctx):
        return Answering(backbone.class_features(task), self.logarithms)
"""


def test_probabilities_in_place_of_logits_are_an_incident(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROBABILITIES, encoding="utf-8")
    run = ("run", "-m", f"{tmp_path}/own.py:Own", "-d", "digits", "--shots", "1", "--seeds", "1")
    run += ("-o", "logarithms=true,false", "--backbone", "tiny", "--store")
    assert fsbench(*run, tmp_path / "s").code == 0
    found = {
        record.spec.options["logarithms"]: [one["text"] for one in record.incidents]
        for record in Store(tmp_path / "s").records()
    }
    assert found[True] == []
    (text,) = found[False]
    assert "logits() returned probabilities: nll, brier and ece take the softmax" in text
