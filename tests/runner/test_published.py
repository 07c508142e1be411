"""`--published`: every method with its authors' values per data set and shots."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.api.method_card import FitSetting, card_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.store.store import Store
from tests.support.compare_records import read_csv
from tests.support.helpers import fsbench

# A method of somebody else, with values that its authors published.
METHOD = '''
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import MethodCard, Paper, Published, hyper
from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Tuned(ZeroShot):
    """A method with published values."""

    name: ClassVar[str] = "tuned"
    card: ClassVar[MethodCard] = MethodCard(
        "tuned-20",
        paper=Paper("A lamp", ("Ann Oak",), 2024, venue="ICLR"),
        published=(
            Published({"rate": 2}),
            Published({"rate": 5.0, "steps": 30}, ("shapes",), shots=(2,), source="its README"),
            Published({"steps": 40}, base_to_new=True, schedule="tuned-40"),
        ),
    )
    rate: float = hyper(1.0, "learning rate")
    steps: int = hyper(20, "steps")
'''
RUN = ("--seeds", 1, "--backbone", "tiny", "--limit", 20)


def write_method(folder: Path) -> str:
    file = folder / "tuned.py"
    file.write_text(METHOD)
    return f"{file}:Tuned"


@pytest.fixture
def method(tmp_path: Path) -> str:
    return write_method(tmp_path)


def planned(method: str, **asked: Any) -> list[RunSpec]:
    asked = {"datasets": ("shapes", "digits"), "shots": (1, 2), "seeds": (1,)} | asked
    return expand(Request(methods=(method,), backbone="tiny", published=True, **asked)).cells


def test_values_depend_on_data_set_shots_and_half(method: str) -> None:
    cells = planned(method, classes=("all", "base", "new"))
    assert all(cell.published and not cell.overrides for cell in cells)
    found = {
        (c.dataset, c.shots, c.classes): (c.options["rate"], c.options["steps"]) for c in cells
    }
    assert found["digits", 1, "all"] == (2.0, 20), "general values of the authors, not the default"
    assert found["shapes", 1, "all"] == (2.0, 20)
    assert found["shapes", 2, "all"] == (5.0, 30)
    assert found["shapes", 2, "base"] == found["shapes", 2, "new"] == (5.0, 40), "later ones win"
    base, new = (c for c in cells if (c.dataset, c.shots) == ("shapes", 2) and c.classes != "all")
    assert base.fit_key() == new.fit_key()


def test_options_of_the_user_win_and_make_one_row(method: str) -> None:
    cells = planned(method, options=("rate=2",))
    assert {cell.options["rate"] for cell in cells} == {2.0}
    assert {cell.options["steps"] for cell in cells} == {20, 30}
    assert [cell.overrides for cell in cells] == [{"rate": 2.0}] * 4, "also where it is published"
    default = planned(method, options=("rate=1",))
    assert [cell.overrides for cell in default] == [{"rate": 1.0}] * 4, "the default of the class"


def prompts(method: str, **asked: Any) -> set[str]:
    asked = {"datasets": ("digits",), "shots": (1,), "views": 64} | asked
    return {cell.prompts for cell in planned(method, **asked)}


@pytest.mark.parametrize("name", ["mta", "zero"])
def test_methods_of_views_take_their_authors_prompt_unless_the_user_names_one(name: str) -> None:
    assert prompts(name) == prompts(name, classes=("base", "new")) == {"simple"}
    assert prompts(name, prompts="custom") == {"custom"}
    assert prompts(name, prompts="ensemble") == {"ensemble"}
    assert prompts(name, texts="waffle") == {"custom"}
    assert prompts(name, data={"templates": ("a drawing of {}.",)}) == {"custom"}
    assert prompts("zero-shot") == {"custom"}
    plain = expand(Request(methods=(name,), backbone="tiny", datasets=("digits",), views=64)).cells
    assert {cell.prompts for cell in plain} == {"custom"}


def test_prompts_of_authors_depend_on_the_setting_and_are_told(tmp_path: Path) -> None:
    given = 'Published({}, ("shapes",), shots=(2,), prompts="ensemble", source="its README"),\n'
    file = tmp_path / "worded.py"
    file.write_text(METHOD.replace("Published({", f"{given}            Published({{", 1))
    cells = planned(f"{file}:Tuned")
    found = {(cell.dataset, cell.shots): cell.prompts for cell in cells}
    assert {place for place, own in found.items() if own == "ensemble"} == {("shapes", 2)}
    told = "published (--published) for shapes at 2 shots: prompts=ensemble (its README)"
    assert told in fsbench("show", f"{file}:Tuned").out
    with pytest.raises(fb.ContractError, match="prompts"):
        fb.Published({}, prompts="an image of {}")


def test_epsilon_of_ape_t_on_food101_is_larger_at_few_shots() -> None:
    card = card_of(registry().method_class("ape-t"))
    assert card is not None
    for shots, eps in {1: 0.01, 2: 0.01, 4: 0.001, 8: 0.001, 16: 0.001}.items():
        found = card.published_in(FitSetting("food101", shots, base_to_new=False))
        assert (found["eps"], found["epochs"], found["lr"]) == (eps, 30, 1e-4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both conditions of the method, on two data sets and numbers of shots."""
    tmp_path = tmp_path_factory.mktemp("tuned")
    method = write_method(tmp_path)
    for more in ((), ("--published",)):
        call = ("-m", method, "-d", "shapes,digits", "--shots", "1,2", "--store", tmp_path / "s")
        done = fsbench("run", *call, *RUN, *more)
        assert done.code == 0, done.err
    assert "note: tuned: no values are published for digits alone" in done.out
    return tmp_path / "s"


def records(store: Path) -> dict[tuple[str, int, bool], Record]:
    found = Store(store).records()
    return {(r.spec.dataset, r.spec.shots, r.spec.published): r for r in found}


def test_the_record_states_the_values_and_where_they_come_from(store: Path) -> None:
    found = records(store)
    own, general = found["shapes", 2, True].card, found["digits", 2, True].card
    assert own["published"] == {"rate": "5.0", "steps": "30"}
    assert own["published_note"] == ""
    assert general["published"] == {"rate": "2"}
    assert general["published_note"].startswith("no values are published for digits alone")
    assert own["official"] == {}
    plain = found["shapes", 2, False].card
    assert "published" not in plain
    cited = fsbench("compare", "--store", store, "--published", "no", "--format", "bibtex")
    assert plain["papers"]["oak2024lamp"] in cited.out
    assert cited.err == ""
    assert plain["official"]["steps"] == "30 on shapes at 2 shots; 40 on all data sets, base-to-new"


def test_tables_never_mix_the_two_and_printed_commands_have_the_option(store: Path) -> None:
    apart = fsbench("compare", "--store", store)
    assert "Conditions 1 of 2: published no\n" in apart.out
    assert "Conditions 2 of 2: published yes\n" in apart.out
    call = ("compare", "--store", store, "--published")
    rows = read_csv(fsbench(*call, "yes", "--format", "csv").out)
    assert {row["published"] for row in rows} == {"true"}
    text = fsbench(*call, "yes").out
    assert "published yes" in " ".join(text.split())
    assert "published" not in fsbench(*call, "no").out
    signature = text[text.index("fsbench:1") :].strip()
    assert "pub:yes" in signature
    specs = [record.spec for record in Store(store).records() if record.spec.published]
    ((line,), _) = commands_of(specs)
    words = shlex.split(line)
    assert "--published" in words
    assert "-o" not in words
    again = fsbench(*words[1:], "--store", store, "--dry-run")
    assert "4 cells: 4 done already, 0 to run" in again.out
    assert len(fb.load(store).where(published=True)) == 4


def test_a_record_is_repeated_with_its_values(store: Path) -> None:
    record = records(store)["shapes", 2, True]
    done = fsbench("rerun", record.spec.key(), "--store", store)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "same result, bit for bit"


def test_the_library_has_the_same_condition(tmp_path: Path, method: str) -> None:
    more = {"seeds": 1, "limit": 20, "backbone": "tiny", "store": tmp_path / "s"}
    (record,) = fb.run(method, "shapes", shots=2, published=True, **more).records()
    assert (record.spec.published, dict(record.spec.overrides)) == (True, {})
    assert record.spec.options["rate"] == 5.0
    with pytest.raises(fb.UsageError, match="published"):
        fb.run(method, "shapes", published="yes", **more)


def test_show_lists_the_values(method: str) -> None:
    text = fsbench("show", method).out
    assert "published (--published) for shapes at 2 shots: rate=5.0, steps=30 (its README)" in text
    assert "chosen per data set" not in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('"raet": 2', "unknown hyper-parameter of tuned 'raet': did you mean 'rate'?"),
        ('"rate": "fast"', "tuned: rate='fast' is not float"),
    ],
)
def test_values_that_are_no_options_are_refused(
    change: str, reason: str, tmp_path: Path, method: str
) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(METHOD.replace('"rate": 2', change))
    done = fsbench("run", "-m", f"{file}:Tuned", "-d", "shapes", *RUN, "--store", tmp_path / "s")
    assert done.code == 2
    assert reason in done.err


def test_published_values_are_of_public_data_sets_and_fit_their_methods() -> None:
    known = registry()
    public = set(known.datasets.entries)
    for name in known.methods.entries:
        cls = known.method_class(name)
        for one in getattr(card_of(cls), "published", ()):
            assert public.issuperset(one.datasets), name
            assert one.source, name
