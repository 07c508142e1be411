"""Base-to-new: halves of the classes, their harmonic mean, and averages that never mix them."""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench.analysis.statistics.intervals import estimate
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.table import Group, Seed, Table
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import cell, halves, inapplicable, make, written

ONE, TWO = Seed(1, 1), Seed(2, 2)


def both(method: str = "coop") -> list[Record]:
    """Two data sets, two seeds; H is 48 and 18 on dtd, 32 and 50 on pets."""
    return [
        *halves(method, "dtd", 1, 60, 40),
        *halves(method, "dtd", 2, 90, 10),
        *halves(method, "pets", 1, 80, 20),
        *halves(method, "pets", 2, 50, 50),
    ]


def labels(table: Table) -> list[str]:
    return [group.label for group in table.groups]


def notes(table: Table) -> str:
    return "\n".join(table.notes)


def test_harmonic_mean_is_per_seed_first() -> None:
    found = cell(build(both()), "dtd (H)", "coop", 1)
    assert found.series["top1"] == pytest.approx({ONE: 48, TWO: 18})
    assert found.status == "done"
    assert found.estimates["top1"].mean == pytest.approx(33)
    assert found.estimates["top1"].n == 2
    # It differs from the harmonic mean of the means, which are 75 and 25.
    assert found.estimates["top1"].mean != pytest.approx(37.5)
    macro = 2 * 59 * 39 / 98
    assert found.series["macro_accuracy"][ONE] == pytest.approx(macro)


def test_average_harmonic_mean_is_that_of_the_average_accuracies() -> None:
    table = build(both())
    assert cell(table, "average (base)", "coop", 1).series["top1"] == {ONE: 70, TWO: 70}
    assert cell(table, "average (new)", "coop", 1).series["top1"] == {ONE: 30, TWO: 30}
    found = cell(table, "average (H)", "coop", 1)
    assert found.series["top1"] == pytest.approx({ONE: 42, TWO: 42})
    assert found.estimates["top1"].mean == pytest.approx(42)
    assert found.estimates["top1"].bounds == pytest.approx((42, 42))


@pytest.mark.parametrize(
    ("base", "new", "published"),
    [(69.34, 74.22, 71.70), (82.69, 63.22, 71.66), (80.47, 71.69, 75.83)],
)
def test_published_averages_of_cocoop(base: float, new: float, published: float) -> None:
    """The averages over eleven data sets of CLIP, CoOp and CoCoOp (CoCoOp, table 1a)."""
    table = build(
        [*halves("m", "a", 1, base - 5, new + 3), *halves("m", "b", 1, base + 5, new - 3)]
    )
    found = cell(table, "average (H)", "m", 1).estimates["top1"].mean
    assert found == pytest.approx(published, abs=0.005)
    average_of_both = sum(
        cell(table, label, "m", 1).estimates["top1"].mean / 2 for label in ("a (H)", "b (H)")
    )
    assert average_of_both != pytest.approx(published, abs=0.005)


def test_accuracies_of_zero_have_a_harmonic_mean_of_zero() -> None:
    table = build(halves("coop", "dtd", 1, 0.0, 0.0))
    assert cell(table, "dtd (H)", "coop", 1).series["top1"] == {ONE: 0}


def test_groups_stand_in_order_and_averages_are_per_scope() -> None:
    plain = [make("coop", name, seed=seed) for name in ("dtd", "pets") for seed in (1, 2)]
    assert labels(build([*both(), *plain])) == [
        "dtd",
        "dtd (base)",
        "dtd (new)",
        "dtd (H)",
        "pets",
        "pets (base)",
        "pets (new)",
        "pets (H)",
        "average",
        "average (base)",
        "average (new)",
        "average (H)",
    ]
    asked = labels(build([*both(), *plain], Options(dataset="pets (new),dtd")))
    assert asked[:3] == ["pets (new)", "dtd", "dtd (base)"]


def test_plain_average_does_not_change_beside_other_scopes() -> None:
    plain = [
        make("coop", name, seed=seed, top1=top1)
        for name, top1 in (("dtd", 10.0), ("pets", 30.0))
        for seed in (1, 2)
    ]
    alone, beside = build(plain), build([*plain, *both()])
    assert (
        cell(beside, "average", "coop", 1).estimates == cell(alone, "average", "coop", 1).estimates
    )
    assert cell(beside, "average", "coop", 1).estimates["top1"] == estimate([20.0, 20.0])


def test_one_half_alone_has_no_harmonic_mean() -> None:
    table = build([make(classes="base"), make("zero-shot", classes="base")])
    assert labels(table) == ["dtd (base)"]
    assert (table.commands, table.notes) == ((), ())


def test_missing_half_is_named_and_its_command_given() -> None:
    records = [r for r in both() if (r.spec.dataset, r.spec.classes) != ("pets", "new")]
    table = build([*records, *both("zero-shot")])
    for label, reason in (
        ("pets (H)", "no result on pets (new)"),
        ("average (new)", "no result on pets (new)"),
        ("average (H)", "no result on pets (new)"),
    ):
        found = cell(table, label, "coop", 1)
        assert (found.status, found.estimates, found.reason) == ("missing", {}, reason)
    assert cell(table, "average (base)", "coop", 1).estimates["top1"].mean == 70
    assert cell(table, "dtd (H)", "coop", 1).estimates["top1"].mean == pytest.approx(33)
    assert "no harmonic mean of coop on pets, 1-shot: no result on pets (new)" in notes(table)
    assert "no average (H) of coop, 1-shot: no result on pets (new)" in notes(table)
    assert "1 cell missing (—): coop on pets (new), 1-shot" in notes(table)
    assert len(table.commands) == 1
    assert "--dataset pets --classes new --shots 1 --seeds 1,2 --backbone" in table.commands[0]


def test_harmonic_mean_over_the_seeds_that_both_halves_have() -> None:
    records = [*halves("coop", "dtd", 1, 60, 40), make("coop", seed=2, classes="base")]
    table = build(records)
    found = cell(table, "dtd (H)", "coop", 1)
    assert found.series["top1"] == pytest.approx({ONE: 48})
    assert (found.status, found.missing_seeds) == ("partial", (TWO,))
    assert "coop on dtd (H), 1-shot: 1" in notes(table)
    apart = build([make("coop", seed=1, classes="base"), make("coop", seed=2, classes="new")])
    found = cell(apart, "dtd (H)", "coop", 1)
    assert (found.status, found.estimates) == ("missing", {})
    assert found.reason == "seeds differ: 2 on dtd (new); 1 on dtd (base)"


def test_half_without_the_metric_of_a_seed_is_partial() -> None:
    records = [*halves("coop", "dtd", 1, 60, 40), *halves("coop", "dtd", 2, 60, 40)]
    records[-1] = dataclasses.replace(records[-1], metrics={"macro_accuracy": 40})
    found = cell(build(records), "dtd (H)", "coop", 1)
    assert (found.status, found.estimates["top1"].n) == ("partial", 1)


def test_failed_half_gives_no_harmonic_mean() -> None:
    table = build(halves("coop", "dtd", 1, 60, None))
    assert cell(table, "dtd (new)", "coop", 1).status == "failed"
    assert cell(table, "dtd (H)", "coop", 1).reason == "no result on dtd (new)"
    assert "1 failed (!; run again with --retry-failed): coop on dtd (new)" in notes(table)


def test_averages_over_other_data_sets_have_no_harmonic_mean() -> None:
    table = build([*both(), *(make("coop", "cars", seed=s, classes="base") for s in (1, 2))])
    found = cell(table, "average (H)", "coop", 1)
    assert (found.status, found.estimates) == ("missing", {})
    assert found.reason == (
        "base and new are not of the same data sets: only one half of cars (base)"
    )


def test_both_missing_halves_are_one_command() -> None:
    table = build([*both(), *both("zero-shot")[4:]])
    (line,) = table.commands
    assert "--method zero-shot --dataset dtd --classes base,new --shots 1 --seeds 1,2 " in line


def test_baseline_of_harmonic_means() -> None:
    base = [
        half for name in ("dtd", "pets") for s in (1, 2) for half in halves("b", name, s, 50, 50)
    ]
    table = build([*both(), *base], Options(baseline="b"))
    found = cell(table, "dtd (H)", "coop", 1).delta
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(-17), 2)
    found = cell(table, "average (H)", "coop", 1).delta
    assert found is not None
    assert found.mean == pytest.approx(-8)
    assert "$-17.00$" in written("latex", table)


def test_harmonic_means_pair_on_the_splits_of_both_halves() -> None:
    records = [
        make(method, classes=classes, digest=f"{classes}-{method if classes == 'new' else ''}")
        for method in ("a", "b")
        for classes in ("base", "new")
    ]
    with pytest.raises(UsageError, match=r"split digest of 'dtd \(new\)', 1-shot"):
        build(records)
    first = build(records[:2])
    assert cell(first, "dtd (H)", "a", 1).splits == {ONE: ("base-", "new-a")}


@pytest.mark.parametrize("name", ["average", "dtd (base)", "dtd (H)", "average (base)"])
def test_a_name_stands_for_one_thing(name: str) -> None:
    with pytest.raises(UsageError, match="stands for two things"):
        build([*both(), make("coop", name)])


def test_a_harmonic_mean_looks_at_its_two_halves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, averages = [], Group.averages

    def counted(group: Group, other: Group) -> bool:
        looks.append(other)
        return averages(group, other)

    monkeypatch.setattr(Group, "averages", counted)
    build([half for number in range(40) for half in halves("coop", f"set{number}", 1, 50, 40)])
    assert len(looks) < 40 * 40, "time would grow with the square of the number of data sets"


def test_inapplicable_half() -> None:
    records = [*both(), make("lp", "dtd", classes="base"), inapplicable("lp", "dtd", classes="new")]
    table = build(records)
    assert cell(table, "dtd (base)", "lp", 1).estimates["top1"].mean == 50
    assert cell(table, "dtd (H)", "lp", 1).status == "inapplicable"
