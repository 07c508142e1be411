"""Base-to-new and transfer: one fit, several evaluations, and methods that do not support them."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fewshot_bench import DatasetCard, Item, UsageError
from fewshot_bench.api.catalog import Entry
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.run import run_group, run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.support.helpers import cells, flags, fsbench, quick, save_image

COLORS = ("red", "green", "blue", "yellow", "gray", "black")


@dataclasses.dataclass(frozen=True)
class Colors:
    """Plain squares; `chosen` are indices into COLORS, and two classes share a name."""

    name: str
    chosen: tuple[int, ...]
    train: int = 6
    template: str = "a photo of a {}."

    def card(self) -> DatasetCard:
        names = tuple("dark" if COLORS[i] in ("gray", "black") else COLORS[i] for i in self.chosen)
        ids = tuple(COLORS[i] for i in self.chosen)
        return DatasetCard(self.name, self.name, names, (self.template,), class_ids=ids)

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        def pool(role: str, count: int) -> tuple[Item, ...]:
            return tuple(
                Item(f"{role}/{COLORS[color]}-{n}", label, self.card().classnames[label])
                for label, color in enumerate(self.chosen)
                for n in range(count)
            )

        return {"train": pool("train", self.train), "test": pool("test", 5)}

    def read(self, item: Item) -> bytes:
        buffer = io.BytesIO()
        color = item.id.split("/")[1].split("-")[0]
        number = int(item.id.rsplit("-", 1)[1])
        image = Image.new("RGB", (16, 16), color)
        image.putpixel((number, 0), (255, 255, 255))
        image.save(buffer, "PNG")
        return buffer.getvalue()


SETS = {
    "wide": Colors("wide", (0, 1, 2, 3, 4, 5)),
    "narrow": Colors("narrow", (5, 2, 4), train=0),
    "spoken": Colors("spoken", (5, 2, 4), template="a drawing of a {}."),
}


@pytest.fixture(autouse=True)
def colors() -> Iterator[None]:
    known = registry().datasets.entries
    known |= {name: Entry(name, lambda found=found: found, "test") for name, found in SETS.items()}
    yield
    for name in SETS:
        del known[name]


def by_question(specs: list[Any]) -> dict[str, Any]:
    return {spec.evaluated: spec for spec in specs}


@pytest.mark.parametrize("method", ["zero-shot", "coop"])
def test_a_cell_does_not_depend_on_its_group(method: str) -> None:
    options = quick([method])
    halves = cells(method, options=options, classes=("base", "new"))
    moved = cells(method, options=options, transfer=("letters",))
    for group in (halves, moved):
        assert len({spec.fit_key() for spec in group}) == 1
        session = Session()
        together = list(run_group(group, session))
        for spec, outcome in zip(group, together, strict=True):
            assert outcome.record.status == "done", outcome.record.error
            alone = run_one(spec, session)
            assert outcome.logits is not None
            assert alone.logits is not None
            assert torch.equal(alone.logits, outcome.logits)
            assert alone.record.metrics == outcome.record.metrics
        fits = [o.record.timings["phases"]["fit"]["elapsed"] for o in together]
        assert fits[0] == fits[1], "fitted twice"


def test_zero_shot_on_new_classes_and_on_another_set_is_zero_shot_there() -> None:
    session = Session()
    specs = by_question(cells("zero-shot", classes=("all", "new"), limit=None))
    whole, new = (run_one(specs[name], session) for name in ("digits", "digits (new)"))
    assert whole.logits is not None
    assert whole.answers is not None
    rows = [row for row, label in enumerate(whole.answers.labels) if label >= 5]
    torch.testing.assert_close(new.logits, whole.logits[rows][:, 5:])
    moved = by_question(cells("zero-shot", transfer=("letters",)))["digits → letters"]
    letters = cells("zero-shot", datasets=("letters",))[0]
    assert torch.equal(run_one(moved, session).logits, run_one(letters, session).logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["linear-probe", "coop"])
def test_classes_that_were_fitted_on_are_columns_for_every_method(method: str) -> None:
    request = {"datasets": ("wide",), "transfer": ("narrow",), "limit": None}
    source, moved = cells(method, options=quick([method]), **request)
    session = Session()
    outcome = next(run_group([moved], session))
    assert outcome.record.status == "done", outcome.record.error
    fitted = run_one(source, session)
    assert fitted.logits is not None
    assert fitted.ids is not None
    # Both sets hold the same files: black, blue, gray are columns 5, 2, 4 of the six.
    rows = [fitted.ids.index(name) for name in outcome.ids or []]
    torch.testing.assert_close(outcome.logits, fitted.logits[rows][:, [5, 2, 4]])
    assert outcome.record.split["classes"] == 3
    assert outcome.record.split["fitted_classes"] == 6


@pytest.mark.parametrize("target", ["letters", "spoken"])
def test_what_cannot_be_predicted_is_inapplicable_with_a_reason(target: str) -> None:
    moved = cells("linear-probe", datasets=("wide",), transfer=(target,))[1]
    outcome = run_one(moved, Session())
    assert outcome.record.status == "inapplicable"
    assert outcome.logits is None
    assert outcome.record.metrics == {}
    assert "weights for the classes" in str(outcome.record.error)


def test_a_failed_fit_fails_its_cells_and_a_failed_evaluation_only_its_own(methods: Any) -> None:
    broken = cells("bad-fit", classes=("base", "new"))
    outcomes = list(run_group(broken, Session()))
    assert [o.record.status for o in outcomes] == ["failed", "failed"]
    first, second = (o.record.error for o in outcomes)
    assert first == second, "one error, with the frames of one cell"
    plain = cells("bad-logits", classes=("base", "new"))
    states = [(o.record.status, o.record.error) for o in run_group(plain, Session())]
    assert states[0][0] == "failed"
    assert states[1][0] == "inapplicable"
    assert "for_classes" in str(states[1][1])


@pytest.mark.parametrize(
    ("count", "classes", "refused"),
    [
        (2, "base", "base"),
        (2, "new", "new"),
        (3, "base", ""),
        (3, "base,new", "new"),
        (4, "new", ""),
    ],
)
def test_a_half_of_one_class_is_refused(
    tmp_path: Path, count: int, classes: str, refused: str
) -> None:
    for label in range(count):
        for index in range(4):
            save_image(tmp_path / f"set/{label}/{index}.png", 10 * label + index)
    few = ("-d", f"folder:{tmp_path / 'set'}", "--shots", "1", "--seeds", "1", "--dry-run")
    store = ("--backbone", "tiny", "--store", tmp_path / "store")
    done = fsbench("run", "-m", "zero-shot", *few, *store, "--classes", classes)
    assert done.code == (2 if refused else 0), done
    assert (f"1 of them in the half '{refused}'" in done.err) == bool(refused)


def test_command_line(tmp_path: Path) -> None:
    few = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--store", tmp_path)
    options = (*flags(quick(["linear-probe"])), "--jobs", 1)
    found = fsbench("run", "-m", "linear-probe", *options, *few, "--classes", "base,new")
    assert found.code == 0, found.err
    assert "linear-probe[search_steps=0] on digits (new), 1-shot, seed 1: n/a" in found.out
    run = ("run", "-m", "zero-shot", "--jobs", 1, *few, "--transfer", "demo")
    assert fsbench(*run).code == 0
    assert "3 cells: 3 done already, 0 to run" in fsbench(*run).out
    records = list(Store(tmp_path).records())
    assert {r.spec.evaluated for r in records} == {
        "digits",
        "digits (base)",
        "digits (new)",
        "digits → letters",
        "digits → shapes",
    }
    assert {r.status for r in records} == {"done", "inapplicable"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--classes", "old"), "unknown part of the classes 'old'"),
        (("--classes", "base,base"), "a value stands there twice"),
        (("--classes", "base", "--transfer", "letters"), "leave --classes out"),
        (("--transfer", "letter"), "did you mean 'letters'"),
    ],
)
def test_wrong_requests(arguments: tuple[str, ...], said: str) -> None:
    found = fsbench("run", "-m", "zero-shot", "-d", "digits", *arguments, "--dry-run")
    assert found.code == 2
    assert said in found.err


def test_a_set_without_train_images_can_only_be_a_target() -> None:
    with pytest.raises(UsageError, match=r"--transfer narrow"):
        expand(Request(methods=("zero-shot",), datasets=("narrow",), shots=(1,)))


def test_a_missing_target_is_a_problem_and_the_rest_runs(tmp_path: Path) -> None:
    found = fsbench(
        *("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1"),
        *("--transfer", f"letters,folder:{tmp_path / 'nowhere'}", "--limit", "9"),
        *("--backbone", "tiny", "--store", tmp_path / "store"),
    )
    assert found.code == 3
    assert "does not exist" in found.err
    assert len(list(Store(tmp_path / "store").records())) == 2
