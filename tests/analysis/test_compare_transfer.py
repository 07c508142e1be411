"""Transfer: fitted on one data set, evaluated on others; filters and commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.record import Record
from fewshot_bench.cli.run import command as run_command
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import (
    cell,
    halves,
    inapplicable,
    make,
    read_csv,
    run_compare,
    save,
    written,
)

IMAGENET_A, IMAGENET_R = "imagenet → imagenet-a", "imagenet → imagenet-r"


def transfers(method: str = "coop", **tops: float) -> list[Record]:
    """Records of one seed, by default imagenet-a at 10 and imagenet-r at 30."""
    tops = {"a": 10.0, "r": 30.0} | tops
    return [
        make(method, "imagenet", top1=top1, target=f"imagenet-{name}", target_revision="1")
        for name, top1 in tops.items()
    ]


def everything() -> list[Record]:
    """Plain, halved and transferred cells of two methods."""
    records = []
    for method in ("coop", "zero-shot"):
        records += [make(method, "imagenet", top1=60.0), make(method, "dtd", top1=40.0)]
        records += [*transfers(method), *halves(method, "dtd", 1, 60, 40)]
    return records


def labels(table: Table) -> list[str]:
    return [group.label for group in table.groups]


def test_transfers_of_an_early_data_set_stand_last_too() -> None:
    records = [make("coop", "dtd", target="pets"), make("coop", "dtd"), make("coop", "pets")]
    assert labels(build(records)) == ["dtd", "pets", "dtd → pets", "average"]


def test_asked_order_counts_targets_too() -> None:
    table = build(everything(), Options(dataset="imagenet-r,dtd,imagenet"))
    assert labels(table)[:3] == [IMAGENET_R, "dtd", "dtd (base)"]
    assert labels(table)[-4:-2] == ["imagenet", IMAGENET_A]


def test_transfers_from_several_data_sets_are_averaged_apart() -> None:
    records = [
        *transfers(),
        make("coop", "dtd", top1=50.0, target="pets"),
        make("coop", "dtd", top1=60.0, target="cars"),
        make("coop", "sun397", top1=99.0, target="cars"),
    ]
    table = build(records)
    averages = [group.label for group in table.groups if group.average]
    assert averages == ["average (transfer from dtd)", "average (transfer from imagenet)"]
    assert cell(table, averages[0], "coop", 1).estimates["top1"].mean == 55
    assert cell(table, averages[1], "coop", 1).estimates["top1"].mean == 20


def test_missing_target_is_not_averaged() -> None:
    table = build([*transfers(), *transfers("zero-shot")[:1]])
    found = cell(table, "average (transfer)", "zero-shot", 1)
    assert (found.status, found.reason) == ("missing", f"no result on {IMAGENET_R}")


def test_baseline_in_transfers() -> None:
    table = build([*transfers(), *transfers("b", a=4.0)], Options(baseline="b"))
    found = cell(table, "average (transfer)", "coop", 1).delta
    assert found is not None
    assert (found.mean, found.n) == (3, 1)


def test_command_evaluates_missing_targets_and_the_data_set_itself() -> None:
    table = build([*everything(), make("other", "dtd")])
    lines = [line for line in table.commands if "--method other" in line]
    assert [line.partition(" --dataset ")[2].partition(" --backbone")[0] for line in lines] == [
        "dtd --classes base,new --shots 1 --seeds 1",
        "imagenet --transfer imagenet-a,imagenet-r --shots 1 --seeds 1",
    ]


def test_each_cell_stands_in_one_command() -> None:
    records = [*everything(), make("coop", "imagenet", 16), make("other", "dtd")]
    lines = [line for line in build(records).commands if "--method other" in line]
    parts = [line.partition(" --dataset ")[2].partition(" --backbone")[0] for line in lines]
    assert "imagenet --shots 16 --seeds 1" in parts
    assert "imagenet --transfer imagenet-a,imagenet-r --shots 1 --seeds 1" in parts


def test_target_revisions_do_not_mix() -> None:
    records = [*transfers(), *transfers("zero-shot")]
    records[2] = make("zero-shot", "imagenet", target="imagenet-a", target_revision="2")
    with pytest.raises(UsageError, match=r"target revision of 'imagenet-a' .*--revision PREFIX"):
        build(records)
    rows = [row.label for row in build(records, Options(allow_mixed=True)).rows]
    assert "zero-shot target revision=2" in rows


def test_commands_are_understood_by_run() -> None:
    records = [*everything(), make("other", "dtd"), make("other", "own", data={"holdout": 0.5})]
    lines = build(records).commands
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["fsbench", "run"]
        context = run_command.make_context("run", words[2:])
        assert context.params["methods"]


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        (("--dataset", "imagenet-a"), [IMAGENET_A]),
        (("--dataset", IMAGENET_R), [IMAGENET_R]),
        (("--dataset", "imagenet"), ["imagenet", IMAGENET_A, IMAGENET_R]),
        (("--dataset", "dtd (new),dtd (base)"), ["dtd (new)", "dtd (base)", "dtd (H)"]),
        (("--classes", "new"), ["dtd (new)"]),
        (("--classes", "base,new"), ["dtd (base)", "dtd (new)", "dtd (H)"]),
        (("--classes", "all", "--dataset", "dtd"), ["dtd"]),
    ],
)
def test_filters(tmp_path: Path, words: tuple[str, ...], groups: list[str]) -> None:
    folder = save(tmp_path / "store", everything())
    result = run_compare("--store", folder, *words, "--format", "json")
    assert result.exit_code == 0, result.exception
    rows = json.loads(result.output)["rows"]
    found = dict.fromkeys(r["dataset"] for r in rows if not r["dataset"].startswith("average"))
    assert list(found) == groups


def test_revision_of_a_target_can_be_chosen(tmp_path: Path) -> None:
    other = make("coop", "imagenet", seed=2, target="imagenet-a", target_revision="2")
    folder = save(tmp_path / "store", [*transfers(), other])
    assert isinstance(run_compare("--store", folder).exception, UsageError)
    result = run_compare("--store", folder, "--revision", "2")
    assert result.exit_code == 0, result.exception
    assert "50.00" in result.output
    assert "10.00" not in result.output


def test_unknown_classes(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", everything())
    error = run_compare("--store", folder, "--classes", "nwe").exception
    assert isinstance(error, UsageError)
    assert "unknown classes 'nwe': did you mean 'new'?" in str(error)


def test_mixed_store_with_everything() -> None:
    records = [
        *everything(),
        make("lp", "imagenet"),
        make("lp", "dtd"),
        make("lp", "dtd", classes="base"),
        inapplicable("lp", "dtd", classes="new"),
        *(
            inapplicable("lp", "imagenet", target=f"imagenet-{name}", target_revision="1")
            for name in "ar"
        ),
    ]
    table = build([r for r in records if r.spec.method != "zero-shot"], Options(baseline="coop"))
    assert table.commands == ()
    scopes = {line["dataset"]: line["scope"] for line in read_csv(written("csv", table))}
    kinds = {"dtd": "all", "dtd (base)": "base", "dtd (new)": "new", IMAGENET_A: "transfer"}
    assert scopes.items() >= kinds.items()
    status = {label: cell(table, label, "lp", 1).status for label in labels(table)}
    assert status == {
        "dtd": "done",
        "dtd (base)": "done",
        "dtd (new)": "inapplicable",
        "dtd (H)": "inapplicable",
        "imagenet": "done",
        IMAGENET_A: "inapplicable",
        IMAGENET_R: "inapplicable",
        "average": "done",
        "average (transfer)": "inapplicable",
    }
    assert len(table.notes) == 1
