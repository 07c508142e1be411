"""`fsbench adapt` and `fewshot_bench.adapt`: from labeled images to a model folder."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.images.copies import Copies
from fewshot_bench.plugins.models import adapt as module
from fewshot_bench.plugins.models import budget as budgets
from fewshot_bench.plugins.models import search
from fewshot_bench.plugins.models.fitting import ZERO_SHOT, Chosen, FitRunner
from fewshot_bench.plugins.models.material import gather, repeat_folds, with_validation
from fewshot_bench.plugins.models.summary import MOST, summarize
from fewshot_bench.runner.request import Request
from fewshot_bench.runner.variants import Variant
from fewshot_bench.store.kept_models import read_config, read_model
from fewshot_bench.utils import progress
from fewshot_bench.utils.errors import UnsupportedBackboneError, UsageError
from fewshot_bench.utils.progress import Work, shown
from tests.support.helpers import Result, fsbench, image_folder, save_image

PROGRESS = r"adapt: gda, repeat 1 of 2, fold 2 of 2; best so far zero-shot [\d.]+ %, at most \d+"
CHEAP = ("zero-shot", "gda")
TINY: Any = {"backbone": "tiny", "device": "cpu"}


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restrict `auto` to cheap methods, with one repeat of two folds."""
    monkeypatch.setattr("fewshot_bench.plugins.models.material.FOLDS", 2)
    monkeypatch.setattr(module, "order", lambda: CHEAP)
    monkeypatch.setattr(module, "REPEATS", 1)


def photos(root: Path, *counts: int) -> str:
    """An image folder with this many images per class."""
    for label, count in enumerate(counts):
        for index in range(count):
            save_image(root / f"class {label}" / f"{index}.jpg", 100 * label + index)
    return f"folder:{root}"


def adapt(*arguments: object) -> Result:
    """Run the command with the tiny backbone."""
    return fsbench("adapt", "--backbone", "tiny", "--device", "cpu", *arguments)


def test_auto_chooses_and_keeps_a_model(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPEATS", 2)
    steps: list[str] = []
    step = Work.step

    def noted(work: Work, text: str, *count: float, **most: float) -> None:
        step(work, text, *count, **most)
        steps.append(work.line())

    monkeypatch.setattr(Work, "step", noted)
    output = tmp_path / "model"
    done = adapt("-d", "shapes", "--shots", 4, "-O", output, "--reject", "0.8")
    assert done.code == 0, done.err
    assert any(line.startswith("adapt: encoding images, 0 of ") for line in steps)
    assert any(re.match(PROGRESS, line) for line in steps)
    assert any("on all" in line for line in steps)
    assert "compared 2 of 2 methods: " in done.out
    assert "chosen " in done.out
    assert len(done.out.splitlines()) <= 12
    config, tensors = read_model(output)
    assert config.method in CHEAP
    assert tensors or config.method == "zero-shot"
    accuracy = config.accuracy
    assert 0 < accuracy["low"] <= accuracy["mean"] <= accuracy["high"] <= 1
    assert accuracy["repeats"] in (1, 2)
    assert 0 <= accuracy["calibration_error"] < 0.5
    assert config.reject is not None
    assert set(config.data["images"].values()) == {4}
    text = (output / "README.md").read_text()
    assert "gda (all images)" in text
    assert "chosen: " in text
    metadata = yaml.safe_load(text.split("---")[1])
    # The license of the backbone is not that of the user's model.
    assert "license" not in metadata
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] > 0
    again = adapt("-d", "shapes", "-O", output)
    assert again.code == 2
    assert "--force" in again.err


def test_a_named_method_with_options_predicts_as_it_was_fitted(tmp_path: Path) -> None:
    found = fb.adapt(
        "shapes", tmp_path / "m", method="tip-adapter", options={"views": 2}, shots=3, **TINY
    )
    table = found.tried
    assert " ".join(table) == "method accuracy low high seconds folds chosen note"
    assert [table[name].dtype.kind for name in list(table)[1:7]] == list("ffffib")
    assert list(table.method) == ["tip-adapter[views=2]"]
    assert found.learned is not None
    assert found.classes.to_dict("records") == found.learned.classes()
    suspects = (found.folder / "suspects.csv").read_text(encoding="utf-8").splitlines()
    assert ",".join(found.suspects) == suspects[0]
    assert len(found.suspects) == len(suspects) - 1
    assert table.chosen.all()
    assert (table.low <= table.accuracy).all()
    assert (table.accuracy <= table.high).all()
    assert table.high.max() <= 1
    assert f"| tip-adapter\\[views=2\\] | {100 * table.accuracy[0]:.1f} | " in (
        found.folder / "README.md"
    ).read_text(encoding="utf-8")
    assert repr(found).startswith(f"Adapted('{tmp_path / 'm'}': tip-adapter on tiny, accuracy ")
    assert len(repr(found)) < 300
    notes = tuple(f"note {number}" for number in range(20))
    said = ["6 images", "note 0; note 1", "copies"]
    lines = summarize(dataclasses.replace(found, notes=notes), said)
    assert len(lines) + len(said) == MOST
    assert not {"note 0", "note 1"} & {*lines}
    assert any(line.endswith(f"more notes in {found.folder / 'README.md'}") for line in lines)
    config, tensors = read_model(found.folder)
    assert config.options["views"] == 2
    assert config.data["validation"] > 0
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    assert config.temperature > 0
    table = found.model("cpu").predict([np.zeros((32, 32, 3), np.uint8)])
    assert table["class"][0] in config.classnames


def test_all_images_of_a_folder_are_used_and_rare_classes_stay(few: None, tmp_path: Path) -> None:
    found = fb.adapt(photos(tmp_path / "photos", 1, 2, 5), tmp_path / "m", **TINY)
    assert list(found.config.data["images"].values()) == [1, 2, 5]
    assert found.config.accuracy["images"] == 7
    assert any("1 class without two different images" in note for note in found.notes)
    assert not list((tmp_path / "photos").glob("*.json"))


def test_images_that_a_model_was_made_from_are_no_test(tmp_path: Path) -> None:
    """`adapt` uses a folder without test images whole, `evaluate` would hold out a part of it."""
    own = photos(tmp_path / "photos", 10, 10)
    model = fb.adapt(own, tmp_path / "m", method="zero-shot", **TINY).folder
    refused = fsbench("evaluate", model, "-d", own)
    assert refused.code == 2
    assert f"all 6 test images of {own} are among the images that the model was" in refused.err
    # The first ten images of each class are the same files.
    shown = fsbench("evaluate", model, "-d", photos(tmp_path / "others", 20, 20))
    assert shown.code == 0, shown.err
    assert "9 test images" in shown.out
    assert "3 more are left out: they copy images of the fit" in shown.out
    assert "28 other images of it are its training part; put all into test/" in shown.out


def test_images_that_chose_settings_are_counted_apart(tmp_path: Path) -> None:
    """The record of the evaluation and the card state them too."""
    own = photos(tmp_path / "photos", 10, 10)
    found = fb.adapt(own, tmp_path / "m", method="tip-adapter", options={"views": 2}, **TINY)
    data = found.config.data
    assert (list(data["images"].values()), data["validation"]) == ([6, 6], 8)
    assert data["val"] == "min4"
    text = (found.folder / "README.md").read_text()
    assert "was fitted on 12 images of 2 classes" in text
    assert "8 more images chose its settings." in text
    assert "corrected for the choice" not in text
    others = image_folder(tmp_path / "others")
    (others / "test" / "cat").rename(others / "test" / "class 0")
    (others / "test" / "dog").rename(others / "test" / "class 1")
    for role in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            (others / role / name).rename(others / role / f"class {number}")
    record = fb.evaluate(found.folder, f"folder:{others}")
    assert (record.split["train"], record.split["val"], record.spec.val) == (12, 8, "min4")
    assert record.footprint["selection"]["labels"] == 8


def test_one_image_per_class_states_no_accuracy(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "ONE_SHOT", "gda")
    found = fb.adapt(photos(tmp_path / "photos", 1, 1, 1), tmp_path / "m", reject=True, **TINY)
    assert found.config.method == "gda"
    assert not found.config.accuracy
    assert found.config.reject is None
    assert any("no class has two different images" in note for note in found.notes)


def test_images_of_test_folders_are_left_alone(tmp_path: Path) -> None:
    image_folder(tmp_path / "photos", train=3, test=2)
    name = f"folder:{tmp_path / 'photos'}"
    found = fb.adapt(name, tmp_path / "m", method="zero-shot", **TINY)
    assert list(found.config.data["images"].values()) == [5, 5]
    assert any("test images are left alone" in note for note in found.notes)


def test_images_of_a_manifest_are_all_used_under_other_names(tmp_path: Path) -> None:
    photos(tmp_path, 1, 3)
    rows = [
        f"class {label}/{i}.jpg,{name}"
        for label, name, n in ((0, "a", 1), (1, "b", 3))
        for i in range(n)
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    found = gather(f"manifest:{tmp_path / 'list.csv'}", {"classnames": {"a": "ant", "b": "bee"}})
    assert np.bincount(found.labels).tolist() == [1, 3]
    assert found.classnames == ("ant", "bee")
    assert {item.classname for item in found.items} == {"ant", "bee"}


def takes(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> list[tuple[str, float]]:
    """Let time pass by fits alone, so many seconds for each of a method; returns fits and times."""
    fit, begin, fits = FitRunner.fit, budgets.Budget.__init__, [("start", 0.0)]
    rings = [math.inf]

    def timed(self: FitRunner, variant: Variant, *arguments: Any) -> Any:
        wanted, now = seconds.get(variant.method, 0.0), fits[-1][1]
        fits.append((variant.method, min(now + wanted, rings[-1])))
        if now + wanted > rings[-1]:
            raise KeyboardInterrupt
        return fit(self, variant, *arguments)

    def with_clock(self: budgets.Budget, *arguments: Any) -> None:
        begin(self, *arguments, clock=lambda: fits[-1][1])

    def interrupted_after(most: float) -> Any:
        rings.append(fits[-1][1] + most)
        return nullcontext(lambda: True)

    monkeypatch.setattr(FitRunner, "fit", timed)
    monkeypatch.setattr(budgets.Budget, "__init__", with_clock)
    monkeypatch.setattr(budgets, "interrupted_after", interrupted_after)
    return fits


def test_a_budget_without_time_to_compare_gives_a_head_that_uses_the_labels(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if zero-shot was the only method that was compared; time for the last fit was kept."""
    fits = takes(monkeypatch, gda=1500)
    found = fb.adapt("shapes", tmp_path / "m", budget="1h", shots=3, **TINY)
    rows = {row["method"]: row for row in found.methods}
    assert (rows["zero-shot"]["folds"], rows["gda"]["folds"]) == (2, 1)
    assert found.config.method == "gda"
    assert not found.config.accuracy
    assert fits[-1][0] == "gda"
    assert fits[-1][1] <= 3600
    (chosen,) = (row for row in found.methods if row["chosen"])
    assert "the first that uses the labels" in chosen["note"]


@pytest.mark.parametrize(("seconds", "folds"), [(100, 4), (500, 4), (900, 2), (1500, 1)])
def test_logistic_regression_goes_on_until_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, folds: int
) -> None:
    """It comes first, is ended by no prediction, and is what remains where nothing was compared."""
    monkeypatch.setattr("fewshot_bench.plugins.models.material.FOLDS", 4)
    monkeypatch.setattr(module, "REPEATS", 1)
    names = [name for name in search.order() if name != "zero-shot"]
    monkeypatch.setattr(module, "order", lambda: names[:7])
    fits = takes(monkeypatch, **{"linear-probe": seconds, "gda": 1800, "proker": 3000})
    found = fb.adapt("shapes", tmp_path / "m", budget="1h", shots=4, **TINY)
    rows = {row["method"]: row for row in found.methods}
    assert rows["linear-probe (all images)"]["folds"] == folds
    assert found.config.method == "linear-probe"
    assert bool(found.config.accuracy) == (folds == 4)
    assert fits[-1][1] <= 3600


def test_heads_have_all_their_repeats_before_a_method_trains_the_encoders(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is ended by what was measured, and leaves time for the last fit."""
    monkeypatch.setattr(module, "REPEATS", 2)
    monkeypatch.setattr(search, "TIERS", (search.TIERS[0], (), ("tip-adapter",)))
    fits = takes(monkeypatch, **{"linear-probe": 10, "tip-adapter": 1200})
    names = ("tip-adapter", "linear-probe[c=1]", "linear-probe[c=10]")
    monkeypatch.setattr(module, "order", lambda: names)
    found = fb.adapt("shapes", tmp_path / "m", budget="1h", shots=3, **TINY)
    assert [name for name, _ in fits[1:10]] == 8 * ["linear-probe"] + ["tip-adapter"]
    assert found.config.method == "linear-probe"
    assert found.config.accuracy["repeats"] == 2
    assert fits[-1][0] == "linear-probe"
    assert fits[-1][1] <= 3600
    (slow,) = (row for row in found.methods if row["method"] == "tip-adapter")
    assert slow["note"].startswith("no time")


def test_only_the_first_fits_tell_whether_there_is_time_for_augmented_views(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long encoding took, from which nothing follows for ten views of each image."""
    fits, encode = takes(monkeypatch, gda=1), FitRunner.encode

    def slow(self: FitRunner, places: Any) -> Any:
        fits.append(("encode", fits[-1][1] + 1000))
        return encode(self, places)

    monkeypatch.setattr(FitRunner, "encode", slow)
    found = fb.adapt("shapes", tmp_path / "m", budget="1h", shots=1 + 1, **TINY)
    assert dict(zip(found.tried.method, found.tried.folds, strict=True))["gda"] == 2


def _ticking(init: Any, ticks: Any) -> Any:
    def with_clock(self: Any, *arguments: Any) -> None:
        init(self, *arguments, clock=lambda: float(next(ticks)))

    return with_clock


def test_work_that_would_end_after_the_budget_is_refused_with_one_that_is_enough() -> None:
    now = [0.0]
    budget, work = budgets.Budget(60, clock=lambda: now[0]), Work("adapt", lambda: now[0])
    with shown(work), budget.refusing():
        work.step("encoding images", 3000)
        # The first one also starts what all others use.
        now[0] = 5.0
        work.advance(1)
        now[0] = 15.0
        with pytest.raises(UsageError) as refused:
            work.advance(119)
    assert str(refused.value) == (
        "encoding images: all 3,000 are done 4 min 17 s after the start, which is too late in a "
        "budget of 1 min; give --budget 7m, or --shots for at most 299 images"
    )
    work.advance(1)


def test_nothing_is_left_of_a_refused_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "WATCHED_SECONDS", 0.0)
    own = photos(tmp_path / "photos", 30, 30)
    refused = adapt("-d", own, "-O", tmp_path / "m", "--budget", "0.01s")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "give --budget " in refused.err
    assert not (tmp_path / "m").exists()


def test_a_fit_is_ended_as_soon_as_its_end_is_foretold() -> None:
    now = [0.0]
    budget = budgets.Budget(100, clock=lambda: now[0])
    # The first step also encodes, which is not done again.
    with budget.watch(6) as watch:
        for second in (20, 21, 22, 23, 24):
            now[0] = second
            watch(second - 19, 10)
    over = pytest.raises(budgets.OverBudget, match="no time: 6 fits of about 33 min 20 s")
    with over as raised, budget.watch(6) as watch:
        for done in (1, 2, 3):
            now[0] += 2
            watch(done, 1000)
    assert raised.value.each == 2000


SLOW = """
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Slow:
    name: ClassVar[str] = "slow"

    def fit(self, task, backbone, ctx):
        for step in range(3):
            ctx.progress(step, 10**5)
        raise AssertionError
"""


def test_a_method_by_name_that_takes_too_long_is_refused_with_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock takes a second."""
    ticks, file = iter(range(10**6)), tmp_path / "slow.py"
    monkeypatch.setattr(budgets, "interrupted_after", lambda _: nullcontext(lambda: False))
    file.write_text(SLOW)
    monkeypatch.setattr(budgets.Budget, "__init__", _ticking(budgets.Budget.__init__, ticks))
    found = adapt("-d", "digits", "-m", f"{file}:Slow", "-O", tmp_path / "m", "--budget", "1h")
    assert found.code == 2
    assert "fitting slow on all" in found.err
    assert "a fit takes about" in found.err
    assert "; give --budget " in found.err
    assert not (tmp_path / "m").exists()


RINGING = """
from dataclasses import dataclass
from signal import SIGALRM, raise_signal
from typing import ClassVar


@dataclass(frozen=True)
class Ringing:
    name: ClassVar[str] = "ringing"

    def fit(self, task, backbone, ctx):
        try:
            raise_signal(SIGALRM)
        except Exception:
            pass
        raise AssertionError
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this system")
def test_a_fit_that_reports_no_progress_is_ended_when_its_time_is_over(tmp_path: Path) -> None:
    """Here the method rings the alarm itself, so that nobody waits for it."""
    file = tmp_path / "ringing.py"
    file.write_text(RINGING)
    rings = signal.getsignal(signal.SIGALRM)
    found = adapt("-d", "digits", "-m", f"{file}:Ringing", "-O", tmp_path / "m", "--shots", 2)
    assert found.code == 2
    assert "a fit takes more than" in found.err
    assert "; give --budget " in found.err
    assert not (tmp_path / "m").exists()
    assert signal.getsignal(signal.SIGALRM) is rings


def test_memory_is_a_bound() -> None:
    budget = budgets.Budget(100, memory=1000)
    with pytest.raises(budgets.OverBudget, match="no memory"), budget.watch(1) as watch:
        watch(1, 2)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (MemoryError(), "failed: gda.fit ran out of memory"),
        (UnsupportedBackboneError("no blocks"), "not applicable: no blocks"),
    ],
)
def test_a_method_that_cannot_be_fitted_is_listed_with_its_reason(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, note: str
) -> None:
    def fit(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(registry().method_class("gda"), "fit", fit)
    found = fb.adapt("shapes", tmp_path / "m", shots=2, **TINY)
    (said,) = found.tried.note[found.tried.method == "gda"]
    assert said.startswith(note)
    assert found.config.method != "gda"


@pytest.mark.parametrize("begun", [False, True])
def test_an_interruption_leaves_the_best_so_far_or_nothing(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    cls = registry().method_class("gda" if begun else "zero-shot")
    fit = cls.fit

    def interrupt(*_: Any) -> Any:
        cls.fit = fit
        raise KeyboardInterrupt

    monkeypatch.setattr(cls, "fit", interrupt)
    if begun:
        found = fb.adapt("shapes", tmp_path / "m", shots=2, **TINY)
        assert found.config.method == "zero-shot"
        assert "interrupted" in found.notes
    else:
        with pytest.raises(KeyboardInterrupt):
            fb.adapt("shapes", tmp_path / "m", shots=2, **TINY)
        assert not list(tmp_path.glob("*"))


def test_damaged_images_are_named_or_left_out(tmp_path: Path) -> None:
    name = photos(tmp_path / "photos", 3, 3)
    (tmp_path / "photos" / "class 0" / "0.jpg").write_bytes(b"no image")
    arguments = ("-d", name, "-m", "zero-shot", "-O", tmp_path / "m")
    refused = adapt(*arguments)
    assert refused.code == 3
    assert "class 0/0.jpg" in refused.err
    assert "--skip-damaged" in refused.err
    assert adapt(*arguments, "--skip-damaged").code == 0
    assert list(read_config(tmp_path / "m").data["images"].values()) == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "tip-adaptor"), "did you mean 'tip-adapter'"),
        (("--budget", "soon"), "10m, 90s or 1h30m"),
        (("--budget", "0s"), "10m, 90s or 1h30m"),
        (("--reject", "1.5"), "not in the range 0<x<1"),
        (("-o", "views=x", "-m", "gda"), "views"),
        (("--backbone", "no/such"), "no/such"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = adapt("-d", "shapes", "-O", tmp_path / "m", *arguments)
    assert refused.code == 2
    assert said in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_one_class_and_methods_that_cannot_be_kept_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = adapt("-d", photos(tmp_path / "photos", 3), "-O", tmp_path / "m")
    assert one.code == 2
    assert "2 or more" in one.err or "two classes" in one.err
    cls = registry().method_class("gda")
    monkeypatch.setattr(cls, "cannot_be_kept", "it lives in the cloud", raising=False)
    kept = adapt("-d", "shapes", "-m", "gda", "-O", tmp_path / "m")
    assert "it lives in the cloud" in kept.err


def test_overwriting_replaces_models_alone(tmp_path: Path) -> None:
    output = tmp_path / "m"
    arguments = ("-d", photos(tmp_path / "photos", 2, 2), "-m", "zero-shot", "-O", output)
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    assert "holds no model" in adapt(*arguments, "--force").err
    (output / "thesis.txt").unlink()
    assert adapt(*arguments).code == 0
    assert adapt(*arguments, "--force").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "photos"]


def test_auto_stands_for_all_built_in_methods() -> None:
    builtin = {
        name
        for name in registry().methods.names()
        if registry().code(name)["registered"]
        and registry().methods.find(name).origin.startswith("fewshot-bench:")
    }
    found = search.order()
    assert {name.partition("[")[0] for name in found} == builtin
    assert len(found) == len({*found})
    assert found[0] == "linear-probe"
    cheap = [*search.TIERS[0], *search.TIERS[1]]
    assert found[: len(cheap)] == cheap


def test_durations() -> None:
    assert budgets.read_duration("1h30m") == 5400
    assert budgets.read_duration(" 90 ") == 90
    assert [budgets.duration(s) for s in (0.44, 61, 3600)] == ["0.4 s", "1 min 1 s", "1 h 0 min"]
    for text in ("", "10x", "m", "-5s"):
        with pytest.raises(UsageError):
            budgets.read_duration(text)


@pytest.mark.parametrize("output", [3, None, ""])
def test_the_output_is_a_folder(output: Any) -> None:
    with pytest.raises(UsageError, match=r"output=.*: expected the path of a folder"):
        fb.adapt("digits", output)


def test_labels_are_dealt_into_folds_once() -> None:
    labels = np.repeat(np.arange(4), [1, 2, 6, 13])
    copies = Copies(np.arange(len(labels)), labels)
    for repeat in range(2):
        folds = [fold for fold in repeat_folds(copies, 2, 1) if fold.repeat == repeat]
        held = np.concatenate([fold.held_out for fold in folds])
        assert sorted(held.tolist()) == list(range(1, len(labels)))
        for fold in folds:
            assert set(labels[fold.train]) == {0, 1, 2, 3}
            train, val = with_validation(copies, fold.train, 1)
            assert not {*train} & {*val}
            assert {*train} | {*val} == {*fold.train.tolist()}
            assert set(labels[train]) == {0, 1, 2, 3}
            assert np.bincount(labels[val]).max() <= 4


def test_copies_count_once_and_contradictions_are_in_no_estimate(tmp_path: Path) -> None:
    own = photos(tmp_path / "photos", 6, 6, 1)
    root = tmp_path / "photos"
    for number in range(3):
        shutil.copy(root / "class 0" / f"{number}.jpg", root / "class 0" / f"again {number}.jpg")
    shutil.copy(root / "class 2" / "0.jpg", root / "class 2" / "again.jpg")
    shutil.copy(root / "class 0" / "5.jpg", root / "class 1" / "double.jpg")

    def made(**options: Any) -> fb.Adapted:
        return fb.adapt(own, tmp_path / "m", method="gda", force=True, **TINY, **options)

    found = made()
    data = found.config.data
    assert list(data["images"].values())[1:] == [4, 2]
    assert sum(data["images"].values()) + data["validation"] == 18
    assert [row["images"] for row in found.config.classes] == [5, 6, 0]
    assert found.config.accuracy["images"] == 11
    assert found.learned is not None
    out = {id for id, held in zip(found.learned.ids, found.learned.held, strict=True) if not held}
    assert out == {"class 0/5.jpg", "class 1/double.jpg", "class 2/0.jpg", "class 2/again.jpg"}
    assert any("1 class without two different images" in note for note in found.notes)
    text = (found.folder / "README.md").read_text()
    assert "| class 2 | 2 | 0 | – | – | – |" in text
    told = ("-m", "gda", "--metric", "macro", "--keep-contradictions")
    shown = adapt("-d", own, "-O", tmp_path / "kept", *told)
    kept = read_config(tmp_path / "kept")
    assert [row["images"] for row in kept.classes] == [6, 7, 0]
    assert kept.accuracy["metric"] == "macro"
    mean = np.mean([row["recall"] for row in kept.classes[:2]])
    assert kept.accuracy["mean"] == pytest.approx(mean)
    text = "mean recall of the classes"
    assert text in shown.out.lower(), shown.err
    assert text in (tmp_path / "kept" / "README.md").read_text().lower()
    with pytest.raises(UsageError, match="metric='f1': expected 'top1' or 'macro'"):
        made(metric="f1")


def test_images_are_asked_about_and_then_chosen_by(tmp_path: Path) -> None:
    material = gather(photos(tmp_path / "photos", 4, 4), {})
    shop = FitRunner(material, Chosen(Request((), (), backbone="tiny")))
    every = np.arange(8)
    _, val = with_validation(material.copies, every, shop.chosen.seed)
    shop.fit(ZERO_SHOT, every, val, False)
    fitted, _ = shop.fit(Variant("gda", {}, {}, "1"), every, every[:0], True)
    assert fitted.declared.selection["labels"] == len(val) == 4


GROWING = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from fewshot_bench import hyper


@dataclass(frozen=True)
class Means:
    """Class means; logits are larger the more images they are of."""

    weights: object
    size: float

    def logits(self, queries):
        return self.size * queries.features @ self.weights.T

    def tensors(self):
        size = torch.tensor(self.size, dtype=torch.float64)
        return {"weights": self.weights, "size": size}


@dataclass(frozen=True)
class Growing:
    """Chooses by validation images."""

    name: ClassVar[str] = "growing"
    power: float = hyper(0.0, "digits of the scale per training image")

    def fit(self, task, backbone, ctx):
        if task.val is not None:
            ctx.count_selection(2, len(task.val))
        labels = F.one_hot(task.train.labels, len(task.classnames)).float()
        return Means(F.normalize(labels.T @ task.train.features, dim=-1), self.size(task.train))

    def size(self, images):
        return 10.0 ** (self.power * len(images))
'''


def test_probabilities_are_calibrated_whatever_scale_the_last_fit_chose(
    few: None, tmp_path: Path
) -> None:
    """Fits that select on validation images have logits of different scales."""
    data = photos(tmp_path / "photos", 10, 10)
    images = sorted((tmp_path / "photos").rglob("*.jpg"))
    file, found = tmp_path / "growing.py", []
    file.write_text(GROWING)
    for power in (0.0, 0.5):
        adapted = fb.adapt(
            data,
            tmp_path / str(power),
            method=f"{file}:Growing",
            options={"power": power},
            reject=0.5,
            **TINY,
        )
        method = registry().method_class(f"{file}:Growing")
        table = fb.load_model(adapted.folder, method=method).predict(images)
        found.append((table.probability.tolist(), adapted.config.reject, table["class"].tolist()))
    (plain, least, classes), (grown, also, same) = found
    assert grown == pytest.approx(plain, rel=1e-3)
    assert least is not None
    assert also == pytest.approx(least, rel=1e-3)
    assert same == classes
    assert any(name is not None for name in classes)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"dataset": 5}, "dataset=5: expected "),
        ({"budget": []}, r"budget=\[\]: expected a time such as 10m, or seconds"),
        ({"budget": True}, "budget=True: expected a time"),
        ({"memory": 1.5}, "memory=1.5: expected "),
        ({"options": 3}, "options=3: expected a mapping"),
        ({"shots": "3"}, "shots='3': expected a whole number from 1"),
        ({"reject": "yes"}, "reject='yes': expected a share above 0 and below 1"),
        ({"exif": 6}, "exif=6: expected "),
        ({"relabel": 3}, "relabel=3: expected a CSV file, or rows"),
        ({"output": None}, "output=None: expected the path of a folder"),
        ({"classnames": 7}, "classnames: expected a list of names"),
        ({"force": "no"}, "force='no': expected True or False"),
    ],
)
def test_a_wrong_type_is_a_type_error(
    tmp_path: Path, asked: dict[str, Any], complaint: str
) -> None:
    given: dict[str, Any] = {"dataset": "shapes", "output": tmp_path / "m", **TINY} | asked
    with pytest.raises(TypeError, match=complaint) as raised:
        fb.adapt(**given)
    assert isinstance(raised.value, fb.UsageError)


@pytest.mark.parametrize(
    ("asked", "option", "argument"),
    [
        ({"output": "full"}, "--output full: is not empty, ", "output=full: is not empty, "),
        ({"output": "full"}, "(--force replaces", "(force=True replaces"),
        ({"output": "o", "classnames": "x.csv"}, "--classnames x.csv: ", "classnames=x.csv: "),
        ({"output": "o", "budget": "soon"}, "--budget soon: ", "budget=soon: "),
        ({"output": "o", "reject": 2.0}, "'--reject'", "reject=2.0: expected a share"),
    ],
)
def test_errors_name_options_of_the_command_and_arguments_in_python(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    option: str,
    argument: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    given = [part for name, value in asked.items() for part in (f"--{name}", value)]
    done = adapt("-d", "shapes", *given)
    assert done.code == 2
    assert option in done.err
    with pytest.raises(fb.UsageError) as raised:
        fb.adapt("shapes", **asked, **TINY)
    assert argument in str(raised.value)
    assert "--" not in str(raised.value)
