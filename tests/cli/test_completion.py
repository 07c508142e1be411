"""Shell completion: completes known names, quickly and without importing torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete

from fewshot_bench.api.registry import registry
from fewshot_bench.cli.main import cli
from fewshot_bench.plugins.reproduce.published import reproductions
from tests.support.helpers import PATIENCE, environment

COMPLETE = """
import json, sys, time
from fewshot_bench.cli.main import main
sys.argv = ["fsbench"]
try:
    main()
except SystemExit:
    heavy = [name for name in ("torch", "open_clip", "numpy", "sklearn") if name in sys.modules]
    print(json.dumps([heavy, time.process_time()]), file=sys.stderr)
"""


def script(shell: str) -> str:
    """The script that a shell reads to set completion up."""
    return subprocess.run(
        [sys.executable, "-c", COMPLETE],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=environment(_FSBENCH_COMPLETE=f"{shell}_source"),
    ).stdout


def asked(shell: str, *words: str) -> tuple[list[str], list[str], float]:
    """Completions of the last word, imported heavy modules, and CPU time."""
    line = " ".join(("fsbench", *words))
    variables = {
        "_FSBENCH_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=environment(**variables),
    )
    heavy, seconds = json.loads(done.stderr)
    lines = done.stdout.splitlines()
    if shell == "zsh":
        return lines[1::3], heavy, seconds
    return [line.partition(",")[2] for line in lines if line], heavy, seconds


def completed(*words: str) -> list[str]:
    """Completions of the last word, as a shell asks for them."""
    complete = ShellComplete(cli, {}, "fsbench", "_FSBENCH_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_completes_the_last_of_several(shell: str) -> None:
    found, heavy, seconds = asked(shell, "run", "-m", "zero-shot,tip")
    assert found == ["zero-shot,tip-adapter", "zero-shot,tip-adapter-f"]
    assert heavy == []
    # Half a second is noticeable; on a busy machine it may take longer.
    assert seconds < 1.5


def test_what_is_there_already_is_not_offered_again() -> None:
    found = completed("run", "--method", "coop,")
    known = registry().methods
    names = {*known.names(), *known.suites(), "all"} - {"coop"}
    assert found == [f"coop,{name}" for name in sorted(names)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "-d", "digits,sha"), ["digits,shapes"]),
        (("run", "-d", "clip-lora"), []),
        (("run", "-d", "dem"), ["demo"]),
        (("run", "--transfer", "imagenet-v"), ["imagenet-v2"]),
        (("compare", "-m", "clip-l"), ["clip-lora"]),
        (("compare", "--baseline", "zero-"), ["zero-shot"]),
        (("report", "-d", "eur"), ["eurosat"]),
        (("check", "clip-l"), ["clip-lora"]),
        (("show", "eur"), ["eurosat"]),
        (("data", "verify", "eur"), ["eurosat"]),
        (("data", "prepare", "dtd,eur"), ["dtd,eurosat"]),
        (("splits", "export", "eur"), ["eurosat"]),
        (("list", "met"), ["methods", "metrics"]),
        (("run", "--backbone", "tin"), ["tiny"]),
        (("repro",), ["reproduce"]),
    ],
    ids=" ".join,
)
def test_what_a_word_may_become(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_all_names_of_a_kind() -> None:
    datasets = {name for name in registry().datasets.entries if not name.endswith(":")}
    assert set(completed("run", "-d", "")) == datasets | set(registry().datasets.suites())
    assert completed("reproduce", "clip-lora-t") == [
        name for name in sorted(reproductions()) if name.startswith("clip-lora-t")
    ]


def test_backbones_are_those_of_open_clip() -> None:
    import open_clip

    names = {f"{model}/{tag}" for model, tag in open_clip.list_pretrained()}
    found = {name for name in completed("run", "--backbone", "") if "/" in name}
    # Names of variants with another activation are generated on import.
    assert {name for name in names if "quickgelu" not in name} <= found <= names


def test_a_broken_plug_in_says_nothing(install: Any, capfd: pytest.CaptureFixture[str]) -> None:
    install("broken", "print('hello')\nraise RuntimeError('broken')\n")
    assert completed("run", "-m", "coo") == ["coop"]
    assert capfd.readouterr() == ("", "")


def test_fish_keeps_commas_of_names_and_helps(tmp_path: Path) -> None:
    source = script("fish")
    assert 'string split -m 1 "," $completion' in source
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    command = tmp_path / "fsbench"
    command.write_text(f"#!{sys.executable}\nfrom fewshot_bench.cli.main import main\nmain()\n")
    command.chmod(0o755)
    lines = "complete -C 'fsbench run -m zero-shot,tip'; complete -C 'fsbench repro'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source (echo {shlex.quote(source)} | psub); {lines}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env=environment(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}"),
    )
    help_text = "Repeat a published table: paper, ours, noise, verdict."
    expected = ["zero-shot,tip-adapter", "zero-shot,tip-adapter-f", f"reproduce\t{help_text}"]
    assert done.stdout.splitlines() == expected, done.stderr
