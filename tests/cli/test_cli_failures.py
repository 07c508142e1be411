"""Messages of `fsbench run` on failed cells: the reason, the author's frame, the record."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import subprocess
from pathlib import Path
from typing import IO

import pytest

import fewshot_bench
from fewshot_bench.api.author_frame import author_frame
from fewshot_bench.api.record import Record
from tests.support.helpers import command, environment, fsbench, problems

FEW = ("-d", "digits", "--shots", "1", "--limit", "20", "--jobs", "1")


def failed(store: Path, *arguments: object) -> str:
    """Standard error of a run with failing cells."""
    result = fsbench("run", *FEW, "--store", store, *arguments)
    assert result.code == 1, result
    return result.err


@pytest.mark.usefixtures("methods")
def test_a_failed_cell_names_reason_frame_and_record(tmp_path: Path) -> None:
    said = failed(tmp_path / "store", "-m", "bad-logits", "--seeds", "1")
    assert "1 cell failed:\n  bad-logits on digits, 1-shot, seed 1: RuntimeError: no idea" in said
    assert re.search(r"at \S*fsbench_misbehaving/failing\.py:\d+ in _raise\n", said)
    path = Path(said.partition("record: ")[2].splitlines()[0])
    record = Record.from_dict(json.loads(path.read_text(encoding="utf-8")))
    assert (record.status, record.spec.method) == ("failed", "bad-logits")
    assert "Traceback" not in said
    assert "--traceback" in said
    shown = fsbench("show", path)
    assert (shown.code, shown.err) == (0, "")
    assert "FAILED, RuntimeError: no idea" in shown.out
    assert "Traceback (most recent call last):" in shown.out
    assert fsbench("show", path.with_name("none.json")).code == 2


@pytest.mark.usefixtures("methods")
def test_many_failures_for_one_reason_are_one_paragraph_and_told_again(tmp_path: Path) -> None:
    run = (tmp_path / "store", "-m", "bad-fit,zero-shot", "--seeds", "1-3")
    said = failed(*run)
    assert "3 cells failed:" in said
    assert said.count("no idea") == 1
    assert "bad-fit on digits (3 cells)" in said
    assert "and 2 more" in said
    again = failed(*run, "--traceback")
    assert "Traceback (most recent call last):" in again
    assert again.count("RuntimeError: no idea") == 2
    assert "--traceback" not in again


@pytest.mark.usefixtures("methods")
def test_what_the_harness_refuses_names_where_fit_begins(tmp_path: Path) -> None:
    said = failed(tmp_path / "store", "-m", "bad-fit", "-o", "bad-fit.how=none", "--seeds", "1")
    assert "ContractError: bad-fit.fit returned NoneType" in said
    assert re.search(r"at \S*failing\.py:\d+ in fit", said)


@pytest.mark.usefixtures("methods")
def test_what_is_wrong_with_logits_is_not_placed_in_fit(tmp_path: Path) -> None:
    said = failed(tmp_path / "store", "-m", "bad-logits", "-o", "bad-logits.how=list")
    assert re.search(
        r"ContractError: logits\(\) returned list, .* \(at \S*scoring\.py:\d+ in logits\)", said
    )
    assert not re.search(r"^ +at ", said, re.MULTILINE)


@pytest.mark.usefixtures("methods")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_that_are_not_finite_name_their_line_and_a_step_that_can_be_taken(
    tmp_path: Path, precision: str
) -> None:
    nan = ("-m", "bad-logits", "-o", "bad-logits.how=nan", "--precision", precision)
    said = failed(tmp_path / "store", *nan, "--seeds", "1")
    assert re.search(r"not finite in float32; .* \(at \S*scoring\.py:\d+ in logits\)", said)
    assert ("--precision fp32" in said) == (precision != "fp32")


def sleeping(file: IO[str]) -> None:
    """Dump this process's stack, like a hanging process before it is ended."""
    faulthandler.dump_traceback(file)


def test_a_process_that_hangs_is_found_in_the_authors_code(tmp_path: Path) -> None:
    with (tmp_path / "dump").open("w+", encoding="utf-8") as file:
        sleeping(file)
        file.seek(0)
        dump = file.read()
    frame = author_frame(dump, [__name__.rpartition(".")[2]])
    assert re.fullmatch(r"\S*test_cli_failures\.py:\d+ in sleeping", frame)


TRACE = """Traceback (most recent call last):
  File "{ours}/fitting.py", line 98, in fit
    return self.method.fit()
  File "/elsewhere/mine/method.py", line 12, in fit
    train(x)
  File "/elsewhere/mine/deep/loop.py", line 7, in train
    torch.stack([])
  File "/v/lib/python3.12/site-packages/torch/functional.py", line 3, in stack
RuntimeError: stack expects a non-empty TensorList
"""


@pytest.mark.parametrize(
    ("packages", "frame"),
    [
        (["mine"], "/elsewhere/mine/deep/loop.py:7 in train"),
        (["method"], "/elsewhere/mine/method.py:12 in fit"),
        ([], "/elsewhere/mine/deep/loop.py:7 in train"),
        (["torch"], "/v/lib/python3.12/site-packages/torch/functional.py:3 in stack"),
    ],
)
def test_the_authors_frame(packages: list[str], frame: str) -> None:
    ours = str(Path(fewshot_bench.__file__).parent)
    assert author_frame(TRACE.replace("{ours}", ours), packages) == frame


def test_a_frame_is_not_the_authors_for_a_folder_of_the_same_name() -> None:
    """A method in `training.py` or `functional.py` shares its name with files of others."""
    ours = str(Path(fewshot_bench.__file__).parent)
    trace = TRACE.replace("{ours}", f"{ours}/training").replace("/mine/deep/", "/deep/")
    for module in ("training", "functional"):
        assert author_frame(trace, [module]) == "/elsewhere/deep/loop.py:7 in train", module
    below = '  File "/src/fsbench_methods/coop.py", line 3, in fit\n'
    assert author_frame(below, ["mine"]) == ""
    assert author_frame(below, ["fsbench_methods"]) == "/src/fsbench_methods/coop.py:3 in fit"


def test_a_library_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    reason = "libcudart.so.12: cannot open shared object file: No such file or directory"
    (tmp_path / "torch.py").write_text(f"raise ImportError({reason!r})", encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    run = command("run", "-m", "zero-shot", "-d", "digits", "--store", tmp_path / "store")
    done = subprocess.run(
        run, env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = problems(done.stderr)
    assert line.startswith(f"error: a library cannot be loaded: {reason}; install")
