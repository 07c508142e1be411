"""A method on top of another reads its scores; the other is fitted once, and billed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import by_fit
from fewshot_bench.images.features import image_view
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner import run as running
from fewshot_bench.runner.resuming import Code
from fewshot_bench.runner.run import run_group
from fewshot_bench.runner.session import Session
from fewshot_bench.utils.errors import ContractError, UsageError
from fewshot_bench.utils.text import split_names
from tests.support.helpers import cells, fsbench

LORA = "clip-lora[iterations=2]"


def plan(*methods: str, **request: Any) -> list[RunSpec]:
    """Cells in the order in which they run."""
    groups = by_fit(cells(*methods, **{"queries": "all"} | request))
    return [cell for group in groups for cell in group]


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


def test_a_cell_holds_that_of_the_method_that_it_is_on_top_of() -> None:
    alone, top, other = plan(f"zlap[on={LORA}]", LORA, f"transclip[on={LORA},rounds=3]")
    assert top.inner_cell() == other.inner_cell() == alone
    assert [alone.queries, top.queries] == ["alone", "all"]
    assert top.label == f"zlap[on={LORA}]"
    assert other.label == f"transclip[on={LORA},rounds=3]"
    assert alone.inner_cell() is None
    assert RunSpec.from_dict(top.to_dict()) == top
    assert len({cell.key() for cell in (alone, top, other)}) == 3
    assert len(by_fit([alone, top, other])) == 1
    plain = plan("zlap")[0]
    assert plain.key() != top.key()


def test_names_with_options_are_one_name() -> None:
    text = f"zero-shot,zlap[on={LORA},alpha=0.2],a[b,c"
    assert split_names(text) == ("zero-shot", f"zlap[on={LORA},alpha=0.2]", "a[b", "c")
    (cell,) = cells("zlap[gamma=3]", options=("alpha=0.2",), queries="all")
    assert cell.label == "zlap[alpha=0.2,gamma=3.0]"


def test_the_run_must_allow_what_it_needs() -> None:
    with pytest.raises(UsageError, match=r"zlap\[on=mta\]: method 'mta' .* add --views 64"):
        cells("zlap[on=mta]", queries="all")
    (cell,) = cells("zlap[on=mta]", queries="all", views=64)
    assert (cell.views, cell.inner["views"]) == (64, 64)
    with pytest.raises(UsageError, match=r"method 'zlap' .* add --queries all"):
        cells("zlap[on=zero-shot]", queries="alone")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("zlap[on=clip-loro]", "did you mean 'clip-lora'"),
        ("zlap[on=fast]", r"on='fast' names several methods"),
        ("zlap[on=zlap[on=zero-shot]]", "zlap is on top of another method itself, or answers by"),
        ("zlap[on=transclip]", "expected one that answers for each query alone"),
        ("zlap[on=clip-lora[ranc=2]]", "did you mean 'rank'"),
        ("zlap[on]", r"option 'on': expected name=value"),
    ],
)
def test_what_nothing_can_be_on_top_of_is_refused(method: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cells(method, queries="all")


def test_it_is_fitted_once_and_billed_to_each(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    fit = running.fit_within_memory

    def count(cell: Any, *others: Any) -> Any:
        fitted.append(cell.spec.method)
        return fit(cell, *others)

    monkeypatch.setattr(running, "fit_within_memory", count)
    specs = plan(f"transclip[on={LORA}]", f"zlap[on={LORA}]", LORA, "zlap")
    lora, *_ = outcomes = [*run_group(specs, session)]
    assert sorted(fitted) == ["clip-lora", "transclip", "zlap", "zlap"]
    assert {outcome.record.status for outcome in outcomes} == {"done"}
    below, top = lora.record, outcomes[1]
    for outcome in outcomes[1:3]:
        record = outcome.record
        for name in ("trained", "steps", "images_seen"):
            assert record.footprint[name] == below.footprint[name]
        work = record.footprint["work"]
        billed = below.footprint["work"]["billed"]["images"] + record.footprint["images_encoded"]
        assert work["billed"]["images"] == billed
        assert work["computed"]["images"] <= record.footprint["images_encoded"]
        fits = [r.timings["phases"]["fit"] for r in (record, below)]
        assert fits[0]["billed"]["wall"] >= fits[1]["billed"]["wall"]
        assert fits[0]["elapsed"]["wall"] < fits[1]["elapsed"]["wall"]

    # Without a cell of its own, it is computed for the first one.
    (third,) = run_group(specs[1:2], session)
    assert third.record.footprint["work"]["computed"]["images"] > 0
    assert third.record.footprint["work"]["billed"] == top.record.footprint["work"]["billed"]
    assert torch.equal(logits(third), logits(top))


def logits(outcome: Any) -> torch.Tensor:
    assert outcome.logits is not None
    return torch.as_tensor(outcome.logits)


@pytest.mark.parametrize(
    ("plain", "top"),
    [
        ("zlap", "zlap[on=zero-shot]"),
        ("transclip[support=false]", "transclip[on=zero-shot]"),
        ("em-dirichlet[rounds=2,steps=50]", "em-dirichlet[on=zero-shot,rounds=2,steps=50]"),
    ],
)
@pytest.mark.parametrize("queries", ["all", "batch-64"])
def test_on_top_of_zero_shot_a_method_is_itself(
    session: Session, plain: str, top: str, queries: str
) -> None:
    specs = plan(plain, top, queries=queries, limit=100)
    own, on_top = [*run_group(specs, session)]
    assert torch.allclose(logits(on_top), logits(own), atol=2e-2, rtol=1e-3)
    bills = [outcome.record.footprint["work"]["billed"] for outcome in (own, on_top)]
    assert bills[0] == bills[1]


def test_other_classes_are_answered_on_top_of_what_answers_them(session: Session) -> None:
    methods = (f"zlap[on={LORA}]", "zlap[on=tip-adapter]", LORA)
    specs = plan(*methods, classes=("base", "new"))
    found = {
        (o.record.spec.label, o.record.spec.classes): o.record for o in run_group(specs, session)
    }
    states = {key: record.status for key, record in found.items()}
    assert states.pop(("zlap[on=tip-adapter]", "new")) == "inapplicable"
    assert {*states.values()} == {"done"}
    error = found["zlap[on=tip-adapter]", "new"].error or {}
    assert "its cache holds images of the classes it was fitted on" in error["message"]


def test_a_failure_below_is_that_of_all_above(session: Session, methods: Any) -> None:
    specs = plan("zlap[on=bad-fit]", "bad-fit", "transclip[on=bad-fit]")
    records = [outcome.record for outcome in run_group(specs, session)]
    assert [record.status for record in records] == ["failed"] * 3
    assert len({(record.error or {})["message"] for record in records}) == 1
    codes = [record.environment["code"]["digest"] for record in records]
    assert len({*codes}) == 3


def test_what_depends_on_other_queries_carries_nothing(session: Session, methods: Any) -> None:
    specs = plan("zlap[on=positions]")
    (outcome,) = run_group(specs, session)
    said = (outcome.record.error or {})["message"]
    assert "positions: its answers for a query depend on other queries" in said


def test_the_code_below_counts(session: Session, tmp_path: Path) -> None:
    specs = plan("zlap[on=zero-shot]", "zlap")
    records = {outcome.record.spec.label: outcome.record for outcome in run_group(specs, session)}
    code = Code.of(spec.code_name for spec in specs)
    assert code.others([*records.values()]) == []
    names = {spec.code_name: record for spec in specs for record in [records[spec.label]]}
    assert {*names} == {"zlap", "zlap on zero-shot"}
    assert code.digests["zlap on zero-shot"] == names["zlap on zero-shot"].code_digest
    edited = replace(code, digests={**code.digests, "zlap on zero-shot": "other"})
    assert edited.others([*records.values()]) == [names["zlap on zero-shot"]]
    assert registry().code("zlap")["digest"] == names["zlap"].code_digest


def test_code_of_two_plugins_never_runs_together(
    methods: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry().owner_of(cells("zlap[on=positions]", queries="all")[0])
    owners = {"zlap": "one:a", "positions": "two:b"}
    monkeypatch.setattr(type(registry()), "owner", lambda _, method: owners.get(method, ""))
    with pytest.raises(UsageError, match="code of one:a and of two:b never runs in one process"):
        cells("zlap[on=positions]", queries="all")


def test_scores_follow_the_queries(session: Session) -> None:
    (spec,) = cells("zero-shot", limit=10)
    source = session.source(session.resolve(spec).lists.queries, spec)
    meter = Meter(torch.device("cpu"))
    scores = np.arange(20, dtype=np.float32).reshape(10, 2)
    view = image_view(source, session.features, meter, phase="encode_queries", scores=scores)
    part = view.part([7, 2, 3]).part([1, 0])
    assert part.scores.tolist() == [[4.0, 5.0], [14.0, 15.0]]
    bare = image_view(source, session.features, meter, phase="encode_queries")
    with pytest.raises(ContractError, match=r"expected its option `on` to name one"):
        _ = bare.scores


BASE = """
from dataclasses import dataclass
from fewshot_bench.training import LinearClassifier

@dataclass(frozen=True)
class Base:
    name = "base"

    def fit(self, task, backbone, ctx):
        return LinearClassifier(1.0 * backbone.logit_scale * backbone.class_features(task))
"""


def test_an_edit_of_a_file_below_makes_results_stale(tmp_path: Path) -> None:
    file = tmp_path / "base.py"
    file.write_text(BASE, encoding="utf-8")
    arguments = ["-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "40", "--store"]
    arguments += [str(tmp_path / "store"), "--backbone", "tiny", "--queries", "all", "--jobs", "1"]
    said = fsbench("run", "-m", f"zlap[on={file}:Base]", *arguments)
    assert said.code == 0, said.err
    assert "zlap[on=base] on digits" in said.out
    file.write_text(BASE.replace("1.0", "2.0"), encoding="utf-8")
    again = fsbench("run", "-m", f"zlap[on={file}:Base]", *arguments, "--dry-run")
    assert "1 cell of zlap on base is stale: base.Base.fit changed" in again.out
