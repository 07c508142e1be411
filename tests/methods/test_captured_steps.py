"""Captured training steps equal eager ones, for every method; what cannot be captured is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.registry import registry
from fewshot_bench.profiling.cost import Cost, count, counting
from fewshot_bench.profiling.optimizer import FiniteNumbers, ParameterObserver
from fewshot_bench.runner.fit import Context
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.testing.bench import Setting, prepare
from fewshot_bench.testing.toy import toy_backbone
from fewshot_bench.training.tape import Tape, address, recording, tensors_in, whole
from fewshot_bench.training.train_step import CaptureError, TrainStep, step_on
from fewshot_bench.utils.errors import NumericalError, UsageError
from fewshot_bench.utils.rng import isolate
from fewshot_bench.utils.step_kind import Kind
from tests.support.helpers import cells

CPU = torch.device("cpu")
# Not captured: methods without steps of an optimizer of torch that keeps its numbers on the device.
UNTRAINED = {"zero-shot", "tip-adapter", "ape", "gda", "proker", "linear-probe"}


def _trained() -> list[str]:
    catalog = registry().methods
    names = {name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")}
    trained = names - UNTRAINED
    # Others learn nothing in `fit`.
    return sorted(
        name for name in trained if read_card(registry().method_class(name)).sees == "query"
    )


TRAINED = _trained()
# On a CPU, eager steps of these take another kernel of the optimizer than captured ones.
ROUNDED = {"cocoop", "tip-adapter-f", "ape-t", "taskres", "lp++", "cross-modal", "wise-ft"}


def fit(
    name: str, kind: Kind, **options: Any
) -> tuple[dict[str, Tensor], list[TrainStep], dict[str, Any]]:
    """The tensors of a short fit on the toy task, its steps, and its curves."""
    method = registry().method_class(name)(**options)
    short: Any = method.quick() if hasattr(method, "quick") else method
    made = prepare(Setting(validation=0), toy_backbone("cpu", "fp32"))
    context = Context(1, CPU, step=kind)
    with isolate(1):
        tensors = short.fit(made.task, made.backbone, context).tensors()
    kept = {name: value.detach() for name, value in tensors.items()}
    return kept, context.take_steps(), context.curves.finish()


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest value of its tensor."""
    pairs = ((one[name], other[name]) for name in one)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs)


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_learns_the_same_by_captured_steps(name: str) -> None:
    expected, _, curves = fit(name, "eager")
    found, steps, captured = fit(name, "soft")
    assert {(step.used, step.reason) for step in steps} == {("soft", "")}
    assert gap(expected, found) <= (1e-5 if name in ROUNDED else 0)
    assert curves.keys() == captured.keys() == {"loss", "rate"}
    for series, points in curves.items():
        assert captured[series]["steps"] == points["steps"]
        assert captured[series]["values"] == pytest.approx(points["values"], rel=2e-4)
    assert len(set(curves["loss"]["values"])) > 1


@pytest.mark.parametrize(
    ("name", "compiler", "options"),
    [
        ("coop", "eager", {}),
        ("maple", "eager", {}),
        ("clip-lora", "eager", {"dropout": 0.25}),
        ("tip-adapter-f", "aot_eager", {}),
    ],
)
def test_a_method_learns_the_same_by_compiled_steps(
    name: str, compiler: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_COMPILER", compiler)
    expected, _, curves = fit(name, "eager", **options)
    found, steps, compiled = fit(name, "compile", **options)
    assert {(step.used, step.reason) for step in steps} == {("compile", "")}
    assert gap(expected, found) <= 1e-5
    assert compiled["loss"]["values"] == pytest.approx(curves["loss"]["values"], rel=2e-4)


Make = Callable[[Tensor], Callable[..., None]]
ROWS = 16


def train(make: Make, kind: Kind, *, steps: int = 30, **how: Any) -> tuple[Tensor, TrainStep]:
    """Weights (4, 8) after steps with the backward pass `make(weights)`, every fifth one short."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(4, 8, generator=rng))
    features, labels = torch.randn(steps, ROWS, 8, generator=rng), torch.arange(ROWS) % 4
    scaler = torch.amp.GradScaler("cpu", enabled=how.pop("scaled", False), growth_interval=8)
    optimizer = torch.optim.AdamW([weights], fused=True)
    take = TrainStep(make(weights), optimizer, scaler, kind=kind, **how)
    for number in range(steps):
        rows = ROWS if number % 5 != 4 else 7
        take(features[number][:rows], labels[:rows], rate=0.02 * (1 - number / steps))
    take.settle()
    return weights.detach(), take


def sound(weights: Tensor) -> Callable[..., None]:
    return step_on(lambda features, labels: F.cross_entropy(features @ weights.T, labels))


def dropping(weights: Tensor) -> Callable[..., None]:
    rng = torch.Generator().manual_seed(5)

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        kept = torch.empty_like(features).bernoulli_(0.5, generator=rng)
        return F.cross_entropy(kept * features @ weights.T, labels)

    return step_on(loss)


def overflowing(weights: Tensor) -> Callable[..., None]:
    """In 16 bits, gradients of a part of the scales overflow."""

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(((features @ weights.T).half()).float(), labels)

    return step_on(loss)


@pytest.mark.parametrize("make", [sound, dropping, overflowing])
@pytest.mark.parametrize("how", [{}, {"scaled": True}, {"max_norm": 0.05}])
def test_a_captured_step_is_the_eager_one(make: Make, how: dict[str, Any]) -> None:
    expected, _ = train(make, "eager", **how)
    found, take = train(make, "soft", **how)
    assert (take.used, take.reason) == ("soft", "")
    assert torch.equal(expected, found)


def counting_calls(weights: Tensor) -> Callable[..., None]:
    calls = 0

    def loss(features: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return F.cross_entropy(features @ weights.T * (1 if calls < 20 else 3), labels)

    return step_on(loss)


def reading(weights: Tensor) -> Callable[..., None]:
    return step_on(lambda x, y: F.cross_entropy(x @ weights.T, y) * (weights.sum().item() < 1e9))


def masking(weights: Tensor) -> Callable[..., None]:
    return step_on(lambda x, y: F.cross_entropy(x[y > 0] @ weights.T, y[y > 0]))


def moving_in(weights: Tensor) -> Callable[..., None]:
    return step_on(lambda x, y: F.cross_entropy(x @ weights.T, y) * torch.tensor([2.0]).sum())


@pytest.mark.parametrize(
    ("make", "kind", "reason"),
    [
        (
            counting_calls,
            "soft",
            "it changes 'step.loss.calls' in Python, which no repetition does",
        ),
        (reading, "soft", "it reads values on the host (_local_scalar_dense)"),
        (masking, "soft", "it indexes by a mask, and sizes depend on values (index)"),
        (moving_in, "soft", "it makes a tensor of Python numbers on the host (torch.tensor)"),
    ],
)
def test_a_step_that_cannot_be_captured_ends_the_fit(make: Make, kind: Kind, reason: str) -> None:
    with pytest.raises(CaptureError, match="use --step eager") as raised:
        train(make, kind)
    assert raised.value.reason.startswith(f"steps are eager, not {kind}: {reason}")
    assert raised.value.of_code


def test_steps_are_eager_on_a_device_without_graphs() -> None:
    expected, _ = train(sound, "eager")
    found, take = train(sound, "graph")
    assert take.used == "eager"
    assert take.reason == "steps are eager, not graph: torch has no graphs of cpu devices"
    assert torch.equal(expected, found)


def test_an_optimizer_that_fails_half_way_ends_the_fit() -> None:
    weights = torch.nn.Parameter(torch.zeros(4, 8))
    optimizer = torch.optim.SGD([weights])
    # Its rate is moved to the device before its state is found to be none.
    optimizer.param_groups.append({"lr": "fast", "params": []})
    with pytest.raises(CaptureError, match="use --step eager"):
        TrainStep(sound(weights), optimizer, torch.amp.GradScaler(enabled=False), kind="soft")


def test_a_failed_capture_is_raised_again_where_it_was_caught() -> None:
    weights = torch.nn.Parameter(torch.zeros(4, 8))
    take = TrainStep(
        reading(weights),
        torch.optim.AdamW([weights], fused=True),
        torch.amp.GradScaler("cpu", enabled=False),
        kind="soft",
    )
    batch = torch.ones(ROWS, 8), torch.arange(ROWS) % 4
    take(*batch)
    take(*batch)
    for again in (lambda: take(*batch), lambda: take(*batch), take.settle):
        with pytest.raises(CaptureError, match="reads values on the host"):
            again()


def changing(weights: Tensor) -> Callable[..., None]:
    """Work that changes at every call, by what no reference of the step leads to."""
    factors = iter(range(1, 1000))
    return step_on(lambda x, y: F.cross_entropy(x @ weights.T, y) * next(factors))


@pytest.mark.parametrize("steps", [5, 30])
def test_a_step_that_changes_silently_is_refused(steps: int) -> None:
    with pytest.raises(CaptureError, match=r"does other work than when it was captured; call"):
        train(changing, "soft", steps=steps)


def pretend(module: PretendModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch return this module for the CPU."""
    real = torch.get_device_module

    def find(device: Any = None) -> Any:
        return module if device is not None and str(device) == "cpu" else real(device)

    monkeypatch.setattr(torch, "get_device_module", find)


def fail(graph: PretendGraph) -> None:
    raise RuntimeError("CUDA error: unknown error")


@pytest.mark.parametrize(
    ("replay", "reason"),
    [(lambda graph: None, "differs from an eager one"), (fail, "CUDA error: unknown error")],
)
def test_a_graph_that_fails_at_once_ends_the_fit(
    replay: Callable[[PretendGraph], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = PretendModule()
    pretend(module, monkeypatch)
    monkeypatch.setattr(PretendGraph, "replay", replay)
    with pytest.raises(CaptureError, match=reason) as raised:
        train(sound, "graph")
    assert not raised.value.of_code


@pytest.mark.parametrize("late", [False, True])
def test_a_graph_of_a_changing_step_is_not_used(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = iter([1] * 6 * late + list(range(1, 1000)))

    def make(weights: Tensor) -> Callable[..., None]:
        return step_on(lambda x, y: F.cross_entropy(x @ weights.T, y) * next(factors))

    module = PretendModule()
    pretend(module, monkeypatch)
    with pytest.raises(CaptureError, match="does other work than when it was captured"):
        train(make, "graph", steps=30)


class Stages:
    """Another loss from the tenth step on, which is declared."""

    def __init__(self, weights: Tensor) -> None:
        self.weights, self.done = weights, 0

    def before_step(self) -> bool:
        self.done += 1
        return self.done == 10

    def __call__(self, features: Tensor, labels: Tensor, scale: Any) -> None:
        loss = F.cross_entropy(features @ self.weights.T * (1 if self.done < 10 else 3), labels)
        torch.autograd.backward(scale(loss))


def test_a_step_that_declares_its_change_is_captured_anew() -> None:
    expected, _ = train(Stages, "eager")
    found, take = train(Stages, "soft")
    assert take.used == "soft"
    assert torch.equal(expected, found)


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_the_harness_counts_captured_steps(kind: Kind) -> None:
    def make(weights: Tensor) -> Callable[..., None]:
        def loss(features: Tensor, labels: Tensor) -> Tensor:
            count(flops=len(features))
            return F.cross_entropy(features @ weights.T, labels)

        return step_on(loss)

    observer, cost = ParameterObserver(FiniteNumbers("m", object(), Context(1, CPU))), Cost()
    with observer.watch(), counting(cost):
        train(make, kind, steps=10)
    assert (observer.steps, observer.trained, cost.flops) == (10, 32, 8 * ROWS + 2 * 7)


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_a_captured_loss_that_is_no_number_ends_the_fit(kind: Kind) -> None:
    def make(weights: Tensor) -> Callable[..., None]:
        left = torch.tensor(8.0)

        def loss(features: Tensor, labels: Tensor) -> Tensor:
            left.sub_(1)
            return F.cross_entropy(features @ weights.T, labels) * left.sqrt()

        return step_on(loss)

    observer = ParameterObserver(FiniteNumbers("m", object(), Context(1, CPU)))
    expected = "m: the loss is nan at optimizer step 9"
    with pytest.raises(NumericalError, match=expected), observer.watch():
        train(make, kind)


class PretendGraph:
    """A graph of a device on the CPU: what is captured does not compute until it is replayed."""

    def __init__(self) -> None:
        self.tape = Tape(CPU)
        self.registered: list[torch.Generator] = []

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.registered.append(generator)

    def replay(self) -> None:
        self.tape.replay()


class PretendModule:
    """The functions of `torch.cuda` that a capture uses."""

    CUDAGraph = PretendGraph
    made: ClassVar[list[PretendGraph]] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def wait_stream(self, other: Any) -> None:
            """Nothing waits on a CPU."""

    def current_stream(self) -> Any:
        return self.Stream(CPU)

    def stream(self, stream: Any) -> Any:
        return nullcontext()

    @contextmanager
    def graph(self, graph: PretendGraph, *, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.made.append(graph)
        before: dict[int, tuple[Tensor, Tensor]] = {}
        states = [(rng, rng.get_state()) for rng in graph.registered]
        add = graph.tape.add

        def keep(operator: Any, arguments: Any, named: Any) -> Any:
            for tensor in tensors_in((*arguments, *named.values())):
                before.setdefault(address(tensor), (whole(tensor), whole(tensor).clone()))
            return add(operator, arguments, named)

        graph.tape.add = keep  # type: ignore[method-assign]
        with recording(graph.tape):
            yield
        for tensor in graph.tape.changed:
            kept, value = before[address(tensor)]
            kept.copy_(value)
        for rng, state in states:
            rng.set_state(state)


@pytest.mark.parametrize("make", [sound, dropping, Stages])
@pytest.mark.parametrize("how", [{}, {"scaled": True}, {"max_norm": 0.05}])
def test_a_graph_of_a_device_is_captured_and_replayed(
    make: Make, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = train(make, "eager", **how)
    module = PretendModule()
    monkeypatch.setattr(module, "made", [])
    pretend(module, monkeypatch)
    found, take = train(make, "graph", **how)
    assert (take.used, take.reason) == ("graph", "")
    assert torch.equal(expected, found)
    assert len(module.made) == (2 if make is Stages else 1)
    assert len(module.made[0].registered) == (make is dropping)


def test_a_record_states_the_kind_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_STEP", "soft")
    (spec,) = cells("tip-adapter-f", options=("epochs=5",))
    record = run_one(spec, Session()).record
    assert (record.footprint["step"], record.footprint["steps"]) == ("soft", 5)
    assert not record.incidents
    monkeypatch.setenv("FSBENCH_STEP", "graph")
    record = run_one(spec, Session()).record
    assert "step" not in record.footprint
    text = "tip-adapter-f: steps are eager, not graph: torch has no graphs of cpu devices"
    assert list(record.incidents) == [{"kind": "step", "text": text}]


def test_an_unknown_kind_of_steps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_STEP", "grph")
    with pytest.raises(UsageError, match="unknown kind of training step 'grph': did you mean"):
        Session()
