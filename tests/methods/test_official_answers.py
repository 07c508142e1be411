"""References and methods against answers of the official code: its rounds, steps and stops.

`tests/reference/official_answers.json` has what the functions of the authors' repositories return
on `wave`s, on a CPU: in float32, EM-Dirichlet in float64. So a reference that repeats a mistake of
ours fails here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.em_dirichlet import EmDirichlet, HardEmDirichlet
from fsbench_methods.mta import find_modes
from fsbench_methods.stata import StatA
from fsbench_methods.tda import Tda, TdaStream
from fsbench_methods.transclip import TransClip
from fsbench_methods.zero import ZeroClassifier
from fsbench_methods.zlap import Zlap
from torch import Tensor

from tests import reference as folder
from tests.reference import em_dirichlet, tda, transduction, views, zlap
from tests.support.transduction_cases import Case, Seen

ANSWERS = json.loads((Path(folder.__file__).parent / "official_answers.json").read_text("utf-8"))
SCALE = 100.0


def wave(rows: int, phase: float) -> Tensor:
    """Unit rows (rows, 8), near each other, the same wherever they are computed."""
    along = torch.arange(1.0, rows + 1, dtype=torch.float64)[:, None]
    across = torch.arange(1.0, 9.0, dtype=torch.float64)
    return F.normalize(1 + 0.15 * torch.cos(phase + 0.9 * along * across), dim=1).float()


TEXT, SHOTS = wave(6, 0.4), Seen(wave(6, 0.2), torch.arange(6))
CASE = Case(Seen(wave(12, 0.0), torch.arange(12) % 6), SHOTS, SHOTS, TEXT)
FEW = {"rounds": 2, "steps": 120}
"""Of EM-Dirichlet: `iter` and `iter_mm` there."""
VIEWS = [wave(20, phase) for phase in (0.1, 0.3, 0.5, 0.7)]


def official(*names: str) -> Tensor:
    """What the official code answered."""
    found: Any = ANSWERS
    for name in names:
        found = found[name]
    return torch.tensor(found)


def agree(answer: Tensor, *names: str, within: float = 2e-5) -> None:
    """Assert that an answer is the official one but for its printed digits."""
    assert (answer - official(*names)).abs().max() < within


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_stata(rounds: int) -> None:
    z = transduction.stata(CASE.queries.features, TEXT, CASE.start, rounds=rounds)
    agree(z, "stata", str(rounds))
    agree(CASE.answer(StatA(rounds=rounds)).exp(), "stata", str(rounds))


def test_transclip() -> None:
    q = CASE.queries.features
    agree(transduction.transclip(q, CASE.start)[0], "transclip", "zero-shot")
    agree(CASE.answer(TransClip(support=False)).exp(), "transclip", "zero-shot")
    accidents = {"misaligned": True, "dropped": True, "chained": True}
    support, gammas = (SHOTS.features, SHOTS.labels), (0.002, 0.01, 0.02, 0.2)
    last = transduction.transclip(q, CASE.start, support, gammas, **accidents)[-1]
    agree(last, "transclip", "few-shot")


def test_zlap() -> None:
    agree(zlap.scores(CASE.queries.features, TEXT), "zlap", within=1e-4)
    agree(CASE.answer(Zlap()).exp(), "zlap", within=1e-4)


@pytest.mark.parametrize("method", [EmDirichlet(**FEW), HardEmDirichlet(**FEW)])
@pytest.mark.parametrize("where", ["zero-shot", "few-shot"])
def test_em_dirichlet(method: EmDirichlet, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The official answers are clusters before they are matched to classes.
    monkeypatch.setattr("fsbench_methods.em_dirichlet.match", lambda log_u, x: log_u)
    few = where == "few-shot"
    x, near = ((30 * f @ TEXT.T).softmax(1) for f in (CASE.queries.features, SHOTS.features))
    support = (near.double(), SHOTS.labels) if few else None
    settings: Any = {"hard": method.hard, "together": True, "support": support}
    (log_u,) = em_dirichlet.posteriors([x], 1, **FEW, **settings)
    for answer in (log_u, CASE.answer(replace(method, support=few))):
        if method.hard:
            assert torch.equal(answer.argmax(1), official(method.name, where))
        else:
            agree(answer.exp(), method.name, where, within=2e-4)


def test_mta() -> None:
    modes = torch.stack([views.mta_mode(each, TEXT, SCALE) for each in VIEWS])
    agree(SCALE * modes @ TEXT.T, "mta", within=1e-3)
    stacked = torch.stack(VIEWS)
    shares = (SCALE * stacked @ TEXT.T).softmax(-1)
    ours = find_modes(stacked, shares @ shares.mT, 4.0, 0.2)
    agree(SCALE * ours @ TEXT.T, "mta", within=1e-3)


def test_zero_with_ties_that_another_view_breaks() -> None:
    every = [wave(20, 0.1 * int(number)) for number in ANSWERS["zero"]]
    expected = [*ANSWERS["zero"].values()]
    assert [views.zero_class(each, TEXT, SCALE) for each in every] == expected
    ours = ZeroClassifier(TEXT, CASE, 20, 0.3)  # type: ignore[arg-type]
    assert ours.answer(torch.stack(every)).argmax(1).tolist() == expected


@pytest.mark.parametrize("steps", [1, 3])
def test_tpt(steps: int) -> None:
    more = wave(18, 0.8).view(6, 3, 8).sum(1)

    def encode(context: Tensor) -> Tensor:
        return TEXT * (1 + context[0]) + more * context[1]

    context, queries = torch.zeros(2, 8), torch.stack(VIEWS)
    rows, _ = views.tpt_logits(encode, context, queries, SCALE, steps=steps)
    agree(rows, "tpt", str(steps), within=1e-3)


def test_tda() -> None:
    queries = wave(30, 0.6)
    agree(tda.logits(queries, TEXT, SCALE), "tda", within=1e-3)
    stream = TdaStream(Tda(), TEXT, SCALE)
    agree(stream.answer(Seen(queries, torch.zeros(30))), "tda", within=1e-3)  # type: ignore[arg-type]
