"""Config files: names equal the options, runs are reproduced, and errors are clear."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fewshot_bench.api.registry import registry
from fewshot_bench.runner.variants import expand_methods
from tests.support.helpers import Result, fsbench

YAML = """
method: [zero-shot, clip-lora]
dataset: digits
shots: [1, 2]
seeds: 1-2
option:
  clip-lora: {rank: [1, 2], lr: 1e-3}
limit: 20
val: none
"""
TOML = """
method = ["zero-shot", "clip-lora"]
dataset = "digits"
shots = [1, 2]
seeds = "1-2"
limit = 20
val = "none"
[option.clip-lora]
rank = [1, 2]
lr = 1e-3
"""


def dry(folder: Path, *arguments: object) -> Result:
    """Dry run in a store of its own."""
    return fsbench("run", *arguments, "--dry-run", "--store", folder / "store")


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    """Write a config file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "text"), [("run.yaml", YAML), ("run.toml", TOML)])
def test_a_file_gives_the_matrix(tmp_path: Path, name: str, text: str) -> None:
    result = dry(tmp_path, "--config", written(tmp_path, text, name))
    assert result.code == 0, result
    assert "12 cells: " in result.out


def test_the_command_line_wins(tmp_path: Path) -> None:
    result = dry(tmp_path, "--config", written(tmp_path, YAML), "--seeds", "3", "--shots", "1")
    assert "3 cells: " in result.out


def test_options_of_the_file_and_of_the_command_line_add_up(tmp_path: Path) -> None:
    text = "method: clip-lora\ndataset: digits\nshots: 1\nseeds: 1\n"
    path = written(tmp_path, text + "option: {clip-lora: {rank: 1, alpha: 3}}\n")
    saved = tmp_path / "saved.yaml"
    assert dry(tmp_path, "--config", path, "-o", "alpha=2", "--save-config", saved).code == 0
    options = yaml.safe_load(saved.read_text())["option"]
    assert options == ["clip-lora.rank=1", "clip-lora.alpha=3", "alpha=2"]
    (variant,) = expand_methods(("clip-lora",), options, registry())
    assert variant.overrides == {"rank": 1, "alpha": 2.0}


def test_one_file_that_is_not_written_over(tmp_path: Path) -> None:
    path = written(tmp_path, YAML)
    result = dry(tmp_path, "--config", path, "--save-config", path)
    assert (result.code, "is the file of --config" in result.err) == (2, True)
    assert path.read_text() == YAML
    result = dry(tmp_path, "--config", path, "--config", path)
    assert (result.code, "stands 2 times" in result.err) == (2, True)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    for name, text in (("run.yaml", YAML), ("run.toml", TOML)):
        result = dry(tmp_path, "--config", written(tmp_path, "\ufeff" + text, name))
        assert "12 cells: " in result.out, result


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("method: zero-shot\nshotz: 1\n", "did you mean 'shots'"),
        ("method: zero-shot\nmethod: coop\n", "'method' stands twice"),
        ("- method\n", "got a list"),
        ("method: [a\n", "not valid YAML"),
        ("method: zero-shot\ndataset: digits\nshots: many\n", "many"),
        ("method: zero-shot\ndataset: digits\nforce: perhaps\n", "true or false"),
        ("method: {a: b}\ndataset: digits\n", "single value or a list"),
        ("method: clip_lora\ndataset: digits\n", "did you mean 'clip-lora'"),
        ("method: clip-lora\ndataset: digits\noption: {rnak: 2}\n", "did you mean 'rank'"),
        ("method: clip-lora\ndataset: digits\noption: {rank: 2, rank: 4}\n", "stands twice"),
        ("keep_split: data\nkeep-split: store\n", "are the option --keep-split: keep one"),
        ("method: coop\ndataset: digits\ntemplates: {a: 'b {}'}\n", "got names with values"),
    ],
)
def test_refusals(tmp_path: Path, text: str, part: str) -> None:
    result = dry(tmp_path, "--config", written(tmp_path, text))
    assert result.code == 2, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert part in lines[0]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("run.toml", 'method = "a"\nmethod = "b"\n', "not valid TOML"),
        ("run.toml", 'metod = "zero-shot"\n', "did you mean 'method'"),
        ("run.json", "{}", ".yaml, .yml or .toml"),
        ("missing.yaml", None, "cannot be read: No such file or directory; check the path"),
        ("run.yaml", f"method: [{'coop, ' * 999}coop]", "1,000 names: expected at most 500"),
        (
            "run.yaml",
            "method: gda\ndataset: digits\nseeds: 0-99999,7",
            "'0-99999,7': expected at most 100,000 numbers",
        ),
        ("run.yaml", " " * 2**23, "it has 8.4 MB, expected at most 4.2 MB; check the path"),
    ],
)
def test_refusals_of_files(tmp_path: Path, name: str, text: str | None, part: str) -> None:
    path = written(tmp_path, text, name) if text is not None else tmp_path / name
    result = dry(tmp_path, "--config", path)
    assert result.code == 2, result
    assert len(result.err.splitlines()) == 1, result.err
    assert part in result.err


def test_a_file_that_leads_to_a_device_is_not_read(tmp_path: Path) -> None:
    for option in ("--config", "--classnames", "--templates"):
        path = tmp_path / f"{option}.yaml"
        path.symlink_to("/dev/zero")
        result = dry(tmp_path, option, path, "--method", "zero-shot", "--dataset", "digits")
        assert (result.code, "no regular file" in result.err or "is no file" in result.err) == (
            2,
            True,
        )


def test_values_mean_what_they_say(tmp_path: Path) -> None:
    text = (
        "method: clip-lora\ndataset: digits\nshots: 1\nseeds: 1\noption: {lr: 1e-3}\ndry-run: no\n"
    )
    result = dry(tmp_path, "--config", written(tmp_path, text))
    assert result.code == 0, result
    # 1e-3 equals the float of -o lr=0.001: both give the same cell.
    again = dry(tmp_path, "--config", written(tmp_path, text), "-o", "lr=0.001,1e-3")
    assert "1 cell: " in again.out


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_a_saved_file_gives_the_same_cells(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewshot_bench.runner import request as plan

    seen: list[plan.Request] = []
    expand = plan.expand

    def remember(request: plan.Request) -> plan.Plan:
        seen.append(request)
        return expand(request)

    monkeypatch.setattr(plan, "expand", remember)
    saved = tmp_path / f"saved.{suffix}"
    arguments = ("--method", "zero-shot,clip-lora", "--dataset", "digits", "--shots", "1,2")
    more = ("-o", "clip-lora.rank=1,2", "-o", "lr=1e-3", "--val", "none", "--limit", "20")
    first = dry(tmp_path, *arguments, *more, "--seeds", "1-2", "--save-config", saved)
    second = fsbench("run", "--config", saved, "--dry-run")
    assert (first.code, second.code) == (0, 0), second
    assert first.out == second.out
    assert seen[0] == seen[1]
    assert [cell.key() for cell in expand(seen[0]).cells] == [
        cell.key() for cell in expand(seen[1]).cells
    ]


def test_a_place_that_cannot_be_saved_to(tmp_path: Path) -> None:
    arguments = ("--method", "zero-shot", "--dataset", "digits")
    result = dry(tmp_path, *arguments, "--save-config", tmp_path / "no" / "where.yaml")
    assert result.code == 2, result
    assert "cannot be written: No such file or directory; choose another file, or" in result.err


@pytest.mark.parametrize("name", ["saved.toml", "folder.yaml"])
def test_nothing_is_left_of_a_file_that_cannot_be_saved(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    arguments = ("--method", "zero-shot", "--dataset", "digits", "--store", tmp_path / "st\udcff")
    result = fsbench("run", *arguments, "--dry-run", "--save-config", tmp_path / name)
    assert result.code == 2, result
    assert "--save-config" in result.err
    assert list(tmp_path.iterdir()) == [folder]
