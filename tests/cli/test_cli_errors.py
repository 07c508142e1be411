"""Wrong usage: a one-line explanation, exit code 2 or 3, never a traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_bench.cli.main import COMMANDS, cli, plugin_commands
from tests.support.helpers import PATIENCE, Result, cells, command, environment, fsbench

BASE = ("--method", "zero-shot", "--dataset", "digits", "--shots", "1", "--seeds", "1", "--dry-run")


def run(store: Path, *arguments: object) -> Result:
    """Run `fsbench run` with valid base options; later ones override them."""
    return fsbench("run", *BASE, "--store", store, *arguments)


def assert_error(result: Result, code: int, *parts: str) -> None:
    """Assert one error line on stderr that contains all parts."""
    assert result.code == code, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0], lines[0]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--method", "clip_lora"], ["clip_lora", "did you mean 'clip-lora'"]),
        (["--method", "zzz"], ["unknown method 'zzz'", "if a plug-in has it, install"]),
        (["--dataset", "digit"], ["did you mean 'digits'"]),
        (["--dataset", "folder:"], ["folder:"]),
        (["--store", ""], ["--store", "'' is empty"]),
        (["--jobs", "1000000000"], ["1000000000 is not in the range 1<=x<=10000"]),
        (["--threads", "99999999"], ["99999999 is not in the range 1<=x<=1024"]),
        (["--lease", "inf"], ["'inf': expected a finite number"]),
        (["--timeout", "nan"], ["'nan': expected a finite number"]),
        (["--backbone", "tiney"], ["did you mean 'tiny'"]),
        (["--backbone", "ViT-B-17/openai"], ["did you mean 'ViT-B-16'"]),
        (["--backbone", "ViT-B-16/opanai"], ["did you mean 'openai'"]),
        (["--precision", "fp61"], ["did you mean 'fp16'"]),
        (["--val", "min5"], ["did you mean 'min4'"]),
        (["--split-seed", "-1"], ["seeds [", "-1]: expected whole numbers from 0"]),
        (["--split-seed", "9" * 19], ["'--split-seed'", "expected a number of at most 18 digits"]),
        (["--limit", "9" * 19], ["'--limit'", "expected a number of at most 18 digits"]),
        (["--limit", "1.5"], ["'--limit': '1.5' is no whole number"]),
        (["--prompts", "sinple"], ["did you mean 'simple'"]),
        (["--protocol", "cop"], ["did you mean 'coop'"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["--device", "gpu"], ["gpu"]),
        (["--shots", "0"], ["shots", "CLIP without images is the method zero-shot"]),
        (["--shots", "x"], ["'x'"]),
        (["--shots", "4-1"], ["4-1"]),
        (["--seeds", "1,1"], ["twice"]),
        (["--limit", "0"], ["limit"]),
        (["--jobs", "0"], ["0"]),
        (["--shotz", "1"], ["--shotz", "--shots"]),
        (["-o", "rank=4"], ["rank"]),
        (["-o", "clip-lora.rank=4"], ["clip-lora"]),
        (["-o", "rank"], ["name=value"]),
        (["-o", "table.tex"], ["name=value", "the file to write is -O table.tex"]),
        (["--dataset", "../photos"], ["did you mean 'folder:../photos'", "does not exist"]),
        (["--method", "clip-lora", "-o", "rnak=4"], ["did you mean 'rank'"]),
        (["--method", "clip-lora", "-o", "rank=four"], ["rank='four'", "int"]),
        (["--method", "clip-lora", "-o", "rank=0"], ["rank"]),
        (["--method", "clip-lora", "-o", "dropout=nan"], ["dropout"]),
        (["--method", "clip-lora", "-o", "encoder=txt"], ["did you mean 'text'"]),
        (["--method", "clip-lora", "-o", "clip-lora.rnak=4"], ["did you mean 'rank'"]),
        (["--method", "coop,clip-lora", "-o", "rnak=4"], ["did you mean 'rank'"]),
    ],
)
def test_usage(tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    assert_error(run(tmp_path, *arguments), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rum"], "did you mean 'run'"),
        (["list", "method"], "did you mean 'methods'"),
        (["show", "clip-lorra"], "did you mean 'clip-lora'"),
        (["check", "zero-shoot"], "did you mean 'zero-shot'"),
        (["run"], "--method"),
        (["run", "--method", "zero-shot"], "--dataset"),
        (["compare", "--formt", "csv"], "--format"),
        (["report", "-o", "table.tex"], "no such option '-o': did you mean '-O'?"),
        (["compare", "-o", "table.tex"], "the file to write is -O table.tex"),
        (["show", "~/photos"], "did you mean 'folder:~/photos'"),
        (["look", "photos/"], "photos/ does not exist"),
        (["adapt", "-d", "../photos", "-O", "model"], "did you mean 'folder:../photos'"),
    ],
)
def test_usage_of_other_commands(arguments: list[str], part: str) -> None:
    assert_error(fsbench(*arguments), 2, part)


@pytest.mark.parametrize("name", ["nothing", "resnet"])
def test_names_that_are_not_similar_are_not_suggested(tmp_path: Path, name: str) -> None:
    for result in (run(tmp_path, "--method", name), fsbench("show", name)):
        assert result.code == 2
        assert "did you mean" not in result.err


@pytest.mark.parametrize("command", ["predict", "app", "push"])
def test_a_missing_model_is_missing_data(tmp_path: Path, command: str) -> None:
    more = {"predict": ("a.png",), "app": (), "push": ("hub:a/b",)}[command]
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "absent"):
        assert_error(fsbench(command, tmp_path / folder, *more), 3, f"{folder} ", "fsbench adapt")


def test_missing_data_names_the_place_and_the_next_step(tmp_path: Path) -> None:
    for family in ("folder:", "coop:"):
        result = run(tmp_path, "--dataset", f"{family}{tmp_path / 'no' / 'where'}")
        assert result.code == 3, result
        assert str(tmp_path / "no" / "where") in result.err
        assert "expected" in result.err


def test_missing_weights_file(tmp_path: Path) -> None:
    missing = tmp_path / "weights.pt"
    assert_error(run(tmp_path, "--backbone", f"ViT-B-32/openai@{missing}"), 3, str(missing), "path")


def test_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = fsbench("run", *BASE[:-1], "--store", tmp_path / "file")
    assert_error(result, 2, "choose another store")


def test_a_next_step_can_be_pasted_whatever_the_names_are(tmp_path: Path) -> None:
    store = tmp_path / "it's my $HOME"
    told = fsbench("compare", "--store", store).err
    assert shlex.split(told[told.index("fsbench run") :])[6:8] == ["--store", str(store)]
    run = ("run", "-m", "zero-shot", "--store", store, "--shots", 1, "--dry-run")
    told = fsbench(*run, "-d", "shapes", "--protocol", "imported").err
    words = shlex.split(told[told.index("fsbench splits import") : -2])
    assert words[-2:] == ["--store", str(store)]
    method = tmp_path / "my method.py"
    method.write_text(METHOD, "utf-8")
    told = fsbench(*run, "-d", "shapes", "-m", f"{method}:Mine", "-o", "weight=heavy").err
    shown = shlex.split(told[told.index("fsbench show") : -2])
    assert fsbench(*shown[1:]).code == 0


METHOD = """
from dataclasses import dataclass
from typing import ClassVar
from fewshot_bench import hyper

@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "mine"
    weight: float = hyper(0.5, "share")

    def fit(self, task, backbone, ctx):
        raise NotImplementedError
"""


@pytest.mark.parametrize("place", ["records", "claims", "models"])
def test_a_folder_that_results_cannot_go_into_is_named_before_anything_is_computed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = cells("zero-shot", limit=None)
    blocked = tmp_path / place
    if place == "records":
        blocked = blocked / cell.key()[:2]
    blocked.mkdir(parents=True)
    allowed = os.access
    # As for the folder of another user, into which root may write.
    monkeypatch.setattr(os, "access", lambda path, mode: path != blocked and allowed(path, mode))
    result = fsbench("run", *BASE[:-1], "--keep-models", "--store", tmp_path)
    assert_error(result, 1, f"cannot write '{blocked}'", "choose another folder for the store")
    assert " to run" not in result.out


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "store", "--seeds", "1-3")
    assert result.code == 0, result
    assert "3 cells: 0 done already, 3 to run" in result.out
    assert not (tmp_path / "store").exists()


def test_a_run_that_is_refused_leaves_no_empty_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "data"))
    result = fsbench("run", *BASE[:-1], "--dataset", "dtd", "--store", tmp_path / "new" / "store")
    assert result.code == 3, result
    assert not (tmp_path / "new").exists()


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    weights = "ViT-B-32/laion2b_s34b_b79k"
    done = fsbench("run", *BASE[:-1], "--backbone", weights, "--store", tmp_path / "s")
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 3, done.err
    assert len(errors) == 1
    assert weights in errors[0]
    assert "Traceback" not in done.err


def test_short_helps_are_those_of_the_commands() -> None:
    lazy = dict(COMMANDS)
    for group in plugin_commands():
        lazy |= group.lazy
    assert {"report", "reproduce", "rerun", "data"} < set(lazy)
    for name, known in lazy.items():
        found = cli.get_command(None, name)  # type: ignore[arg-type]
        assert found is not None
        assert known.short_help in (found.short_help, (found.help or "").splitlines()[0])
        assert fsbench(name, "--help").code == 0


LOADED = """
import json, sys, time
sys.argv = ["fsbench", *sys.argv[1:]]
from fewshot_bench.cli.main import main
try:
    main()
except SystemExit:
    heavy = [name for name in ("torch", "open_clip", "numpy", "sklearn") if name in sys.modules]
    print("\\n" + json.dumps([heavy, time.process_time()]))
"""


@pytest.mark.parametrize("words", ["--help", "list datasets", "list backbones"])
def test_help_and_list_are_light(words: str) -> None:
    seconds = 1.0
    # CPU time may double if other processes share the caches.
    for _ in range(3):
        if seconds > 0.6:
            done = subprocess.run(
                [sys.executable, "-c", LOADED, *words.split()],
                capture_output=True,
                text=True,
                check=True,
            )
            heavy, seconds = json.loads(done.stdout.splitlines()[-1])
            assert heavy == []
    assert seconds <= 0.6


@pytest.mark.parametrize("key", ["store", "dataset", "templates", "option", "classnames"])
def test_a_config_with_a_character_that_no_path_has(tmp_path: Path, key: str) -> None:
    config = tmp_path / "c.yaml"
    values = {"method": "zero-shot", "dataset": "digits", "store": str(tmp_path / "s")}
    config.write_text(json.dumps(values | {key: "a\0b"}), encoding="utf-8")
    found = fsbench("run", "--config", config)
    assert (found.code, found.out) == (2, "")
    assert found.err == (
        f"error: config file {config}: {key}='a\\x00b': expected a text without the character \\0\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        *(("compare", "--store"), ("report", "--store"), ("store", "verify", "--store")),
        *(("run", "-m", "zero-shot", "-d", "digits", "--store"), ("run", "--config")),
        ("run", "-m", "zero-shot", "-d", "digits", "--classnames"),
    ],
)
def test_a_path_that_no_file_can_have(words: tuple[str, ...]) -> None:
    found = fsbench(*words, "a\0.txt")
    assert found.code == 2
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("list", "engines"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "error: the output cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    """The records are stored, whoever listens."""
    words = [*command("run", *BASE[:-1], "--limit", 5, "--store", tmp_path / "s")]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *map(str, words)]
    done = subprocess.run(closed, env=environment(), timeout=PATIENCE)
    assert done.returncode == 0
    assert len(list((tmp_path / "s" / "records").rglob("*.json"))) == 1


@pytest.mark.parametrize("name", ["compare", "report"])
def test_an_empty_baseline_is_refused(name: str) -> None:
    """A script has it from an unset variable, and would lose the differences."""
    assert_error(fsbench(name, "--baseline", ""), 2, "--baseline", "'' is empty")
